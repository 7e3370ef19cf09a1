//! What the loop waits for, as one closed list of events.
//!
//! 1. Files: inotify says at once that they changed; what comes within [`QUIET`] of each other is one event, [`Events::settle`] waits for that.
//! 2. Links, addresses and routes: netlink says. What came with it is taken together; nothing waits, because a new device should not.
//!    Guests' devices that came are closed by then, or about to be, by the doorkeeper, who says so when it is done.
//! 3. Ticks: once a second, for whatever raises no event.
//! 4. Signals and requests of the control socket.
//!
//! Invariant: nothing else wakes the loop, and none of these is lost while it works: they wait in their sockets and queues.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::stream::{Stream, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};

use super::doorkeeper::Told;
use super::watch::FileWatch;
use crate::config::Changed;
use crate::control::Request;
use crate::inventory::devices::Change;

/// Changes of files that come within this time of each other are carried out together …
const QUIET: Duration = Duration::from_millis(2);
/// … but none waits longer than this.
const PATIENCE: Duration = Duration::from_millis(100);
/// Changes of devices that are taken together at most.
const BURST: usize = 4096;
/// Time between looks at the files, at the cluster's self-expiring switch, and between tries of what failed.
const TICK: Duration = Duration::from_secs(1);

/// Something happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The configuration's files may have changed.
    Files(Changed),
    /// Devices came, went or changed, and perhaps addresses and routes, too. Name and interface index of those that came or changed, in order.
    Links(Vec<(String, u32)>),
    /// Devices were closed.
    Closed(Vec<Told>),
    /// Addresses or routes of the host changed.
    Addresses,
    /// A second has passed.
    Tick,
    /// The agent is asked to end, by the signal of this name.
    Terminate(&'static str),
    /// `SIGHUP`: read everything again, open the logs anew.
    Hangup,
    /// Somebody asks over the control socket.
    Control(Request),
}

/// Where events come from.
pub(super) struct Events {
    files: FileWatch,
    links: Pin<Box<dyn Stream<Item = Change> + Send>>,
    /// A change that was taken from the stream while another kind was asked for.
    pending: Option<Change>,
    ticks: Interval,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    control: mpsc::Receiver<Request>,
    closed: mpsc::UnboundedReceiver<Told>,
}

impl Events {
    /// Listens to everything from now on.
    ///
    /// # Errors
    /// Signals cannot be waited for.
    pub(super) fn listen(
        root: &Path,
        node: &str,
        links: impl Stream<Item = Change> + Send + 'static,
        control: mpsc::Receiver<Request>,
        closed: mpsc::UnboundedReceiver<Told>,
    ) -> Result<Self> {
        let signal = |kind, name| signal(kind).with_context(|| format!("cannot wait for {name}"));
        Ok(Self {
            files: FileWatch::new(root, node),
            links: Box::pin(links),
            pending: None,
            ticks: tokio::time::interval(TICK),
            terminate: signal(SignalKind::terminate(), "SIGTERM")?,
            interrupt: signal(SignalKind::interrupt(), "SIGINT")?,
            hangup: signal(SignalKind::hangup(), "SIGHUP")?,
            control,
            closed,
        })
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self) -> Event {
        if let Some(change) = self.pending.take() {
            return self.changed(change);
        }
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate("SIGTERM"),
            _ = self.interrupt.recv() => Event::Terminate("SIGINT"),
            _ = self.hangup.recv() => Event::Hangup,
            changed = self.files.changed() => Event::Files(changed),
            Some(change) = self.links.next() => self.changed(change),
            Some(first) = self.closed.recv() => {
                let rest = std::iter::from_fn(|| self.closed.try_recv().ok());
                Event::Closed(std::iter::once(first).chain(rest).collect())
            }
            Some(request) = self.control.recv() => Event::Control(request),
            _ = self.ticks.tick() => Event::Tick,
        }
    }

    /// Waits until the files have not changed for a moment, and says what did. A device ends the wait.
    pub(super) async fn settle(&mut self, mut changed: Changed) -> Changed {
        let deadline = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                more = self.files.changed() => changed.add(more),
                () = tokio::time::sleep(QUIET) => return changed,
                () = tokio::time::sleep_until(deadline) => return changed,
                Some(change) = self.links.next() => {
                    self.pending = Some(change);
                    return changed;
                }
            }
        }
    }

    /// Looks whether files changed without an event.
    pub(super) fn look(&mut self) -> bool {
        self.files.look()
    }

    /// One event for a change and all that came with it.
    fn changed(&mut self, first: Change) -> Event {
        let mut news = None;
        let mut next = Some(first);
        // As much as comes in a burst; whatever comes all the time has to let others through.
        for _ in 0..BURST {
            match next {
                Some(Change::Device(name, ifindex)) => {
                    let news: &mut Vec<_> = news.get_or_insert_default();
                    news.push((name, ifindex));
                }
                Some(Change::Links) => {
                    news.get_or_insert_default();
                }
                Some(Change::Addresses) => {}
                None => break,
            }
            next = self.links.next().now_or_never().flatten();
        }
        self.pending = next;
        match news {
            Some(news) => Event::Links(news),
            None => Event::Addresses,
        }
    }
}
