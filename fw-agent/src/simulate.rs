//! What would happen to a packet: `fwctl simulate`.
//!
//! In: a [`Query`] (where from, where to, which packet), the node's policies, and a judge, which is the real pipeline over some tables.
//! Out: an [`Outcome`]: the verdict, why, by which rule, and the hops that the packet passed.
//!
//! 1. [`Query`] is read from options or a line of JSON, with an exact message for what is wrong.
//! 2. [`run`] finds the hops. A packet from a firewalled guest's NIC or from the host is judged there as Out, then one to a firewalled guest's
//!    NIC or to the host there as In; the first hop that does not accept ends the walk. The host's rules are those of the interface that the
//!    packet takes: the bridge that the other end is on.
//! 3. [`frame`] makes the Ethernet frame that the judge sees; nothing else of the query reaches it but the state that the flow is to have.
//! 4. [`batch`] does this for a file of queries, [`text`] prints one for people.
//!
//! What is said to be the verdict is what happens to the packet: a REJECT that is never answered (ICMP, to a broadcast address, from a group) is
//! a DROP, as in the reference. Whether an answer is due for other reasons (rate, loopback, a reset) is not looked at.
//!
//! Ports of bridges are places that packets come from and go to. A packet between them, and any other that meets no zone, is accepted.

pub mod batch;
pub mod endpoint;
pub mod frame;
pub mod pipeline;
pub mod protocol;
pub mod query;
pub mod text;

use fw_common::conntrack::CtState;
use fw_common::verdict::{Direction, Judgement, Verdict};
use serde::{Serialize, Serializer};

pub use self::endpoint::Endpoint;
use self::frame::{HOST_MAC, Link, NO_MAC, OUTSIDE_MAC};
use self::protocol::{ICMP, ICMPV6};
use self::query::{Addresses, DestType};
pub use self::query::{Query, QueryError};
use crate::policy::{GuestKind, HostPolicy, NodePolicy, Policy, PortPolicy, Rule};

/// The state that connection tracking is to find for the packet, in netfilter's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No flow is known; the packet itself may still be INVALID or UNTRACKED.
    #[default]
    New,
    /// It belongs to a known flow.
    Established,
    /// It is about a known flow.
    Related,
    /// Tracking cannot make sense of it.
    Invalid,
    /// Tracking does not look at it.
    Untracked,
}

/// Where a packet is judged.
#[derive(Clone, Copy, Debug)]
pub enum Zone<'a> {
    /// A guest's NIC.
    Guest(&'a PortPolicy),
    /// The host on one of its interfaces.
    Host {
        /// Its policies on all interfaces.
        policy: &'a HostPolicy,
        /// The interface.
        interface: &'a str,
    },
}

impl<'a> Zone<'a> {
    /// The rules of a direction; of the host those of all interfaces.
    pub fn policy(self, direction: Direction) -> &'a Policy {
        match (self, direction) {
            (Self::Guest(port), Direction::In) => &port.inbound,
            (Self::Guest(port), Direction::Out) => &port.outbound,
            (Self::Host { policy, .. }, direction) => policy.of(direction),
        }
    }

    /// Name of the guest's device, or `host`.
    pub fn name(self) -> String {
        match self {
            Self::Guest(port) => port.device(),
            Self::Host { .. } => "host".to_owned(),
        }
    }

    /// The host's interface.
    pub fn interface(self) -> Option<&'a str> {
        match self {
            Self::Guest(_) => None,
            Self::Host { interface, .. } => Some(interface),
        }
    }
}

/// What a judge finds for one packet in one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The pipeline's result.
    pub judgement: Judgement,
    /// What tracking found; none if the frame did not get so far.
    pub tracked: Option<CtState>,
    /// The rule that decided: an index into the rules of [`Zone::policy`].
    pub rule: Option<usize>,
}

/// Judges one frame in one zone.
pub type Judge<'j> = dyn FnMut(Zone<'_>, Direction, &[u8], State) -> Judged + 'j;

