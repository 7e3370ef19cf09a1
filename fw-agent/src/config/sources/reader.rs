//! Reads the files of the configuration again and again, and only those that may have changed.
//!
//! In: the tree. Out: [`Sources`], in which the contents of a file that is the same are the same memory.
//!
//! 1. A file whose inode, size and times are as they were keeps the contents that were read. 2. Times are coarse (a second, on the cluster file
//!    system), so a file that changes twice within one of their steps may look the same. Contents are therefore trusted only if they were read
//!    [`SETTLED`] after the file was first seen to look like this; until then it is read every time, and [`Reader::is_certain`] is false.
//! 3. Of files that are known not to have changed ([`Changed`]) not even that is looked at.
//! 4. A tree that is not there, or not the same before and after its files were read, is an error: it was being mounted or unmounted, and a file that is
//!    missing then was not removed by anybody.
//! 5. `.vmlist` and `.members` are made up by the cluster file system when they are read. Their times say nothing: they are read every time.
//!
//! Invariant: a change is missed only by one who sets inode, size and times back, or who says that there was none; whether the clock of whoever writes
//! is right does not matter.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::{PLAIN_HOST_FILE, Part, Sources, is_plain};

/// Twice the coarsest step of a file's times.
const SETTLED: Duration = Duration::from_secs(2);

/// What may be other than it was when the files were read last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Anything.
    Anything,
    /// Only what is at these paths below the root.
    Only(BTreeSet<String>),
}

impl Changed {
    /// Nothing.
    pub const NOTHING: Self = Self::Only(BTreeSet::new());

    /// Whether it is nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::NOTHING
    }

    /// This and `more`.
    pub fn add(&mut self, more: Self) {
        match (self, more) {
            (Self::Only(paths), Self::Only(more)) => paths.extend(more),
            (this, _) => *this = Self::Anything,
        }
    }
}

/// What changes about a file when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug)]
struct Known {
    look: Look,
    first_seen: Instant,
    read: Instant,
    text: Bytes,
    round: u64,
}

impl Known {
    fn is_settled(&self) -> bool {
        self.read.duration_since(self.first_seen) >= SETTLED
    }
}

/// Reads the files of one node.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    node: String,
    known: HashMap<String, Known>,
    /// What was read last, if nothing was wrong with it.
    last: Option<Sources>,
    round: u64,
}

impl Reader {
    /// A reader of the files of `node` below `root`.
    pub fn new(root: &Path, node: &str) -> Self {
        Self {
            root: root.to_path_buf(),
            node: node.to_owned(),
            known: HashMap::new(),
            last: None,
            round: 0,
        }
    }

    /// The files as they are, of which no others than `changed` says may be other than they were. Error: the tree is not there, or was not all
    /// the while; nothing is known then, and whoever reads next says that anything may have changed.
    pub fn read(&mut self, changed: &Changed) -> Result<Sources> {
        let last = self.last.take();
        let tree = self.tree()?;
        let sources = match last.and_then(|last| self.again(last, changed)) {
            Some(sources) => sources,
            None => self.all(),
        };
        let root = self.root.display();
        let gone = || format!("{root} went away while it was read");
        ensure!(
            self.tree().with_context(gone)? == tree,
            "{root} became another while it was read"
        );
        // A directory that cannot be read may have any files.
        if !sources.plain && sources.unreadable.is_empty() {
            self.last = Some(sources.clone());
        }
        Ok(sources)
    }

    /// Looks at all files.
    fn all(&mut self) -> Sources {
        self.round += 1;
        let root = self.root.clone();
        let node = self.node.clone();
        let sources = Sources::collect(&root, &node, |path| self.file(path));
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        sources
    }

