//! How many entries each map takes.

/// Ports of a node.
pub const PORTS: u32 = 8192;
/// Words of the arena (16 MiB): half for policies, half for prefilters (two in use, two that replace them).
pub const ARENA: u32 = 2 << 20;
/// Prefixes of one IP version, all class spaces together.
pub const CLASSES: u32 = 4 << 20;
/// Stations.
pub const STATIONS: u32 = PORTS;
/// Bans.
pub const BANS: u32 = 1 << 16;
/// Flows that both ends have taken part in (as `nf_conntrack_max` of the reference).
pub const FLOWS: u32 = 262_144;
/// Flows that wait for an answer.
pub const HALF_OPEN: u32 = 65_536;
/// Entries of a table for so many flows. The kernel makes as many buckets as the next power of two: one entry more makes them twice as many, so that
/// of two packets without a flow one less has to look at somebody else's, which is not in the cache.
pub const fn entries(flows: u32) -> u32 {
    match flows.is_power_of_two() {
        true => flows + 1,
        false => flows,
    }
}

/// Ports that have flows; those that are gone may still have some.
pub const FLOW_USAGE: u32 = 2 * PORTS;
/// Fragmented datagrams in flight.
pub const FRAGMENTS: u32 = 4096;
/// Ports that are counted, and the host.
pub const PORT_COUNTERS: u32 = PORTS + 1;
/// Rules of ports that have decided something; memory is taken as they do.
pub const RULE_COUNTERS: u32 = 1 << 18;
/// Rules that are being logged.
pub const LOG_LIMITS: u32 = 16_384;
/// Addresses of the host. A packet to one that finds no room is told by the routes.
pub const LOCALS: u32 = 16_384;
/// Sources of connection requests that are remembered at once.
pub const SYN_LIMITS: u32 = 131_072;
/// Bytes of the ring buffer.
pub const EVENTS: u32 = 1 << 20;
