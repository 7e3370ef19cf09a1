//! Class spaces in the LPM tries: written, read back, removed, a chunk of prefixes at a time.
//!
//! In: the number of a space and its [`Classes`]. The tries hold all spaces, apart by the first word of their keys.
//!
//! Invariant: a space is written whole before anyone is told its number, and prefixes are written in address order (in a trie of a million, a
//! neighbour of the last path is in the processor's caches).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData};
use fw_common::maps::{ClassKeyV4, ClassKeyV6, SPACE_BITS, name};
use fw_common::wire::Address;
use ipnet::{Ipv4Net, Ipv6Net};

use super::Error;
use super::batch::Batch;
use crate::image::Classes;

/// Both tries.
pub(super) struct Tries {
    pub(super) v4: LpmTrie<MapData, ClassKeyV4, u32>,
    pub(super) v6: LpmTrie<MapData, ClassKeyV6, u32>,
}

impl Tries {
    /// Writes a space.
    pub(super) fn write(&self, space: u32, classes: &Classes) -> Result<(), Error> {
        let v4 = classes.v4.iter();
        let v4 = v4.map(|(net, value)| (key_v4(space, net), *value));
        Batch::of(&self.v4, name::CLASSES_V4)?.write(v4)?;
        let v6 = classes.v6.iter();
        let v6 = v6.map(|(net, value)| (key_v6(space, net), *value));
        Batch::of(&self.v6, name::CLASSES_V6)?.write(v6)
    }

    /// Removes a space, by its prefixes if they are known, else by a walk over everything.
    pub(super) fn remove(&self, space: u32, classes: Option<&Classes>) -> Result<(), Error> {
        let v4 = Batch::of(&self.v4, name::CLASSES_V4)?;
        let v6 = Batch::of(&self.v6, name::CLASSES_V6)?;
        let (keys_v4, keys_v6) = match classes {
            Some(classes) => {
                let v4 = classes.v4.iter().map(|(net, _)| key_v4(space, net));
                let v6 = classes.v6.iter().map(|(net, _)| key_v6(space, net));
                (v4.collect(), v6.collect())
            }
            None => (
                v4.keys(|key, _| u32::from_be(key.data()[0]) == space)?,
                v6.keys(|key, _| u32::from_be(key.data()[0]) == space)?,
            ),
        };
        v4.remove(&keys_v4)?;
        v6.remove(&keys_v6)?;
        Ok(())
    }

    /// Reads all spaces back.
    pub(super) fn read(&self) -> Result<BTreeMap<u32, Classes>, Error> {
        let mut spaces: BTreeMap<u32, Classes> = BTreeMap::new();
        Batch::of(&self.v4, name::CLASSES_V4)?.visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let [space, word] = key.data();
                let classes = spaces.entry(u32::from_be(space)).or_default();
                let length = key.prefix_len().saturating_sub(SPACE_BITS) as u8;
                if let Ok(net) = Ipv4Net::new(u32::from_be(word).into(), length) {
                    classes.v4.push((net, *value));
                }
            }
            ControlFlow::Continue(())
        })?;
        Batch::of(&self.v6, name::CLASSES_V6)?.visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let [space, words @ ..] = key.data();
                let classes = spaces.entry(u32::from_be(space)).or_default();
                let length = key.prefix_len().saturating_sub(SPACE_BITS) as u8;
                let number = words.iter().fold(0, |number, word| {
                    number << 32 | u128::from(u32::from_be(*word))
                });
                if let Ok(net) = Ipv6Net::new(number.into(), length) {
                    classes.v6.push((net, *value));
                }
            }
            ControlFlow::Continue(())
        })?;
        for classes in spaces.values_mut() {
            classes
                .v4
                .sort_unstable_by_key(|(net, _)| (net.network(), net.prefix_len()));
            classes
                .v6
                .sort_unstable_by_key(|(net, _)| (net.network(), net.prefix_len()));
        }
        Ok(spaces)
    }
}

fn key_v4(space: u32, net: &Ipv4Net) -> Key<ClassKeyV4> {
    let Address([.., word]) = Address::from(IpAddr::V4(net.network()));
    let length = SPACE_BITS + u32::from(net.prefix_len());
    Key::new(length, [space.to_be(), word])
}

fn key_v6(space: u32, net: &Ipv6Net) -> Key<ClassKeyV6> {
    let Address([a, b, c, d]) = Address::from(IpAddr::V6(net.network()));
    let length = SPACE_BITS + u32::from(net.prefix_len());
    Key::new(length, [space.to_be(), a, b, c, d])
}
