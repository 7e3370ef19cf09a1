//! A machine's first file system, as the `newc` archive that the kernel unpacks at boot.
//!
//! In: files by the paths they have in the machine. Out: the archive. Directories come before what is in them, files in order of their names, so
//! that equal input gives equal bytes. Not compressed: unpacking would take the emulated machine longer than reading.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

/// What is at a path.
enum Entry {
    Directory,
    Bytes { mode: u32, bytes: Vec<u8> },
    Host { mode: u32, file: PathBuf },
    Link { target: PathBuf },
}

/// The files.
#[derive(Default)]
pub struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Image {
    /// An empty directory.
    pub fn directory(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.put(path.as_ref(), Entry::Directory)
    }

    /// A file with these contents.
    pub fn bytes(&mut self, path: impl AsRef<Path>, bytes: Vec<u8>) -> Result<()> {
        self.put(path.as_ref(), Entry::Bytes { mode: 0o644, bytes })
    }

    /// A file of this machine, links followed.
    pub fn host(&mut self, path: impl AsRef<Path>, file: &Path) -> Result<()> {
        let data = fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?;
        let entry = Entry::Host {
            mode: data.permissions().mode() & 0o777,
            file: file.to_path_buf(),
        };
        self.put(path.as_ref(), entry)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
        let target = target.as_ref().to_path_buf();
        self.put(path.as_ref(), Entry::Link { target })
    }

    /// A directory of this machine with everything in it, at the same path.
    pub fn tree(&mut self, directory: &Path) -> Result<()> {
        let entries =
            fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        self.directory(directory)?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("reading {}", directory.display()))?
                .path();
            if path.is_dir() {
                self.tree(&path)?;
            } else {
                self.host(&path, &path)?;
            }
        }
        Ok(())
    }

    /// Whether something is at a path.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        relative(path.as_ref()).is_ok_and(|path| self.entries.contains_key(&path))
    }

    fn put(&mut self, path: &Path, entry: Entry) -> Result<()> {
        let path = relative(path)?;
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|path| !path.as_os_str().is_empty()) {
            self.entries
                .entry(directory.to_path_buf())
                .or_insert(Entry::Directory);
            parent = directory.parent();
        }
        // What is there stays: a library of two programs is one file.
        self.entries.entry(path).or_insert(entry);
        Ok(())
    }

    /// Writes the archive.
    pub fn write(&self, file: &Path) -> Result<()> {
        let made = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        let mut out = BufWriter::new(made);
        for (number, (path, entry)) in (1_u32..).zip(&self.entries) {
            append(&mut out, number, path, entry)
                .with_context(|| format!("putting {} into an archive", path.display()))?;
        }
        trailer(out)
            .and_then(|mut out| out.flush())
            .with_context(|| format!("writing {}", file.display()))
    }
}

/// A path in the archive: without the root.
fn relative(path: &Path) -> Result<PathBuf> {
    let Ok(path) = path.strip_prefix("/") else {
        bail!("{} is not absolute", path.display());
    };
    Ok(path.to_path_buf())
}

fn append(out: &mut impl Write, number: u32, path: &Path, entry: &Entry) -> Result<()> {
    let name = path.to_str().context("its name is no UTF-8")?;
    let (kind, mode, bytes) = match entry {
        Entry::Directory => (ModeFileType::Directory, 0o755, Vec::new()),
        Entry::Bytes { mode, bytes } => (ModeFileType::Regular, *mode, bytes.clone()),
        Entry::Host { mode, file } => {
            let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            (ModeFileType::Regular, *mode, bytes)
        }
        Entry::Link { target } => {
            let target = target.to_str().context("its target is no UTF-8")?;
            (ModeFileType::Symlink, 0o777, target.as_bytes().to_vec())
        }
    };
    let length = u32::try_from(bytes.len()).context("it is too long")?;
    let mut writer = Builder::new(name)
        .ino(number)
        .nlink(1)
        .mode(mode)
        .set_mode_file_type(kind)
        .write(out, length);
    writer.write_all(&bytes)?;
    writer.finish().map(drop).context("ending it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_the_first_of_two_stays() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image");
        let mut image = Image::default();
        image.bytes("/a/b/c", b"first".to_vec()).unwrap();
        image.bytes("/a/b/c", b"second".to_vec()).unwrap();
        image.link("/a/x", "b/c").unwrap();
        assert!(image.bytes("a", Vec::new()).is_err());
        image.write(&file).unwrap();
        let bytes = fs::read(&file).unwrap();
        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut text = String::new();
            std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
            seen.push((reader.entry().name().to_owned(), text));
            rest = reader.finish().unwrap();
        }
        let expect = [("a", ""), ("a/b", ""), ("a/b/c", "first"), ("a/x", "b/c")];
        assert_eq!(
            seen,
            expect.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }
}
