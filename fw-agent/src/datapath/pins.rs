//! Where maps and links are pinned, and reading pinned maps without the agent.
//!
//! ```text
//! <pin directory>/v<ABI>/maps/<NAME>            see fw_common::maps::name
//! <pin directory>/v<ABI>/links/<device>-<hook>  TCX links (kernel 6.6 and later)
//! <pin directory>/v<ABI>/links/<device>-uplink  XDP links
//! <pin directory>/v<ABI>/links/<device>-clsact  a directory: the device has filters of the clsact qdisc (before 6.6)
//! <pin directory>/v<ABI>/links/<device>-qdisc   a directory: and that qdisc is of our making
//! (with `%2e` for every full stop in a device's name)
//! ```
//!
//! An agent of another version has its own directory. [`Pins::others`] are what such agents left: their links are taken over one by one, then
//! their directory is removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use fw_common::maps::{ABI, name};

use super::{Error, Hook, Words};

/// Where the agent pins unless told otherwise.
pub const DEFAULT: &str = "/sys/fs/bpf/tapwall";

/// Last part of the name of an uplink's pin.
const UPLINK: &str = "uplink";
/// Last part of the name of the mark of a device with filters.
const FILTERS: &str = "clsact";
/// Last part of the name of the mark of a qdisc of our making.
const QDISC: &str = "qdisc";

/// Begins the name of a pin whose device has another name by now. No device's name has a blank.
const ASIDE: &str = "interface ";

/// A pin directory.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    version: u32,
}

