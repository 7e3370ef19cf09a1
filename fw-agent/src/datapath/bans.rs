//! Bans in the pinned maps: added, removed, listed, and cleared away when they have ended.
//!
//! In: prefixes and times. Whoever has the pins may ban, with or without an agent; a ban holds from the moment of the write, for every packet.
//!
//! The programs look bans up only while the map `HAS_BANS` says that there may be some. Invariant: it says so whenever there are, whatever processes
//! add and remove at once: who adds sets it last, who removes looks again after clearing it.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::ControlFlow;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, IterableMap, LpmTrie, MapData};
use fw_common::ban::{Ban, V4_BITS};
use fw_common::maps::{BanKey, name};
use ipnet::IpNet;

use super::Error;
use super::batch::Batch;
use super::kernel::{failed, removed};
use super::pins::Pins;
use crate::image::ban_prefix;

/// The bans of a node.
pub struct Bans {
    trie: LpmTrie<MapData, BanKey, Ban>,
    exist: Array<MapData, u32>,
}

impl Bans {
    /// Those below a pin directory.
    ///
    /// # Errors
    /// No agent has pinned its maps there.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            trie: pins.trie(name::BANS)?,
            exist: pins.array(name::HAS_BANS)?,
        })
    }

    /// Bans a prefix until a time of the monotonic clock, in nanoseconds (0: for ever). An earlier ban of the same prefix is replaced. `reason`: a
    /// number of the caller's own.
    ///
    /// # Errors
    /// The kernel refuses it: most likely there are too many.
    pub fn add(&mut self, net: IpNet, until: u64, reason: u32) -> Result<(), Error> {
        let (key, ban) = entry(net, until, reason);
        self.trie
            .insert(&key, ban, 0)
            .map_err(failed("write", name::BANS))?;
        self.say_some(true)
    }

    /// Likewise many at once.
    ///
    /// # Errors
    /// The kernel refuses one: those before it are banned.
    pub fn add_all(&mut self, bans: &[(IpNet, u64, u32)]) -> Result<(), Error> {
        if bans.is_empty() {
            return Ok(());
        }
        let entries = bans
            .iter()
            .map(|(net, until, reason)| entry(*net, *until, *reason));
        Batch::of(&self.trie, name::BANS)?.write(entries)?;
        self.say_some(true)
    }

    /// Lifts the ban of exactly this prefix; that there is none is fine.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn remove(&mut self, net: IpNet) -> Result<(), Error> {
        removed(self.trie.remove(&key(net)), name::BANS)?;
        self.rest()
    }

    /// Likewise many at once.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn remove_all(&mut self, nets: &[IpNet]) -> Result<(), Error> {
        if nets.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key<BanKey>> = nets.iter().map(|net| key(*net)).collect();
        Batch::of(&self.trie, name::BANS)?.remove(&keys)?;
        self.rest()
    }

    /// The map's number: another one is another map.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn number(&self) -> Result<u32, Error> {
        let info = self.trie.map().info();
        let info = info.map_err(failed("read the layout of", name::BANS))?;
        Ok(info.id())
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn list(&self) -> Result<Vec<(IpNet, Ban)>, Error> {
        let mut found = Vec::new();
        Batch::of(&self.trie, name::BANS)?.visit(|keys, bans| {
            let bans = keys.iter().zip(bans);
            found.extend(bans.filter_map(|(key, ban)| Some((net(key)?, *ban))));
            ControlFlow::Continue(())
        })?;
        found.sort_unstable_by_key(|(net, _)| *net);
        Ok(found)
    }

    /// Removes those that have ended at `now`; says how many.
    ///
    /// # Errors
    /// As [`Bans::list`].
    pub fn expire(&mut self, now: u64) -> Result<usize, Error> {
        if !self.may_exist()? {
            return Ok(0);
        }
        let bans = Batch::of(&self.trie, name::BANS)?;
        let ended = bans.keys(|_, ban| !ban.lasts(now))?;
        let count = bans.remove(&ended)?;
        if count > 0 {
            self.rest()?;
        }
        Ok(count)
    }

    /// Something was removed: if nothing is left, nothing has to be looked up.
    fn rest(&mut self) -> Result<(), Error> {
        if self.is_empty()? {
            self.say_some(false)?;
            if !self.is_empty()? {
                self.say_some(true)?;
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, Error> {
        match self.trie.keys().next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(source)) => Err(failed("read", name::BANS)(source)),
        }
    }

    /// Whether there may be bans.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn may_exist(&self) -> Result<bool, Error> {
        let some = self.exist.get(&0, 0);
        Ok(some.map_err(failed("read", name::HAS_BANS))? != 0)
    }

    pub(super) fn say_some(&mut self, some: bool) -> Result<(), Error> {
        self.exist
            .set(0, u32::from(some), 0)
            .map_err(failed("write", name::HAS_BANS))
    }
}

fn key(net: IpNet) -> Key<BanKey> {
    let (address, length) = ban_prefix(net);
    Key::new(length, address.0)
}

fn entry(net: IpNet, until: u64, reason: u32) -> (Key<BanKey>, Ban) {
    let key = key(net);
    let ban = Ban {
        until,
        length: key.prefix_len(),
        reason,
    };
    (key, ban)
}

/// The prefix of a key; none if no prefix is like that.
fn net(key: &Key<BanKey>) -> Option<IpNet> {
    let words = key.data();
    let number = words.iter().fold(0, |number, word| {
        number << 32 | u128::from(u32::from_be(*word))
    });
    let address = Ipv6Addr::from(number);
    let (address, length) = match (
        address.to_ipv4_mapped(),
        key.prefix_len().checked_sub(V4_BITS),
    ) {
        (Some(v4), Some(length)) => (IpAddr::V4(v4), length),
        _ => (IpAddr::V6(address), key.prefix_len()),
    };
    IpNet::new(address, u8::try_from(length).ok()?).ok()
}