/// What happened to the packet.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome<'a> {
    /// The last hop's verdict; `ACCEPT` without hops.
    #[serde(serialize_with = "verdict_name")]
    pub verdict: Verdict,
    /// The last hop's reason; [`OFF`] or [`UNFILTERED`] without hops.
    pub reason: &'a str,
    /// The line that decided at the last hop; none if no line did.
    pub rule: Option<RuleLine<'a>>,
    /// The hops in order.
    pub path: Vec<Hop<'a>>,
}

/// Reason of an outcome on a node whose firewall is off.
pub const OFF: &str = "off";

/// Reason of an outcome without any hop.
pub const UNFILTERED: &str = "unfiltered";

/// One judgement on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Hop<'a> {
    /// Device of the guest's NIC, or `host`.
    pub port: String,
    /// The host's interface; none at a guest's NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<&'a str>,
    /// From the guest's or the host's point of view.
    #[serde(serialize_with = "direction_name")]
    pub direction: Direction,
    /// The verdict there.
    #[serde(serialize_with = "verdict_name")]
    pub verdict: Verdict,
    /// Why.
    pub reason: &'a str,
    /// The line that decided.
    pub rule: Option<RuleLine<'a>>,
    /// The rule that decided as text, also where it is built in.
    pub text: Option<&'a str>,
    /// What tracking found; none if the frame did not get so far.
    #[serde(skip)]
    pub tracked: Option<CtState>,
    /// The rule's place in the zone's policy.
    #[serde(skip)]
    decided: Option<usize>,
    #[serde(skip)]
    zone: Zone<'a>,
}

impl<'a> Hop<'a> {
    /// Whether the guest's MAC filter looked at the frame.
    pub fn is_guarded(&self) -> bool {
        match self.zone {
            Zone::Guest(port) => port.macfilter && self.direction == Direction::Out,
            Zone::Host { .. } => false,
        }
    }

    /// The rules that the packet met, in order; the last is the one that decided. Empty if no rule was asked.
    pub fn steps(&self) -> Vec<&'a Rule> {
        let Some(decided) = self.decided else {
            return Vec::new();
        };
        let rules = self.zone.policy(self.direction).rules.iter();
        let interface = self.zone.interface();
        let met = rules.take(decided.saturating_add(1)).filter(|rule| {
            let only = rule.matches.interface.as_deref();
            only.is_none() || only == interface
        });
        met.collect()
    }
}

/// A line of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleLine<'a> {
    /// The file.
    pub file: &'a str,
    /// Line number, from 1.
    pub line: u32,
    /// The line as written, without comment.
    pub text: &'a str,
}

/// Walks the packet through `node`. The only error left here is a guest of the other kind than the query says.
pub fn run<'a>(
    query: &'a Query,
    node: &'a NodePolicy,
    judge: &mut Judge<'_>,
) -> Result<Outcome<'a>, QueryError> {
    let mut outcome = Outcome {
        verdict: Verdict::Accept,
        reason: if node.enabled { UNFILTERED } else { OFF },
        rule: None,
        path: Vec::new(),
    };
    if !node.enabled {
        return Ok(outcome);
    }
    let sender = port(node, query.from())?;
    let receiver = port(node, query.to())?;
    let link = Link {
        source: mac(query.from(), sender),
        dest: mac(query.to(), receiver),
    };
    let hops = [
        (zone(node, query.from(), sender, query.to()), Direction::Out),
        (
            zone(node, query.to(), receiver, query.from()),
            Direction::In,
        ),
    ];
    let mut frame = Vec::new();
    for (zone, direction) in hops {
        let Some(zone) = zone else { continue };
        if frame.is_empty() {
            query.frame_into(link, &mut frame);
        }
        let mut judged = judge(zone, direction, &frame, query.state());
        if judged.judgement.verdict == Verdict::Reject && is_silent(query) {
            judged.judgement.verdict = Verdict::Drop;
        }
        let hop = hop(zone, direction, judged);
        outcome.verdict = hop.verdict;
        outcome.reason = hop.reason;
        outcome.rule = hop.rule;
        outcome.path.push(hop);
        if outcome.verdict != Verdict::Accept {
            break;
        }
    }
    Ok(outcome)
}

