//! The log file: appends batches of lines, follows rotation, survives a full disk.
//!
//! In: lines and the time of the batch. Out: the file at a path that others rotate, truncate and remove as they like.
//!
//! 1. [`LogWriter::push`] collects lines; [`LogWriter::flush`] writes them with one call.
//! 2. Before a write, at most once a second, the path is compared with the open file (device and inode); another or no file there means that
//!    the log was rotated, and the path is opened anew. [`LogWriter::reopen`] asks for that at once.
//! 3. What cannot be written is counted and dropped, the file is opened anew for the next batch, and the first batch that works again is
//!    preceded by a status line with the count and the cause. A line that was torn by a failing write is ended before anything else is written.
//!
//! Invariant: the caller never waits for the disk to get better, and memory is bounded by [`BATCH_LIMIT`].

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Zoned;
use thiserror::Error;

use super::status::Status;

/// Bytes that one batch may hold; lines beyond it are counted as lost.
pub const BATCH_LIMIT: usize = 4 << 20;

/// Mode of a file that the writer creates; logrotate creates the same.
const MODE: u32 = 0o640;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a batch was lost.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file could not be opened.
    #[error("cannot open the log {}", path.display())]
    Open {
        /// The log's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write to the log {}", path.display())]
    Write {
        /// The log's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Appends lines to a log file.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    open: Option<Open>,
    checked: Option<Instant>,
    batch: Vec<u8>,
    lines: u64,
    lost: u64,
    cause: String,
    /// The file that ends in the middle of a line.
    torn: Option<Inode>,
    /// How a status line is written.
    form: StatusForm,
}

/// Appends a status line, newline included.
pub type StatusForm = fn(&mut Vec<u8>, &Status<'_>, &Zoned);

#[derive(Debug)]
struct Open {
    file: File,
    inode: Inode,
}

type Inode = (u64, u64);

fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

impl LogWriter {
    /// A writer for the file at `path`, which is opened (and created) by the first flush.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_status(path, |out, status, time| status.write(out, time))
    }

    /// The same for a file whose status lines have another form.
    pub fn with_status(path: impl Into<PathBuf>, form: StatusForm) -> Self {
        Self {
            form,
            path: path.into(),
            open: None,
            checked: None,
            batch: Vec::new(),
            lines: 0,
            lost: 0,
            cause: String::new(),
            torn: None,
        }
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entries lost since the last batch that could be written.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Adds one line (newline included) to the batch.
    pub fn push(&mut self, line: &[u8]) {
        self.compose(|batch| batch.extend_from_slice(line));
    }

    /// Adds one line that `write` appends (newline included) to the batch; nothing already there may be touched.
    pub fn compose(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.batch.len();
        write(&mut self.batch);
        if self.batch.len() > BATCH_LIMIT {
            self.batch.truncate(start);
            self.lose(1, "too many entries at once");
        } else {
            self.lines += 1;
        }
    }

    /// Adds a status line to the batch.
    pub fn status(&mut self, status: &Status<'_>, time: &Zoned) {
        let form = self.form;
        self.compose(|batch| form(batch, status, time));
    }

    /// Opens the path anew before the next write, whatever is there.
    pub fn reopen(&mut self) {
        self.open = None;
    }

    /// Writes the batch; `now` is the time of a status line about lost entries. After an error the batch is gone and counted.
    pub fn flush(&mut self, now: &Zoned) -> Result<(), WriteError> {
        self.flush_at(now, Instant::now())
    }

    fn flush_at(&mut self, now: &Zoned, instant: Instant) -> Result<(), WriteError> {
        if self.batch.is_empty() && self.lost == 0 {
            return Ok(());
        }
        let result = self.write(now, instant);
        self.batch.clear();
        self.lines = 0;
        result
    }

    fn write(&mut self, now: &Zoned, instant: Instant) -> Result<(), WriteError> {
        if let Err(source) = self.follow(instant) {
            self.lose(self.lines, &source.to_string());
            let path = self.path.clone();
            return Err(WriteError::Open { path, source });
        }
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let mut preface = Vec::new();
        if self.torn == Some(open.inode) {
            preface.push(b'\n');
        }
        if self.lost > 0 {
            (self.form)(&mut preface, &Status::Lost(self.lost, &self.cause), now);
        }
        let start = preface.len();
        if start > 0 {
            self.batch.splice(..0, preface);
        }
        let (written, result) = write_all(&mut open.file, &self.batch);
        let inode = open.inode;
        let done = &self.batch[..written];
        if written > 0 {
            self.torn = (done.last() != Some(&b'\n')).then_some(inode);
        }
        if written >= start {
            self.lost = 0;
        }
        match result {
            Ok(()) => Ok(()),
            Err(source) => {
                let lines = done.get(start..).unwrap_or(&[]);
                let whole = lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
                self.lose(self.lines.saturating_sub(whole), &source.to_string());
                self.open = None;
                let path = self.path.clone();
                Err(WriteError::Write { path, source })
            }
        }
    }

    /// Makes `open` the file that is at the path.
    fn follow(&mut self, instant: Instant) -> io::Result<()> {
        let due = self
            .checked
            .is_none_or(|last| instant.saturating_duration_since(last) >= CHECK_INTERVAL);
        if let Some(open) = &self.open
            && due
        {
            self.checked = Some(instant);
            let same = std::fs::metadata(&self.path).is_ok_and(|now| inode(&now) == open.inode);
            if !same {
                self.open = None;
            }
        }
        if self.open.is_none() {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(MODE)
                .open(&self.path)?;
            let inode = inode(&file.metadata()?);
            self.open = Some(Open { file, inode });
            self.checked = Some(instant);
        }
        Ok(())
    }

    fn lose(&mut self, lines: u64, cause: &str) {
        self.lost += lines;
        if lines > 0 && self.cause != cause {
            self.cause = cause.to_owned();
        }
    }
}

/// Writes all bytes, usually with one call; how many were written, and what stopped it.
fn write_all(file: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests;
