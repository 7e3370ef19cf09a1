//! The files of the configuration, as bytes.
//!
//! [`Sources::read`] and [`Reader::read`] are where the configuration is read from disk; everything behind them is pure. Two equal [`Sources`] mean the
//! same configuration, so the agent compares them to see whether anything changed. A file that does not exist is absent; a file or a directory
//! that cannot be read is recorded with the error.

mod doubt;
mod reader;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;

pub use self::reader::{Changed, Reader};
use super::line::decode;
use super::memo::is_same;
use super::sdn::{IPAM_STATE, LEGACY_IPAM_STATE, RUNNING_CONFIG};

/// Every file that the configuration of one node consists of.
///
/// There are two layouts of a tree: Proxmox's, and that of a plain host, which has the one directory `firewall` and in it `host.fw`.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The node.
    pub node: String,
    /// The tree is a plain host's.
    pub plain: bool,
    /// Contents by path relative to the root, with `/` between the parts.
    pub files: BTreeMap<String, Bytes>,
    /// Paths that exist but could not be read, with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// Files that cannot be read now but could before, with the reason; `files` has the contents they had.
    pub stale: BTreeMap<String, String>,
}

impl PartialEq for Sources {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            node,
            plain,
            files,
            unreadable,
            stale,
        } = other;
        let mut pairs = self.files.iter().zip(files);
        self.node == *node
            && self.plain == *plain
            && self.files.len() == files.len()
            && pairs.all(|((path, text), (other, of))| path == other && is_same(text, of))
            && self.unreadable == *unreadable
            && self.stale == *stale
    }
}

impl Eq for Sources {}

impl Sources {
    /// Reads the files of `node` below `root`, a tree laid out like `/etc/pve`.
    pub fn read(root: &Path, node: &str) -> Self {
        Self::collect(root, node, |path| {
            std::fs::read(root.join(path)).map(Bytes::from)
        })
    }

    /// Reads only what is the whole cluster's: its members and its firewall file, or a plain host's file.
    pub fn read_cluster(root: &Path, node: &str) -> Self {
        let mut sources = Self {
            node: node.to_owned(),
            plain: is_plain(root),
            ..Self::default()
        };
        let host = sources.plain.then_some(PLAIN_HOST_FILE);
        for path in [MEMBERS_FILE, COROSYNC_FILE, CLUSTER_FILE]
            .into_iter()
            .chain(host)
        {
            sources.file(path, &mut |path| {
                std::fs::read(root.join(path)).map(Bytes::from)
            });
        }
        sources
    }

    /// Likewise, where `read` reads one file, given by its path below the root.
    fn collect(
        root: &Path,
        node: &str,
        mut read: impl FnMut(&str) -> std::io::Result<Bytes>,
    ) -> Self {
        let read = &mut read;
        let mut sources = Self {
            node: node.to_owned(),
            plain: is_plain(root),
            ..Self::default()
        };
        for path in [MEMBERS_FILE, VMLIST_FILE, COROSYNC_FILE] {
            sources.file(path, read);
        }
        sources.file(RUNNING_CONFIG, read);
        sources.file(IPAM_STATE, read);
        if !sources.files.contains_key(IPAM_STATE) && !sources.unreadable.contains_key(IPAM_STATE) {
            sources.file(LEGACY_IPAM_STATE, read);
        }
        sources.directory(root, FIREWALL_DIRECTORY, ".fw", read);
        sources.directory(root, VNET_DIRECTORY, ".fw", read);
        if !sources.plain {
            sources.files.remove(PLAIN_HOST_FILE);
            sources.unreadable.remove(PLAIN_HOST_FILE);
        }
        sources.file(&host_file(node), read);
        sources.directory(root, &qemu_directory(node), ".conf", read);
        sources.directory(root, &lxc_directory(node), ".conf", read);
        sources
    }

    /// Gives files that cannot be read, and those that are there in part only ([`doubt`]), the contents that they have in `last`.
    pub fn keep_from(&mut self, last: &Self) {
        for (path, reason) in doubt::lost(&last.files, &self.files, &self.node) {
            if let Some(known) = last.files.get(&path) {
                self.files.insert(path.clone(), known.clone());
                self.stale.insert(path, reason.to_owned());
            }
        }
        let unreadable = std::mem::take(&mut self.unreadable);
        for (path, reason) in unreadable {
            let below = format!("{path}/");
            let known: Vec<_> = last
                .files
                .iter()
                .filter(|(file, _)| **file == path || file.starts_with(&below))
                .collect();
            if known.is_empty() {
                self.unreadable.insert(path, reason);
                continue;
            }
            for (file, bytes) in known {
                self.files.insert(file.clone(), bytes.clone());
                self.stale.insert(file.clone(), reason.clone());
            }
        }
    }

