//! bpf(2) for the few small programs of the bench itself, written as instructions: what `aya` has no way to say.
//!
//! 1. [`Program::load`] hands instructions to the verifier. 2. [`Program::inject`] lets frames enter a device as if it had received them
//!    (`BPF_F_TEST_XDP_LIVE_FRAMES`). 3. [`Program::attach`] puts a program at a TC hook of a device (TCX, kernel 6.6 and later) until the link is dropped.
//!
//! All of it happens in the network namespace of the calling thread. Numbers are those of `include/uapi/linux/bpf.h`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;
/// Bytes of the verifier's log that an error shows.
const LOG: usize = 4096;

/// `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    ProgramLoad = 5,
    TestRun = 10,
    LinkCreate = 28,
}

/// Kinds of programs (`enum bpf_prog_type`).
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Kind {
    /// At a TC hook.
    Classifier = 3,
    /// At a device's driver.
    Xdp = 6,
}

/// TC hooks (`enum bpf_attach_type`).
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Hook {
    /// What a device receives.
    Ingress = 46,
    /// What it sends.
    Egress = 47,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapLookup {
    map: i32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: i32,
    return_value: u32,
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

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: i32,
    target: u32,
    hook: u32,
    flags: u32,
    relative: u32,
    zero: u32,
    expected_revision: u64,
}

/// `struct xdp_md`: where a frame comes from.
#[repr(C)]
#[derive(Default)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// A counter in the kernel that programs add to.
pub struct Counter(OwnedFd);

impl Counter {
    /// One that is 0.
    pub fn new() -> Result<Self> {
        let mut attributes = MapCreate {
            kind: ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
        };
        // SAFETY: making a map reads nothing but the attributes.
        let fd = unsafe { call(Command::MapCreate, &mut attributes) };
        Ok(Self(owned(fd.context("making a counter")?)))
    }

    /// Its value.
    pub fn read(&self) -> Result<u64> {
        let key = 0_u32;
        let mut value = 0_u64;
        let mut attributes = MapLookup {
            map: self.0.as_raw_fd(),
            zero: 0,
            key: (&raw const key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads four bytes and writes eight, as the map was made; both outlive the call.
        unsafe { call(Command::MapLookup, &mut attributes) }.context("reading a counter")?;
        Ok(value)
    }

    /// Its descriptor, for instructions.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A loaded program.
pub struct Program(OwnedFd);

/// A program at a hook, until this is dropped.
pub struct Link {
    _link: OwnedFd,
}

impl Program {
    /// Loads instructions.
    pub fn load(kind: Kind, instructions: &[u64]) -> Result<Self> {
        let license = c"Dual MIT/GPL";
        let mut log = vec![0_u8; LOG];
        let mut attributes = ProgramLoad {
            kind: kind as u32,
            instruction_count: u32::try_from(instructions.len())?,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 1,
            log_size: u32::try_from(log.len())?,
            log: log.as_mut_ptr() as u64,
        };
        // SAFETY: the instructions, the license and the log outlive the call and have the lengths that the attributes say.
        let loaded = unsafe { call(Command::ProgramLoad, &mut attributes) };
        let fd = loaded.with_context(|| {
            let text = String::from_utf8_lossy(&log);
            format!("loading a program: {}", text.trim_end_matches('\0'))
        })?;
        Ok(Self(owned(fd)))
    }

    /// Lets `count` copies of a frame enter a device, each after this XDP program, which passes it on. Returns what one took by the kernel's own
    /// count, in nanoseconds: without what the call itself takes, which waits for a grace period.
    pub fn inject(&self, frame: &[u8], ifindex: u32, count: u32) -> Result<u32> {
        let length = u32::try_from(frame.len())?;
        let context = XdpContext {
            data_end: length,
            ingress_ifindex: ifindex,
            ..XdpContext::default()
        };
        let mut attributes = TestRun {
            program: self.0.as_raw_fd(),
            data_size_in: length,
            data_in: frame.as_ptr() as u64,
            repeat: count,
            context_size_in: u32::try_from(size_of::<XdpContext>())?,
            context_in: (&raw const context) as u64,
            flags: LIVE_FRAMES,
            ..TestRun::default()
        };
        // SAFETY: the frame and the context outlive the call; the kernel reads no more than their sizes.
        unsafe { call(Command::TestRun, &mut attributes) }.context("injecting frames")?;
        Ok(attributes.duration)
    }

    /// Puts it at a hook of a device.
    pub fn attach(&self, ifindex: u32, hook: Hook) -> Result<Link> {
        let mut attributes = LinkCreate {
            program: self.0.as_raw_fd(),
            target: ifindex,
            hook: hook as u32,
            ..LinkCreate::default()
        };
        // SAFETY: making a link reads nothing but the attributes.
        let fd = unsafe { call(Command::LinkCreate, &mut attributes) };
        let fd = fd.context("attaching a program (this needs kernel 6.6 or later)")?;
        ensure!(fd > 0, "the kernel gave no descriptor");
        Ok(Link { _link: owned(fd) })
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel made the descriptor just now, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// # Safety
/// What the attributes point at must be as the command wants it.
unsafe fn call<A>(command: Command, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: the attributes are as large as it is said; the rest is the caller's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i32,
            std::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
