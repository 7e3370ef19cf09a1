//! Options that are read but that nothing enforces yet, or that have no meaning here.
//!
//! One row per option: when it is set to something that would change packets, that is said. A row goes when the option is enforced.

use std::sync::Arc;

use fw_common::verdict::Verdict;

use super::{Place, warn};
use crate::config::Config;
use crate::config::options::Setting;
use crate::diagnostic::Diagnostic;

/// Name, line, whether the value asks for something, and what happens instead.
type Row = (&'static str, Option<u32>, bool, &'static str);

pub(super) fn run(config: &Config, out: &mut Vec<Diagnostic>) {
    let cluster = &config.cluster.options;
    let rows: [Row; 1] = [row(
        "policy_forward",
        &cluster.policy_forward,
        filters,
        FORWARD,
    )];
    report(&config.cluster.file, rows, out);
    let host = &config.host.options;
    let rows: [Row; 4] = [
        row(
            "log_level_forward",
            &host.log_level_forward,
            Option::is_some,
            FORWARD,
        ),
        row(
            "nf_conntrack_helpers",
            &host.nf_conntrack_helpers,
            |names| !names.is_empty(),
            "secondary connections need rules of their own",
        ),
        row(
            "nftables",
            &host.nftables,
            |on| *on,
            "Tapwall enforces the rules in either case",
        ),
        row(
            "protection_limit",
            &host.protection_limit,
            always,
            "it has no meaning, as in pve-firewall",
        ),
    ];
    report(&config.host.file, rows, out);
    for guest in config.guests.values() {
        let options = &guest.firewall.options;
        let rows: [Row; 1] = [row(
            "policy_forward",
            &options.policy_forward,
            filters,
            "a guest forwards nothing",
        )];
        report(&guest.firewall.file, rows, out);
    }
}

const FORWARD: &str = "what is forwarded is not filtered";

fn always<T>(_: &T) -> bool {
    true
}

fn filters(verdict: &Verdict) -> bool {
    *verdict != Verdict::Accept
}

fn row<T>(
    name: &'static str,
    setting: &Setting<T>,
    asks: impl Fn(&T) -> bool,
    effect: &'static str,
) -> Row {
    (name, setting.line, asks(&setting.value), effect)
}

fn report<const N: usize>(file: &Arc<str>, rows: [Row; N], out: &mut Vec<Diagnostic>) {
    for (name, line, asks, effect) in rows {
        let Some(line) = line.filter(|_| asks) else {
            continue;
        };
        let place = Place {
            file: Arc::clone(file),
            line,
            ..Place::default()
        };
        let message = format!("the option `{name}` is read, but not enforced");
        warn(out, place, message, effect, None);
    }
}
