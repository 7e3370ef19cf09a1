//! The last good configuration on disk: `<state directory>/last-good`.
//!
//! At boot the firewall is wanted before the network is, but the cluster file system needs the network. So the agent keeps the files it applied
//! last, and enforces them until the real ones can be read.
//!
//! ```text
//! tapwall-cache 1\n                                 kind of file, version
//! {"root":…,"node":…,"saved_at":…,"sha256":…}\n     whose it is; checksum of what follows
//! kind, length of path, length of data, path, data  for each file (numbers are little-endian)
//! ```
//!
//! Invariant: what is loaded is whole, of this version, and of the same tree and node; anything else is an error that says why. A file that
//! existed but could not be read is kept as such: forgetting it would make it absent, and an absent `cluster.fw` opens the node. The file is
//! replaced in one step and holds what only root may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Sources;

const MAGIC: &[u8] = b"tapwall-cache 1\n";
const FILE: u8 = 0;
const UNREADABLE: u8 = 1;

/// Why there is no last good configuration to be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be read or written.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is another tree's or node's.
    #[error("{path} is of node {node} in {root}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its node.
        node: String,
        /// Its tree.
        root: String,
    },
}

/// A configuration that was applied once.
#[derive(Debug)]
pub struct Cached {
    /// Its files.
    pub sources: Sources,
    /// When it was saved (RFC 3339).
    pub saved_at: String,
}

/// Where one node's last good configuration is kept.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    root: String,
    node: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    root: String,
    node: String,
    saved_at: String,
    sha256: String,
}

impl Cache {
    /// The cache of `node` in the tree `root`.
    pub fn new(directory: &Path, root: &Path, node: &str) -> Self {
        Self {
            directory: directory.to_path_buf(),
            root: root.display().to_string(),
            node: node.to_owned(),
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.join("last-good")
    }

    /// Reads it; none if there is none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or another's.
    pub fn load(&self) -> Result<Option<Cached>, CacheError> {
        let path = self.path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", path, source)),
        };
        let (header, sources) = match decode(&bytes) {
            Ok(found) => found,
            Err(what) => return Err(CacheError::Damaged { path, what }),
        };
        let Header { root, node, .. } = header;
        if root != self.root || node != self.node {
            return Err(CacheError::Foreign { path, node, root });
        }
        let saved_at = header.saved_at;
        Ok(Some(Cached { sources, saved_at }))
    }

    /// Replaces it.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there.
    pub fn save(&self, sources: &Sources) -> Result<(), CacheError> {
        let body = encode(sources);
        let header = Header {
            root: self.root.clone(),
            node: self.node.clone(),
            saved_at: jiff::Timestamp::now().to_string(),
            sha256: hex(&Sha256::digest(&body)),
        };
        let new = self.directory.join("last-good.new");
        let write = || -> std::io::Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.directory)?;
            // A file left behind may have another mode.
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(MAGIC)?;
            serde_json::to_writer(&mut file, &header)?;
            file.write_all(b"\n")?;
            file.write_all(&body)?;
            file.sync_all()?;
            std::fs::rename(&new, self.path())?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| io("write", self.path(), source))
    }
}

/// A name for the contents of the files: other contents, another name.
pub fn digest(sources: &Sources) -> String {
    hex(&Sha256::digest(encode(sources)))
}

