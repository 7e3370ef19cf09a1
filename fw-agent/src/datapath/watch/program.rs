//! The probe's program: made instruction by instruction for a filter, loaded and attached by bpf(2), which aya does not do for functions of programs.
//!
//! Context of the program are the arguments of `judged(skb, port, direction, outcome)`. In the order of the code:
//!
//! 1. Leave out accepts, other reasons. 2. Read the port's first 16 bytes; leave out other guests and NICs. 3. Leave out, and count, what comes
//!    less than [`INTERVAL`] after the last record on this CPU. 4. Send a [`Record`] and the packet's first bytes.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fw_common::event::{Event, HEADER_BYTES};

use super::btf::Btf;
use super::target::Target;
use super::{Wanted, nothing, outcome};

/// Nanoseconds between two records of one CPU: ten thousand a second.
const INTERVAL: i32 = 100_000;

/// Where the kernel keeps what the probe reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    length: i16,
    device: i16,
    ifindex: i16,
}

impl Fields {
    pub(super) fn of(kernel: &Btf<'_>) -> Option<Self> {
        let offset = |of, member| i16::try_from(kernel.offset(of, member)?).ok();
        Some(Self {
            length: offset("sk_buff", "len")?,
            device: offset("sk_buff", "dev")?,
            ifindex: offset("net_device", "ifindex")?,
        })
    }
}

/// What is sent before the packet's bytes. The last 16 bytes are the first of a `fw_common::maps::Port`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Record {
    time_ns: u64,
    suppressed: u64,
    outcome: u64,
    direction: u32,
    ifindex: u32,
    length: u32,
    captured: u32,
    _mac: u64,
    vmid: u32,
    net: u16,
    _flags: u16,
}

const RECORD: usize = size_of::<Record>();
const _: () = assert!(RECORD == 56);

/// Offsets of the record's fields on the program's stack.
const AT: i16 = -(RECORD as i16);
const SUPPRESSED: i16 = AT + 8;
const OUTCOME: i16 = AT + 16;
const DIRECTION: i16 = AT + 24;
const IFINDEX: i16 = AT + 28;
const LENGTH: i16 = AT + 32;
const CAPTURED: i16 = AT + 36;
const PORT: i16 = AT + 40;
const VMID: i16 = PORT + 8;
const NET: i16 = PORT + 12;
/// The argument `port`, and the key of the limits, below it.
const ARGUMENT: i16 = AT - 8;
const KEY: i16 = AT - 16;

/// Turns a sample into an event; none if it is too short.
pub(super) fn record(bytes: &[u8]) -> Option<Event> {
    let (head, frame) = bytes.split_at_checked(RECORD)?;
    // SAFETY: `head` has the bytes of a record, any of which are valid.
    let record: Record = unsafe { std::ptr::read_unaligned(head.as_ptr().cast()) };
    let captured = (record.captured as usize)
        .min(frame.len())
        .min(HEADER_BYTES);
    let mut event = nothing();
    event.header[..captured].copy_from_slice(&frame[..captured]);
    event.time_ns = record.time_ns;
    event.suppressed = record.suppressed;
    event.ifindex = record.ifindex;
    event.vmid = record.vmid;
    event.net = record.net;
    event.length = record.length;
    event.captured = captured as u16;
    event.direction = record.direction as u8;
    outcome(&mut event, record.outcome);
    Some(event)
}

/// `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Registers.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
const R6: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;
const R9: u8 = 9;
const FRAME: u8 = 10;

/// Sizes of loads and stores (`BPF_W`, `BPF_H`, `BPF_DW`).
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const DOUBLE: u8 = 0x18;

/// Operations on registers, with an immediate unless they are `OR` and `COPY`.
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const OR: u8 = 0x4f;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;

/// Jumps.
const IF_EQUAL: u8 = 0x15;
const IF_NOT_EQUAL: u8 = 0x55;
const IF_LESS_OR_EQUAL: u8 = 0xb5;
const IF_LESS_REGISTER: u8 = 0xad;
/// Added to a jump: it compares with a register.
const X: u8 = 0x08;

/// Helpers (`enum bpf_func_id`).
const LOOKUP: i32 = 1;
const TIME: i32 = 5;
const SKB_OUTPUT: i32 = 111;
const PROBE_READ_KERNEL: i32 = 113;
const GET_FUNC_ARG: i32 = 183;

/// A place that jumps go to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Skip,
    Exit,
}

/// Instructions, and jumps whose ends are not known yet.
#[derive(Default)]
struct Code {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
}

