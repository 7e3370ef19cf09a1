//! The writer on a real file system; `/dev/full` stands for a full disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::events::line::tests::time;

struct Bench {
    dir: TempDir,
    writer: LogWriter,
    clock: Instant,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let writer = LogWriter::new(dir.path().join("log"));
        Self {
            dir,
            writer,
            clock: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Writes `lines` as one batch after `wait` seconds.
    fn batch(&mut self, wait: u64, lines: &[&str]) -> Result<(), WriteError> {
        self.clock += Duration::from_secs(wait);
        for line in lines {
            self.writer.push(format!("{line}\n").as_bytes());
        }
        self.writer.flush_at(&time(), self.clock)
    }
}

#[test]
fn the_file_is_created_for_its_owner_and_group_and_appended_to() {
    let mut bench = Bench::new();
    bench.batch(0, &["one", "two"]).unwrap();
    bench.batch(0, &["three"]).unwrap();
    assert_eq!(bench.read("log"), "one\ntwo\nthree\n");
    let mode = fs::metadata(bench.path("log"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777 & !0o640, 0);
    assert_eq!(mode & 0o600, 0o600);
    assert_eq!(bench.writer.path(), bench.path("log"));
}

#[test]
fn an_empty_batch_creates_nothing() {
    let mut bench = Bench::new();
    bench.batch(0, &[]).unwrap();
    assert!(!bench.path("log").exists());
}

#[test]
fn rotation_is_followed_within_a_second() {
    let mut bench = Bench::new();
    bench.batch(0, &["old"]).unwrap();
    fs::rename(bench.path("log"), bench.path("log.1")).unwrap();
    bench.batch(0, &["between"]).unwrap();
    bench.batch(1, &["new"]).unwrap();
    assert_eq!(bench.read("log.1"), "old\nbetween\n");
    assert_eq!(bench.read("log"), "new\n");
    fs::remove_file(bench.path("log")).unwrap();
    fs::write(bench.path("log"), "made by logrotate\n").unwrap();
    bench.batch(1, &["newer"]).unwrap();
    assert_eq!(bench.read("log"), "made by logrotate\nnewer\n");
}

#[test]
fn reopening_on_request_is_immediate() {
    let mut bench = Bench::new();
    bench.batch(0, &["old"]).unwrap();
    fs::rename(bench.path("log"), bench.path("log.1")).unwrap();
    bench.writer.reopen();
    bench.batch(0, &["new"]).unwrap();
    assert_eq!(
        (bench.read("log.1"), bench.read("log")),
        ("old\n".into(), "new\n".into())
    );
}

#[test]
fn a_full_disk_costs_lines_and_is_reported_once_it_works_again() {
    let mut bench = Bench::new();
    symlink("/dev/full", bench.path("log")).unwrap();
    let error = bench.batch(0, &["a", "b"]).unwrap_err();
    assert!(matches!(error, WriteError::Write { .. }), "{error}");
    bench.batch(1, &["c"]).unwrap_err();
    assert_eq!(bench.writer.lost(), 3);
    fs::remove_file(bench.path("log")).unwrap();
    bench.batch(0, &["d"]).unwrap();
    bench.batch(0, &["e"]).unwrap();
    let cause = io::Error::from_raw_os_error(libc::ENOSPC);
    let expect = format!("0 3 - 05/Mar/2026:09:12:44 +0100 lost 3 log entries: {cause}\nd\ne\n");
    assert_eq!(bench.read("log"), expect);
    assert_eq!(bench.writer.lost(), 0);
}

#[test]
fn a_missing_directory_costs_lines_only() {
    let mut bench = Bench::new();
    bench.writer = LogWriter::new(bench.path("sub/log"));
    let error = bench.batch(0, &["a"]).unwrap_err();
    assert!(matches!(error, WriteError::Open { .. }), "{error}");
    fs::create_dir(bench.path("sub")).unwrap();
    // An empty batch is enough to report.
    bench.batch(0, &[]).unwrap();
    assert!(bench.read("sub/log").contains("lost 1 log entry: "));
    assert_eq!(bench.writer.lost(), 0);
}

/// Takes `room` bytes, then fails.
struct Narrow {
    room: usize,
    taken: Vec<u8>,
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room).min(3);
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.room -= count;
        self.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn short_writes_are_continued() {
    let mut narrow = Narrow {
        room: 7,
        taken: Vec::new(),
    };
    let (written, result) = write_all(&mut narrow, b"one\ntwo\n");
    assert_eq!((written, narrow.taken.as_slice()), (7, &b"one\ntwo"[..]));
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let (written, result) = write_all(
        &mut Narrow {
            room: 99,
            taken: Vec::new(),
        },
        b"one\ntwo\n",
    );
    assert_eq!(written, 8);
    result.unwrap();
}

#[test]
fn a_torn_line_is_ended_before_the_next() {
    let mut bench = Bench::new();
    bench.batch(0, &["one"]).unwrap();
    // As after a write that stopped in the middle of a line.
    fs::OpenOptions::new()
        .append(true)
        .open(bench.path("log"))
        .unwrap()
        .write_all(b"tw")
        .unwrap();
    let metadata = fs::metadata(bench.path("log")).unwrap();
    bench.writer.torn = Some(inode(&metadata));
    bench.writer.lose(1, "test");
    bench.batch(0, &["three"]).unwrap();
    bench.batch(0, &["four"]).unwrap();
    assert_eq!(
        bench.read("log"),
        "one\ntw\n0 3 - 05/Mar/2026:09:12:44 +0100 lost 1 log entry: test\nthree\nfour\n",
    );
}

#[test]
fn a_batch_is_bounded() {
    let mut bench = Bench::new();
    let line = vec![b'x'; BATCH_LIMIT / 4];
    for _ in 0..6 {
        bench.writer.push(&line);
    }
    assert_eq!(bench.writer.lost(), 2);
    assert!(bench.writer.batch.len() <= BATCH_LIMIT);
}

#[test]
fn status_lines_take_their_place_in_the_batch() {
    let mut bench = Bench::new();
    bench.writer.status(&Status::Started, &time());
    bench.batch(0, &["line"]).unwrap();
    let log = bench.read("log");
    assert_eq!(
        log,
        "0 5 - 05/Mar/2026:09:12:44 +0100 starting firewall logging\nline\n"
    );
}
