//! The log reader: from the ring buffer to the firewall's log file, in place of `pvefw-logger`.
//!
//! Events are formatted with the names of their rule and device, and written a batch at a time. What the kernel could not hand over is
//! counted there; the log says how many. What else the kernel counts and somebody should know, flows that found no room, the agent says itself.
//! A task of its own: a slow apply does not delay it. Flows begin in the kernel and end in the sweep, which tells of it here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use fw_common::event::{Event, FlowEvent};
use fw_common::maps::{Counter, RuleKey, Settings, counter};
use fw_common::verdict::Direction;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel, unbounded_channel};
use tokio::sync::watch;

use super::outputs::Outputs;
use super::sweeper::{ENDS, News, Suppressed};
use crate::compile::Compiled;
use crate::datapath::{Error, Kernel};
use crate::events::clock::Clock;
use crate::events::status::Status;
use crate::image::{RuleInfo, RuleTable};

/// What the log calls things; the loop changes it with each round.
#[derive(Clone, Debug, Default)]
pub(super) struct LogNames {
    /// Rules in force.
    pub(super) rules: Arc<RuleTable>,
    /// Rules that were in force before: events of theirs may still be on their way.
    pub(super) previous: Arc<RuleTable>,
    /// The configuration in force, for the lines that rules stand on.
    pub(super) compiled: Option<Arc<Compiled>>,
    /// The one before.
    pub(super) compiled_before: Option<Arc<Compiled>>,
    /// Device and bridge by interface index.
    pub(super) devices: BTreeMap<u32, (String, Option<String>)>,
    /// Counts requests to open the file anew.
    pub(super) reopen: u64,
}

impl LogNames {
    /// The settings in force.
    fn settings(&self) -> Settings {
        let compiled = self.compiled.as_ref();
        compiled.map_or_else(Settings::default, |compiled| compiled.image.settings)
    }

    fn rule(&self, rule: u32) -> Option<&RuleInfo> {
        let known = self.rules.get(rule);
        known.or_else(|| self.previous.get(rule))
    }
}

/// The line that tells of suppressed ones.
fn suppression(names: &LogNames, rule: RuleKey, count: u64) -> Status<'_> {
    Status::Suppressed {
        count,
        rule: names.rule(rule.rule).map_or("-", |info| &info.text),
        vmid: rule.vmid,
        net: rule.net,
        direction: Direction::from_u8(rule.direction),
    }
}

/// The reader's task.
pub(super) struct Logger {
    events: AsyncFd<RingBuf<MapData>>,
    counters: PerCpuArray<MapData, Counter>,
    names: watch::Receiver<LogNames>,
    /// Suppressed lines that no event tells of.
    suppressions: UnboundedReceiver<Suppressed>,
    /// Flows that the sweep has removed.
    ends: Receiver<FlowEvent>,
    ends_lost: Arc<AtomicU64>,
    outputs: Outputs,
    clock: Clock,
    lost: u64,
    refused: u64,
    reopened: u64,
}

/// Time between looks at the counters.
const LOST_CHECK: Duration = Duration::from_secs(1);

impl Logger {
    /// A reader of the kernel's events, and where to tell it names and what the sweep found. It ends when the sender is dropped.
    pub(super) fn new(
        kernel: &mut Kernel,
        outputs: Outputs,
    ) -> anyhow::Result<(Self, watch::Sender<LogNames>, News)> {
        let (suppressed, suppressions) = unbounded_channel();
        let (ending, ends) = channel(ENDS);
        let ends_lost = Arc::new(AtomicU64::new(0));
        let news = News {
            suppressed,
            ends: ending,
            lost: Arc::clone(&ends_lost),
        };
        let (sender, names) = watch::channel(LogNames::default());
        // SAFETY: the ring buffer owns its descriptor and keeps it as long as it lives.
        let events = unsafe { AsyncFd::register(kernel.take_events()?) }
            .map_err(|error| error.into_parts().1)
            .context("cannot wait for events")?;
        let mut logger = Self {
            events,
            counters: kernel.take_counters()?,
            names,
            suppressions,
            ends,
            ends_lost,
            outputs,
            clock: Clock::system(),
            lost: 0,
            refused: 0,
            reopened: 0,
        };
        logger.lost = logger.count(counter::LOST_EVENTS).unwrap_or(0);
        logger.refused = logger.count(counter::FLOWS_REFUSED).unwrap_or(0);
        Ok((logger, sender, news))
    }

