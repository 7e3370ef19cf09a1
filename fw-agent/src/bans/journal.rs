//! The bans on disk: `<state directory>/bans.jsonl`, one [`Change`] per line as JSON, and `bans.lock`, which who changes it holds.
//!
//! What is read is a [`Book`]; it is kept, and reading again takes in only what was added. When most lines no longer matter, who holds the lock
//! writes a new file and puts it in the old one's place.
//!
//! Invariant: a line is whole or does not count. What a crash left without its end is cut off by the next who writes; readers do not need the lock,
//! because they stop before it. Lines that are not understood (a later version's) are passed over.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;
use super::book::{Book, Change};
use super::record::Now;

/// Lines that need not matter before the file is written anew.
const SLACK: usize = 4096;

/// The file, and what is known of it.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    book: Book,
    /// The file that `book` was read from: open, so that no other gets its number meanwhile.
    file: Option<File>,
    /// How far it was read.
    offset: u64,
    lines: usize,
}

/// Whoever holds it is the only one to change bans.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Journal {
    /// That in a state directory.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
            book: Book::default(),
            file: None,
            offset: 0,
            lines: 0,
        }
    }

    /// What it said when it was read last.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Likewise, to forget what has ended.
    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn lock(&self) -> Result<Lock, Error> {
        let (path, file) = self.lock_file()?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(Lock(file))
    }

    /// The lock, if nobody else has it.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn try_lock(&self) -> Result<Option<Lock>, Error> {
        let (path, file) = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed("lock", &path)(error.into())),
        }
    }

    fn lock_file(&self) -> Result<(PathBuf, File), Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(failed("make", &self.directory))?;
        let path = self.directory.join("bans.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        Ok((path, file))
    }

    fn path(&self) -> PathBuf {
        self.directory.join("bans.jsonl")
    }

    /// Reads what was added; tells what changed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn refresh(&mut self, now: Now) -> Result<Vec<Change>, Error> {
        let path = self.path();
        let is_other = match std::fs::metadata(&path) {
            Ok(data) => !self.is_at(&data)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let old = std::mem::replace(self, Self::new(&self.directory));
                return Ok(self.book.since(&old.book, now));
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if is_other {
            let mut anew = Self::new(&self.directory);
            anew.file = Some(File::open(&path).map_err(failed("read", &path))?);
            anew.take()?;
            let old = std::mem::replace(self, anew);
            return Ok(self.book.since(&old.book, now));
        }
        self.take()
    }

    /// Whether this is the file that was read, and no shorter than it was.
    fn is_at(&self, data: &Metadata) -> Result<bool, Error> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let own = file.metadata().map_err(failed("read", &self.path()))?;
        let same = (own.dev(), own.ino()) == (data.dev(), data.ino());
        Ok(same && data.len() >= self.offset)
    }

    /// Takes over the whole lines from where reading stopped.
    fn take(&mut self) -> Result<Vec<Change>, Error> {
        let path = self.path();
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(self.offset))
                .and_then(|_| file.read_to_end(&mut bytes))
                .map_err(failed("read", &path))?;
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |last| last + 1);
        let mut changes = Vec::new();
        for line in bytes[..whole].split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            self.lines += 1;
            match serde_json::from_slice::<Change>(line) {
                Ok(change) => {
                    self.book.apply(&change);
                    changes.push(change);
                }
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%error, "a line of {path} is not understood and left out");
                }
            }
        }
        self.offset += whole as u64;
        Ok(changes)
    }

    /// Adds changes, after [`Journal::refresh`] under the same lock. They are on the disk afterwards.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, _: &Lock, changes: &[Change], now: Now) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        changes.iter().for_each(|change| self.book.apply(change));
        let matter = self.book.all().filter(|record| record.lasts(now)).count();
        let written = match self.lines + changes.len() > 2 * matter + SLACK {
            true => self.write_anew(now),
            false => self.write_behind(changes),
        };
        if written.is_err() {
            // What is in the file now has to be read.
            *self = Self::new(&self.directory);
        }
        written
    }

    fn write_behind(&mut self, changes: &[Change]) -> Result<(), Error> {
        let path = self.path();
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let bytes = lines(changes.iter());
        file.set_len(self.offset)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.sync_data())
            .map_err(failed("write", &path))?;
        self.file = Some(file);
        self.offset += bytes.len() as u64;
        self.lines += changes.len();
        Ok(())
    }

    /// Puts a file in place that has only what lasts.
    fn write_anew(&mut self, now: Now) -> Result<(), Error> {
        self.book.forget_ended(now);
        let path = self.path();
        let new = path.with_extension("new");
        let changes: Vec<Change> = self.book.changes().collect();
        let bytes = lines(changes.iter());
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed("open", &new))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .map_err(failed("write", &new))?;
        std::fs::rename(&new, &path).map_err(failed("replace", &path))?;
        self.file = Some(file);
        self.offset = bytes.len() as u64;
        self.lines = changes.len();
        Ok(())
    }
}

