//! What is dropped at a network card, before the kernel has made a packet of it.
//!
//! In: a frame at an uplink (a device that stands for a wire), before bridges and routes. Out: why it can be dropped here, or nothing. This is an
//! optimisation: a frame is dropped here only if the hook it is on its way to would drop it, whatever its policy says else.
//!
//! 1. The frame is for a station: the hardware address of a port that judges what comes in. Broadcast and multicast are for many. 2. It parses as IP.
//! 3. Its source is banned, or the blacklist holds it and the station's policy drops that without a log line.
//!
//! Invariant: the verdict of a packet is the same with and without this. Doubt goes on to the hook behind.

use crate::address;
use crate::ban::is_banned;
use crate::maps::{Settings, Station, station_flag};
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::{Headers, IpVersion, Packet, is_group_mac, mac48};

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
    if !may_list && !tables.has_bans() {
        return None;
    }
    if packet.parse(headers).is_err() {
        // The hook behind says what is wrong with it.
        return None;
    }
    if headers.version == IpVersion::None {
        return None;
    }
    if is_banned(tables, headers.version, &headers.source) {
        return Some(Reason::Ban);
    }
    let listed = may_list
        && address::is_blacklisted_here(tables, &settings, headers.version, &headers.source);
    listed.then_some(Reason::Blacklist)
}

/// Whether the blacklist is to be asked for what goes to a station.
#[inline(always)]
fn may_list(settings: &Settings, station: &Station) -> bool {
    station.flags & station_flag::BLACKLIST != 0 && settings.prefilter != [0; 2]
}

/// Who is behind the uplinks.
pub trait Stations {
    /// The station with a hardware address.
    fn station(&self, mac: u64) -> Option<Station>;
}