    /// Looks at what changed, and at files that may have without looking so. None: that does not say which files there are.
    fn again(&mut self, last: Sources, changed: &Changed) -> Option<Sources> {
        let Changed::Only(paths) = changed else {
            return None;
        };
        let mut again = BTreeSet::new();
        for path in paths {
            match Part::of(path, &self.node) {
                Part::Member => again.insert(path.clone()),
                Part::Structure => return None,
                Part::None => continue,
            };
        }
        let known = self.known.iter();
        let unsure = known.filter(|(path, known)| is_made_up(path) || !known.is_settled());
        again.extend(unsure.map(|(path, _)| path.clone()));
        let mut sources = last;
        for path in again {
            sources.files.remove(&path);
            sources.file(&path, &mut |path| self.file(path));
            if !sources.files.contains_key(&path) {
                self.known.remove(&path);
            }
        }
        Some(sources)
    }

    /// Which tree is there: what kind it is and on which file system. A node's directory exists on every node, and a plain host has its file; if
    /// neither is there, the cluster file system is not, or that file is gone.
    fn tree(&self) -> Result<(bool, u64)> {
        let plain = is_plain(&self.root);
        let mark = match plain {
            true => self.root.join(PLAIN_HOST_FILE),
            false => self.root.join("nodes").join(&self.node),
        };
        let found = match plain {
            true => std::fs::metadata(&mark),
            // A directory that may not be listed is none that was read.
            false => std::fs::read_dir(&mark).and_then(|_| std::fs::metadata(&mark)),
        };
        let found = found.with_context(|| {
            let mark = mark.display();
            format!("cannot read {mark}, and {PLAIN_HOST_FILE} is not there either")
        })?;
        Ok((plain, found.dev()))
    }

    /// Reads every file next time, whatever it looks like.
    pub fn forget(&mut self) {
        self.known.clear();
        self.last = None;
    }

    /// Whether every file with times of its own that may have changed without looking so was read late enough. If not, read again.
    pub fn is_certain(&self) -> bool {
        self.known
            .iter()
            .all(|(path, known)| is_made_up(path) || known.is_settled())
    }

    fn file(&mut self, path: &str) -> std::io::Result<Bytes> {
        let place = self.root.join(path);
        let now = Instant::now();
        let look = Look::of(&std::fs::metadata(&place)?);
        let known = self.known.get_mut(path);
        let known = known.filter(|known| known.look == look);
        let first_seen = known.as_ref().map_or(now, |known| known.first_seen);
        let mut last = None;
        if let Some(known) = known {
            known.round = self.round;
            if known.is_settled() && !is_made_up(path) {
                return Ok(known.text.clone());
            }
            last = Some(known.text.clone());
        }
        let text = Bytes::from(std::fs::read(&place)?);
        let text = last.filter(|last| *last == text).unwrap_or(text);
        let known = Known {
            look,
            first_seen,
            read: now,
            text: text.clone(),
            round: self.round,
        };
        self.known.insert(path.to_owned(), known);
        Ok(text)
    }
}