    /// Path of the node's own file.
    pub fn host_file(&self) -> String {
        match self.plain {
            true => PLAIN_HOST_FILE.to_owned(),
            false => host_file(&self.node),
        }
    }

    /// The text of a file as the parser reads it.
    pub fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        self.files.get(path).map(|bytes| decode(bytes))
    }

    /// Whether a file may exist but could not be read: itself, or its directory.
    pub(crate) fn is_unreadable(&self, path: &str) -> bool {
        let directory = path.rsplit_once('/').map(|(directory, _)| directory);
        self.unreadable.contains_key(path)
            || directory.is_some_and(|directory| self.unreadable.contains_key(directory))
    }

    /// Files directly in `directory` whose name is a guest's number followed by `suffix`, in order of the number.
    pub(crate) fn numbered<'a>(
        &'a self,
        directory: &str,
        suffix: &'a str,
    ) -> BTreeMap<u32, (&'a str, &'a Bytes)> {
        let prefix = format!("{directory}/");
        let below = self
            .files
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix));
        below
            .filter_map(|(path, bytes)| {
                let name = path.get(prefix.len()..)?.strip_suffix(suffix)?;
                Some((guest_number(name)?, (path.as_str(), bytes)))
            })
            .collect()
    }

    /// Files directly in `directory` whose name ends in `suffix`, with the part of the name before it, in order.
    pub(super) fn named<'a>(
        &'a self,
        directory: &str,
        suffix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let prefix = format!("{directory}/");
        let below = self.files.range(prefix.clone()..);
        let below = below.map_while(move |(path, _)| Some((path.strip_prefix(&prefix)?, path)));
        below.filter_map(move |(name, path)| Some((name.strip_suffix(suffix)?, path.as_str())))
    }

    fn file(&mut self, path: &str, read: &mut impl FnMut(&str) -> std::io::Result<Bytes>) {
        match read(path) {
            Ok(text) => {
                self.files.insert(path.to_owned(), text);
            }
            Err(error) => self.failed(path, &error),
        }
    }

    fn directory(
        &mut self,
        root: &Path,
        directory: &str,
        suffix: &str,
        read: &mut impl FnMut(&str) -> std::io::Result<Bytes>,
    ) {
        let entries = match std::fs::read_dir(root.join(directory)) {
            Ok(entries) => entries,
            Err(error) => return self.failed(directory, &error),
        };
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let name = entry.file_name();
                    if let Some(name) = name.to_str().filter(|name| name.ends_with(suffix)) {
                        self.file(&format!("{directory}/{name}"), read);
                    }
                }
                Err(error) => self.failed(directory, &error),
            }
        }
    }

    fn failed(&mut self, path: &str, error: &std::io::Error) {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
            self.unreadable.insert(path.to_owned(), error.to_string());
        }
    }
}

/// What a path below the root of a tree of Proxmox's means to the configuration of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A file of a directory all of whose files are read, each by itself.
    Member,
    /// Something by which others may be read or not, or nothing that is known.
    Structure,
    /// Nothing.
    None,
}

impl Part {
    fn of(path: &str, node: &str) -> Self {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let of_node = directory.strip_prefix("nodes/");
        let of_node = of_node.and_then(|rest| rest.strip_prefix(node));
        let suffix = match (directory, of_node) {
            (FIREWALL_DIRECTORY | VNET_DIRECTORY, _) => ".fw",
            (_, Some("/qemu-server" | "/lxc")) => ".conf",
            // Whoever replaces a file writes the new one beside the directory that it is for.
            ("", _) => match name {
                MEMBERS_FILE | VMLIST_FILE | COROSYNC_FILE | "firewall" | "nodes" | "priv"
                | "sdn" => return Self::Structure,
                _ => return Self::None,
            },
            _ => return Self::Structure,
        };
        match name.ends_with(suffix) {
            _ if path == PLAIN_HOST_FILE => Self::Structure,
            true => Self::Member,
            false => Self::None,
        }
    }
}