impl Code {
    fn push(&mut self, code: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction {
            code,
            registers: to | from << 4,
            offset,
            immediate,
        });
    }

    fn load(&mut self, size: u8, to: u8, from: u8, offset: i16) {
        self.push(0x61 | size, to, from, offset, 0);
    }

    fn store(&mut self, size: u8, to: u8, offset: i16, from: u8) {
        self.push(0x63 | size, to, from, offset, 0);
    }

    fn operate(&mut self, code: u8, to: u8, immediate: i32) {
        self.push(code, to, 0, 0, immediate);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.push(COPY, to, from, 0, 0);
    }

    /// A pointer into the stack.
    fn stack(&mut self, to: u8, offset: i16) {
        self.copy(to, FRAME);
        self.operate(ADD, to, offset.into());
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    /// A whole 64-bit number; `from` 1: it is a map's descriptor.
    fn number(&mut self, to: u8, from: u8, number: u64) {
        self.push(0x18, to, from, 0, number as i32);
        self.push(0, 0, 0, 0, (number >> 32) as i32);
    }

    fn map(&mut self, to: u8, map: BorrowedFd<'_>) {
        self.number(to, 1, u64::from(map.as_raw_fd().cast_unsigned()));
    }

    fn jump(&mut self, code: u8, register: u8, immediate: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(code, register, 0, 0, immediate);
    }

    fn jump_by_register(&mut self, code: u8, register: u8, other: u8, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(code, register, other, 0, 0);
    }

    /// Has all jumps to a label come here.
    fn place(&mut self, label: Label) {
        let here = self.instructions.len();
        for (at, _) in self.jumps.iter().filter(|(_, wanted)| *wanted == label) {
            self.instructions[*at].offset = (here - at - 1) as i16;
        }
    }
}

/// A program for one filter.
pub(super) struct Probe<'p> {
    pub(super) wanted: Wanted,
    pub(super) fields: Fields,
    pub(super) events: BorrowedFd<'p>,
    pub(super) limits: BorrowedFd<'p>,
}

impl Probe<'_> {
    fn code(&self) -> Vec<Instruction> {
        let mut code = Code::default();
        code.copy(R6, R1);
        code.load(DOUBLE, R7, R6, 0);
        code.load(DOUBLE, R9, R6, 16);
        code.load(DOUBLE, R8, R6, 24);
        if self.wanted.drops_only {
            code.copy(R1, R8);
            code.operate(AND, R1, 0xff);
            code.jump(IF_EQUAL, R1, 0, Label::Exit);
        }
        if let Some(reason) = self.wanted.reason {
            code.copy(R1, R8);
            code.operate(SHIFT_RIGHT, R1, 8);
            code.operate(AND, R1, 0xff);
            code.jump(IF_NOT_EQUAL, R1, reason as i32, Label::Exit);
        }
        self.read_port(&mut code);
        // The limit of this CPU.
        code.operate(SET, R1, 0);
        code.store(WORD, FRAME, KEY, R1);
        code.map(R1, self.limits);
        code.stack(R2, KEY);
        code.call(LOOKUP);
        code.jump(IF_EQUAL, R0, 0, Label::Exit);
        code.copy(R6, R0);
        code.call(TIME);
        code.load(DOUBLE, R1, R6, 0);
        code.jump_by_register(IF_LESS_REGISTER, R0, R1, Label::Skip);
        code.store(DOUBLE, FRAME, AT, R0);
        code.operate(ADD, R0, INTERVAL);
        code.store(DOUBLE, R6, 0, R0);
        code.load(DOUBLE, R1, R6, 8);
        code.store(DOUBLE, FRAME, SUPPRESSED, R1);
        code.operate(SET, R1, 0);
        code.store(DOUBLE, R6, 8, R1);
        // The record.
        code.store(DOUBLE, FRAME, OUTCOME, R8);
        code.store(WORD, FRAME, DIRECTION, R9);
        code.load(DOUBLE, R1, R7, self.fields.device);
        code.load(WORD, R1, R1, self.fields.ifindex);
        code.store(WORD, FRAME, IFINDEX, R1);
        code.load(WORD, R3, R7, self.fields.length);
        code.store(WORD, FRAME, LENGTH, R3);
        let within = code.instructions.len();
        code.push(IF_LESS_OR_EQUAL, R3, 0, 0, HEADER_BYTES as i32);
        code.operate(SET, R3, HEADER_BYTES as i32);
        code.instructions[within].offset = 1;
        code.store(WORD, FRAME, CAPTURED, R3);
        // Flags: the bytes of the packet above, `BPF_F_CURRENT_CPU` below.
        code.operate(SHIFT_LEFT, R3, 32);
        code.number(R1, 0, u64::from(u32::MAX));
        code.push(OR, R3, R1, 0, 0);
        code.copy(R1, R7);
        code.map(R2, self.events);
        code.stack(R4, AT);
        code.operate(SET, R5, RECORD as i32);
        code.call(SKB_OUTPUT);
        code.jump(IF_EQUAL, R0, 0, Label::Exit);
        code.place(Label::Skip);
        code.load(DOUBLE, R1, R6, 8);
        code.operate(ADD, R1, 1);
        code.store(DOUBLE, R6, 8, R1);
        code.place(Label::Exit);
        code.operate(SET, R0, 0);
        code.push(0x95, 0, 0, 0, 0);
        code.instructions
    }

    fn read_port(&self, code: &mut Code) {
        code.copy(R1, R6);
        code.operate(SET, R2, 1);
        code.stack(R3, ARGUMENT);
        code.call(GET_FUNC_ARG);
        code.stack(R1, PORT);
        code.operate(SET, R2, 16);
        code.load(DOUBLE, R3, FRAME, ARGUMENT);
        code.call(PROBE_READ_KERNEL);
        code.jump(IF_NOT_EQUAL, R0, 0, Label::Exit);
        let port = self.wanted.port;
        if let Some(vmid) = port.map(|port| port.vmid).or(self.wanted.vmid) {
            code.load(WORD, R1, FRAME, VMID);
            code.number(R2, 0, vmid.into());
            code.jump_by_register(IF_NOT_EQUAL | X, R1, R2, Label::Exit);
        }
        if let Some(port) = port {
            code.load(HALF, R1, FRAME, NET);
            code.jump(IF_NOT_EQUAL, R1, port.net.into(), Label::Exit);
        }
    }

    /// Loads the program for a function, and puts it before that.
    pub(super) fn attach(&self, target: &Target) -> io::Result<OwnedFd> {
        /// `BPF_PROG_TYPE_TRACING` and `BPF_TRACE_FENTRY`.
        const TRACING: u32 = 26;
        const FENTRY: u32 = 24;
        const LICENSE: &CStr = c"GPL";
        let code = self.code();
        let mut log = vec![0_u8; 1 << 16];
        let mut attributes = Load {
            kind: TRACING,
            count: code.len() as u32,
            code: code.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            log_level: 1,
            log_size: log.len() as u32,
            log: log.as_mut_ptr() as u64,
            name: *b"tapwall_watch\0\0\0",
            attach_type: FENTRY,
            attach_btf_id: target.function,
            attach_prog: target.program.as_fd().as_raw_fd().cast_unsigned(),
            ..Load::default()
        };
        // SAFETY: every pointer is of memory that lives until the call is over, of the size beside it.
        let program = unsafe { bpf(Command::Load, &mut attributes) }.map_err(|error| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let said = String::from_utf8_lossy(&log[..end]);
            let last = said.trim_end().lines().rev().nth(1).unwrap_or_default();
            match last {
                "" => error,
                last => io::Error::new(error.kind(), format!("{error}: {last}")),
            }
        })?;
        let mut attributes = Open {
            name: 0,
            program: program.as_raw_fd().cast_unsigned(),
            zero: 0,
        };
        // SAFETY: the attributes have no pointer.
        unsafe { bpf(Command::Attach, &mut attributes) }
    }
}

