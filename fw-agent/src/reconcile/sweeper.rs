//! When flows are swept: a thread of its own, so that a pass over a full table delays nothing.
//!
//! A pass over 262,144 flows takes about a tenth of a second of one core; once in [`INTERVAL`] that is 1%. Expired flows therefore stay in the table
//! for up to that time, in which they count towards the port's quota. The same pass looks for what is left over of rules.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use fw_common::event::FlowEvent;
use fw_common::maps::{PortKey, RuleKey};
use tokio::sync::mpsc::{Sender, UnboundedSender};

use crate::datapath::Error;
use crate::datapath::leftovers::{forget_counters, suppressed_lines};
use crate::datapath::pins::Pins;
use crate::datapath::sweep::sweep_telling;

/// Time between two passes.
const INTERVAL: Duration = Duration::from_secs(10);

/// The thread; it ends when this is dropped.
pub(super) struct Sweeper {
    /// Ports whose counters are to be kept; none until the configuration is known. Closed to end the thread.
    known: Option<std::sync::mpsc::Sender<BTreeSet<PortKey>>>,
    /// Ends what takes long, too.
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Ends of flows that wait to be logged, at the most; what comes beyond them is counted.
pub(super) const ENDS: usize = 1 << 16;

/// What a sweep has to say to the log.
pub(super) struct News {
    /// Log lines that were suppressed.
    pub(super) suppressed: UnboundedSender<Suppressed>,
    /// Flows that were removed, if the settings ask for them.
    pub(super) ends: Sender<FlowEvent>,
    /// How many of them found no room in `ends`.
    pub(super) lost: Arc<AtomicU64>,
}

impl News {
    fn ended(&self, event: FlowEvent) {
        if self.ends.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Log lines of a rule that were suppressed, and how many.
pub(super) type Suppressed = (RuleKey, u64);

impl Sweeper {
    /// Starts sweeping the maps pinned in a directory, now and then every [`INTERVAL`]; what the log should tell goes to `log`.
    pub(super) fn start(pin_directory: &Path, log: News) -> anyhow::Result<Self> {
        let (known, news) = channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let pass = Pass {
            stopped: Arc::clone(&stopped),
            pins: Pins::new(pin_directory),
            log,
            known: None,
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(move || pass.repeat(&news))
            .context("cannot start the thread that sweeps flows")?;
        Ok(Self {
            known: Some(known),
            stopped,
            thread: Some(thread),
        })
    }

    /// Tells which ports are configured: the counters of all others that are not in the kernel either are forgotten.
    pub(super) fn keep(&self, ports: BTreeSet<PortKey>) {
        let sent = self.known.as_ref().map(|known| known.send(ports));
        if let Some(Err(error)) = sent {
            tracing::error!(%error, "the thread that sweeps flows has ended");
        }
    }
}

/// What the thread has.
struct Pass {
    stopped: Arc<AtomicBool>,
    pins: Pins,
    log: News,
    /// Ports to keep that were not dealt with yet.
    known: Option<BTreeSet<PortKey>>,
    failing: bool,
}

impl Pass {
    fn repeat(mut self, news: &Receiver<BTreeSet<PortKey>>) {
        loop {
            match self.once() {
                Ok(()) => self.failing = false,
                Err(error) if !self.failing => {
                    self.failing = true;
                    tracing::error!("{:#}", anyhow::Error::from(error));
                }
                Err(_) => {}
            }
            let next = Instant::now() + INTERVAL;
            loop {
                match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(known) => self.known = Some(known),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn once(&mut self) -> Result<(), Error> {
        let swept = sweep_telling(&self.pins, |event| self.log.ended(event))?;
        let flows: u64 = swept.flows.values().sum();
        tracing::debug!(
            flows,
            half_open = swept.half_open,
            removed = swept.removed,
            returned = swept.returned,
            "swept the flow tables"
        );
        for suppressed in suppressed_lines(&self.pins)? {
            if self.log.suppressed.send(suppressed).is_err() {
                // The log reader has ended, and with it the agent does.
                break;
            }
        }
        if let Some(known) = &self.known {
            let goes_on = || !self.stopped.load(Ordering::Relaxed);
            let forgotten = forget_counters(&self.pins, known, goes_on)?;
            tracing::debug!(forgotten, "forgot counters of rules whose ports are gone");
            self.known = None;
        }
        Ok(())
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(self.known.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that sweeps flows panicked");
        }
    }
}
