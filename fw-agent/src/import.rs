//! A host's iptables rules as a firewall file: `fwctl import iptables-save`.
//!
//! ```text
//! iptables-save ─save→ chains, words ─rule→ conditions, targets ─walk→ one list per built-in chain ─text→ host.fw
//!                              what is different ─report→ remarks, each with line, reason and what it opens or closes
//! ```
//!
//! In: the text of `iptables-save`, perhaps of `ip6tables-save` and `ipset save`. Out: a [`Translation`]. Nothing is read or written here.
//!
//! Invariant: what the translation accepts and the original does not is told, in a remark that [opens](report::Effect::opens). A rule that cannot be
//! translated stands as a comment where it would be. Each chain ends in a rule for all, which takes the place of its policy: `policy_in` stands behind the
//! rules that let the local network in, and a file of one node cannot set it.
//!
//! Deliberately absent: other tables (nat, mangle, raw), which decide about no packet. Rules of a family that is not given are not guessed: its packets to the
//! host are dropped.
//!
//! What the rules do with the first packet of a connection is the same, test `import::tests::random_rules_decide_the_same`; what belongs to an accepted connection is
//! accepted before any rule here, and what is invalid is dropped.

pub mod condition;
pub mod ipset;
mod managed;
pub mod report;
pub mod rule;
pub mod save;
mod table;
#[cfg(test)]
mod tests;
pub mod text;
pub mod walk;

use std::collections::BTreeMap;

use fw_common::verdict::Verdict;

use self::condition::Condition;
use self::ipset::Sets;
use self::report::{Effect, Remark, State, WHOLE, remark};
use self::table::FilterTable;
use self::text::{Entry, Saying};
use self::walk::TooLong;
use crate::policy::Family;

/// Names of sets in firewall files by the names they had, or why there is none.
pub type Names = BTreeMap<String, Result<String, String>>;

/// A file to translate.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// How it is called in remarks.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// What there is to translate.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `iptables-save`.
    pub v4: File<'a>,
    /// `ip6tables-save`.
    pub v6: Option<File<'a>>,
    /// `ipset save`.
    pub sets: Option<File<'a>>,
    /// The file is for a node of Proxmox, where sets stand in another.
    pub for_proxmox: bool,
}

/// A firewall file, and what is different in it.
#[derive(Clone, Debug)]
pub struct Translation {
    /// The file.
    pub text: String,
    /// Rules in it.
    pub rules: usize,
    /// What is different.
    pub remarks: Vec<Remark>,
}

/// Why there is no translation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is no output of iptables-save, or of another table.
    #[error("{file}: there is no table `*filter`: is this the output of iptables-save?")]
    NoFilter {
        /// The file.
        file: String,
    },
    /// Too many rules.
    #[error("{file}: chain {chain}: {source}")]
    TooLong {
        /// The file.
        file: String,
        /// The built-in chain.
        chain: &'static str,
        /// What is too long.
        #[source]
        source: TooLong,
    },
}

/// A built-in chain, and the direction that its rules have in a firewall file.
const CHAINS: [(&str, &str); 3] = [("INPUT", "IN"), ("OUTPUT", "OUT"), ("FORWARD", "FORWARD")];

/// Translates.
///
/// # Errors
/// A file has no filter table, or would become too long.
pub fn translate(input: &Input<'_>) -> Result<Translation, ImportError> {
    let mut remarks = Vec::new();
    let sets = match &input.sets {
        Some(file) => {
            let sets = Sets::parse(file.text);
            for (line, text, why) in &sets.faults {
                remarks.push(remark(
                    file.name,
                    (Some(*line), Some(text)),
                    State::Differs,
                    why,
                    Effect::UNKNOWN,
                ));
            }
            sets
        }
        None => Sets::default(),
    };
    let v4 = FilterTable::read(input.v4, Family::V4, &sets.names, &mut remarks)?;
    let v6 = input
        .v6
        .map(|file| FilterTable::read(file, Family::V6, &sets.names, &mut remarks))
        .transpose()?;
    let mut lists = Vec::new();
    for (chain, direction) in CHAINS {
        let first = v4.list(chain, direction, &mut remarks)?;
        let second = match &v6 {
            Some(v6) => v6.list(chain, direction, &mut remarks)?,
            None => missing_family(chain, direction, &v4),
        };
        lists.push((chain, text::merge(first, second)));
    }
    if v6.is_none() {
        let why = "no rules of ip6tables are given (--ipv6), so IPv6 packets to the host are dropped, but for replies and neighbour discovery";
        remarks.push(remark(
            input.v4.name,
            WHOLE,
            State::Differs,
            why,
            Effect::CLOSES,
        ));
    }
    Ok(written(input, &sets, &lists, v6.is_some(), remarks))
}

/// The rules of IPv6 if they are not given.
fn missing_family(chain: &str, direction: &str, v4: &FilterTable<'_>) -> Vec<Entry> {
    let verdict = match direction {
        "IN" => Verdict::Drop,
        "OUT" => v4.policy(chain),
        _ => return Vec::new(),
    };
    let saying = Saying {
        direction,
        verdict,
        log: None,
        comment: None,
    };
    vec![text::rule(&Condition::default(), Family::V6, saying)]
}

/// The whole file.
fn written(
    input: &Input<'_>,
    sets: &Sets,
    lists: &[(&str, Vec<Entry>)],
    has_v6: bool,
    mut remarks: Vec<Remark>,
) -> Translation {
    let files = [Some(input.v4), input.v6, input.sets];
    let files: Vec<_> = files.iter().flatten().map(|file| file.name).collect();
    let mut text = format!(
        "# Translated from {} by `fwctl import iptables-save`. Read its report, then write `enable: 1`.\n[OPTIONS]\nenable: 0\n",
        files.join(", ")
    );
    // Checks that iptables does not make by itself.
    text.push_str("nosmurfs: 0\n");
    if has_v6 {
        text.push_str("ndp: 0\n");
    }
    let used = |name: &String| {
        lists.iter().flat_map(|(_, list)| list).any(|entry| {
            let is = |word: &str| word.strip_prefix('+') == Some(name);
            entry.rules > 0 && entry.lines.iter().any(|line| line.split(' ').any(is))
        })
    };
    let mut has_sets = false;
    for (name, entries) in sets.entries.iter().filter(|(name, _)| used(name)) {
        has_sets = true;
        let mark = if input.for_proxmox { "# " } else { "" };
        text.push_str(&format!("\n{mark}[IPSET {name}]\n"));
        for entry in entries {
            text.push_str(&format!("{mark}{entry}\n"));
        }
    }
    if has_sets && input.for_proxmox {
        let why = "sets stand in cluster.fw on a Proxmox node: put the sections that are comments here into that file, or rules that name them are not enforced";
        remarks.push(remark(
            input.v4.name,
            WHOLE,
            State::Differs,
            why,
            Effect::UNKNOWN,
        ));
    }
    text.push_str("\n[RULES]\n");
    let mut rules = 0;
    for (chain, entries) in lists.iter().filter(|(_, entries)| !entries.is_empty()) {
        text.push_str(&format!("# {chain}\n"));
        for entry in entries {
            rules += entry.rules;
            for line in &entry.lines {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    remarks.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Translation {
        text,
        rules,
        remarks,
    }
}