/// The buffers of records.
pub(super) fn events(cpus: u32) -> io::Result<OwnedFd> {
    /// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`.
    const PERF_EVENTS: u32 = 4;
    map(PERF_EVENTS, 4, cpus)
}

/// Per CPU: the time from which the next record may be sent, and how many were not sent before.
pub(super) fn limits() -> io::Result<OwnedFd> {
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    const PER_CPU_ARRAY: u32 = 6;
    map(PER_CPU_ARRAY, 16, 1)
}

fn map(kind: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = [kind, 4, value, entries, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the attributes have no pointer.
    unsafe { bpf(Command::MakeMap, &mut attributes) }
}

/// The types of a program, by their number.
pub(super) fn types(number: u32) -> io::Result<OwnedFd> {
    let mut attributes = [number, 0, 0, 0];
    // SAFETY: the attributes have no pointer.
    unsafe { bpf(Command::OpenTypes, &mut attributes) }
}

/// The bytes of types.
pub(super) fn type_bytes(types: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // First asked for their size, then for them.
    for _ in 0..2 {
        let mut info = TypesInfo {
            bytes: match bytes.is_empty() {
                true => 0,
                false => bytes.as_mut_ptr() as u64,
            },
            size: bytes.len() as u32,
            number: 0,
        };
        let mut attributes = Info {
            fd: types.as_raw_fd().cast_unsigned(),
            size: size_of::<TypesInfo>() as u32,
            info: (&raw mut info) as u64,
        };
        // SAFETY: `info` is writable and of the size given, and names as many bytes as there are.
        unsafe { call(Command::Info, &mut attributes)? };
        bytes.resize(info.size as usize, 0_u8);
    }
    Ok(bytes)
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` uses.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
    btf: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    attach_btf_id: u32,
    attach_prog: u32,
    zero: u32,
}

/// That of `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    zero: u32,
}

/// That of `BPF_OBJ_GET_INFO_BY_FD`, and `struct bpf_btf_info`.
#[repr(C)]
struct Info {
    fd: u32,
    size: u32,
    info: u64,
}

#[repr(C)]
struct TypesInfo {
    bytes: u64,
    size: u32,
    number: u32,
}

/// `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    MakeMap = 0,
    Load = 5,
    Info = 15,
    Attach = 17,
    OpenTypes = 19,
}

/// A command that answers a descriptor.
///
/// # Safety
/// As the command: pointers in the attributes are of memory of the sizes beside them.
unsafe fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { call(command, attributes)? };
    // SAFETY: the command answered a new descriptor, which nothing else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// As [`bpf`].
unsafe fn call<T>(command: Command, attributes: &mut T) -> io::Result<i32> {
    let pointer = std::ptr::from_mut(attributes).cast::<MaybeUninit<u8>>();
    // SAFETY: the kernel reads the attributes, and writes where they point to; as the caller promises.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command as i32, pointer, size_of::<T>()) };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
