//! The last good configuration on disk: `<state directory>/last-good`.
//!
//! At boot the firewall is wanted before the network is, but the cluster file system needs the network. So the agent keeps the files it applied
//! last, and enforces them until the real ones can be read.
//!
//! ```text
//! tapwall-cache 2\n                                          kind of file, version
//! {"root":…,"node":…,"saved_at":…,"length":…,"sha256":…}\n   whose it is; length and checksum of what follows
//! kind, length of path, length of data, path, data           for each file (numbers are little-endian)
//! {"root":…}\n …                                             the same again, for what changed since
//! ```
//!
//! A change adds a part with the files that changed, until the parts that were added outweigh the first; then the file is replaced.
//!
//! Invariant: what is loaded is whole, of this version, and of the same tree and node; anything else is an error that says why. A last part that is
//! not whole was never finished: what stands before it is loaded. A file that existed but could not be read is kept as such: forgetting it would
//! make it absent, and an absent `cluster.fw` opens the node. The file is replaced in one step and holds what only root may read.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::memo::is_same;
use crate::config::{PLAIN_HOST_FILE, Sources};

const MAGIC: &[u8] = b"tapwall-cache 2\n";
const FILE: u8 = 0;
const UNREADABLE: u8 = 1;
const NO_FILE: u8 = 2;
const NOT_UNREADABLE: u8 = 3;

/// Bytes that parts behind the first may have in any case.
const SLACK: u64 = 1 << 20;

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
    length: u64,
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

    /// Replaces it. Answers its size.
    fn replace(&self, sources: &Sources) -> Result<u64, CacheError> {
        let new = self.directory.join("last-good.new");
        let write = || -> std::io::Result<u64> {
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
            self.write_part(&mut file, &changes(None, sources))?;
            file.sync_all()?;
            let size = file.metadata()?.len();
            std::fs::rename(&new, self.path())?;
            File::open(&self.directory)?.sync_all()?;
            Ok(size)
        };
        write().map_err(|source| io("write", self.path(), source))
    }

    /// Adds a part to a file of `size` bytes. Answers its size then; none if the file is not what it was.
    fn add(&self, size: u64, changes: &[Change<'_>]) -> Result<Option<u64>, CacheError> {
        let write = || -> std::io::Result<Option<u64>> {
            let mut file = match OpenOptions::new().append(true).open(self.path()) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            if file.metadata()?.len() != size {
                return Ok(None);
            }
            self.write_part(&mut file, changes)?;
            file.sync_all()?;
            Ok(Some(file.metadata()?.len()))
        };
        write().map_err(|source| io("write", self.path(), source))
    }

    fn write_part(&self, file: &mut File, changes: &[Change<'_>]) -> std::io::Result<()> {
        let mut hash = Sha256::new();
        let mut length = 0;
        for change in changes {
            hash.update(change.head());
            hash.update(change.data);
            length += (change.head().len() + change.data.len()) as u64;
        }
        let header = Header {
            root: self.root.clone(),
            node: self.node.clone(),
            saved_at: jiff::Timestamp::now().to_string(),
            length,
            sha256: hex(&hash.finalize()),
        };
        let mut out = BufWriter::new(file);
        serde_json::to_writer(&mut out, &header)?;
        out.write_all(b"\n")?;
        for change in changes {
            out.write_all(&change.head())?;
            out.write_all(change.data)?;
        }
        out.flush()
    }
}

/// Writes a [`Cache`] again and again: only what changed, if there is not too much of it.
#[derive(Debug)]
pub struct Kept {
    cache: Cache,
    /// What the file holds, its size, and the size it had when it was replaced; none if that is not known.
    known: Option<(Sources, u64, u64)>,
}

impl Kept {
    /// Nothing is known of what the file holds.
    pub fn new(cache: Cache) -> Self {
        Self { cache, known: None }
    }

    /// Has the cache hold these files.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there.
    pub fn save(&mut self, sources: &Sources) -> Result<(), CacheError> {
        if let Some((last, size, first)) = self.known.take() {
            let changes = changes(Some(&last), sources);
            let more: u64 = changes.iter().map(|change| change.data.len() as u64).sum();
            if size + more <= first * 2 + SLACK
                && let Some(size) = self.cache.add(size, &changes)?
            {
                self.known = Some((sources.clone(), size, first));
                return Ok(());
            }
        }
        let size = self.cache.replace(sources)?;
        self.known = Some((sources.clone(), size, size));
        Ok(())
    }
}

/// Names for the contents of files: other contents, another name.
#[derive(Debug, Default)]
pub struct Digests {
    known: HashMap<String, (Bytes, [u8; 32])>,
}

impl Digests {
    /// The name for the contents of all files. What is the same as last time is not looked at.
    pub fn of(&mut self, sources: &Sources) -> String {
        let mut last = std::mem::take(&mut self.known);
        let mut whole = Sha256::new();
        for change in changes(None, sources) {
            let digest = || <[u8; 32]>::from(Sha256::digest(change.data));
            let digest = match sources.files.get(change.path) {
                Some(text) if change.kind == FILE => {
                    let last = last.remove(change.path);
                    let last = last.filter(|(known, _)| is_same(known, text));
                    let digest = last.map_or_else(digest, |(_, digest)| digest);
                    let known = (text.clone(), digest);
                    self.known.insert(change.path.to_owned(), known);
                    digest
                }
                Some(_) | None => digest(),
            };
            whole.update(change.head());
            whole.update(digest);
        }
        hex(&whole.finalize())
    }
}

/// A name for the contents of the files: other contents, another name.
pub fn digest(sources: &Sources) -> String {
    Digests::default().of(sources)
}

fn io(verb: &'static str, path: PathBuf, source: std::io::Error) -> CacheError {
    CacheError::Io { verb, path, source }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One file of a part.
struct Change<'a> {
    kind: u8,
    path: &'a str,
    data: &'a [u8],
}

impl Change<'_> {
    /// All but the data.
    fn head(&self) -> Vec<u8> {
        let mut head = vec![self.kind];
        head.extend((self.path.len() as u64).to_le_bytes());
        head.extend((self.data.len() as u64).to_le_bytes());
        head.extend(self.path.as_bytes());
        head
    }
}

