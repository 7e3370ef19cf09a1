//! Whom another policy would cut off: the connections of this node, judged by a configuration that is not in force yet.
//!
//! In: what runs now ([`found`]), and two configurations, compiled. Out: the connections that the later one treats worse, with rule and reason.
//!
//! Each connection is judged twice by the pipeline, as the next packet of a flow that runs, both ways, and as the packet that would open it again. What
//! the configuration of now does not let through either is no reason to stop. Of the host's connections each is told; of guests' flows how many.
//!
//! Known difference: a connection is judged on the interface that has its local address.

pub mod found;
mod owners;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use fw_common::verdict::{Direction, Verdict};
use serde::Serialize;

use crate::compile::Compiled;
use crate::config::registry::{TCP, UDP};
use crate::datapath::flows::Entry;
use crate::migrate::address;
use crate::policy::{PortId, PortPolicy};
use crate::simulate::pipeline::Pipeline;
use crate::simulate::query::{Fields, Leaf};
use crate::simulate::{Endpoint, Query, run as walk};

/// A connection of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Session {
    /// What it is for, as far as that is known.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The host's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The other end began it.
    pub inbound: bool,
    /// The host's interface; none if none has the address.
    pub interface: Option<String>,
    /// It carries the shell that asks.
    pub is_own: bool,
}

/// A connection that would be treated worse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The connection.
    #[serde(flatten)]
    pub session: Session,
    /// Its next packet would not pass; else it goes on, but could not be opened again.
    pub at_once: bool,
    /// What would happen to the packet.
    pub verdict: &'static str,
    /// Why.
    pub reason: String,
    /// By which line, or built-in rule.
    pub rule: Option<String>,
}

/// Flows of guests that would be treated worse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestCuts {
    /// Whose next packets would not pass.
    pub at_once: usize,
    /// That go on, but could not be opened again.
    pub not_again: usize,
    /// By guest.
    pub guests: BTreeMap<u32, usize>,
}

/// A configuration that connections are judged by.
pub struct Court<'c> {
    compiled: &'c Compiled,
    pipeline: Pipeline,
    /// Guests' NICs judge flows that run again after a change of the rules.
    reevaluates: bool,
}

/// What becomes of a packet that does not pass.
struct Refused {
    verdict: &'static str,
    reason: String,
    rule: Option<String>,
}

impl<'c> Court<'c> {
    /// `reevaluates`: guests' flows that run are judged again after a change.
    pub fn new(compiled: &'c Compiled, reevaluates: bool) -> Self {
        Self {
            compiled,
            pipeline: Pipeline::new(compiled),
            reevaluates,
        }
    }

    /// What keeps the next packet of a connection from passing, and what keeps it from being opened again.
    fn judge(&mut self, way: &Way<'_>) -> [Option<Refused>; 2] {
        let again = self.packet(way, !way.inbound, "NEW");
        let here = self.packet(way, false, "ESTABLISHED");
        let runs = here.or_else(|| self.packet(way, true, "ESTABLISHED"));
        // Only flows of guests are judged again after a change.
        let is_guest = match way.here {
            Endpoint::Guest { .. } => true,
            Endpoint::Host | Endpoint::Outside | Endpoint::Bridge { .. } => false,
        };
        match (runs, is_guest && self.reevaluates) {
            (None, true) => [again, None],
            (runs, _) => [runs, again],
        }
    }

    fn packet(&mut self, way: &Way<'_>, outbound: bool, state: &'static str) -> Option<Refused> {
        let query = way.query(outbound, state)?;
        let pipeline = &mut self.pipeline;
        let judged = walk(
            &query,
            &self.compiled.policy,
            &mut |zone, direction, frame, state| pipeline.judge(zone, direction, frame, state),
        );
        let outcome = judged.ok()?;
        let last = outcome.path.last();
        let rule = outcome
            .rule
            .map(|rule| format!("{}:{}: {}", rule.file, rule.line, rule.text));
        let built_in = || last.and_then(|hop| hop.text).map(str::to_owned);
        (outcome.verdict != Verdict::Accept).then(|| Refused {
            verdict: outcome.verdict.name(),
            reason: outcome.reason.to_owned(),
            rule: rule.or_else(built_in),
        })
    }
}

/// A connection as a packet's way through the node.
struct Way<'s> {
    /// The end that is judged …
    here: Endpoint,
    /// … and the other one.
    there: Endpoint,
    protocol: &'static str,
    local: SocketAddr,
    remote: SocketAddr,
    inbound: bool,
    /// Hardware address of the end that is judged, if that is looked at.
    mac: Option<&'s [u8; 6]>,
}

