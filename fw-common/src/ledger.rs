//! What a judged frame is counted under.
//!
//! In: the judgement and the size of the frame. Out: calls of a [`Ledger`], in the kernel maps and elsewhere plain memory, so that both count
//! alike (`tests/tests/ledger`).
//!
//! 1. Its reason. 2. Its port, by direction and verdict. 3. If a rule decided, the rule of that port and direction. A packet of an
//!    established flow was decided by no rule. A super-packet counts as the frames it will be cut into.
//!
//! [`LogLimit`] says which packets of a rule are logged, and how many were not. Counting and logging never change a verdict.

use crate::limit::Bucket;
use crate::maps::{Counter, Port, RuleKey, counter};
use crate::verdict::{Direction, NO_RULE, Reason, Verdict};

/// What one frame adds to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Packets: more than one for a super-packet.
    pub packets: u32,
    /// Bytes from the Ethernet header on.
    pub bytes: u32,
    /// Nanoseconds of the coarse monotonic clock.
    pub now: u64,
}

impl Frame {
    /// An event that is no frame.
    pub const fn event(now: u64) -> Self {
        Self {
            packets: 1,
            bytes: 0,
            now,
        }
    }
}

impl Counter {
    /// Counts a frame.
    #[inline(always)]
    pub fn add(&mut self, frame: Frame) {
        self.packets += u64::from(frame.packets);
        self.bytes += u64::from(frame.bytes);
        self.last = frame.now;
    }

    /// The counter of several CPUs.
    #[must_use]
    pub fn sum<'a>(counters: impl IntoIterator<Item = &'a Self>) -> Self {
        counters
            .into_iter()
            .fold(Self::default(), |sum, counter| Self {
                packets: sum.packets + counter.packets,
                bytes: sum.bytes + counter.bytes,
                last: core::cmp::max(sum.last, counter.last),
            })
    }
}

/// The counters.
pub trait Ledger {
    /// Counts under a [`Reason`] or another entry of [`counter`].
    fn add(&self, entry: u32, frame: Frame);

    /// Counts under a port's [`Port::counters`].
    fn add_port(&self, slot: u32, direction: Direction, verdict: Verdict, frame: Frame);

    /// Counts under a rule; false if there is no room for one more.
    fn add_rule(&self, key: &RuleKey, frame: Frame) -> bool;
}

/// What is counted of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was done.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, or [`NO_RULE`].
    pub rule: u32,
}

impl Outcome {
    /// As a number, to cross a function boundary in the kernel.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.verdict as u64 | (self.reason as u64) << 8 | (self.rule as u64) << 32
    }

    /// From [`Outcome::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            verdict: Verdict::from_u8(bits as u8),
            reason: match Reason::from_u8((bits >> 8) as u8) {
                Some(reason) => reason,
                None => Reason::BadPolicy,
            },
            rule: (bits >> 32) as u32,
        }
    }
}

/// Counts a frame of a port.
#[inline(always)]
pub fn enter<L: Ledger>(
    ledger: &L,
    port: &Port,
    direction: Direction,
    outcome: Outcome,
    frame: Frame,
) {
    ledger.add(outcome.reason as u32, frame);
    ledger.add_port(port.counters, direction, outcome.verdict, frame);
    if outcome.rule == NO_RULE {
        return;
    }
    let key = RuleKey::new(port, direction, outcome.rule);
    if !ledger.add_rule(&key, frame) {
        ledger.add(counter::RULES_UNCOUNTED, frame);
    }
}

/// The limit of one rule's log lines. A zeroed one lets a whole burst through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LogLimit {
    /// Tokens.
    pub bucket: Bucket,
    /// Packets that were not logged since the last one that was.
    pub suppressed: u64,
}

impl LogLimit {
    /// Whether one more packet is logged: how many before it were not; none if it is suppressed too.
    #[inline(always)]
    pub fn take(&mut self, now: u64, interval: u64, burst: u32) -> Option<u64> {
        if !self.bucket.take(now, interval, burst) {
            self.suppressed += 1;
            return None;
        }
        let suppressed = self.suppressed;
        self.suppressed = 0;
        Some(suppressed)
    }

    /// Packets were suppressed, and since the next could have been logged none came.
    pub fn is_over(&self, now: u64, interval: u64, burst: u32) -> bool {
        self.suppressed > 0 && { self.bucket }.take(now, interval, burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_many_were_suppressed_before_it() {
        let second = 1_000_000_000;
        let start = 1000 * second;
        let mut limit = LogLimit::default();
        let mut take = |after: u64| limit.take(start + after, second, 2);
        assert_eq!([take(0), take(0)], [Some(0), Some(0)]);
        assert_eq!([take(0), take(1), take(2)], [None; 3]);
        assert_eq!([take(second), take(second)], [Some(3), None]);
        assert_eq!([take(9 * second), take(9 * second)], [Some(1), Some(0)]);
    }

    #[test]
    fn suppression_is_over_when_a_line_would_be_written_again() {
        let second = 1_000_000_000;
        let start = 1000 * second;
        let mut limit = LogLimit::default();
        assert_eq!(limit.take(start, second, 1), Some(0));
        assert!(!limit.is_over(start + second, second, 1), "none suppressed");
        assert_eq!(limit.take(start, second, 1), None);
        assert!(!limit.is_over(start, second, 1), "it goes on");
        assert!(limit.is_over(start + second, second, 1));
        assert!(
            limit.is_over(start + second, second, 1),
            "asking changes nothing"
        );
    }

    #[test]
    fn outcomes_cross_function_boundaries() {
        for verdict in [Verdict::Accept, Verdict::Drop, Verdict::Reject] {
            for reason in Reason::ALL {
                for rule in [0, 7, NO_RULE] {
                    let outcome = Outcome {
                        verdict,
                        reason: *reason,
                        rule,
                    };
                    assert_eq!(Outcome::from_bits(outcome.to_bits()), outcome);
                }
            }
        }
    }
}
