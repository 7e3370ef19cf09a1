//! Flows: what is remembered of an accepted packet so that its relatives need no rules.
//!
//! A [`FlowKey`] is normalised to (port, local end, remote end): the packet that goes out and its answer that comes in have the same key,
//! so one lookup serves both. Local is the guest's side. The [`Side`] of a packet follows from the direction of the flow's first packet.
//!
//! Invariant: fields of a [`Flow`] that change while others read it are only accessed through [`FlowRef`].

use core::marker::PhantomData;

use crate::maps::Port;
use crate::verdict::Direction;
use crate::wire::{
    Address, Headers, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST,
    IpVersion, protocol,
};

/// Names one flow of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Guest of the port; 0 is the host.
    pub vmid: u32,
    /// Number of the guest's NIC.
    pub net: u16,
    /// IP protocol.
    pub protocol: u8,
    /// IP version, 4 or 6.
    pub version: u8,
    /// The guest's (or host's) address.
    pub local: Address,
    /// The other end's address.
    pub remote: Address,
    /// The guest's port; for questions of ICMP (see [`Echo`]) and their answers the identifier.
    pub local_port: u16,
    /// The other end's port; for these 1 if the local end asks, 0 if it answers, and in the high byte the question's type, if it is no echo.
    pub remote_port: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 44);

impl FlowKey {
    /// The key of a packet of `port`.
    #[inline(always)]
    pub fn of(headers: &Headers, port: &Port, direction: Direction) -> Self {
        // Word by word: of whole addresses the kernel's compiler would make calls of a loop over bytes.
        let [s0, s1, s2, s3] = headers.source.0;
        let [d0, d1, d2, d3] = headers.dest.0;
        let (source, dest) = (Address([s0, s1, s2, s3]), Address([d0, d1, d2, d3]));
        let (local, remote, local_port, remote_port) = match direction {
            Direction::In => (dest, source, headers.dport, headers.sport),
            Direction::Out => (source, dest, headers.sport, headers.dport),
        };
        let (local_port, remote_port) = match echo(headers) {
            None if headers.protocol == protocol::ICMP || headers.protocol == protocol::ICMPV6 => {
                (0, 0)
            }
            None => (local_port, remote_port),
            Some(part) => {
                let local_asks = (part == Echo::Request) == (direction == Direction::Out);
                (
                    headers.echo_id,
                    question(headers.sport) << 8 | u16::from(local_asks),
                )
            }
        };
        Self {
            vmid: port.vmid,
            net: port.net,
            protocol: headers.protocol,
            version: headers.version as u8,
            local,
            remote,
            local_port,
            remote_port,
        }
    }
}

impl FlowKey {
    /// A number that keys which differ rarely share: of [`crate::flow_filter`].
    #[inline(always)]
    pub fn digest(&self) -> u64 {
        /// Odd, and half of its bits are set: 2⁶⁴ divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let [l0, l1, l2, l3] = self.local.0;
        let [r0, r1, r2, r3] = self.remote.0;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let kind =
            u32::from(self.net) | u32::from(self.protocol) << 16 | u32::from(self.version) << 24;
        let ports = u32::from(self.local_port) | u32::from(self.remote_port) << 16;
        let mut digest = 0;
        for word in [
            pair(self.vmid, kind),
            pair(l0, l1),
            pair(l2, l3),
            pair(r0, r1),
            pair(r2, r3),
            u64::from(ports),
        ] {
            digest = (digest ^ word).wrapping_mul(FACTOR);
            digest ^= digest >> 32;
        }
        digest.wrapping_mul(FACTOR)
    }
}

/// The two parts of what ICMP and ICMPv6 ask and answer: echo, timestamp, information, address mask; node information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// The question.
    Request,
    /// The answer.
    Reply,
}

/// The part of such an exchange that a packet is, if it is one. The types are those that netfilter tracks (RFC 792, RFC 950, RFC 4620).
#[inline(always)]
pub fn echo(headers: &Headers) -> Option<Echo> {
    match (headers.version, headers.protocol, headers.sport) {
        (IpVersion::V4, protocol::ICMP, ICMP_ECHO_REQUEST | 13 | 15 | 17)
        | (IpVersion::V6, protocol::ICMPV6, ICMPV6_ECHO_REQUEST | 139) => Some(Echo::Request),
        (IpVersion::V4, protocol::ICMP, ICMP_ECHO_REPLY | 14 | 16 | 18)
        | (IpVersion::V6, protocol::ICMPV6, ICMPV6_ECHO_REPLY | 140) => Some(Echo::Reply),
        _ => None,
    }
}

/// The type of the question that a question or answer belongs to; 0 for echoes.
#[inline(always)]
const fn question(kind: u16) -> u16 {
    match kind {
        13 | 14 => 13,
        15 | 16 => 15,
        17 | 18 => 17,
        139 | 140 => 139,
        _ => 0,
    }
}

/// Which end of a flow a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that sent the flow's first packet.
    Original,
    /// The other end.
    Reply,
}

impl Side {
    /// The other one.
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Nanoseconds of the coarse monotonic clock at the last packet (stored at most twice a second).
    pub seen: u64,
    /// Nanoseconds at the first packet.
    pub created: u64,
    /// [`crate::conntrack::State`] as a number, with [`crate::conntrack::ANSWERED`] and other bits.
    pub state: u32,
    /// The port's epoch under which the flow was accepted.
    pub epoch: u32,
    /// Rule that accepted it.
    pub rule: u32,
    /// [`Direction`] of the first packet as a number.
    pub origin: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// [`Port::guard_epoch`] under which the local address was checked; 0: not yet.
    pub guard_epoch: u32,
    /// Highest acknowledgement number that each [`Side`] has sent (TCP); 0: none that is known.
    pub acknowledged: [u32; 2],
    /// Zero.
    pub reserved_too: u32,
}