impl Way<'_> {
    /// None if the packet cannot be made up, as one between addresses of two families.
    fn query(&self, outbound: bool, state: &'static str) -> Option<Query> {
        let (from, to) = match outbound {
            true => ((&self.here, self.local), (&self.there, self.remote)),
            false => ((&self.there, self.remote), (&self.here, self.local)),
        };
        fn text<'a>(value: impl ToString) -> Option<Leaf<'a>> {
            Some(Leaf::Text(value.to_string().into()))
        }
        let mac = self.mac.filter(|_| outbound);
        let mac = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let flags = if state == "NEW" { "SYN" } else { "ACK" };
        let fields = Fields {
            from: text(from.0),
            to: text(to.0),
            proto: text(self.protocol),
            source: text(from.1.ip()),
            dest: text(to.1.ip()),
            sport: text(from.1.port()),
            dport: text(to.1.port()),
            tcp_flags: (self.protocol == "tcp").then(|| text(flags)).flatten(),
            mac_source: mac.and_then(text),
            state: text(state),
            ..Fields::default()
        };
        Query::try_from(fields).ok()
    }
}

/// The host's connections that `after` treats worse than `before`.
pub fn cuts(sessions: &[Session], before: &mut Court<'_>, after: &mut Court<'_>) -> Vec<Cut> {
    let mut found = Vec::new();
    for session in sessions {
        let there = session
            .interface
            .as_ref()
            .and_then(|name| format!("{name}/there").parse().ok());
        let way = Way {
            here: Endpoint::Host,
            there: there.unwrap_or(Endpoint::Outside),
            protocol: session.protocol,
            local: session.local,
            remote: session.remote,
            inbound: session.inbound,
            mac: None,
        };
        let Some((at_once, refused)) = worse(&way, before, after) else {
            continue;
        };
        found.push(Cut {
            session: session.clone(),
            at_once,
            verdict: refused.verdict,
            reason: refused.reason,
            rule: refused.rule,
        });
    }
    // The worst first.
    found.sort_by_key(|cut| (!cut.at_once, !cut.session.is_own));
    found
}

/// What `after` refuses of a connection that `before` does not, and whether it is the next packet.
fn worse(way: &Way<'_>, before: &mut Court<'_>, after: &mut Court<'_>) -> Option<(bool, Refused)> {
    let [runs, again] = after.judge(way);
    if runs.is_none() && again.is_none() {
        return None;
    }
    let [ran, opened] = before.judge(way);
    let runs = runs
        .filter(|_| ran.is_none())
        .map(|refused| (true, refused));
    // What the policy of now cuts anyway is lost already.
    let again = again.filter(|_| opened.is_none() && ran.is_none());
    runs.or_else(|| again.map(|refused| (false, refused)))
}

/// How many of the guests' flows `after` treats worse than `before`.
pub fn guest_cuts(flows: &[Entry], before: &mut Court<'_>, after: &mut Court<'_>) -> GuestCuts {
    let mut cuts = GuestCuts::default();
    let old = by_port(before.compiled);
    let new = by_port(after.compiled);
    let mut differ: BTreeMap<PortId, bool> = BTreeMap::new();
    for entry in flows {
        let key = &entry.key;
        let id = PortId {
            vmid: key.vmid,
            net: key.net,
        };
        let Some(port) = new.get(&id).copied() else {
            continue;
        };
        let differs = *differ
            .entry(id)
            .or_insert_with(|| old.get(&id).copied() != Some(port));
        let protocol = match key.protocol {
            TCP => "tcp",
            UDP => "udp",
            _ => continue,
        };
        if !differs {
            continue;
        }
        let end = |end, port| SocketAddr::new(address(key.version, end), port);
        let way = Way {
            here: Endpoint::Guest {
                kind: port.kind,
                port: id,
            },
            there: Endpoint::Outside,
            protocol,
            local: end(&key.local, key.local_port),
            remote: end(&key.remote, key.remote_port),
            inbound: Direction::from_u8(entry.flow.origin) == Direction::In,
            mac: port.mac.as_ref(),
        };
        if let Some((at_once, _)) = worse(&way, before, after) {
            match at_once {
                true => cuts.at_once += 1,
                false => cuts.not_again += 1,
            }
            *cuts.guests.entry(id.vmid).or_default() += 1;
        }
    }
    cuts
}

fn by_port(compiled: &Compiled) -> BTreeMap<PortId, &PortPolicy> {
    let ports = compiled.policy.ports.iter();
    ports.map(|port| (port.port, &**port)).collect()
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = match self.inbound {
            true => (self.remote, self.local),
            false => (self.local, self.remote),
        };
        write!(f, "{}: {} {from} -> {to}", self.name, self.protocol)?;
        if let Some(interface) = &self.interface {
            write!(f, " at {interface}")?;
        }
        match self.is_own {
            true => f.write_str(" (this session)"),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.at_once {
            true => "cut at once",
            false => "goes on, but could not be opened again",
        };
        write!(
            f,
            "{}: {what}: {} ({})",
            self.session, self.verdict, self.reason
        )?;
        match &self.rule {
            Some(rule) => write!(f, ", by {rule}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
