//! The counters in plain memory, and the limits of log lines: what the kernel programs keep in maps.
//!
//! One thread at a time, like [`super::Memory`], whose frames are entered here.

use std::cell::RefCell;
use std::collections::BTreeMap;

use fw_common::ledger::{self, Frame, Ledger, LogLimit, Outcome};
use fw_common::maps::{Counter, Port, PortCounters, RuleKey, Settings, counter};
use fw_common::verdict::{Direction, Judgement, NO_LOG, Verdict};

/// What became of a frame's log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// Nothing logs it.
    No,
    /// It is logged, and this many of its rule were not since the last one.
    After(u64),
    /// Its rule has logged too many.
    Suppressed,
}

/// Counters that something was added to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By reason, and those of [`counter`].
    pub entries: BTreeMap<u32, Counter>,
    /// By [`Port::counters`].
    pub ports: BTreeMap<u32, PortCounters>,
    /// By rule.
    pub rules: BTreeMap<RuleKey, Counter>,
}

/// Counters and limits.
#[derive(Debug, Default)]
pub struct Books {
    counted: RefCell<Counted>,
    limits: RefCell<BTreeMap<RuleKey, LogLimit>>,
}

impl Books {
    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        self.counted.borrow().clone()
    }

    pub(super) fn enter(
        &self,
        port: &Port,
        direction: Direction,
        judgement: Judgement,
        frame: Frame,
        settings: &Settings,
    ) -> Logged {
        let outcome = Outcome {
            verdict: judgement.verdict,
            reason: judgement.reason,
            rule: judgement.rule,
        };
        ledger::enter(self, port, direction, outcome, frame);
        if judgement.log == NO_LOG {
            return Logged::No;
        }
        if settings.log_interval == 0 {
            return Logged::After(0);
        }
        let key = RuleKey::new(port, direction, judgement.rule);
        let mut limits = self.limits.borrow_mut();
        let limit = limits.entry(key).or_default();
        match limit.take(frame.now, settings.log_interval, settings.log_burst) {
            Some(suppressed) => Logged::After(suppressed),
            None => {
                self.add(counter::LOGS_LIMITED, frame);
                Logged::Suppressed
            }
        }
    }
}

impl Ledger for Books {
    fn add(&self, entry: u32, frame: Frame) {
        let mut counted = self.counted.borrow_mut();
        counted.entries.entry(entry).or_default().add(frame);
    }

    fn add_port(&self, slot: u32, direction: Direction, verdict: Verdict, frame: Frame) {
        let mut counted = self.counted.borrow_mut();
        let counters = counted.ports.entry(slot).or_default();
        counters.0[direction as usize][verdict as usize].add(frame);
    }

    fn add_rule(&self, key: &RuleKey, frame: Frame) -> bool {
        let mut counted = self.counted.borrow_mut();
        counted.rules.entry(*key).or_default().add(frame);
        true
    }
}
