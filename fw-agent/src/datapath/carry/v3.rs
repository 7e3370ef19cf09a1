//! Version 3: its layouts as they were, byte for byte. This file changes only where the types of today do.
//!
//! What is read here has the same layouts in versions 4 and 5; policies and classes, which have not, are built anew.

use fw_common::ban::Ban;
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Counter, PortCounters, PortKey, RuleKey, counter};
use fw_common::wire::Address;

use super::Layout;

/// The version.
pub(super) struct V3;

impl Layout for V3 {
    type FlowKey = OldFlowKey;
    type Flow = OldFlow;
    type RuleKey = OldRuleKey;
    type Counter = OldCounter;
    type PortCounters = OldPortCounters;
    type Port = OldPort;
    type BanKey = OldBanKey;
    type Ban = OldBan;

    const COUNTERS: u32 = REASONS + 7;

    fn counter(index: u32) -> Option<u32> {
        if index < REASONS {
            // The numbers of reasons are stable.
            return Some(index);
        }
        Some(match index - REASONS {
            0 => counter::LOST_EVENTS,
            1 => counter::FLOWS_REFUSED,
            2 => counter::REJECTS_LIMITED,
            3 => counter::LOGS_LIMITED,
            4 => counter::FLOWS_OVER_QUOTA,
            5 => counter::RULES_UNCOUNTED,
            6 => counter::EARLY_DROPS,
            _ => return None,
        })
    }
}

/// Reasons that it counted by.
const REASONS: u32 = 27;

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldFlowKey {
    vmid: u32,
    net: u16,
    protocol: u8,
    version: u8,
    local: [u32; 4],
    remote: [u32; 4],
    local_port: u16,
    remote_port: u16,
}

const _: () = assert!(size_of::<OldFlowKey>() == 44);

impl From<OldFlowKey> for FlowKey {
    fn from(old: OldFlowKey) -> Self {
        Self {
            vmid: old.vmid,
            net: old.net,
            protocol: old.protocol,
            version: old.version,
            local: Address(old.local),
            remote: Address(old.remote),
            local_port: old.local_port,
            remote_port: old.remote_port,
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldFlow {
    seen: u64,
    created: u64,
    state: u32,
    epoch: u32,
    rule: u32,
    origin: u8,
    reserved: [u8; 3],
    guard_epoch: u32,
    acknowledged: [u32; 2],
    reserved_too: u32,
}

const _: () = assert!(size_of::<OldFlow>() == 48);

impl From<OldFlow> for Flow {
    /// States are numbered now as then. The numbers of epochs begin anew, so the flow gets those that no port has.
    fn from(old: OldFlow) -> Self {
        Self {
            seen: old.seen,
            created: old.created,
            state: old.state,
            rule: old.rule,
            origin: old.origin,
            acknowledged: old.acknowledged,
            epoch: 0,
            guard_epoch: 0,
            ..Self::default()
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldRuleKey {
    vmid: u32,
    rule: u32,
    net: u16,
    direction: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<OldRuleKey>() == 12);

impl From<OldRuleKey> for RuleKey {
    fn from(old: OldRuleKey) -> Self {
        Self {
            vmid: old.vmid,
            rule: old.rule,
            net: old.net,
            direction: old.direction,
            reserved: 0,
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldCounter {
    packets: u64,
    bytes: u64,
    last: u64,
}

const _: () = assert!(size_of::<OldCounter>() == 24);

impl From<OldCounter> for Counter {
    fn from(old: OldCounter) -> Self {
        Self {
            packets: old.packets,
            bytes: old.bytes,
            last: old.last,
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldPortCounters([[OldCounter; 3]; 2]);

const _: () = assert!(size_of::<OldPortCounters>() == 144);

impl From<OldPortCounters> for PortCounters {
    fn from(old: OldPortCounters) -> Self {
        Self(old.0.map(|verdicts| verdicts.map(Into::into)))
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldPort {
    mac: u64,
    vmid: u32,
    net: u16,
    flags: u16,
    places: [u32; 8],
    counters: u32,
    rest: [u32; 3],
}

const _: () = assert!(size_of::<OldPort>() == 64);

impl From<OldPort> for (PortKey, u32) {
    fn from(old: OldPort) -> Self {
        let key = PortKey {
            vmid: old.vmid,
            net: old.net,
            reserved: 0,
        };
        (key, old.counters)
    }
}

/// An address as in packets.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldBanKey([u32; 4]);

impl From<OldBanKey> for fw_common::maps::BanKey {
    fn from(old: OldBanKey) -> Self {
        old.0
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct OldBan {
    until: u64,
    length: u32,
    reason: u32,
}

const _: () = assert!(size_of::<OldBan>() == 16);

impl From<OldBan> for Ban {
    fn from(old: OldBan) -> Self {
        Self {
            until: old.until,
            length: old.length,
            reason: old.reason,
        }
    }
}

// SAFETY: `repr(C)`, plain integers, no padding: the fields' sizes add up to the asserted one.
unsafe impl aya::Pod for OldFlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for OldFlow {}
// SAFETY: as above.
unsafe impl aya::Pod for OldRuleKey {}
// SAFETY: as above.
unsafe impl aya::Pod for OldCounter {}
// SAFETY: as above.
unsafe impl aya::Pod for OldPortCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for OldPort {}
// SAFETY: `repr(C)`, four integers.
unsafe impl aya::Pod for OldBanKey {}
// SAFETY: as above.
unsafe impl aya::Pod for OldBan {}
