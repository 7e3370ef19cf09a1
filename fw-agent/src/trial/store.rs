//! Stages and trials on disk, in the agent's state directory: `staged`, `trial`, `previous`.
//!
//! ```text
//! tapwall-trial 1\n          kind of file, version
//! 32 bytes                   SHA-256 of what follows
//! root, node, contents       postcard
//! ```
//!
//! Invariant: what is read is whole, of this version, and of the same tree and node; anything else is an error that says why. A file is replaced in one step and
//! holds what only root may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Stage, Trial};
use crate::edit::lock::{Lock, LockError};

const MAGIC: &[u8] = b"tapwall-trial 1\n";
/// Bytes of the checksum.
const SUM: usize = 32;

/// Why a stage or a trial cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read, written or removed.
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
    /// It is too large to be written.
    #[error("{path} cannot be composed")]
    Compose {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// Somebody else stages.
    #[error(transparent)]
    Lock(#[from] LockError),
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

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Staged,
    Trial,
    Previous,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Trial => "trial",
            Self::Previous => "previous",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    root: String,
    node: String,
    contents: T,
}

/// Where one node's trials are kept.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    root: String,
    node: String,
}

impl Store {
    /// The trials of `node` in the tree `root`.
    pub fn new(directory: &Path, root: &Path, node: &str) -> Self {
        Self {
            directory: directory.to_path_buf(),
            root: root.display().to_string(),
            node: node.to_owned(),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps others from staging until it is dropped.
    ///
    /// # Errors
    /// Another stages for too long, or there can be no such directory.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let directory = self.directory.clone();
        self.make_directory().map_err(io("make", directory))?;
        let staged = self.path(Kind::Staged);
        Ok(Lock::take(&self.directory, &staged, Kind::Staged.name())?)
    }

    fn make_directory(&self) -> std::io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.directory)
    }

    /// What is to be tried next.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn staged(&self) -> Result<Option<Stage>, StoreError> {
        self.load(Kind::Staged)
    }

    /// What is on trial.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn trial(&self) -> Result<Option<Trial>, StoreError> {
        self.load(Kind::Trial)
    }

    /// What was written last; reversed it is the way back.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn previous(&self) -> Result<Option<Stage>, StoreError> {
        self.load(Kind::Previous)
    }

    /// Keeps what is to be tried next.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there.
    pub fn stage(&self, stage: &Stage) -> Result<(), StoreError> {
        self.save(Kind::Staged, stage)
    }

    /// Keeps a trial.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there.
    pub fn keep(&self, trial: &Trial) -> Result<(), StoreError> {
        self.save(Kind::Trial, trial)
    }

    /// Keeps what is about to be written, as the way back.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there.
    pub fn keep_previous(&self, stage: &Stage) -> Result<(), StoreError> {
        self.save(Kind::Previous, stage)
    }

    /// Forgets what was to be tried.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn unstage(&self) -> Result<(), StoreError> {
        self.remove(Kind::Staged)
    }

    /// Forgets the trial.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn end(&self) -> Result<(), StoreError> {
        self.remove(Kind::Trial)
    }

    /// Forgets the way back.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget_previous(&self) -> Result<(), StoreError> {
        self.remove(Kind::Previous)
    }

    fn path(&self, kind: Kind) -> PathBuf {
        self.directory.join(kind.name())
    }

    fn load<T: DeserializeOwned>(&self, kind: Kind) -> Result<Option<T>, StoreError> {
        let path = self.path(kind);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", path)(source)),
        };
        let kept: Kept<T> = match decode(&bytes) {
            Ok(kept) => kept,
            Err(what) => return Err(StoreError::Damaged { path, what }),
        };
        let Kept {
            root,
            node,
            contents,
        } = kept;
        if root != self.root || node != self.node {
            return Err(StoreError::Foreign { path, node, root });
        }
        Ok(Some(contents))
    }

    fn save<T: Serialize>(&self, kind: Kind, contents: &T) -> Result<(), StoreError> {
        let path = self.path(kind);
        let kept = Kept {
            root: self.root.clone(),
            node: self.node.clone(),
            contents,
        };
        let body = postcard::to_stdvec(&kept).map_err(|source| StoreError::Compose {
            path: path.clone(),
            source,
        })?;
        let new = self.directory.join(format!("{}.new", kind.name()));
        let write = || -> std::io::Result<()> {
            self.make_directory()?;
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
            file.write_all(&Sha256::digest(&body))?;
            file.write_all(&body)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(io("write", path))
    }

    fn remove(&self, kind: Kind) -> Result<(), StoreError> {
        let path = self.path(kind);
        let remove = || -> std::io::Result<()> {
            match std::fs::remove_file(&path) {
                Ok(()) => File::open(&self.directory)?.sync_all(),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        };
        remove().map_err(io("remove", path.clone()))
    }
}

fn io(verb: &'static str, path: PathBuf) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::Io { verb, path, source }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Kept<T>, &'static str> {
    let rest = bytes.strip_prefix(MAGIC);
    let rest = rest.ok_or("it is no trial of this version")?;
    let (sum, body) = rest.split_at_checked(SUM).ok_or("it is cut off")?;
    if Sha256::digest(body)[..] != *sum {
        return Err("its checksum is wrong");
    }
    match postcard::take_from_bytes(body) {
        Ok((kept, [])) => Ok(kept),
        Ok(_) => Err("something follows it"),
        Err(_unreadable) => Err("its contents cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::trial::{Edit, Moment};

    fn stage() -> Stage {
        let edit = Edit {
            before: None,
            after: Some(vec![0xff, b'\n']),
        };
        Stage {
            files: [("firewall/100.fw".to_owned(), edit)].into(),
            seconds: 7,
        }
    }

    #[test]
    fn what_is_kept_is_found_by_the_same_node_only() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state");
        let store = Store::new(&directory, Path::new("/etc/pve"), "a");
        assert_eq!(store.trial().unwrap(), None);
        store.end().unwrap();
        let trial = Trial {
            stage: stage(),
            deadline: Moment::now().unwrap(),
            begun_at: "now".into(),
            confirmed: true,
        };
        store.stage(&stage()).unwrap();
        store.keep(&trial).unwrap();
        store.keep_previous(&stage().reversed()).unwrap();
        assert_eq!(store.staged().unwrap(), Some(stage()));
        assert_eq!(store.trial().unwrap(), Some(trial));
        assert_eq!(store.previous().unwrap(), Some(stage().reversed()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&directory), mode(&directory.join("trial"))),
            (0o700, 0o600)
        );
        for (root, node) in [("/etc/pve", "b"), ("/srv", "a")] {
            let other = Store::new(&directory, Path::new(root), node).trial();
            assert!(
                matches!(other, Err(StoreError::Foreign { .. })),
                "{other:?}"
            );
        }
        store.unstage().unwrap();
        store.end().unwrap();
        assert_eq!(
            (store.staged().unwrap(), store.trial().unwrap()),
            (None, None)
        );
    }

    #[test]
    fn what_is_damaged_anywhere_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::new(place.path(), Path::new("/etc/pve"), "a");
        store.stage(&stage()).unwrap();
        let path = place.path().join("staged");
        let whole = std::fs::read(&path).unwrap();
        let is_damaged = || matches!(store.staged(), Err(StoreError::Damaged { .. }));
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(is_damaged(), "the first {length} bytes");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            std::fs::write(&path, other).unwrap();
            assert!(is_damaged(), "byte {at}");
        }
    }
}
