//! Bans: sources that are dropped at once, whatever the rules say, until a time.
//!
//! In: the source of a packet that comes in, to a guest or the host. Out: whether it is banned now. The longest prefix that holds the address
//! decides, as long as its ban lasts; behind one that has expired, and that the agent has not removed yet, the next shorter one does.
//!
//! Invariant: an address is not freed by anything but the end of its ban. Of more than [`MAX_EXPIRED`] expired bans around one address, which no
//! agent leaves behind, the innermost still counts. Known difference from netfilter: none, it has no bans.

use crate::tables::Tables;
use crate::wire::{Address, IpVersion};

/// Value of a ban, by the prefix of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ban {
    /// Nanoseconds of the monotonic clock at which it ends; 0: never.
    pub until: u64,
    /// Length of its own prefix, in bits of 128.
    pub length: u32,
    /// What it is for: a number that whoever bans chooses.
    pub reason: u32,
}

const _: () = assert!(size_of::<Ban>() == 16);

impl Ban {
    /// Whether it still lasts.
    pub const fn lasts(&self, now: u64) -> bool {
        self.until == 0 || now < self.until
    }
}

/// Bits in front of an IPv4 address in an [`Address`].
pub const V4_BITS: u32 = 96;

/// Expired bans around one address that are looked behind.
const MAX_EXPIRED: u32 = 6;

/// Whether a source is banned.
#[inline(always)]
pub fn is_banned<T: Tables>(tables: T, version: IpVersion, source: &Address) -> bool {
    if version == IpVersion::None || !tables.has_bans() {
        return false;
    }
    let shortest = match version {
        IpVersion::V4 => V4_BITS,
        IpVersion::V6 | IpVersion::None => 0,
    };
    let now = tables.now();
    let mut bits = 128;
    for _ in 0..MAX_EXPIRED {
        let Some(ban) = tables.ban(source, bits) else {
            return false;
        };
        if ban.length < shortest {
            return false;
        }
        if ban.lasts(now) {
            return true;
        }
        match core::cmp::min(ban.length, bits).checked_sub(1) {
            Some(shorter) => bits = shorter,
            None => return false,
        }
    }
    true
}
