//! Kernel programs under `BPF_PROG_TEST_RUN`, and those that the bench makes itself.
//!
//! - *Empty* programs let every frame pass: what remains of a run when the program under test is taken away.
//! - A *driver* writes a random number into the frame and then becomes another program (a tail call), so that the runs of one system call see
//!   different packets. The empty program behind a driver is what a program behind a driver is compared with.
//!
//! They are a dozen instructions each, written out as numbers (`include/uapi/linux/bpf.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// Where a program is attached, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A classifier (TC).
    Classifier,
    /// An XDP program that takes frames in several buffers.
    Xdp,
}

impl Kind {
    /// `BPF_PROG_TYPE_*`.
    const fn number(self) -> u32 {
        match self {
            Self::Classifier => 3,
            Self::Xdp => 6,
        }
    }

    /// What lets a frame pass: `TC_ACT_UNSPEC`, `XDP_PASS`.
    pub const fn pass(self) -> i32 {
        match self {
            Self::Classifier => -1,
            Self::Xdp => 2,
        }
    }

    /// What drops it: `TC_ACT_SHOT`, `XDP_DROP`.
    pub const fn drop(self) -> i32 {
        match self {
            Self::Classifier => 2,
            Self::Xdp => 1,
        }
    }
}

/// Which bytes of the frame a driver rewrites: four at `offset`, with the big-endian number `base` plus a random one of the bits of `mask`.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub offset: u32,
    pub base: u32,
    pub mask: u32,
}

/// One instruction: operation, registers (destination in the low half), offset, immediate value.
struct Instruction(u8, u8, i16, i32);

impl Instruction {
    fn number(&self) -> u64 {
        let Self(operation, registers, offset, immediate) = self;
        u64::from(*operation)
            | u64::from(*registers) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(immediate.cast_unsigned()) << 32
    }
}

/// The program that does nothing.
pub fn empty(kind: Kind) -> Result<OwnedFd> {
    load(
        kind,
        &[
            Instruction(0xb7, 0, 0, kind.pass()),
            Instruction(0x95, 0, 0, 0),
        ],
    )
}

/// A program that is run, and what must stay open meanwhile: a program array is emptied when its last file is closed.
pub struct Runnable {
    pub program: OwnedFd,
    _array: Option<OwnedFd>,
}

impl From<OwnedFd> for Runnable {
    fn from(program: OwnedFd) -> Self {
        Self {
            program,
            _array: None,
        }
    }
}

/// A driver in front of `program`.
pub fn driver(kind: Kind, spread: Spread, program: BorrowedFd<'_>) -> Result<Runnable> {
    const GET_PRANDOM_U32: i32 = 7;
    const TAIL_CALL: i32 = 12;
    let store = match kind {
        Kind::Classifier => 9,
        Kind::Xdp => 190,
    };
    let array = program_array(program)?;
    let program = load(
        kind,
        &[
            // r6 = context; r0 = random & mask | base, in network order, on the stack
            Instruction(0xbf, 0x16, 0, 0),
            Instruction(0x85, 0, 0, GET_PRANDOM_U32),
            Instruction(0x54, 0, 0, spread.mask.cast_signed()),
            Instruction(0x44, 0, 0, spread.base.cast_signed()),
            Instruction(0xdc, 0, 0, 32),
            Instruction(0x63, 0x0a, -4, 0),
            // store(context, offset, &number, 4, 0)
            Instruction(0xbf, 0x61, 0, 0),
            Instruction(0xb7, 2, 0, spread.offset.cast_signed()),
            Instruction(0xbf, 0xa3, 0, 0),
            Instruction(0x07, 3, 0, -4),
            Instruction(0xb7, 4, 0, 4),
            Instruction(0xb7, 5, 0, 0),
            Instruction(0x85, 0, 0, store),
            // become array[0], or fail
            Instruction(0xbf, 0x61, 0, 0),
            Instruction(0x18, 0x12, 0, array.as_raw_fd()),
            Instruction(0, 0, 0, 0),
            Instruction(0xb7, 3, 0, 0),
            Instruction(0x85, 0, 0, TAIL_CALL),
            Instruction(0xb7, 0, 0, 77),
            Instruction(0x95, 0, 0, 0),
        ],
    )?;
    Ok(Runnable {
        program,
        _array: Some(array),
    })
}