/// What makes `last` (nothing at first) into `now`.
fn changes<'a>(last: Option<&'a Sources>, now: &'a Sources) -> Vec<Change<'a>> {
    let nothing = b"";
    let mut out = Vec::new();
    let mut add = |kind, path: &'a str, data: &'a [u8]| out.push(Change { kind, path, data });
    for (path, text) in &now.files {
        let known = last.and_then(|last| last.files.get(path));
        if !known.is_some_and(|known| is_same(known, text)) {
            add(FILE, path, text);
        }
    }
    for (path, reason) in &now.unreadable {
        let known = last.and_then(|last| last.unreadable.get(path));
        if known != Some(reason) {
            add(UNREADABLE, path, reason.as_bytes());
        }
    }
    let Some(last) = last else {
        return out;
    };
    let gone = last.files.keys();
    let gone = gone.filter(|path| !now.files.contains_key(*path));
    gone.for_each(|path| add(NO_FILE, path, nothing));
    let gone = last.unreadable.keys();
    let gone = gone.filter(|path| !now.unreadable.contains_key(*path));
    gone.for_each(|path| add(NOT_UNREADABLE, path, nothing));
    out
}

fn decode(bytes: &[u8]) -> Result<(Header, Sources), &'static str> {
    let mut rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("it is of another kind or version")?;
    let mut sources = Sources::default();
    let mut last = None;
    while !rest.is_empty() || last.is_none() {
        let part = match part(&mut rest) {
            Ok(part) => part,
            // The last part was not finished.
            Err((_, true)) if last.is_some() => break,
            Err((what, _)) => return Err(what),
        };
        let (header, body) = part;
        apply(body, &mut sources)?;
        sources.node.clone_from(&header.node);
        sources.plain = sources.files.contains_key(PLAIN_HOST_FILE);
        last = Some(header);
    }
    let header = last.ok_or("it holds nothing")?;
    Ok((header, sources))
}

/// Takes one part from `rest`. An error tells what is wrong, and whether nothing stands behind it.
fn part<'a>(rest: &mut &'a [u8]) -> Result<(Header, &'a [u8]), (&'static str, bool)> {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or(("its header has no end", true))?;
    let (header, after) = (&rest[..end], &rest[end + 1..]);
    let header: Header = serde_json::from_slice(header)
        .ok()
        .ok_or(("its header is not one", true))?;
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let is_last = after.len() <= length;
    let body = after
        .get(..length)
        .ok_or(("it ends within its files", true))?;
    if hex(&Sha256::digest(body)) != header.sha256 {
        return Err(("its checksum is another", is_last));
    }
    *rest = &after[length..];
    Ok((header, body))
}

