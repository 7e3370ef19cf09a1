//! One simulation for people.
//!
//! In: the query and its outcome. Out: the reference's `Test packet:` block and `ACTION:` line, and below them what the reference does not tell:
//! the reason, the line that decided, and the hops.

use std::fmt::{self, Display};

use fw_common::verdict::Reason;

use super::query::{Addresses, Query};
use super::{Hop, Outcome, RuleLine};
use crate::config::registry;

/// Prints the packet and what happened to it; `verbose`: each hop with the rules that the packet met there.
pub fn print(query: &Query, outcome: &Outcome<'_>, verbose: bool) -> String {
    let mut text = String::from("Test packet:\n");
    let mut line = |key: &str, value: String| {
        text.push_str(&format!("  {key:<8}: {value}\n"));
    };
    let (source, dest) = match query.addresses() {
        Addresses::V4(source, dest) => (source.to_string(), dest.to_string()),
        Addresses::V6(source, dest) => (source.to_string(), dest.to_string()),
    };
    let name = registry::protocol_name(query.protocol);
    line("from", query.from.to_string());
    line("to", query.to.to_string());
    line(
        "proto",
        name.map_or_else(|| query.protocol.to_string(), str::to_owned),
    );
    line("source", source);
    line("dest", dest);
    let numbers = [
        ("dport", query.dport),
        ("sport", query.sport),
        ("type", query.icmp_type.map(u16::from)),
        ("code", query.icmp_code.map(u16::from)),
        ("vlan", query.vlan),
    ];
    for (key, number) in numbers {
        if let Some(number) = number {
            line(key, number.to_string());
        }
    }
    text.push_str(&format!("ACTION: {}\n", outcome.verdict.name()));
    let mut line = |key: &str, value: &dyn Display| {
        text.push_str(&format!("  {key:<8}: {value}\n"));
    };
    line("reason", &outcome.reason);
    if let Some(rule) = &outcome.rule {
        line("rule", rule);
    }
    for hop in &outcome.path {
        line("path", hop);
        if verbose {
            steps(&mut line, hop);
        }
    }
    text
}

fn steps(line: &mut impl FnMut(&str, &dyn Display), hop: &Hop<'_>) {
    if hop.is_guarded() {
        let passes = hop.reason != Reason::MacFilter.name();
        let outcome = if passes { "passes" } else { "drops" };
        line("step", &format_args!("MAC filter {outcome}"));
    }
    if let Some(state) = hop.tracked {
        line("step", &format_args!("tracking finds {}", state.name()));
    }
    let steps = hop.steps();
    if steps.is_empty() {
        line("step", &"decided before any rule was asked");
    }
    for (number, rule) in steps.iter().enumerate() {
        let hit = if number + 1 == steps.len() {
            "yes"
        } else {
            "no"
        };
        line("step", &format_args!("{hit:<3} {rule}"));
    }
}

impl Display for RuleLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

impl Display for Hop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, verdict) = (self.direction.name(), self.verdict.name());
        f.write_str(&self.port)?;
        if let Some(interface) = self.interface {
            write!(f, " ({interface})")?;
        }
        write!(f, " {direction} {verdict} ({})", self.reason)?;
        match (&self.rule, self.text) {
            (Some(rule), _) => write!(f, " {}:{}", rule.file, rule.line),
            (None, Some(text)) => write!(f, " {text}"),
            (None, None) => Ok(()),
        }
    }
}