/// Whether a REJECT of the packet is not answered, whoever rejects it.
fn is_silent(query: &Query) -> bool {
    match query.addresses() {
        Addresses::V4(source, dest) => {
            let is_broadcast = match query.dsttype {
                Some(DestType::Broadcast) => true,
                Some(DestType::Unicast | DestType::Multicast) | None => dest.is_broadcast(),
            };
            query.protocol == ICMP || is_broadcast || source.is_multicast()
        }
        Addresses::V6(..) => query.protocol == ICMPV6,
    }
}

/// What judges a packet at one end; the host on the interface that leads to the other.
fn zone<'a>(
    node: &'a NodePolicy,
    place: &Endpoint,
    port: Option<&'a PortPolicy>,
    other: &'a Endpoint,
) -> Option<Zone<'a>> {
    match (place, &node.host) {
        (Endpoint::Host, Some(policy)) => Some(Zone::Host {
            policy,
            interface: interface(node, other),
        }),
        (Endpoint::Host, None) => None,
        _ => port.map(Zone::Guest),
    }
}

/// The interface on which the host sees a place. A guest that is not on this node is behind the uplink.
fn interface<'a>(node: &'a NodePolicy, place: &'a Endpoint) -> &'a str {
    match place {
        Endpoint::Bridge { bridge, .. } => bridge,
        Endpoint::Guest { port, .. } => match node.bridges.get(port) {
            Some(bridge) => bridge,
            None => UPLINK,
        },
        Endpoint::Outside | Endpoint::Host => UPLINK,
    }
}

/// The bridge that `outside` is behind.
const UPLINK: &str = "vmbr0";

/// The policy of the NIC at a place; none if it is no guest's or not firewalled.
fn port<'a>(node: &'a NodePolicy, place: &Endpoint) -> Result<Option<&'a PortPolicy>, QueryError> {
    let Endpoint::Guest { kind, port: id } = place else {
        return Ok(None);
    };
    let found = node.ports.binary_search_by_key(id, |port| port.port);
    let port = found
        .ok()
        .and_then(|index| node.ports.get(index))
        .map(|port| &**port);
    match port {
        Some(port) if port.kind != *kind => Err(QueryError::Kind {
            vmid: id.vmid,
            actual: match port.kind {
                GuestKind::Vm => "a virtual machine: write vm",
                GuestKind::Container => "a container: write ct",
            },
        }),
        Some(_) | None => Ok(port),
    }
}

fn mac(place: &Endpoint, port: Option<&PortPolicy>) -> [u8; 6] {
    match (place, port) {
        (Endpoint::Guest { .. }, Some(port)) => port.mac.unwrap_or(NO_MAC),
        (Endpoint::Guest { .. }, None) => NO_MAC,
        (Endpoint::Host, _) => HOST_MAC,
        (Endpoint::Outside | Endpoint::Bridge { .. }, _) => OUTSIDE_MAC,
    }
}

fn hop(zone: Zone<'_>, direction: Direction, judged: Judged) -> Hop<'_> {
    let rules = &zone.policy(direction).rules;
    let origin = judged
        .rule
        .and_then(|index| rules.get(index))
        .map(|rule| &rule.origin);
    let rule = origin.and_then(|origin| {
        origin.line.as_ref().map(|line| RuleLine {
            file: &line.file,
            line: line.line,
            text: &origin.text,
        })
    });
    Hop {
        port: zone.name(),
        interface: zone.interface(),
        direction,
        verdict: judged.judgement.verdict,
        reason: judged.judgement.reason.name(),
        rule,
        text: origin.map(|origin| &*origin.text),
        tracked: judged.tracked,
        decided: judged.rule,
        zone,
    }
}

fn verdict_name<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.name())
}

fn direction_name<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(direction.name())
}

#[cfg(test)]
mod tests;