    pub(super) async fn run(mut self) {
        let now = self.clock.now();
        self.outputs.status(&Status::Started, &now);
        self.flush();
        let mut checks = tokio::time::interval(LOST_CHECK);
        loop {
            tokio::select! {
                ready = self.events.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(error) => {
                        tracing::error!(%error, "cannot wait for events");
                        break;
                    }
                },
                changed = self.names.changed() => if changed.is_err() {
                    break;
                },
                Some((rule, count)) = self.suppressions.recv() => self.report_suppressed(rule, count),
                Some(event) = self.ends.recv() => self.report_ends(event),
                _ = checks.tick() => {
                    self.report_lost();
                    self.report_refused();
                }
            }
            self.drain();
        }
        self.drain();
        let now = self.clock.now();
        self.outputs.status(&Status::Stopped, &now);
        self.flush();
    }

    /// Writes every event that is there.
    fn drain(&mut self) {
        let names = self.names.borrow_and_update().clone();
        if names.reopen != self.reopened {
            self.reopened = names.reopen;
            self.outputs.reopen();
        }
        self.clock.refresh();
        while let Some(item) = self.events.get_mut().next() {
            if let Some(event) = read::<FlowEvent>(&item) {
                let time = self.clock.at(event.time_ns);
                self.outputs.flow(&event, &names.settings(), &time);
                continue;
            }
            let Some(event) = read::<Event>(&item) else {
                tracing::error!(bytes = item.len(), "an event of another size");
                continue;
            };
            let time = self.clock.at(event.time_ns);
            if event.suppressed > 0 {
                let rule = RuleKey {
                    vmid: event.vmid,
                    rule: event.rule,
                    net: event.net,
                    direction: event.direction,
                    reserved: 0,
                };
                let suppressed = suppression(&names, rule, event.suppressed);
                self.outputs.status(&suppressed, &time);
            }
            self.outputs.packet(&event, &names, &time);
        }
        self.flush();
    }

    fn flush(&mut self) {
        let now = self.clock.now();
        self.outputs.flush(&now);
    }

    fn count(&self, index: u32) -> Result<u64, Error> {
        let entry = self.counters.get(&index, 0);
        let values = entry.map_err(|source| Error::Map {
            verb: "read",
            map: fw_common::maps::name::COUNTERS,
            source,
        })?;
        Ok(values.iter().map(|value| value.packets).sum())
    }

    fn report_suppressed(&mut self, rule: RuleKey, count: u64) {
        let now = self.clock.now();
        let names = self.names.borrow();
        self.outputs.status(&suppression(&names, rule, count), &now);
    }

    /// Writes that flows ended, `first` and those that wait behind it, after what the kernel told before.
    fn report_ends(&mut self, first: FlowEvent) {
        /// Lines of one write.
        const AT_ONCE: usize = 4096;
        self.drain();
        let settings = self.names.borrow().settings();
        let waiting = std::iter::from_fn(|| self.ends.try_recv().ok());
        for event in std::iter::once(first).chain(waiting).take(AT_ONCE) {
            let time = self.clock.at(event.time_ns);
            self.outputs.flow(&event, &settings, &time);
        }
    }

    fn report_lost(&mut self) {
        let Ok(lost) = self.count(counter::LOST_EVENTS) else {
            return;
        };
        let lost = lost + self.ends_lost.load(Ordering::Relaxed);
        if lost > self.lost {
            let now = self.clock.now();
            self.outputs
                .status(&Status::Skipped(lost - self.lost), &now);
            self.lost = lost;
        }
    }

    fn report_refused(&mut self) {
        let Ok(refused) = self.count(counter::FLOWS_REFUSED) else {
            return;
        };
        if refused > self.refused {
            let count = refused - self.refused;
            tracing::warn!(count, "the flow table is full: flows found no room");
            self.refused = refused;
        }
    }
}

/// A record for which any bytes are valid.
///
/// # Safety
/// `repr(C)`, integers only.
unsafe trait Plain: Copy {}
// SAFETY: it is.
unsafe impl Plain for Event {}
// SAFETY: it is.
unsafe impl Plain for FlowEvent {}

fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: `bytes` holds exactly one `T`, for which any bytes are valid (see `Plain`).
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}
