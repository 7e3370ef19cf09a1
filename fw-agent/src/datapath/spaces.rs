//! Class spaces in the LPM tries: written, read back, removed, a chunk of prefixes at a time.
//!
//! In: the number of a space and its [`Classes`]. The tries hold all spaces, apart by the first word of their keys; the parents of classes are in the trie of
//! IPv4 ([`fw_common::lineage`]).
//!
//! Invariant: a space is written whole before anyone is told its number, parents are written before classes are, and prefixes are written in address order (in a trie of a million, a
//! neighbour of the last path is in the processor's caches).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData};
use fw_common::maps::classes::LINEAGE;
use fw_common::maps::{ClassKeyV4, ClassKeyV6, SPACE_BITS, name};
use fw_common::wire::Address;
use ipnet::{Ipv4Net, Ipv6Net};

use super::Error;
use super::batch::Batch;
use crate::image::{Classes, Prefixes};

/// Both tries.
pub(super) struct Tries {
    pub(super) v4: LpmTrie<MapData, ClassKeyV4, u32>,
    pub(super) v6: LpmTrie<MapData, ClassKeyV6, u32>,
}

impl Tries {
    /// Writes a space.
    pub(super) fn write(&self, space: u32, classes: &Classes) -> Result<(), Error> {
        let lineage = classes.lineage_since(&Classes::default());
        self.write_entries(space, &lineage, &classes.prefixes)
    }

    /// Writes entries of a space: what stands for its classes in the space of parents, then prefixes.
    pub(super) fn write_entries(
        &self,
        space: u32,
        lineage: &[(u32, u32)],
        prefixes: &Prefixes,
    ) -> Result<(), Error> {
        let batch = Batch::of(&self.v4, name::CLASSES_V4)?;
        let lineage = lineage.iter();
        batch.write(lineage.map(|(class, parent)| (key_lineage(space, *class), *parent)))?;
        let v4 = prefixes.v4.iter();
        batch.write(v4.map(|(net, value)| (key_v4(space, net), *value)))?;
        let v6 = prefixes.v6.iter();
        let v6 = v6.map(|(net, value)| (key_v6(space, net), *value));
        Batch::of(&self.v6, name::CLASSES_V6)?.write(v6)
    }

    /// Removes a space, by its entries if they are known, else by a walk over everything.
    pub(super) fn remove(&self, space: u32, classes: Option<&Classes>) -> Result<(), Error> {
        let v4 = Batch::of(&self.v4, name::CLASSES_V4)?;
        let v6 = Batch::of(&self.v6, name::CLASSES_V6)?;
        let (mut keys_v4, keys_v6, lineage) = match classes {
            Some(classes) => {
                let v4 = classes.prefixes.v4.iter();
                let v6 = classes.prefixes.v6.iter();
                let lineage = classes.lineage_since(&Classes::default());
                let lineage = lineage.iter().map(|(class, _)| key_lineage(space, *class));
                (
                    v4.map(|(net, _)| key_v4(space, net)).collect::<Vec<_>>(),
                    v6.map(|(net, _)| key_v6(space, net)).collect::<Vec<_>>(),
                    lineage.collect(),
                )
            }
            None => (
                v4.keys(|key, _| u32::from_be(key.data()[0]) & !LINEAGE == space)?,
                v6.keys(|key, _| u32::from_be(key.data()[0]) == space)?,
                Vec::new(),
            ),
        };
        keys_v4.extend(lineage);
        v4.remove(&keys_v4)?;
        v6.remove(&keys_v6)?;
        Ok(())
    }

    /// Reads all spaces back; none in the place of one that is not whole.
    pub(super) fn read(&self) -> Result<BTreeMap<u32, Option<Classes>>, Error> {
        let mut spaces: BTreeMap<u32, (Prefixes, BTreeMap<u32, u32>)> = BTreeMap::new();
        Batch::of(&self.v4, name::CLASSES_V4)?.visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let [space, word] = key.data().map(u32::from_be);
                let (prefixes, lineage) = spaces.entry(space & !LINEAGE).or_default();
                let length = key.prefix_len().saturating_sub(SPACE_BITS) as u8;
                if space & LINEAGE != 0 {
                    lineage.insert(word, *value);
                } else if let Ok(net) = Ipv4Net::new(word.into(), length) {
                    prefixes.v4.push((net, *value));
                }
            }
            ControlFlow::Continue(())
        })?;
        Batch::of(&self.v6, name::CLASSES_V6)?.visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let [space, words @ ..] = key.data();
                let (prefixes, _) = spaces.entry(u32::from_be(space)).or_default();
                let length = key.prefix_len().saturating_sub(SPACE_BITS) as u8;
                let number = words.iter().fold(0, |number, word| {
                    number << 32 | u128::from(u32::from_be(*word))
                });
                if let Ok(net) = Ipv6Net::new(number.into(), length) {
                    prefixes.v6.push((net, *value));
                }
            }
            ControlFlow::Continue(())
        })?;
        let spaces = spaces.into_iter().map(|(space, (mut prefixes, lineage))| {
            let place_v4 = |(net, _): &(Ipv4Net, u32)| (net.network(), net.prefix_len());
            prefixes.v4.sort_unstable_by_key(place_v4);
            let place_v6 = |(net, _): &(Ipv6Net, u32)| (net.network(), net.prefix_len());
            prefixes.v6.sort_unstable_by_key(place_v6);
            (space, Classes::with_lineage(prefixes, &lineage))
        });
        Ok(spaces.collect())
    }
}

/// The key of a class in the space of parents.
fn key_lineage(space: u32, class: u32) -> Key<ClassKeyV4> {
    Key::new(SPACE_BITS + 32, [(space | LINEAGE).to_be(), class.to_be()])
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