/// A guest's number as the reference writes it: digits without a leading zero.
fn guest_number(name: &str) -> Option<u32> {
    let digits = !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    if digits { name.parse().ok() } else { None }
}

/// Directory of the files of the cluster and the guests.
pub const FIREWALL_DIRECTORY: &str = "firewall";

/// Path of the cluster's communication settings.
pub const COROSYNC_FILE: &str = "corosync.conf";

/// Path of the list of the cluster's members.
pub const MEMBERS_FILE: &str = ".members";

/// Path of the list of the cluster's guests.
const VMLIST_FILE: &str = ".vmlist";

/// Directory of the VNets' firewall files.
pub const VNET_DIRECTORY: &str = "sdn/firewall";

/// Path of the cluster's file.
pub const CLUSTER_FILE: &str = "firewall/cluster.fw";

/// Path of a plain host's own file.
pub const PLAIN_HOST_FILE: &str = "firewall/host.fw";

/// Whether a tree is a plain host's: it has that file, which no node of Proxmox has, and no nodes. Less would not do: a tree of Proxmox's that is not all
/// there yet may have other firewall files, and would be taken for a host without guests.
pub fn is_plain(root: &Path) -> bool {
    root.join(PLAIN_HOST_FILE).is_file() && !root.join("nodes").exists()
}

/// Path of a node's own file in Proxmox's layout.
pub fn host_file(node: &str) -> String {
    format!("nodes/{node}/host.fw")
}

/// Path of a guest's firewall file.
pub fn guest_file(vmid: u32) -> String {
    format!("firewall/{vmid}.fw")
}

/// Directory of a node's virtual machines.
pub fn qemu_directory(node: &str) -> String {
    format!("nodes/{node}/qemu-server")
}

/// Directory of a node's containers.
pub fn lxc_directory(node: &str) -> String {
    format!("nodes/{node}/lxc")
}

/// The node to use when none is named: this machine's host name if the tree has such a node, else the node that `.members` says the tree is
/// seen from, else the tree's only node, else the host name.
pub fn node_name(root: &Path) -> Option<String> {
    let uname = rustix::system::uname();
    let host = uname
        .nodename()
        .to_str()
        .ok()
        .and_then(|name| name.split('.').next());
    let host = host.filter(|name| !name.is_empty()).map(str::to_owned);
    let nodes = root.join("nodes");
    for name in [host.clone(), member_name(root)].into_iter().flatten() {
        if !name.contains('/') && nodes.join(&name).is_dir() {
            return Some(name);
        }
    }
    let mut names = std::fs::read_dir(&nodes)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            entry
                .ok()
                .filter(|entry| entry.path().is_dir())?
                .file_name()
                .into_string()
                .ok()
        });
    match (names.next(), names.next()) {
        (Some(only), None) => Some(only),
        _ => host,
    }
}

fn member_name(root: &Path) -> Option<String> {
    let members: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join(".members")).ok()?).ok()?;
    members
        .get("nodename")?
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "firewall/cluster.fw",
            "firewall/100.fw",
            "firewall/notes.txt",
            "nodes/a/host.fw",
            "nodes/a/lxc/100.conf",
            "nodes/b/lxc/7.conf",
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        std::fs::create_dir(root.path().join("firewall/200.fw")).unwrap();
        let sources = Sources::read(root.path(), "a");
        let paths: Vec<_> = sources.files.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "firewall/100.fw",
                "firewall/cluster.fw",
                "nodes/a/host.fw",
                "nodes/a/lxc/100.conf"
            ]
        );
        assert_eq!(
            sources.unreadable.keys().collect::<Vec<_>>(),
            ["firewall/200.fw"]
        );
        assert_eq!(sources, Sources::read(root.path(), "a"));
        assert_eq!(
            sources
                .numbered("firewall", ".fw")
                .into_keys()
                .collect::<Vec<_>>(),
            [100]
        );
        std::fs::write(root.path().join(".members"), r#"{"nodename": "b"}"#).unwrap();
        assert_eq!(node_name(root.path()).as_deref(), Some("b"));
        std::fs::remove_dir_all(root.path().join("nodes/b")).unwrap();
        assert_eq!(node_name(root.path()).as_deref(), Some("a"));
    }
}
