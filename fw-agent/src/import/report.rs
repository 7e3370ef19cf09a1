//! What a translation does not say as the original did.

use std::collections::BTreeSet;
use std::fmt;

use fw_common::verdict::Verdict;
use serde::Serialize;

use super::condition::Condition;
use super::walk::{Deed, Outcome, Step};
use crate::config::registry::TCP;

/// Port of SSH.
const SSH: u16 = 22;

/// Something to know about a translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The file.
    pub file: String,
    /// Number of the line, from 1; none: the whole file.
    pub line: Option<u32>,
    /// The line, if it is about one.
    pub text: Option<String>,
    /// How far it is translated.
    pub state: State,
    /// The reason, or what is different.
    pub why: String,
    /// What follows from that.
    pub effect: Effect,
}

/// How far a line is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is left out; it stands in the output as a comment.
    LeftOut,
    /// It is translated to something else.
    Differs,
}

/// What follows for packets, compared with the original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// Packets are accepted that were not.
    pub opens: bool,
    /// Packets are dropped or rejected that were accepted.
    pub closes: bool,
    /// Connections to SSH may be among those.
    pub ssh: bool,
}

/// Why a rule is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Of conditions without a counterpart.
    Missing(Vec<String>),
    /// Of a target without one.
    Target(String),
    /// It jumps to a chain that another program writes.
    Managed(String, &'static str),
    /// Under the conditions of a jump, two sets must hold together.
    TwoSets,
    /// Chains call each other without end.
    Deep,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => f.write_str(&what.join("; ")),
            Self::Target(name) => write!(f, "the target `{name}` has no counterpart"),
            Self::Managed(chain, whose) => write!(f, "the chain {chain} is {whose}"),
            Self::TwoSets => f.write_str("a set and other addresses cannot be combined"),
            Self::Deep => f.write_str("the chains call each other without end"),
        }
    }
}

impl Effect {
    /// Packets are accepted that were not.
    pub const OPENS: Self = Self {
        opens: true,
        closes: false,
        ssh: false,
    };
    /// Packets are dropped that were accepted.
    pub const CLOSES: Self = Self {
        opens: false,
        closes: true,
        ssh: false,
    };

    /// Both together.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            opens: self.opens || other.opens,
            closes: self.closes || other.closes,
            ssh: self.ssh || other.ssh,
        }
    }

    /// What follows if the step at `at` is left out, which could have had these outcomes. `inbound`: the list is for packets to the host.
    pub fn of(steps: &[Step], at: usize, outcomes: &BTreeSet<Outcome>, inbound: bool) -> Self {
        let mut effect = Self::default();
        let Some((step, rest)) = steps.get(at..).and_then(<[Step]>::split_first) else {
            return effect;
        };
        let (mut passes, mut ends) = (false, None::<&Condition>);
        for later in rest {
            let Deed::Decide(verdict) = later.deed else {
                continue;
            };
            if !later.condition.meets(&step.condition) {
                continue;
            }
            match verdict {
                Verdict::Accept => passes = true,
                Verdict::Drop | Verdict::Reject => ends = ends.or(Some(&later.condition)),
            }
            if later.condition.covers(&step.condition) {
                break;
            }
        }
        let could = |outcome| outcomes.contains(&outcome) || outcomes.contains(&Outcome::Returns);
        effect.opens = passes && could(Outcome::Ends);
        effect.closes = ends.is_some() && could(Outcome::Passes);
        let ssh = Condition {
            protocol: Some(TCP),
            dport: Some(vec![(SSH, SSH)]),
            ..Condition::default()
        };
        effect.ssh = inbound && effect.closes && step.condition.meets(&ssh);
        effect
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.opens, "OPENS: accepts packets that were not"),
            (self.closes, "CLOSES: drops packets that were accepted"),
            (self.ssh, "SSH may be among them: you may be locked out"),
        ];
        let said: Vec<_> = parts
            .iter()
            .filter_map(|(holds, text)| holds.then_some(*text))
            .collect();
        match said.is_empty() {
            true => f.write_str("accepts and drops the same"),
            false => f.write_str(&said.join("; ")),
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: ", self.file)?,
            None => write!(f, "{}: ", self.file)?,
        }
        let state = match self.state {
            State::LeftOut => "left out",
            State::Differs => "differs",
        };
        write!(f, "{state}: {}; {}", self.why, self.effect)?;
        if let Some(text) = &self.text {
            write!(f, "\n    {text}")?;
        }
        Ok(())
    }
}
