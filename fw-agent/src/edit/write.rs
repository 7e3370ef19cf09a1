//! A file replaced as a whole: written beside the old one, then renamed over it.
//!
//! The new file has the old one's mode and owner; one that did not exist gets those of its directory, without the rights to search. On file systems
//! that give every file its mode and owner themselves (a Proxmox cluster's) there is nothing to change, and nothing is tried.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Why a file was not replaced. It is as it was.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}")]
pub struct WriteError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Replaces a file's contents.
///
/// # Errors
/// It cannot be written; it is as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = |verb, path: &Path| {
        let path = path.to_path_buf();
        move |source| WriteError { verb, path, source }
    };
    // A link is followed: what it points to is replaced, not the link.
    let path = match std::fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_path_buf(),
        Err(error) => return Err(failed("find", path)(error)),
    };
    let mut name = path.clone().into_os_string();
    name.push(format!(".tmp.{}", std::process::id()));
    let new = PathBuf::from(name);
    let done = write(&path, &new, bytes).map_err(failed("write", &new));
    let done = done.and_then(|()| std::fs::rename(&new, &path).map_err(failed("replace", &path)));
    if done.is_err() && std::fs::remove_file(&new).is_err() {
        // It was not even made, or is left: the error says where.
    }
    done
}

fn write(path: &Path, new: &Path, bytes: &[u8]) -> io::Result<()> {
    let like = like(path)?;
    let mut file = File::create(new)?;
    let is = file.metadata()?;
    if is.permissions().mode() & 0o7777 != like.0 {
        file.set_permissions(std::fs::Permissions::from_mode(like.0))?;
    }
    if (is.uid(), is.gid()) != like.1 {
        fchown(&file, Some(like.1.0), Some(like.1.1))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Mode and owner that the file is to have.
fn like(path: &Path) -> io::Result<(u32, (u32, u32))> {
    let owner = |found: &Metadata| (found.uid(), found.gid());
    match std::fs::metadata(path) {
        Ok(found) => Ok((found.permissions().mode() & 0o7777, owner(&found))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
            let mode = directory.permissions().mode() & 0o666;
            Ok((mode, owner(&directory)))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_links_stay_and_nothing_is_left_beside() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("100.fw");
        let link = place.path().join("link.fw");
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);

        let missing = place.path().join("no/100.fw");
        assert!(replace(&missing, b"x").is_err());
        replace(&place.path().join("new.fw"), b"x").unwrap();
    }
}
