//! When the configuration's files may have changed.
//!
//! Inotify tells at once where it works. Where it does not (a cluster file system whose changes come from another node) [`FileWatch::look`]
//! compares names, sizes, times and inodes of the files, which the loop does every second.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::config::Changed;

/// Watches the files of one node.
pub(super) struct FileWatch {
    root: PathBuf,
    directories: Vec<PathBuf>,
    seen: Vec<Fingerprint>,
    told: Arc<Told>,
    watcher: Option<RecommendedWatcher>,
    watched: Vec<PathBuf>,
}

/// What inotify has told and nobody has taken.
struct Told {
    changed: Mutex<Changed>,
    news: Notify,
}

impl Told {
    fn tell(&self, changed: Changed) {
        let told = self.changed.lock();
        told.unwrap_or_else(PoisonError::into_inner).add(changed);
        self.news.notify_one();
    }
}

/// What changes about a file when it does.
type Fingerprint = (PathBuf, u64, Option<SystemTime>, u64);

impl FileWatch {
    pub(super) fn new(root: &Path, node: &str) -> Self {
        let told = Arc::new(Told {
            changed: Mutex::new(Changed::NOTHING),
            news: Notify::new(),
        });
        let (teller, below) = (Arc::clone(&told), root.to_path_buf());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            match event {
                Ok(event) if matters(event.kind) => teller.tell(changed(&event, &below)),
                Ok(_) => {}
                Err(_) => teller.tell(Changed::Anything),
            }
        })
        .inspect_err(|error| tracing::warn!(%error, "no inotify: changes are seen within a second"))
        .ok();
        let node = root.join("nodes").join(node);
        let mut watch = Self {
            root: root.to_path_buf(),
            directories: vec![
                root.to_path_buf(),
                root.join("firewall"),
                root.join("sdn/firewall"),
                node.join("qemu-server"),
                node.join("lxc"),
                node,
            ],
            seen: Vec::new(),
            told,
            watcher,
            watched: Vec::new(),
        };
        watch.watch();
        watch.seen = watch.fingerprints();
        watch
    }

    /// Waits for an inotify event; says what changed.
    pub(super) async fn changed(&self) -> Changed {
        self.told.news.notified().await;
        let mut told = self
            .told
            .changed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *told, Changed::NOTHING)
    }

    /// Looks whether anything changed since the last look.
    pub(super) fn look(&mut self) -> bool {
        self.watch();
        let now = self.fingerprints();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }

    /// Watches the directories that exist; one that was removed and made again is another.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for directory in &self.directories {
            let known = self.watched.contains(directory);
            match (directory.is_dir(), known) {
                (true, false) => match watcher.watch(directory, RecursiveMode::NonRecursive) {
                    Ok(()) => self.watched.push(directory.clone()),
                    Err(error) => tracing::debug!(%error, "cannot watch a directory"),
                },
                (false, true) => {
                    if let Err(error) = watcher.unwatch(directory) {
                        tracing::debug!(%error, "the watch ended with its directory");
                    }
                    self.watched.retain(|watched| watched != directory);
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    fn fingerprints(&self) -> Vec<Fingerprint> {
        use std::os::unix::fs::MetadataExt;
        let mut found = Vec::new();
        for directory in &self.directories {
            let Ok(entries) = std::fs::read_dir(directory) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                if let Ok(metadata) = std::fs::metadata(&path)
                    && (metadata.is_file() || directory == &self.root)
                {
                    let (size, inode) = match metadata.is_file() {
                        true => (metadata.len(), metadata.ino()),
                        false => (0, metadata.ino()),
                    };
                    found.push((path, size, metadata.modified().ok(), inode));
                }
            }
        }
        found.sort();
        found
    }
}

/// What an event says of the tree below a root.
fn changed(event: &notify::Event, root: &Path) -> Changed {
    // Events were lost.
    if event.need_rescan() || event.paths.is_empty() {
        return Changed::Anything;
    }
    let below = |path: &PathBuf| Some(path.strip_prefix(root).ok()?.to_str()?.to_owned());
    let paths: Option<_> = event.paths.iter().map(below).collect();
    paths.map_or(Changed::Anything, Changed::Only)
}

/// Reading a file is no change; that someone who wrote it closes it is.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