impl Pins {
    /// The pins below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            version: ABI,
        }
    }

    /// What agents of other versions have pinned below the same directory.
    pub fn others(&self) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let versions = entries.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let version = name.strip_prefix('v')?.parse().ok()?;
            (version != self.version && format!("v{version}") == name).then_some(version)
        });
        let others = versions.map(|version| Self {
            root: self.root.clone(),
            version,
        });
        others.collect()
    }

    /// Makes the directories.
    pub(super) fn create(&self) -> Result<(), Error> {
        for path in [self.maps(), self.links()] {
            std::fs::create_dir_all(&path)
                .map_err(|source| Error::PinDirectory { path, source })?;
        }
        Ok(())
    }

    /// The directory of all versions.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The version whose pins these are.
    pub(super) const fn version_number(&self) -> u32 {
        self.version
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{}", self.version))
    }

    fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Pin of a device's link.
    pub(super) fn link(&self, device: &str, hook: Hook) -> PathBuf {
        self.links()
            .join(format!("{}-{}", escaped(device), hook.name()))
    }

    /// Pin of an uplink's link.
    pub(super) fn uplink(&self, device: &str) -> PathBuf {
        self.links().join(format!("{}-{UPLINK}", escaped(device)))
    }

    /// Mark of a device that has filters.
    pub(super) fn filters(&self, device: &str) -> PathBuf {
        self.links().join(format!("{}-{FILTERS}", escaped(device)))
    }

    /// Mark of the interface that had the device's name when the filters were put there.
    pub(super) fn filters_on(&self, device: &str, ifindex: u32) -> PathBuf {
        self.filters(device).join(ifindex.to_string())
    }

    /// Interfaces that had a device's name when filters were put there.
    pub(super) fn interfaces(&self, device: &str) -> BTreeSet<u32> {
        let entries = std::fs::read_dir(self.filters(device));
        let names = entries.into_iter().flatten();
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Mark of a device whose clsact qdisc is of our making.
    pub(super) fn qdisc(&self, device: &str) -> PathBuf {
        self.links().join(format!("{}-{QDISC}", escaped(device)))
    }

    /// Where a link waits whose device, of this interface index, has lost its name to another.
    pub(super) fn aside(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.link(&format!("{ASIDE}{ifindex}"), hook)
    }

    /// Devices that have programs by what is pinned: links of TC hooks, or marks of filters.
    pub fn devices(&self) -> BTreeSet<String> {
        self.linked(|kind| kind == FILTERS || Hook::ALL.iter().any(|hook| hook.name() == kind))
    }

    /// What stands for devices in the names of pins that were set aside.
    pub(super) fn set_aside(&self) -> BTreeSet<String> {
        let devices = self.devices().into_iter();
        devices.filter(|name| name.starts_with(ASIDE)).collect()
    }

    /// Devices that are marked as having filters.
    pub(super) fn filtered(&self) -> BTreeSet<String> {
        self.linked(|kind| kind == FILTERS)
    }

    /// Devices that have a pinned link of the XDP program.
    pub fn uplinks(&self) -> BTreeSet<String> {
        self.linked(|kind| kind == UPLINK)
    }

    fn linked(&self, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.links()) else {
            return BTreeSet::new();
        };
        entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let (device, kind) = name.rsplit_once('-')?;
                wanted(kind).then(|| unescaped(device))
            })
            .collect()
    }

    /// Removes a pin; that it is not there is fine.
    pub(super) fn remove(path: PathBuf) -> Result<(), Error> {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Unpin { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes a mark; that it is there is fine.
    pub(super) fn mark(path: PathBuf) -> Result<(), Error> {
        match std::fs::create_dir(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::PinDirectory { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes a mark; that it is not there is fine.
    pub(super) fn unmark(path: PathBuf) -> Result<(), Error> {
        match std::fs::remove_dir(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Unpin { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Gives a pin another name, also of another version's directory; what has that name goes.
    pub(super) fn rename(from: &Path, to: PathBuf) -> Result<(), Error> {
        std::fs::rename(from, &to).map_err(|source| Error::Repin { path: to, source })
    }

    /// Removes what this version has pinned, and nothing else.
    pub(super) fn remove_version(&self) -> Result<(), Error> {
        let path = self.version();
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Unpin { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes everything: programs whose links were pinned here are detached, and nothing is filtered any more.
    ///
    /// # Errors
    /// A pin that is there but cannot be removed.
    pub fn remove_all(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.root) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Unpin {
                path: self.root.clone(),
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Puts the pin of one map in the place of another's.
    pub(super) fn replace(&self, pin: &str, name: &str) -> Result<(), Error> {
        let path = self.map(name);
        std::fs::rename(self.map(pin), &path).map_err(|source| Error::Repin { path, source })
    }

    /// Whether an agent has pinned its maps here.
    pub fn exist(&self) -> bool {
        self.map(name::PORTS).exists()
    }

    /// A pinned hash map.
    ///
    /// # Errors
    /// There is none, or its layout is another.
    pub fn hash<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, Error> {
        self.hash_at(name, name)
    }

    /// The hash map pinned as `pin` that is of the kind of map `name`.
    pub(super) fn hash_at<K: Pod, V: Pod>(
        &self,
        pin: &str,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, Error> {
        let data = MapData::from_pin(self.map(pin)).map_err(|source| Error::Map {
            verb: "open",
            map: name,
            source,
        })?;
        let map = match name {
            name::FRAGMENTS | name::LOG_LIMITS | name::SYN_LIMITS => Map::LruHashMap(data),
            _ => Map::HashMap(data),
        };
        map.try_into().map_err(|source| layout(name, source))
    }

    /// A pinned LPM trie.
    ///
    /// # Errors
    /// As [`Pins::hash`].
    pub fn trie<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<LpmTrie<MapData, K, V>, Error> {
        Map::LpmTrie(self.data(name)?)
            .try_into()
            .map_err(|source| layout(name, source))
    }

    /// A pinned array.
    ///
    /// # Errors
    /// As [`Pins::hash`].
    pub fn array<V: Pod>(&self, name: &'static str) -> Result<Array<MapData, V>, Error> {
        Map::Array(self.data(name)?)
            .try_into()
            .map_err(|source| layout(name, source))
    }

    /// The pinned arena.
    ///
    /// # Errors
    /// As [`Pins::hash`].
    pub fn words(&self) -> Result<Words, Error> {
        Words::new(self.data(name::ARENA)?)
    }

    /// A pinned array with one entry per CPU.
    ///
    /// # Errors
    /// As [`Pins::hash`].
    pub fn per_cpu<V: Pod>(&self, name: &'static str) -> Result<PerCpuArray<MapData, V>, Error> {
        Map::PerCpuArray(self.data(name)?)
            .try_into()
            .map_err(|source| layout(name, source))
    }

    /// A pinned hash map with one value per CPU.
    ///
    /// # Errors
    /// As [`Pins::hash`].
    pub fn per_cpu_hash<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<PerCpuHashMap<MapData, K, V>, Error> {
        Map::PerCpuHashMap(self.data(name)?)
            .try_into()
            .map_err(|source| layout(name, source))
    }

    pub(super) fn data(&self, name: &'static str) -> Result<MapData, Error> {
        MapData::from_pin(self.map(name)).map_err(|source| Error::Map {
            verb: "open",
            map: name,
            source,
        })
    }
}

fn layout(map: &'static str, source: MapError) -> Error {
    Error::Map {
        verb: "read the layout of",
        map,
        source,
    }
}

/// A device's name as a part of a pin's: the BPF file system takes no full stop, which names of VLAN devices have (`vmbr0.10`).
fn escaped(device: &str) -> String {
    device.replace('%', "%25").replace('.', "%2e")
}

/// The device's name in a pin's.
fn unescaped(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_come_back_from_pins_and_have_no_full_stop() {
        for name in [
            "eno1",
            "vmbr0.10",
            "eno2.20.30",
            "50%",
            "%2e",
            "%252e.",
            "a-b.1",
        ] {
            let pin = escaped(name);
            assert!(!pin.contains('.'), "{pin}");
            assert_eq!(unescaped(&pin), name);
        }
    }
}
