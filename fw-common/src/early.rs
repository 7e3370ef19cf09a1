//! What is dropped at a network card, before the kernel has made a packet of it.
//!
//! In: a frame at an uplink (a device that stands for a wire), before bridges and routes. Out: why it can be dropped here, or nothing. This is an
//! optimisation: a frame is dropped here only if the hook it is on its way to would drop it, whatever its policy says else.
//!
//! 1. The frame is for a station: the hardware address of a port that judges what comes in. Broadcast and multicast are for many. 2. It parses as IP.
//! 3. To the host's own hardware address: it is for one of the host's addresses, not to be forwarded. 4. Its source is banned, or has asked for
//!    more connections than the limit lets it, or the blacklist holds it and the station's policy drops that without a log line.
//!
//! Invariant: the verdict of a packet is the same with and without this. Doubt goes on to the hook behind.

use crate::address;
use crate::ban::is_banned;
use crate::maps::{Settings, Station, station_flag};
use crate::syn_limit;
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::{Address, Headers, IpVersion, Packet, is_group_mac, mac48, protocol};

/// Why a frame is dropped at once. `headers` must be [`Headers::default`].
#[inline(always)]
pub fn early<P: Packet, T: Tables + Stations>(
    packet: &P,
    tables: T,
    headers: &mut Headers,
) -> Option<Reason> {
    let dest: [u16; 3] = packet.load(0)?;
    let dest = mac48(dest[0], dest[1], dest[2]);
    if is_group_mac(dest) {
        return None;
    }
    let station = tables.station(dest)?;
    let settings = tables.settings();
    let may_list = may_list(&settings, &station);
    if !may_list && settings.syn_interval == 0 && !tables.has_bans() {
        return None;
    }
    if packet.parse(headers).is_err() {
        // The hook behind says what is wrong with it.
        return None;
    }
    if headers.version == IpVersion::None {
        return None;
    }
    let is_host = station.flags & station_flag::HOST != 0;
    if is_host && !tables.is_own(&headers.dest) {
        return None;
    }
    if is_banned(tables, headers.version, &headers.source) {
        return Some(Reason::Ban);
    }
    if syn_limit::is_request(headers) && settings.syn_interval != 0 {
        let source = syn_limit::source(headers);
        if !tables.has_syn(&source, settings.syn_interval, settings.syn_burst) {
            return Some(Reason::SynLimit);
        }
    }
    // The host's policy accepts neighbour discovery before it asks for the blacklist.
    let listed = may_list
        && !(is_host && is_discovery(headers))
        && address::is_blacklisted_here(tables, &settings, headers.version, &headers.source);
    listed.then_some(Reason::Blacklist)
}

/// Whether the blacklist is to be asked for what goes to a station.
#[inline(always)]
fn may_list(settings: &Settings, station: &Station) -> bool {
    station.flags & station_flag::BLACKLIST != 0 && settings.prefilter != [0; 2]
}

/// Neighbour discovery and router messages of IPv6 (ICMPv6 133 to 136).
#[inline(always)]
fn is_discovery(headers: &Headers) -> bool {
    headers.version == IpVersion::V6
        && headers.protocol == protocol::ICMPV6
        && matches!(headers.sport, 133..=136)
}

/// Who is behind the uplinks, and what is asked for there only.
pub trait Stations {
    /// The station with a hardware address.
    fn station(&self, mac: u64) -> Option<Station>;

    /// One of the host's own addresses. May miss one; must not invent any.
    fn is_own(&self, address: &Address) -> bool;

    /// Whether a source of connection requests has a token left. None is taken: the hook behind counts what gets there.
    fn has_syn(&self, source: &Address, interval: u64, burst: u32) -> bool;
}
