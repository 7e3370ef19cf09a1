//! What the kernel tells the agent: of a logged packet, and of a flow that begins or is replaced.
//!
//! Records of two kinds, told apart by their length, go through the ring buffer `EVENTS`. A [`FlowEvent`] is written only if the settings ask for
//! it; the agent makes the same record of a flow that it removes itself. One [`Event`] is written per logged packet. It carries the first [`HEADER_BYTES`] bytes of the frame,
//! from which the log line is written; everything a name is needed for (chain, message, file and line) is looked up by the agent from
//! `vmid`, `net` and `rule`.

use crate::flow::FlowKey;
use crate::verdict::Direction;

/// Bytes of the frame that a record carries, from the Ethernet header on.
pub const HEADER_BYTES: usize = 128;

/// One logged packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`).
    pub time_ns: u64,
    /// Packets of this rule and port that were not logged since the last one that was.
    pub suppressed: u64,
    /// Interface index of the port.
    pub ifindex: u32,
    /// Guest the port belongs to; 0 is the host.
    pub vmid: u32,
    /// Identity of the rule that decided, or [`crate::verdict::NO_RULE`].
    pub rule: u32,
    /// Length of the whole frame in bytes (a super-packet's length, not its segments').
    pub length: u32,
    /// The packet's mark.
    pub mark: u32,
    /// Bytes of `header` that are filled.
    pub captured: u16,
    /// Number of the guest's NIC (`net0` is 0).
    pub net: u16,
    /// VLAN tag (TCI) that the NIC had taken out of the frame, or 0 with `tagged` 0.
    pub vlan_tci: u16,
    /// 1 if `vlan_tci` is present.
    pub tagged: u8,
    /// [`crate::verdict::Direction`] as a number.
    pub direction: u8,
    /// [`crate::verdict::Verdict`] as a number.
    pub verdict: u8,
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u8,
    /// Syslog level.
    pub level: u8,
    /// Zero.
    pub reserved: u8,
    /// The frame's first bytes; those behind `captured` are zero. A device without link headers gets an Ethernet header with zero addresses.
    pub header: [u8; HEADER_BYTES],
}

/// Bytes of one record.
pub const EVENT_BYTES: usize = 176;

const _: () = assert!(size_of::<Event>() == EVENT_BYTES);

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowChange {
    /// Its first packet was accepted.
    Begins = 0,
    /// It is forgotten: it has expired, or another takes its place.
    Ends = 1,
}

impl FlowChange {
    /// The change of a number; unknown ones are ends.
    #[inline(always)]
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Begins,
            _ => Self::Ends,
        }
    }
}

/// One flow that begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEvent {
    /// Nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Which flow.
    pub key: FlowKey,
    /// [`crate::flow::Flow::state`].
    pub state: u32,
    /// [`FlowChange`] as a number.
    pub change: u8,
    /// [`crate::flow::Flow::origin`].
    pub origin: u8,
    /// 1 if the flow was among those that both ends have taken part in.
    pub settled: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// Bytes of one such record.
pub const FLOW_EVENT_BYTES: usize = 64;

const _: () = assert!(size_of::<FlowEvent>() == FLOW_EVENT_BYTES);
const _: () = assert!(FLOW_EVENT_BYTES != EVENT_BYTES);

/// What a [`FlowEvent`] says of a flow beside its key and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowNews {
    /// What became of it.
    pub change: FlowChange,
    /// [`crate::flow::Flow::state`].
    pub state: u32,
    /// Direction of its first packet.
    pub origin: Direction,
    /// It was among those that both ends have taken part in.
    pub settled: bool,
}

impl FlowNews {
    /// As a number, to cross a function boundary in the kernel.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.state as u64
            | (self.change as u64) << 32
            | (self.origin as u64) << 40
            | (self.settled as u64) << 48
    }

    /// From [`FlowNews::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            change: FlowChange::from_u8((bits >> 32) as u8),
            state: bits as u32,
            origin: Direction::from_u8((bits >> 40) as u8),
            settled: (bits >> 48) & 1 != 0,
        }
    }

    /// The record of a flow.
    #[inline(always)]
    pub const fn event(self, key: &FlowKey, time_ns: u64) -> FlowEvent {
        FlowEvent {
            time_ns,
            key: *key,
            state: self.state,
            change: self.change as u8,
            origin: self.origin as u8,
            settled: self.settled as u8,
            reserved: [0; 5],
        }
    }
}