/// A program array of one.
fn program_array(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    #[repr(C)]
    struct Update {
        map: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    const PROGRAM_ARRAY: u32 = 3;
    let mut create = Create {
        kind: PROGRAM_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
    };
    // SAFETY: the kernel reads no more than the struct, which holds no pointers, and answers with a new file.
    let array = unsafe { opened(bpf(0, &mut create)) }.context("making a program array")?;
    let key = 0_u32;
    let value = program.as_raw_fd();
    let mut update = Update {
        map: array.as_raw_fd().cast_unsigned(),
        zero: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    // SAFETY: key and value have the array's sizes and are only read.
    unsafe { bpf(2, &mut update) }.context("filling a program array")?;
    Ok(array)
}

fn load(kind: Kind, instructions: &[Instruction]) -> Result<OwnedFd> {
    /// The kernel reads as much of this as there is and takes the rest for zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    /// `BPF_F_XDP_HAS_FRAGS`.
    const SEVERAL_BUFFERS: u32 = 1 << 5;
    let numbers: Vec<u64> = instructions.iter().map(Instruction::number).collect();
    let mut attributes = Load {
        kind: kind.number(),
        instruction_count: numbers.len() as u32,
        instructions: numbers.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: match kind {
            Kind::Classifier => 0,
            Kind::Xdp => SEVERAL_BUFFERS,
        },
    };
    // SAFETY: both pointers stay valid for the call, which only reads, and answers with a new file.
    unsafe { opened(bpf(5, &mut attributes)) }.context("loading a program of the bench")
}

/// Runs a program `repeat` times on a frame, at the loopback device of this network namespace: its last answer and the mean nanoseconds of a run.
pub fn run(program: BorrowedFd<'_>, kind: Kind, frame: &[u8], repeat: u32) -> Result<(i32, u32)> {
    #[repr(C)]
    struct TestRun {
        program: u32,
        answer: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_size_in: u32,
        context_size_out: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        zero: u32,
    }
    /// Offset in `struct __sk_buff`.
    const IFINDEX: usize = 40;
    const LOOPBACK: u32 = 1;
    let mut context = [0_u8; 192];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&LOOPBACK.to_ne_bytes());
    let context_size = match kind {
        Kind::Classifier => context.len() as u32,
        Kind::Xdp => 0,
    };
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        answer: 0,
        data_size_in: frame.len() as u32,
        data_size_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat,
        duration: 0,
        context_size_in: context_size,
        context_size_out: 0,
        context_in: match kind {
            Kind::Classifier => context.as_ptr() as u64,
            Kind::Xdp => 0,
        },
        context_out: 0,
        flags: 0,
        cpu: 0,
        batch_size: 0,
        zero: 0,
    };
    loop {
        // SAFETY: the pointers stay valid for the call, and the kernel only reads what they point to.
        match unsafe { bpf(10, &mut attributes) } {
            Ok(_) => return Ok((attributes.answer.cast_signed(), attributes.duration)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("running a program"),
        }
    }
}

/// # Safety
/// `attributes` is the beginning of what the command wants, and its pointers are what the command says.
unsafe fn bpf<A>(command: i32, attributes: &mut A) -> io::Result<i64> {
    // SAFETY: the kernel reads and writes `size` bytes, which is what there is; the caller vouches for the pointers among them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            core::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    match result {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(result),
    }
}

/// # Safety
/// A result that is no error is the number of a new file that nothing else owns.
unsafe fn opened(result: io::Result<i64>) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for it.
    result.map(|number| unsafe { OwnedFd::from_raw_fd(number as i32) })
}
