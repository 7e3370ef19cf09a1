//! What is to be applied: a directory laid out like the tree, or single files.
//!
//! In: paths from the command line. Out: the texts of firewall files by their path in the tree.
//!
//! 1. A directory gives the firewall files of this node that are in it, at the paths they have in the tree; what it does not have stays as it is, so a
//!    candidate removes nothing. 2. A file gives one: whose it is says its name (`100.fw`, `cluster.fw`, `host.fw`), or what stands before it (`100=FILE`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::lock_of;
use crate::config::{
    CLUSTER_FILE, PLAIN_HOST_FILE, Sources, VNET_DIRECTORY, guest_file, host_file,
};

/// Why there is no candidate.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Part of a directory cannot be read.
    #[error("cannot read {path} in {directory}: {reason}")]
    Part {
        /// The directory.
        directory: PathBuf,
        /// Which part.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is not said whose the file is.
    #[error(
        "whose file is {path}? Write `cluster={path}`, `host={path}`, a guest such as `100={path}`, or `vnet/NAME={path}`"
    )]
    Whose {
        /// The file.
        path: String,
    },
    /// Two are of the same file.
    #[error("{file} is given twice")]
    Twice {
        /// The file.
        file: String,
    },
    /// The rules of this tree's host are elsewhere.
    #[error("{file} is no file of this tree, in which the host's is {own}: give it as `host=FILE`")]
    Layout {
        /// The file that is given.
        file: String,
        /// The tree's.
        own: String,
    },
    /// There is nothing of this node in a directory.
    #[error(
        "{directory} has no firewall file of node {node}: it is to be laid out like the tree, as `fwctl save --to DIR` makes one"
    )]
    Nothing {
        /// The directory.
        directory: PathBuf,
        /// The node.
        node: String,
    },
}

/// Texts of firewall files by their path in the tree.
pub type Candidate = BTreeMap<String, Vec<u8>>;

/// Reads a candidate for a tree that has the files `own`.
///
/// # Errors
/// See [`CandidateError`].
pub fn read(given: &[String], own: &Sources) -> Result<Candidate, CandidateError> {
    let mut candidate = Candidate::new();
    for text in given {
        let whole = Path::new(text);
        if whole.is_dir() {
            directory(whole, &own.node, &mut candidate)?;
            continue;
        }
        // A path may have a sign of its own.
        let (file, path) = match text.split_once('=') {
            Some((whose, path)) if !whole.exists() => (named(whose, own), Path::new(path)),
            Some(_) | None => (by_name(whole, own), whole),
        };
        let file = file.ok_or_else(|| CandidateError::Whose {
            path: path.display().to_string(),
        })?;
        let bytes = std::fs::read(path).map_err(|source| CandidateError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        add(&mut candidate, file, bytes)?;
    }
    for file in [host_file(&own.node), PLAIN_HOST_FILE.to_owned()] {
        if file != own.host_file() && candidate.contains_key(&file) {
            let own = own.host_file();
            return Err(CandidateError::Layout { file, own });
        }
    }
    Ok(candidate)
}

fn add(candidate: &mut Candidate, file: String, bytes: Vec<u8>) -> Result<(), CandidateError> {
    match candidate.insert(file.clone(), bytes) {
        None => Ok(()),
        Some(_) => Err(CandidateError::Twice { file }),
    }
}

fn directory(path: &Path, node: &str, candidate: &mut Candidate) -> Result<(), CandidateError> {
    let sources = Sources::read(path, node);
    let before = candidate.len();
    if let Some((part, reason)) = sources.unreadable.iter().next() {
        return Err(CandidateError::Part {
            directory: path.to_path_buf(),
            path: part.clone(),
            reason: reason.clone(),
        });
    }
    for (file, bytes) in sources.files {
        if lock_of(&file, node).is_some() {
            add(candidate, file, bytes.to_vec())?;
        }
    }
    match candidate.len() == before {
        true => Err(CandidateError::Nothing {
            directory: path.to_path_buf(),
            node: node.to_owned(),
        }),
        false => Ok(()),
    }
}

/// The file that is named in a word.
fn named(whose: &str, own: &Sources) -> Option<String> {
    let file = match (whose, whose.split_once('/')) {
        ("cluster", _) => CLUSTER_FILE.to_owned(),
        ("host", _) => own.host_file(),
        (_, Some(("vnet", name))) => format!("{VNET_DIRECTORY}/{name}.fw"),
        _ => guest_file(whose.parse().ok()?),
    };
    lock_of(&file, &own.node).map(|_| file)
}

/// The file that a file's own name tells.
fn by_name(path: &Path, own: &Sources) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".fw")?;
    match name.contains('/') {
        true => None,
        false => named(name, own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_files_say_whose_they_are() {
        let place = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = place.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, path.to_str().unwrap()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        for path in [
            "tree/firewall/cluster.fw",
            "tree/firewall/100.fw",
            "tree/firewall/notes.fw",
            "tree/nodes/n/host.fw",
            "tree/nodes/m/host.fw",
            "tree/nodes/n/qemu-server/100.conf",
            "tree/sdn/firewall/green.fw",
            "empty/nodes/m/host.fw",
        ] {
            write(path);
        }
        let tree = place.path().join("tree").to_str().unwrap().to_owned();
        let mut own = Sources {
            node: "n".into(),
            ..Sources::default()
        };
        let files = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            read(&given, &own).map(|found| found.into_keys().collect::<Vec<_>>())
        };
        let all = [
            "firewall/100.fw",
            "firewall/cluster.fw",
            "nodes/n/host.fw",
            "sdn/firewall/green.fw",
        ];
        assert_eq!(files(&[&tree]).unwrap(), all);
        let one = write("new=101.fw");
        let two = write("101.fw");
        for (given, expect) in [
            (two.clone(), Some("firewall/101.fw")),
            (format!("100={two}"), Some("firewall/100.fw")),
            (format!("cluster={two}"), Some("firewall/cluster.fw")),
            (format!("host={two}"), Some("nodes/n/host.fw")),
            (format!("vnet/red={two}"), Some("sdn/firewall/red.fw")),
            (format!("vnet/../red={two}"), None),
            (format!("group/web={two}"), None),
            (one, None),
            (format!("100={two}.missing"), None),
        ] {
            let found = files(&[&given]).ok();
            assert_eq!(found, expect.map(|file| vec![file.to_owned()]), "{given}");
        }
        let twice = files(&[&tree, &format!("100={two}")]);
        assert!(matches!(twice, Err(CandidateError::Twice { .. })));
        let empty = place.path().join("empty");
        let nothing = files(&[empty.to_str().unwrap()]);
        assert!(matches!(nothing, Err(CandidateError::Nothing { .. })));
        // A plain host's tree.
        own.plain = true;
        let given = |text: String| read(&[text], &own);
        let host = given(format!("host={two}")).unwrap();
        assert_eq!(host.into_keys().collect::<Vec<_>>(), ["firewall/host.fw"]);
        assert!(matches!(given(tree), Err(CandidateError::Layout { .. })));
    }
}
