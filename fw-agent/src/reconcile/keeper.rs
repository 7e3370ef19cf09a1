//! Keeps the last good configuration on disk, apart from the loop: writing it waits for the disk.
//!
//! The loop hands over what it applied; if that happens faster than the disk writes, only the latest is written. When the loop ends, what was
//! handed over last is still written. [`Agent::start_from`] is the other end: what the first round begins with.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Agent;
use crate::cache::{Cache, Cached, Kept};
use crate::config::{Changed, Sources};

/// Takes what is to be kept.
pub(super) struct Keeper {
    sender: watch::Sender<Option<Arc<Sources>>>,
    writing: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(cache: Cache) -> Self {
        let (sender, receiver) = watch::channel(None);
        let writing = tokio::spawn(write(cache, receiver));
        Self { sender, writing }
    }

    /// Keeps these files, soon.
    pub(super) fn keep(&self, sources: Sources) {
        self.sender.send_replace(Some(Arc::new(sources)));
    }

    /// Waits until everything is written.
    pub(super) async fn finish(self) {
        drop(self.sender);
        if let Err(error) = self.writing.await {
            tracing::error!(%error, "the last configuration may not have been kept");
        }
    }
}

async fn write(cache: Cache, mut receiver: watch::Receiver<Option<Arc<Sources>>>) {
    let mut failing = false;
    let mut kept = Some(Kept::new(cache.clone()));
    // A value that was sent before the sender went is still seen.
    while receiver.changed().await.is_ok() {
        let Some(sources) = receiver.borrow_and_update().clone() else {
            continue;
        };
        let mut target = kept.take().unwrap_or_else(|| Kept::new(cache.clone()));
        let saved = tokio::task::spawn_blocking(move || {
            let saved = target.save(&sources);
            (target, saved)
        });
        let error = match saved.await {
            Ok((target, Ok(()))) => {
                kept = Some(target);
                failing = false;
                continue;
            }
            Ok((target, Err(error))) => {
                kept = Some(target);
                anyhow::Error::from(error)
            }
            Err(error) => anyhow::Error::from(error),
        };
        if !failing {
            failing = true;
            tracing::error!(
                "{error:#}: after a boot there will be no configuration until the real one is there"
            );
        }
    }
}

impl Agent {
    /// Takes what was applied last, before this boot perhaps: for files that cannot be read now, or for all of them.
    pub(super) fn start_from(&mut self, cached: Option<Cached>) {
        let Some(cached) = cached else {
            return;
        };
        self.sources = cached.sources;
        let Err(error) = self.read(&Changed::Anything) else {
            return;
        };
        tracing::error!(
            "{error:#}; the configuration of {} is enforced until it is there",
            cached.saved_at
        );
        self.read_error = Some(format!("{error:#}"));
        self.cached_at = Some(cached.saved_at);
        let sources = self.sources.clone();
        let compiled = self.compile(&sources);
        self.report(&compiled);
        self.compiled = Some(Arc::new(compiled));
    }
}
