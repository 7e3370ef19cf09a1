//! Firewalls that are off while someone seems to think they are on.
//!
//! The datacenter's `enable`, a guest's `enable` and a NIC's `firewall=1` must all be set before anything of a guest is filtered.

use std::sync::Arc;

use super::{Place, warn};
use crate::config::{Config, GuestConfig};
use crate::diagnostic::Diagnostic;
use crate::policy::NodePolicy;

/// Guests named in one message.
const NAMED: usize = 5;

pub(super) fn run(config: &Config, policy: &NodePolicy, out: &mut Vec<Diagnostic>) {
    datacenter(config, policy, out);
    for guest in config.guests.values() {
        off_with_rules(guest, out);
        nics(guest, out);
    }
}

fn datacenter(config: &Config, policy: &NodePolicy, out: &mut Vec<Diagnostic>) {
    let cluster = &config.cluster;
    let enable = &cluster.options.enable;
    let place = Place {
        file: Arc::clone(&cluster.file),
        line: enable.line.unwrap_or_default(),
        ..Place::default()
    };
    if enable.value > 1 {
        let at = enable.value;
        let (message, effect) = match policy.enabled {
            true => (
                format!("`enable` is a time (UNIX {at}), not a switch"),
                "the firewall turns itself off a minute after that time",
            ),
            false => (
                format!("the time in `enable` (UNIX {at}) has passed"),
                "nothing is filtered",
            ),
        };
        let hint = "write `enable: 1` to keep it on".to_owned();
        return warn(out, place, message, effect, Some(hint));
    }
    if policy.enabled {
        return;
    }
    let on: Vec<_> = config
        .guests
        .iter()
        .filter(|(_, guest)| guest.firewall.options.enable.value)
        .map(|(vmid, _)| vmid.to_string())
        .collect();
    if on.is_empty() {
        return;
    }
    let more = if on.len() > NAMED { ", …" } else { "" };
    let named = on.get(..NAMED.min(on.len())).unwrap_or_default().join(", ");
    let message =
        format!("the datacenter's firewall is off, but guests have theirs on: {named}{more}");
    let hint = "write `enable: 1` in [OPTIONS] of cluster.fw".to_owned();
    warn(out, place, message, "nothing is filtered", Some(hint));
}

/// A guest with rules and no word about `enable`.
fn off_with_rules(guest: &GuestConfig, out: &mut Vec<Diagnostic>) {
    let firewall = &guest.firewall;
    let enable = &firewall.options.enable;
    let Some(first) = firewall.rules.iter().find(|rule| rule.enabled) else {
        return;
    };
    if enable.value || enable.line.is_some() {
        return;
    }
    let place = Place {
        file: Arc::clone(&firewall.file),
        line: first.line,
        span: first.span,
    };
    let message = "the guest has rules, but its firewall is off".to_owned();
    let hint = "write `enable: 1` in [OPTIONS], or `enable: 0` if that is meant".to_owned();
    warn(
        out,
        place,
        message,
        "no rule of the guest is enforced",
        Some(hint),
    );
}

/// NICs that pass by the rules.
fn nics(guest: &GuestConfig, out: &mut Vec<Diagnostic>) {
    let firewall = &guest.firewall;
    if !firewall.options.enable.value || !firewall.rules.iter().any(|rule| rule.enabled) {
        return;
    }
    for nic in guest.guest.nics.iter().filter(|nic| !nic.firewall) {
        let place = Place {
            file: Arc::clone(&guest.guest.file),
            line: nic.line,
            ..Place::default()
        };
        let message = format!(
            "net{} has no firewall=1, but the guest has rules and its firewall is on",
            nic.net
        );
        let hint = format!("add firewall=1 to net{}", nic.net);
        warn(out, place, message, "this NIC is not filtered", Some(hint));
    }
}