/// Whether a file is none that was ever written.
fn is_made_up(path: &str) -> bool {
    path.starts_with('.')
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;
    use crate::config::CLUSTER_FILE;
    use crate::config::memo::is_same;

    /// A tree with one file, and a reader that has read it so late that it is certain of it.
    fn settled(text: &str) -> (tempfile::TempDir, Reader) {
        let tree = tempfile::tempdir().unwrap();
        for directory in ["firewall", "nodes/n"] {
            fs::create_dir_all(tree.path().join(directory)).unwrap();
        }
        fs::write(tree.path().join(CLUSTER_FILE), text).unwrap();
        let mut reader = Reader::new(tree.path(), "n");
        reader.read(&Changed::Anything).unwrap();
        assert!(!reader.is_certain());
        for known in reader.known.values_mut() {
            known.read = known.first_seen + SETTLED;
        }
        assert!(reader.is_certain());
        (tree, reader)
    }

    fn times_of(path: &Path) -> fs::FileTimes {
        let metadata = fs::metadata(path).unwrap();
        fs::FileTimes::new().set_modified(metadata.modified().unwrap())
    }

    #[test]
    fn what_looks_the_same_is_the_same_memory() {
        let (_tree, mut reader) = settled("one");
        let [a, b] = [
            reader.read(&Changed::Anything).unwrap(),
            reader.read(&Changed::Anything).unwrap(),
        ];
        assert!(is_same(&a.files[CLUSTER_FILE], &b.files[CLUSTER_FILE]));
        assert_eq!(
            a.files[CLUSTER_FILE].as_ptr(),
            b.files[CLUSTER_FILE].as_ptr()
        );
        reader.forget();
        let c = reader.read(&Changed::Anything).unwrap();
        assert_eq!(a, c);
        assert_ne!(
            a.files[CLUSTER_FILE].as_ptr(),
            c.files[CLUSTER_FILE].as_ptr()
        );
    }

    #[test]
    fn made_up_files_are_read_every_time() {
        let (tree, mut reader) = settled("one");
        let path = tree.path().join(".vmlist");
        fs::write(&path, "one").unwrap();
        reader.read(&Changed::Anything).unwrap();
        let settled = reader.known.get_mut(".vmlist").unwrap();
        settled.read = settled.first_seen + SETTLED;
        fs::write(&path, "two").unwrap();
        let look = Look::of(&fs::metadata(&path).unwrap());
        reader.known.get_mut(".vmlist").unwrap().look = look;
        assert_eq!(
            &reader.read(&Changed::Anything).unwrap().files[".vmlist"][..],
            b"two"
        );
        assert!(reader.is_certain());
    }

    #[test]
    fn every_change_is_seen() {
        let text = |reader: &mut Reader| {
            reader
                .read(&Changed::Anything)
                .unwrap()
                .files
                .get(CLUSTER_FILE)
                .cloned()
        };
        // In place with the old time of modification, replaced by another of the same size and time, longer, gone, back.
        let (tree, mut reader) = settled("one");
        let path = tree.path().join(CLUSTER_FILE);
        let times = times_of(&path);
        fs::write(&path, "two").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_times(times).unwrap();
        assert_eq!(text(&mut reader).as_deref(), Some(&b"two"[..]));
        let other = tree.path().join("other");
        fs::write(&other, "six").unwrap();
        let file = fs::File::options().write(true).open(&other).unwrap();
        file.set_times(times).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(text(&mut reader).as_deref(), Some(&b"six"[..]));
        fs::write(&path, "longer").unwrap();
        assert_eq!(text(&mut reader).as_deref(), Some(&b"longer"[..]));
        fs::remove_file(&path).unwrap();
        assert_eq!(text(&mut reader), None);
        fs::write(&path, "back").unwrap();
        assert_eq!(text(&mut reader).as_deref(), Some(&b"back"[..]));
    }

    /// Reads the tree while something is done to it after a file was opened and before it was read.
    fn read_while(
        tree: &Path,
        reader: &mut Reader,
        act: impl FnOnce(&Path) + Send,
    ) -> Result<Sources> {
        let path = tree.join(CLUSTER_FILE);
        fs::remove_file(&path).unwrap();
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = fs::File::options().write(true).open(&path).unwrap();
                act(tree);
                file.write_all(b"one").unwrap();
            });
            reader.read(&Changed::Anything)
        })
    }

    #[test]
    fn a_tree_that_goes_away_while_it_is_read_was_not_read() {
        let (tree, mut reader) = settled("one");
        let [nodes, away] = ["nodes", "away"].map(|name| tree.path().join(name));
        let error = read_while(tree.path(), &mut reader, |_| {
            fs::rename(&nodes, &away).unwrap();
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("went away while it was read"), "{error}");
        // Nor was one that is not there, and one that becomes a plain host's.
        fs::remove_file(tree.path().join(CLUSTER_FILE)).unwrap();
        reader.read(&Changed::Anything).unwrap_err();
        fs::rename(&away, &nodes).unwrap();
        fs::write(tree.path().join(CLUSTER_FILE), "one").unwrap();
        reader.read(&Changed::Anything).unwrap();
        let error = read_while(tree.path(), &mut reader, |tree| {
            fs::rename(&nodes, &away).unwrap();
            fs::write(tree.join(PLAIN_HOST_FILE), "").unwrap();
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(
            error.contains("became another while it was read"),
            "{error}"
        );
    }

    #[test]
    fn what_may_change_without_looking_so_is_read_every_time() {
        let (tree, mut reader) = settled("one");
        let path = tree.path().join(CLUSTER_FILE);
        fs::write(&path, "two").unwrap();
        reader.read(&Changed::Anything).unwrap();
        assert!(!reader.is_certain());
        // As if the file system had not told the two writes apart.
        fs::write(&path, "six").unwrap();
        let look = Look::of(&fs::metadata(&path).unwrap());
        reader.known.get_mut(CLUSTER_FILE).unwrap().look = look;
        assert_eq!(
            &reader.read(&Changed::Anything).unwrap().files[CLUSTER_FILE][..],
            b"six"
        );
    }

    fn only(paths: &[&str]) -> Changed {
        Changed::Only(paths.iter().map(|path| (*path).to_owned()).collect())
    }

    #[test]
    fn only_what_may_have_changed_is_looked_at() {
        let (tree, mut reader) = settled("one");
        let write = |path: &str, text| fs::write(tree.path().join(path), text).unwrap();
        let text = |sources: &Sources, path| sources.files.get(path).cloned();
        let (guest, other) = ("firewall/100.fw", "firewall/101.fw");
        write(guest, "one");
        write(other, "one");
        let found = reader.read(&only(&[guest])).unwrap();
        assert_eq!(text(&found, guest).as_deref(), Some(&b"one"[..]));
        assert_eq!(text(&found, other), None, "nobody said that it is there");
        // What was read too early is read again without being named.
        write(guest, "two");
        write(CLUSTER_FILE, "two");
        let found = reader.read(&only(&["100.fw.tmp", "firewall/x"])).unwrap();
        assert_eq!(text(&found, guest).as_deref(), Some(&b"two"[..]));
        assert_eq!(text(&found, CLUSTER_FILE).as_deref(), Some(&b"one"[..]));
        fs::remove_file(tree.path().join(guest)).unwrap();
        let found = reader.read(&only(&[guest, CLUSTER_FILE])).unwrap();
        assert_eq!(text(&found, guest), None);
        assert_eq!(text(&found, CLUSTER_FILE).as_deref(), Some(&b"two"[..]));
        // That a directory changed may mean anything.
        let found = reader.read(&only(&["firewall"])).unwrap();
        assert_eq!(text(&found, other).as_deref(), Some(&b"one"[..]));
        assert_eq!(found, Sources::read(tree.path(), "n"));
    }

    #[test]
    fn after_an_error_everything_is_looked_at() {
        let (tree, mut reader) = settled("one");
        let [nodes, away] = ["nodes", "away"].map(|name| tree.path().join(name));
        fs::rename(&nodes, &away).unwrap();
        reader.read(&Changed::NOTHING).unwrap_err();
        fs::rename(&away, &nodes).unwrap();
        fs::write(tree.path().join(CLUSTER_FILE), "two").unwrap();
        let found = reader.read(&Changed::NOTHING).unwrap();
        assert_eq!(&found.files[CLUSTER_FILE][..], b"two");
    }

    #[test]
    fn paths_are_members_or_structure_or_nothing() {
        let paths = [
            ("firewall/100.fw", Part::Member),
            ("sdn/firewall/blue.fw", Part::Member),
            ("nodes/n/qemu-server/100.conf", Part::Member),
            ("nodes/n/lxc/101.conf", Part::Member),
            ("firewall/100.fw.tmp.7", Part::None),
            ("nodes/n/lxc/101.conf.tmp.7", Part::None),
            ("new", Part::None),
            ("firewall/host.fw", Part::Structure),
            ("nodes/n/host.fw", Part::Structure),
            ("nodes/n/lxc", Part::Structure),
            ("nodes/n2/lxc/101.conf", Part::Structure),
            ("firewall", Part::Structure),
            (".members", Part::Structure),
            ("corosync.conf", Part::Structure),
            ("", Part::None),
        ];
        for (path, part) in paths {
            assert_eq!(Part::of(path, "n"), part, "{path}");
        }
    }
}
