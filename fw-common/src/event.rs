//! What the kernel tells the agent about a logged packet.
//!
//! One fixed-size record per logged packet goes through the ring buffer `EVENTS`. It carries the first [`HEADER_BYTES`] bytes of the frame,
//! from which the log line is written; everything a name is needed for (chain, message, file and line) is looked up by the agent from
//! `vmid`, `net` and `rule`.

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