fn lines<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in changes {
        // Plain data without maps of other keys than text: nothing in it fails.
        if serde_json::to_writer(&mut bytes, change).is_ok() {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::record::{Length, Record};

    const NOW: Now = Now {
        wall: 1_000_000,
        monotonic: 0,
    };

    fn banned(number: u32, seconds: u64) -> Change {
        let net = ipnet::IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(number)));
        let length = Length::Seconds(seconds);
        Change::Banned(Record::new(net, "test", "why", length, NOW))
    }

    fn write(journal: &mut Journal, changes: &[Change]) {
        let lock = journal.lock().unwrap();
        journal.refresh(NOW).unwrap();
        journal.append(&lock, changes, NOW).unwrap();
    }

    #[test]
    fn who_reads_again_hears_what_others_wrote_once() {
        let place = tempfile::tempdir().unwrap();
        let [mut a, mut b] = [(); 2].map(|()| Journal::new(place.path()));
        assert_eq!(a.refresh(NOW).unwrap(), []);
        write(&mut a, &[banned(1, 10), banned(2, 10)]);
        assert_eq!(b.refresh(NOW).unwrap(), [banned(1, 10), banned(2, 10)]);
        assert_eq!(b.refresh(NOW).unwrap(), []);
        write(&mut b, &[banned(3, 10)]);
        assert_eq!(a.refresh(NOW).unwrap(), [banned(3, 10)]);
        assert_eq!(a.book(), b.book());
        std::fs::remove_file(place.path().join("bans.jsonl")).unwrap();
        assert_eq!(a.refresh(NOW).unwrap().len(), 3);
        assert_eq!(a.book(), &Book::default());
    }

    #[test]
    fn a_line_without_its_end_does_not_count_and_nonsense_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(place.path());
        write(&mut journal, &[banned(1, 10)]);
        let file = place.path().join("bans.jsonl");
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("{\"grounded\":1}\n\n{\"banned\":{\"net\":\"10.0");
        std::fs::write(&file, text).unwrap();
        let mut other = Journal::new(place.path());
        assert_eq!(other.refresh(NOW).unwrap(), [banned(1, 10)]);
        write(&mut other, &[banned(2, 10)]);
        assert_eq!(journal.refresh(NOW).unwrap(), [banned(2, 10)]);
        assert!(std::fs::read_to_string(&file).unwrap().ends_with("}\n"));
    }

    #[test]
    fn a_file_of_lines_that_do_not_matter_is_written_anew() {
        let place = tempfile::tempdir().unwrap();
        let [mut a, mut b] = [(); 2].map(|()| Journal::new(place.path()));
        write(&mut a, &[banned(1, 10)]);
        b.refresh(NOW).unwrap();
        let many: Vec<Change> = (0..5000).map(|_| banned(2, 10)).collect();
        write(&mut a, &many);
        let text = std::fs::read_to_string(place.path().join("bans.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(b.refresh(NOW).unwrap(), [banned(2, 10)]);
        write(&mut b, &[banned(3, 10)]);
        assert_eq!(a.refresh(NOW).unwrap(), [banned(3, 10)]);
    }

    #[test]
    fn one_at_a_time_changes_bans() {
        let place = tempfile::tempdir().unwrap();
        let journal = Journal::new(place.path());
        let lock = journal.lock().unwrap();
        assert!(journal.try_lock().unwrap().is_none());
        drop(lock);
        assert!(journal.try_lock().unwrap().is_some());
    }
}
