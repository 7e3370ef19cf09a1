//! What is valid but hardly meant.
//!
//! In: a configuration and the policies it means. Out: warnings; nothing is changed by them. Pure, and for `fwctl check` only: the agent
//! enforces what is written.
//!
//! - [`shadow`]: rules that an earlier one makes unreachable, repeats, rules that no packet can match.
//! - [`names`]: aliases, sets and groups that nothing uses, and names that are used before the line that defines them.
//! - [`switches`]: firewalls that are off while rules exist, NICs without `firewall=1`, a self-expiring `enable`.
//! - [`options`]: options that are read but not enforced.
//! - [`lockout`]: rules that cut the node's own services off from the `management` set.
//!
//! Invariant: a warning is true for every packet; what cannot be decided is not warned about.

mod cover;
mod lockout;
mod names;
mod options;
pub(crate) mod ranges;
mod shadow;
mod switches;

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::config::line::Span;
use crate::config::rule::RuleLine;
use crate::diagnostic::{Diagnostic, Severity};
use crate::policy::{NodePolicy, SourceLine};

/// All warnings, in the order of files and lines.
pub fn run(config: &Config, policy: &NodePolicy) -> Vec<Diagnostic> {
    let spans = spans(config);
    let mut out = Vec::new();
    shadow::run(config, policy, &spans, &mut out);
    names::run(config, &mut out);
    switches::run(config, policy, &mut out);
    options::run(config, &mut out);
    lockout::run(config, policy, &spans, &mut out);
    out.sort();
    out.dedup();
    out
}

/// Where the rule lines of every file stand in their lines.
type Spans = HashMap<SourceLine, Span>;

fn spans(config: &Config) -> Spans {
    let cluster = &config.cluster;
    let groups = cluster.groups.values();
    let groups = groups.map(|group| (&cluster.file, &group.rules));
    let own = [
        (&cluster.file, &cluster.rules),
        (&config.host.file, &config.host.rules),
    ];
    let vnets = config.vnets.values().map(|vnet| (&vnet.file, &vnet.rules));
    let guests = config.guests.values();
    let guests = guests.map(|guest| (&guest.firewall.file, &guest.firewall.rules));
    let mut spans = Spans::new();
    for (file, rules) in groups.chain(own).chain(vnets).chain(guests) {
        let place = |rule: &RuleLine| {
            let file = Arc::clone(file);
            let line = rule.line;
            (SourceLine { file, line }, rule.span)
        };
        spans.extend(rules.iter().map(place));
    }
    spans
}

/// A place in a file.
#[derive(Clone, Debug, Default)]
struct Place {
    file: Arc<str>,
    line: u32,
    span: Span,
}

/// Adds a warning.
fn warn(
    out: &mut Vec<Diagnostic>,
    place: Place,
    message: String,
    effect: &str,
    hint: Option<String>,
) {
    out.push(Diagnostic {
        file: place.file,
        line: place.line,
        column: place.span.column,
        length: place.span.length,
        severity: Severity::Warning,
        message,
        effect: effect.to_owned(),
        hint,
    });
}

#[cfg(test)]
mod tests;
