//! One rule of iptables, read into conditions and a target.
//!
//! In: its words, as iptables-save orders them. Out: a [`Rule`]. What has no counterpart is named in [`Rule::missing`]; the conditions are then those that were
//! understood, so that they hold for every packet that the rule is about, and perhaps for others. What is left out without changing what is accepted is named in
//! [`Rule::remarks`].

mod matches;

use super::Names;
use super::condition::Condition;
use super::save::Line;
use crate::policy::Family;

/// A rule as far as it is understood.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Number of the line, from 1.
    pub line: u32,
    /// From `-A` on, as written.
    pub text: String,
    /// Alternatives: it matches a packet that one of them holds for …
    pub alternatives: Vec<Condition>,
    /// … and none of these: each what a `!` in front of a condition takes away.
    pub except: Vec<Condition>,
    /// States of a connection, if it names any.
    pub states: Option<States>,
    /// What it does.
    pub target: Target,
    /// Its comment.
    pub comment: Option<String>,
    /// Conditions that have no counterpart.
    pub missing: Vec<String>,
    /// Differences that are told.
    pub remarks: Vec<String>,
}

/// States of a connection that a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are netfilter's")]
pub struct States {
    pub new: bool,
    pub established: bool,
    pub related: bool,
    pub invalid: bool,
    pub untracked: bool,
}

/// What a rule does with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// `ACCEPT`.
    Accept,
    /// `DROP`.
    Drop,
    /// `REJECT`.
    Reject,
    /// `RETURN`.
    Return,
    /// `LOG` or `NFLOG`, with a syslog level.
    Log(u8),
    /// Nothing that decides about the packet.
    #[default]
    Nothing,
    /// `-j` to a chain.
    Jump(String),
    /// `-g` to a chain.
    Goto(String),
    /// Something else, which may decide.
    Unknown(String),
}

/// Targets after which the next rule is looked at.
const PASSING: [&str; 15] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "DSCP",
    "HMARK",
    "LED",
    "MARK",
    "NOTRACK",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TRACE",
];

/// Targets that decide in a way that the language does not have.
const FOREIGN: [&str; 6] = ["NFQUEUE", "QUEUE", "TARPIT", "CT", "SYNPROXY", "DNAT"];

/// Level of a `LOG` that names none: warning.
const WARNING: u8 = 4;

/// Level of an `NFLOG`, which has none: info.
const INFO: u8 = 6;

impl Rule {
    /// Reads a rule of a ruleset of `family`, in which `names` are the known sets.
    pub fn parse(line: &Line, family: Family, names: &Names) -> Self {
        let mut reader = Reader {
            words: &line.words,
            at: 0,
            family,
            names,
            rule: Self {
                line: line.number,
                text: line.text.clone(),
                alternatives: vec![Condition::default()],
                ..Self::default()
            },
        };
        reader.read();
        reader.rule
    }

    /// Whether it may match the first packet of a connection.
    pub fn is_for_new(&self) -> bool {
        self.states.is_none_or(|states| states.new)
    }
}

struct Reader<'a> {
    words: &'a [String],
    at: usize,
    family: Family,
    names: &'a Names,
    rule: Rule,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn read(&mut self) {
        let mut is_negated = false;
        while let Some(word) = self.next() {
            match word {
                "!" => {
                    is_negated = true;
                    continue;
                }
                "-j" => self.target(),
                "-g" => {
                    let chain = self.next().unwrap_or_default().to_owned();
                    self.rule.target = Target::Goto(chain);
                }
                // Its options tell of it.
                "-m" => {
                    let name = self.next().unwrap_or_default();
                    if !matches::MODULES.contains(&name) {
                        self.missing(format!("the match `{name}` has no counterpart"));
                        self.skip();
                    }
                }
                option => self.matches(option, is_negated),
            }
            is_negated = false;
        }
    }

    /// Passes over the options of what is not known.
    fn skip(&mut self) {
        while let Some(word) = self.words.get(self.at)
            && !["-m", "-j", "-g"].contains(&word.as_str())
        {
            self.at += 1;
        }
    }

    fn missing(&mut self, why: String) {
        if !self.rule.missing.contains(&why) {
            self.rule.missing.push(why);
        }
    }

    fn target(&mut self) {
        let name = self.next().unwrap_or_default();
        self.rule.target = match name {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "REJECT" => Target::Reject,
            "RETURN" => Target::Return,
            "LOG" => {
                let at = self.words.iter().position(|word| word == "--log-level");
                let level = at.and_then(|at| self.words.get(at + 1)?.parse().ok());
                Target::Log(level.filter(|level| *level < 8).unwrap_or(WARNING))
            }
            "NFLOG" | "ULOG" => Target::Log(INFO),
            name if PASSING.contains(&name) => {
                let remark = format!("{name} is left out: it decides about no packet here");
                self.rule.remarks.push(remark);
                Target::Nothing
            }
            name if FOREIGN.contains(&name) => Target::Unknown(name.to_owned()),
            chain => Target::Jump(chain.to_owned()),
        };
        self.at = self.words.len();
    }
}
