//! What the agent decided last, for others to read: `<run directory>/record.json`.
//!
//! The record says what the agent did; what the kernel holds is in the pinned maps (`fwctl map dump`). It is replaced in one step after each
//! apply, so a reader sees one or the other whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Where the agent keeps its record unless told otherwise.
pub const DEFAULT_RUN_DIRECTORY: &str = "/run/tapwall";

/// The agent's last decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Process.
    pub pid: u32,
    /// Counts configurations and device changes that were carried out since the agent started.
    pub generation: u64,
    /// The cluster's switch: false means that nothing is filtered.
    pub enabled: bool,
    /// When (RFC 3339).
    pub applied_at: String,
    /// Guest NICs under policy.
    pub ports: Vec<PortRecord>,
    /// Devices of guests that are closed: they have the programs, and no configuration is known.
    #[serde(default)]
    pub closed: Vec<PortRecord>,
    /// The host's interfaces under its policy.
    #[serde(default)]
    pub host: Vec<HostRecord>,
    /// Devices at which packets are dropped before anything else looks at them, or could be.
    #[serde(default)]
    pub uplinks: Vec<UplinkRecord>,
    /// Scopes that are not enforced as written, and what holds in their place.
    pub degraded: Vec<String>,
    /// Policies that are resolved but that nothing enforces yet.
    #[serde(default)]
    pub not_enforced: Vec<String>,
    /// Name of the files' contents that were carried out ([`crate::cache::digest`]).
    #[serde(default)]
    pub digest: String,
    /// Something could not be carried out and will be tried again.
    #[serde(default)]
    pub incomplete: bool,
    /// Lines that are not enforced.
    pub errors: usize,
    /// Lines that may not mean what was meant.
    pub warnings: usize,
}

/// One guest NIC in a [`Record`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Device name.
    pub device: String,
    /// Guest.
    pub vmid: u32,
    /// NIC.
    pub net: u16,
    /// Interface index, if the device exists.
    pub ifindex: Option<u32>,
    /// The programs are on the device.
    pub attached: bool,
}

/// One interface of the host in a [`Record`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Device name.
    pub device: String,
    /// Interface index.
    pub ifindex: u32,
    /// The programs are on the device.
    pub attached: bool,
}

/// One device that stands for a wire in a [`Record`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkRecord {
    /// Device name.
    pub device: String,
    /// Why the program is not on it; nothing is less safe for that.
    pub refused: Option<String>,
}

/// The directory of the record and of the lock that one agent holds.
#[derive(Clone, Debug)]
pub struct RunDirectory(PathBuf);

impl RunDirectory {
    /// The directory at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("agent.lock")
    }

    /// Makes the directory and takes the lock; none if another agent holds it. The lock is the file's: keep it open.
    ///
    /// # Errors
    /// The directory or the file cannot be made.
    pub fn lock(&self) -> std::io::Result<Option<File>> {
        std::fs::create_dir_all(&self.0)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.lock_file())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an agent runs.
    pub fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.lock_file()) else {
            return false;
        };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, record: &Record) -> std::io::Result<()> {
        let temporary = self.0.join("record.json.new");
        std::fs::write(&temporary, serde_json::to_vec(record)?)?;
        std::fs::rename(temporary, self.record())
    }

    /// Removes the record, if there is one.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.record()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the record; none if there is none.
    ///
    /// # Errors
    /// It cannot be read or is not a record.
    pub fn read(&self) -> std::io::Result<Option<Record>> {
        match std::fs::read(self.record()) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
