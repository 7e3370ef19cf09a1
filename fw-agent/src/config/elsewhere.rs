//! Which of the cluster's names the files of guests on other nodes mention.
//!
//! In: the names that `cluster.fw` defines, and the firewall files of guests that are not this node's. Out: those of the names that are words
//! of these files; a lint must not call them unused. The files are searched again only if one of them or the names changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::address::{LONGEST_NAME, is_name};
use super::document::Document;
use super::memo::is_same;
use super::options::ClusterOptions;
use super::{FIREWALL_DIRECTORY, GuestConfig, Sources};

/// What was found last time.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    names: Vec<Arc<str>>,
    files: Vec<Bytes>,
    found: Arc<BTreeSet<Arc<str>>>,
}

impl Elsewhere {
    /// The cluster's names among the words of the files of guests that are not in `guests`.
    pub(super) fn of(
        &mut self,
        sources: &Sources,
        cluster: &Document<ClusterOptions>,
        guests: &BTreeMap<u32, GuestConfig>,
    ) -> Arc<BTreeSet<Arc<str>>> {
        let names = cluster.aliases.keys();
        let names = names.chain(cluster.sets.keys());
        let names: Vec<Arc<str>> = names.chain(cluster.groups.keys()).cloned().collect();
        let files = sources.numbered(FIREWALL_DIRECTORY, ".fw");
        let foreign = files
            .into_iter()
            .filter(|(vmid, _)| !guests.contains_key(vmid));
        let files: Vec<Bytes> = foreign.map(|(_, (_, bytes))| bytes.clone()).collect();
        let same = self.files.len() == files.len()
            && self.files.iter().zip(&files).all(|(a, b)| is_same(a, b));
        if !same || self.names != names {
            self.found = Arc::new(search(&names, &files));
            self.names = names;
        }
        self.files = files;
        Arc::clone(&self.found)
    }
}

fn search(names: &[Arc<str>], files: &[Bytes]) -> BTreeSet<Arc<str>> {
    let mut missing: BTreeMap<&str, &Arc<str>> = names.iter().map(|name| (&**name, name)).collect();
    let mut seen = BTreeSet::new();
    for bytes in files {
        if missing.is_empty() {
            break;
        }
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
        let words = bytes.split(|byte| !is_part(byte));
        for word in words.filter_map(|word| std::str::from_utf8(word).ok()) {
            if !is_name(word) || word.len() > LONGEST_NAME {
                continue;
            }
            if let Some(name) = missing.remove(word.to_ascii_lowercase().as_str()) {
                seen.insert(Arc::clone(name));
            }
        }
    }
    seen
}