fn io(verb: &'static str, path: PathBuf, source: std::io::Error) -> CacheError {
    CacheError::Io { verb, path, source }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(sources: &Sources) -> Vec<u8> {
    let mut out = Vec::new();
    let files = sources.files.iter();
    let files = files.map(|(path, bytes)| (FILE, path, &bytes[..]));
    let unreadable = sources.unreadable.iter();
    let unreadable = unreadable.map(|(path, reason)| (UNREADABLE, path, reason.as_bytes()));
    for (kind, path, data) in files.chain(unreadable) {
        out.push(kind);
        out.extend((path.len() as u64).to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        out.extend(path.as_bytes());
        out.extend(data);
    }
    out
}

fn decode(bytes: &[u8]) -> Result<(Header, Sources), &'static str> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("it is of another kind or version")?;
    let end = rest.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or("its header has no end")?;
    let (header, body) = (&rest[..end], &rest[end + 1..]);
    let header: Header = serde_json::from_slice(header)
        .ok()
        .ok_or("its header is not one")?;
    if hex(&Sha256::digest(body)) != header.sha256 {
        return Err("its checksum is another");
    }
    let mut sources = Sources {
        node: header.node.clone(),
        ..Sources::default()
    };
    let mut rest = body;
    while let Some((kind, after)) = rest.split_first() {
        rest = after;
        let lengths = (take_length(&mut rest), take_length(&mut rest));
        let (Some(path), Some(data)) = lengths else {
            return Err("it ends within a file");
        };
        let (Some(path), Some(data)) = (take(&mut rest, path), take(&mut rest, data)) else {
            return Err("it ends within a file");
        };
        let path = String::from_utf8_lossy(path).into_owned();
        match *kind {
            FILE => {
                sources.files.insert(path, Bytes::copy_from_slice(data));
            }
            UNREADABLE => {
                let reason = String::from_utf8_lossy(data).into_owned();
                sources.unreadable.insert(path, reason);
            }
            _ => return Err("it holds what this version does not know"),
        }
    }
    Ok((header, sources))
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, 8)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sources() -> Sources {
        Sources {
            node: "a".into(),
            files: [
                ("firewall/cluster.fw", &b"[OPTIONS]\nenable: 1\n"[..]),
                ("firewall/100.fw", b"\xff\x00 not text"),
                (".vmlist", b""),
            ]
            .map(|(path, bytes)| (path.to_owned(), Bytes::from_static(bytes)))
            .into(),
            unreadable: [("nodes/a/host.fw".to_owned(), "no".to_owned())].into(),
            ..Sources::default()
        }
    }

    fn cache(directory: &Path) -> Cache {
        Cache::new(directory, Path::new("/etc/pve"), "a")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("state");
        let cache = cache(&below);
        assert!(cache.load().unwrap().is_none());
        for sources in [
            sources(),
            Sources {
                node: "a".into(),
                ..Sources::default()
            },
        ] {
            cache.save(&sources).unwrap();
            assert_eq!(cache.load().unwrap().unwrap().sources, sources);
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&below), mode(&cache.path())), (0o700, 0o600));
        let names = std::fs::read_dir(&below).unwrap().count();
        assert_eq!(names, 1, "nothing is left behind");
    }

    #[test]
    fn what_only_may_be_damaged_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        cache.save(&sources()).unwrap();
        let whole = std::fs::read(cache.path()).unwrap();
        let is_damaged = || matches!(cache.load(), Err(CacheError::Damaged { .. }));
        for length in 0..whole.len() {
            std::fs::write(cache.path(), &whole[..length]).unwrap();
            assert!(is_damaged(), "the first {length} bytes");
        }
        let body = whole.iter().rposition(|byte| *byte == b'}').unwrap() + 2;
        for at in (0..MAGIC.len()).chain(body..whole.len()) {
            let mut other = whole.clone();
            other[at] ^= 1;
            std::fs::write(cache.path(), other).unwrap();
            assert!(is_damaged(), "byte {at}");
        }
        let longer = [&whole[..], b"\0"].concat();
        std::fs::write(cache.path(), longer).unwrap();
        assert!(is_damaged());
    }

    #[test]
    fn another_node_or_tree_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        cache(directory.path()).save(&sources()).unwrap();
        for (root, node) in [("/etc/pve", "b"), ("/srv/tree", "a")] {
            let other = Cache::new(directory.path(), Path::new(root), node);
            let found = other.load();
            assert!(
                matches!(found, Err(CacheError::Foreign { .. })),
                "{found:?}"
            );
        }
    }

    #[test]
    fn other_contents_have_another_digest() {
        let one = sources();
        let mut other = one.clone();
        assert_eq!(digest(&one), digest(&other));
        other.files.insert("firewall/100.fw".into(), Bytes::new());
        assert_ne!(digest(&one), digest(&other));
    }
}
