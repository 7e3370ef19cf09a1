//! One editor of a firewall file at a time.
//!
//! 1. The file's directory is locked by `flock`, against other tools on this node. 2. On a Proxmox cluster's file system (a tree that has
//! `priv/lock`) the cluster's own lock `firewall-<scope>` is taken too, as Proxmox's API takes it: a directory that only one node can make, and
//! that the file system lets go when its holder has not renewed it for two minutes; asking for a zero time of modification makes it look.
//!
//! Both are given back when [`Lock`] is dropped, and by the kernel or the cluster if the process dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, flock, utimensat};
use rustix::io::Errno;

/// How long others may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A held lock.
#[derive(Debug)]
pub struct Lock {
    /// Closed, and by that unlocked, when dropped.
    _directory: File,
    cluster: Option<PathBuf>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else edits.
    #[error("somebody else has locked {path} for {seconds} seconds", seconds = PATIENCE.as_secs())]
    Busy {
        /// What is locked.
        path: PathBuf,
    },
    /// The lock cannot be asked for.
    #[error("cannot lock {path}")]
    Io {
        /// What was to be locked.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Lock {
    /// Waits for the lock of a file below `root`. `scope`: the cluster's word for whose file it is.
    ///
    /// # Errors
    /// Another holds it too long, or there is no such directory.
    pub fn take(root: &Path, file: &Path, scope: &str) -> Result<Self, LockError> {
        let deadline = Instant::now() + PATIENCE;
        let path = file.parent().unwrap_or(root).to_path_buf();
        let failed = |path: &Path, source| LockError::Io {
            path: path.to_path_buf(),
            source,
        };
        let directory = File::open(&path).map_err(|source| failed(&path, source))?;
        wait(deadline, &path, || {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(true),
                Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        let locks = root.join("priv/lock");
        let mut lock = Self {
            _directory: directory,
            cluster: None,
        };
        if locks.is_dir() {
            let path = locks.join(format!("firewall-{scope}"));
            wait(deadline, &path, || match std::fs::create_dir(&path) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    ask_for_expiry(&path);
                    Ok(false)
                }
                Err(error) => Err(error),
            })?;
            lock.cluster = Some(path);
        }
        Ok(lock)
    }
}

fn wait(
    deadline: Instant,
    path: &Path,
    mut attempt: impl FnMut() -> std::io::Result<bool>,
) -> Result<(), LockError> {
    loop {
        match attempt() {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Ok(false) => {
                return Err(LockError::Busy {
                    path: path.to_path_buf(),
                });
            }
            Err(source) => {
                return Err(LockError::Io {
                    path: path.to_path_buf(),
                    source,
                });
            }
        }
    }
}

/// Has the cluster's file system remove the lock if it has expired.
fn ask_for_expiry(path: &Path) {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: zero,
        last_modification: zero,
    };
    if utimensat(CWD, path, &times, AtFlags::empty()).is_err() {
        // Its holder lives, or it is gone: the next try tells.
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.cluster
            && let Err(error) = std::fs::remove_dir(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot give the cluster's lock back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_s_lock_is_made_and_given_back() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("firewall/100.fw");
        std::fs::create_dir_all(root.path().join("priv/lock")).unwrap();
        std::fs::create_dir_all(root.path().join("firewall")).unwrap();
        let held = root.path().join("priv/lock/firewall-100");
        let lock = Lock::take(root.path(), &file, "100").unwrap();
        assert!(held.is_dir());
        let other = File::open(root.path().join("firewall")).unwrap();
        let tried = flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(tried, Err(Errno::WOULDBLOCK));
        drop(lock);
        assert!(!held.exists());
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }

    #[test]
    fn who_waits_gets_it_when_it_is_given_back() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("100.fw");
        let lock = Lock::take(root.path(), &file, "100").unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let lock = Lock::take(root.path(), &file, "100");
                sender.send(lock.is_ok()).unwrap();
            });
            assert!(receiver.try_recv().is_err(), "it is held");
            drop(lock);
            assert!(receiver.recv().unwrap());
        });
    }
}
