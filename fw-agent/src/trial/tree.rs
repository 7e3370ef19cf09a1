//! A stage written into the tree, as careful as an editor: each file under its lock, and only if it is what it was.
//!
//! A file that somebody else has changed is reported, and nothing is written, unless that is wanted all the same; then what it said is in what this returns and
//! so can be brought back.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Edit, Stage, lock_of};
use crate::edit::lock::{Lock, LockError};
use crate::edit::write::{self, WriteError};

/// Why a stage is not, or not wholly, in the tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Somebody else changed files.
    #[error("somebody else has changed {}: nothing is written over it, unless with --force", .files.join(", "))]
    Changed {
        /// The files.
        files: Vec<String>,
    },
    /// It is no firewall file of this node.
    #[error("{file} is no firewall file of node {node}")]
    NotOurs {
        /// The file.
        file: String,
        /// The node.
        node: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory of a file cannot be made.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else edits.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The stage with what the files say now as their contents before. What somebody else wrote since is an error unless `force`.
///
/// # Errors
/// A file cannot be read, or was changed.
pub fn current(root: &Path, stage: &Stage, force: bool) -> Result<Stage, TreeError> {
    let mut now = stage.clone();
    let mut changed = Vec::new();
    for (file, edit) in &mut now.files {
        let found = contents(&root.join(file))?;
        if found != edit.before && found != edit.after {
            changed.push(file.clone());
        }
        // One that is written already was what it was before that.
        if found != edit.after {
            edit.before = found;
        }
    }
    match changed.is_empty() || force {
        true => Ok(now),
        false => Err(TreeError::Changed { files: changed }),
    }
}

/// Writes every file that does not say yet what it is to say, one after the other.
///
/// # Errors
/// Somebody was quicker, or a file cannot be written; those before it are.
pub fn write(root: &Path, node: &str, stage: &Stage) -> Result<(), TreeError> {
    for (file, edit) in &stage.files {
        one(root, node, file, edit)?;
    }
    Ok(())
}

fn one(root: &Path, node: &str, file: &str, edit: &Edit) -> Result<(), TreeError> {
    let lock = lock_of(file, node).ok_or_else(|| TreeError::NotOurs {
        file: file.to_owned(),
        node: node.to_owned(),
    })?;
    let path = root.join(file);
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        std::fs::create_dir_all(parent).map_err(|source| TreeError::Directory {
            path: parent.to_path_buf(),
            source,
        })?;
    }
    let _lock = Lock::take(root, &path, &lock)?;
    let found = contents(&path)?;
    if found == edit.after {
        return Ok(());
    }
    if found != edit.before {
        let files = vec![file.to_owned()];
        return Err(TreeError::Changed { files });
    }
    match &edit.after {
        Some(text) => write::replace(&path, text)?,
        None => std::fs::remove_file(&path).map_err(|source| TreeError::Remove { path, source })?,
    }
    Ok(())
}

fn contents(path: &Path) -> Result<Option<Vec<u8>>, TreeError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TreeError::Read {
            path: path.to_path_buf(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_is_not_written_over() {
        let root = tempfile::tempdir().unwrap();
        let at = |file: &str| root.path().join(file);
        std::fs::create_dir(at("firewall")).unwrap();
        std::fs::write(at("firewall/100.fw"), "a").unwrap();
        let edit = |before: Option<&str>, after: Option<&str>| Edit {
            before: before.map(Into::into),
            after: after.map(Into::into),
        };
        let files = [
            ("firewall/100.fw", edit(Some("a"), Some("b"))),
            ("nodes/n/host.fw", edit(None, Some("c"))),
        ];
        let stage = Stage {
            files: files.map(|(path, edit)| (path.to_owned(), edit)).into(),
            seconds: 1,
        };
        let text = |file: &str| std::fs::read_to_string(at(file)).ok();
        let put = |stage: &Stage, force| -> Result<Stage, TreeError> {
            let now = current(root.path(), stage, force)?;
            write(root.path(), "n", &now)?;
            Ok(now)
        };
        assert_eq!(put(&stage, false).unwrap(), stage);
        assert_eq!(text("firewall/100.fw").as_deref(), Some("b"));
        assert_eq!(text("nodes/n/host.fw").as_deref(), Some("c"));
        assert_eq!(
            put(&stage, false).unwrap(),
            stage,
            "again, and nothing to do"
        );

        std::fs::write(at("firewall/100.fw"), "theirs").unwrap();
        let back = stage.reversed();
        let error = put(&back, false).unwrap_err().to_string();
        assert!(error.contains("changed firewall/100.fw"), "{error}");
        assert_eq!(
            text("nodes/n/host.fw").as_deref(),
            Some("c"),
            "nothing is written"
        );
        let done = put(&back, true).unwrap();
        assert_eq!(text("firewall/100.fw").as_deref(), Some("a"));
        assert_eq!(text("nodes/n/host.fw"), None);
        put(&done.reversed(), false).unwrap();
        assert_eq!(text("firewall/100.fw").as_deref(), Some("theirs"));

        let foreign = Stage {
            files: [("nodes/m/host.fw".to_owned(), edit(None, Some("x")))].into(),
            seconds: 1,
        };
        assert!(matches!(
            put(&foreign, true),
            Err(TreeError::NotOurs { .. })
        ));
        let left = std::fs::read_dir(at("firewall")).unwrap().count();
        assert_eq!(left, 1, "nothing is left beside");
    }
}