/// Applies the changes of a part.
fn apply(mut rest: &[u8], sources: &mut Sources) -> Result<(), &'static str> {
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
            NO_FILE => {
                sources.files.remove(&path);
            }
            NOT_UNREADABLE => {
                sources.unreadable.remove(&path);
            }
            _ => return Err("it holds what this version does not know"),
        }
    }
    Ok(())
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
            Kept::new(cache.clone()).save(&sources).unwrap();
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
        Kept::new(cache.clone()).save(&sources()).unwrap();
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
        let longer = [MAGIC, b"\0", &whole[MAGIC.len()..]].concat();
        std::fs::write(cache.path(), longer).unwrap();
        assert!(is_damaged());
    }

    /// The files after each of some edits.
    fn edits() -> Vec<Sources> {
        let mut now = sources();
        let mut all = vec![now.clone()];
        now.files.insert("firewall/100.fw".into(), "other".into());
        all.push(now.clone());
        now.files.remove(".vmlist");
        now.unreadable.insert(".vmlist".into(), "why".into());
        all.push(now.clone());
        now.unreadable.clear();
        now.files.insert(".vmlist".into(), "{}".into());
        all.push(now.clone());
        all.push(now);
        all
    }

    #[test]
    fn changes_are_added_until_they_outweigh_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        let mut kept = Kept::new(cache.clone());
        let size = || std::fs::metadata(cache.path()).unwrap().len();
        let mut sizes = Vec::new();
        for sources in edits() {
            kept.save(&sources).unwrap();
            assert_eq!(cache.load().unwrap().unwrap().sources, sources);
            sizes.push(size());
        }
        assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
        // Another has replaced or removed it.
        for text in ["something else", ""] {
            std::fs::write(cache.path(), text).unwrap();
            kept.save(&sources()).unwrap();
            assert_eq!(cache.load().unwrap().unwrap().sources, sources());
        }
        std::fs::remove_file(cache.path()).unwrap();
        kept.save(&sources()).unwrap();
        assert_eq!(cache.load().unwrap().unwrap().sources, sources());
        let long = vec![b'x'; SLACK as usize / 2];
        let mut most = 0;
        for number in 0..6_u8 {
            let mut now = sources();
            let text = [&long[..], &[number]].concat();
            now.files.insert("firewall/100.fw".into(), text.into());
            kept.save(&now).unwrap();
            assert_eq!(cache.load().unwrap().unwrap().sources, now);
            most = most.max(size());
        }
        assert!(most < 3 * SLACK, "{most}");
    }

    #[test]
    fn a_part_that_was_not_finished_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        let mut kept = Kept::new(cache.clone());
        let mut last = (0, None);
        for sources in edits() {
            kept.save(&sources).unwrap();
            let whole = std::fs::read(cache.path()).unwrap();
            let (before, known): (usize, Option<Sources>) = last;
            for length in before + 1..whole.len() {
                std::fs::write(cache.path(), &whole[..length]).unwrap();
                match (&known, cache.load()) {
                    (Some(known), Ok(Some(found))) => assert_eq!(found.sources, *known),
                    (None, Err(CacheError::Damaged { .. })) => {}
                    (_, found) => panic!("the first {length} bytes: {found:?}"),
                }
            }
            std::fs::write(cache.path(), &whole).unwrap();
            last = (whole.len(), Some(sources));
        }
        // Damage before the last part is damage.
        let mut whole = std::fs::read(cache.path()).unwrap();
        let body = whole.iter().position(|byte| *byte == b'}').unwrap() + 2;
        whole[body] ^= 1;
        std::fs::write(cache.path(), whole).unwrap();
        assert!(matches!(cache.load(), Err(CacheError::Damaged { .. })));
    }

    #[test]
    fn another_node_or_tree_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        Kept::new(cache(directory.path())).save(&sources()).unwrap();
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
        let mut digests = Digests::default();
        assert_eq!(digests.of(&one), digest(&one));
        other.files.insert("firewall/100.fw".into(), Bytes::new());
        assert_ne!(digest(&one), digest(&other));
        assert_eq!(digests.of(&other), digest(&other));
        assert_eq!(digests.of(&one), digest(&one));
    }
}
