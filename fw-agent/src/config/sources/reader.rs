//! Reads the files of the configuration again and again, and only those that may have changed.
//!
//! In: the tree. Out: [`Sources`], in which the contents of a file that is the same are the same memory.
//!
//! 1. A file whose inode, size and times are as they were keeps the contents that were read. 2. Times are coarse (a second, on the cluster file
//!    system), so a file that changes twice within one of their steps may look the same. Contents are therefore trusted only if they were read
//!    [`SETTLED`] after the file was first seen to look like this; until then it is read every time, and [`Reader::is_certain`] is false.
//! 3. A tree that is not there, or not the same before and after its files were read, is an error: it was being mounted or unmounted, and a file that is
//!    missing then was not removed by anybody.
//! 4. `.vmlist` and `.members` are made up by the cluster file system when they are read. Their times say nothing: they are read every time.
//!
//! Invariant: a change is missed only by one who sets inode, size and times back; whether the clock of whoever writes is right does not matter.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::{PLAIN_HOST_FILE, Sources, is_plain};

/// Twice the coarsest step of a file's times.
const SETTLED: Duration = Duration::from_secs(2);

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
    round: u64,
}

impl Reader {
    /// A reader of the files of `node` below `root`.
    pub fn new(root: &Path, node: &str) -> Self {
        Self {
            root: root.to_path_buf(),
            node: node.to_owned(),
            known: HashMap::new(),
            round: 0,
        }
    }

    /// The files as they are. Error: the tree is not there, or was not all the while.
    pub fn read(&mut self) -> Result<Sources> {
        self.round += 1;
        let tree = self.tree()?;
        let root = self.root.clone();
        let node = self.node.clone();
        let sources = Sources::collect(&root, &node, |path| self.file(path));
        let root = root.display();
        let gone = || format!("{root} went away while it was read");
        ensure!(
            self.tree().with_context(gone)? == tree,
            "{root} became another while it was read"
        );
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        Ok(sources)
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
        reader.read().unwrap();
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
        let [a, b] = [reader.read().unwrap(), reader.read().unwrap()];
        assert!(is_same(&a.files[CLUSTER_FILE], &b.files[CLUSTER_FILE]));
        assert_eq!(
            a.files[CLUSTER_FILE].as_ptr(),
            b.files[CLUSTER_FILE].as_ptr()
        );
        reader.forget();
        let c = reader.read().unwrap();
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
        reader.read().unwrap();
        let settled = reader.known.get_mut(".vmlist").unwrap();
        settled.read = settled.first_seen + SETTLED;
        fs::write(&path, "two").unwrap();
        let look = Look::of(&fs::metadata(&path).unwrap());
        reader.known.get_mut(".vmlist").unwrap().look = look;
        assert_eq!(&reader.read().unwrap().files[".vmlist"][..], b"two");
        assert!(reader.is_certain());
    }

    #[test]
    fn every_change_is_seen() {
        let text = |reader: &mut Reader| reader.read().unwrap().files.get(CLUSTER_FILE).cloned();
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
            reader.read()
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
        reader.read().unwrap_err();
        fs::rename(&away, &nodes).unwrap();
        fs::write(tree.path().join(CLUSTER_FILE), "one").unwrap();
        reader.read().unwrap();
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
        reader.read().unwrap();
        assert!(!reader.is_certain());
        // As if the file system had not told the two writes apart.
        fs::write(&path, "six").unwrap();
        let look = Look::of(&fs::metadata(&path).unwrap());
        reader.known.get_mut(CLUSTER_FILE).unwrap().look = look;
        assert_eq!(&reader.read().unwrap().files[CLUSTER_FILE][..], b"six");
    }
}