const _: () = assert!(size_of::<Flow>() == 48);

/// A flow that lives in a table where others read and write it at the same time.
///
/// Aligned words are read and written one at a time and never cached (the kernel's `READ_ONCE` and `WRITE_ONCE`; BPF has no atomic
/// loads before its fourth version). Two CPUs that see packets of one flow at once may lose one of two updates of `seen` or `state`,
/// as they could have arrived in the other order.
#[derive(Clone, Copy, Debug)]
pub struct FlowRef<'a> {
    flow: *mut Flow,
    lives: PhantomData<&'a Flow>,
}

impl<'a> FlowRef<'a> {
    /// # Safety
    /// `flow` points to an aligned `Flow` that stays allocated for `'a` and is only written through `FlowRef`s meanwhile.
    pub const unsafe fn new(flow: *mut Flow) -> Self {
        Self {
            flow,
            lives: PhantomData,
        }
    }

    /// Time of the last packet.
    #[inline(always)]
    pub fn seen(self) -> u64 {
        // SAFETY: see `new`.
        unsafe { (&raw const (*self.flow).seen).read_volatile() }
    }

    /// State as a number.
    #[inline(always)]
    pub fn state(self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (&raw const (*self.flow).state).read_volatile() }
    }

    /// Direction of the first packet.
    #[inline(always)]
    pub fn origin(self) -> Direction {
        // SAFETY: see `new`; the field never changes after insertion.
        Direction::from_u8(unsafe { (*self.flow).origin })
    }

    /// Time of the first packet.
    #[inline(always)]
    pub fn created(self) -> u64 {
        // SAFETY: see `new`; the field never changes after insertion.
        unsafe { (*self.flow).created }
    }

    /// The port's epoch under which the flow was accepted.
    #[inline(always)]
    pub fn epoch(self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (&raw const (*self.flow).epoch).read_volatile() }
    }

    /// Notes that `rule` accepts the flow under another epoch.
    #[inline(always)]
    pub fn renew(self, epoch: u32, rule: u32) {
        // SAFETY: see `new`.
        unsafe {
            (&raw mut (*self.flow).rule).write_volatile(rule);
            (&raw mut (*self.flow).epoch).write_volatile(epoch);
        }
    }

    /// Highest acknowledgement number that a side has sent; 0: none that is known.
    #[inline(always)]
    pub fn acknowledged(self, side: Side) -> u32 {
        // SAFETY: see `new`.
        unsafe { self.acknowledged_field(side).read_volatile() }
    }

    /// Notes an acknowledgement number that a side has sent; writes only if it is higher than the known one.
    #[inline(always)]
    pub fn acknowledge(self, side: Side, number: u32) {
        let known = self.acknowledged(side);
        if known == 0 || number.wrapping_sub(known).cast_signed() > 0 {
            // SAFETY: see `new`.
            unsafe { self.acknowledged_field(side).write_volatile(number) }
        }
    }

    /// Forgets the acknowledgement numbers of both sides: new ones are being agreed on.
    #[inline(always)]
    pub fn forget_acknowledged(self) {
        for side in [Side::Original, Side::Reply] {
            if self.acknowledged(side) != 0 {
                // SAFETY: see `new`.
                unsafe { self.acknowledged_field(side).write_volatile(0) }
            }
        }
    }

    #[inline(always)]
    const fn acknowledged_field(self, side: Side) -> *mut u32 {
        // SAFETY: see `new`.
        unsafe {
            match side {
                Side::Original => &raw mut (*self.flow).acknowledged[0],
                Side::Reply => &raw mut (*self.flow).acknowledged[1],
            }
        }
    }

    /// [`Port::guard_epoch`] under which the local address was checked.
    #[inline(always)]
    pub fn guard_epoch(self) -> u32 {
        // SAFETY: see `new`.
        unsafe { (&raw const (*self.flow).guard_epoch).read_volatile() }
    }

    /// Notes that the local address was checked.
    #[inline(always)]
    pub fn note_guard_epoch(self, epoch: u32) {
        // SAFETY: see `new`.
        unsafe { (&raw mut (*self.flow).guard_epoch).write_volatile(epoch) }
    }

    /// A copy of the whole record.
    #[inline(always)]
    pub fn copy(self) -> Flow {
        // SAFETY: see `new`.
        unsafe { self.flow.read_volatile() }
    }

    /// Notes a packet seen `now` that leads to `state`; writes only what changes, so that hot flows stay shared between CPUs.
    #[inline(always)]
    pub fn touch(self, now: u64, state: u32) {
        /// Half a second: the finest timeout is ten.
        const GRAIN: u64 = 1 << 29;
        if now.saturating_sub(self.seen()) > GRAIN {
            // SAFETY: see `new`.
            unsafe { (&raw mut (*self.flow).seen).write_volatile(now) }
        }
        self.set_state(state);
    }

    /// Notes the state that a packet leads to, but not that it was seen.
    #[inline(always)]
    pub fn set_state(self, state: u32) {
        if state != self.state() {
            // SAFETY: see `new`.
            unsafe { (&raw mut (*self.flow).state).write_volatile(state) }
        }
    }
}
