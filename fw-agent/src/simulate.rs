//! What would happen to a packet: `fwctl simulate`.
//!
//! In: a [`Query`] (where from, where to, which packet), the node's policies, and a judge, which is the real pipeline over some tables.
//! Out: an [`Outcome`]: the verdict, why, by which rule, and the hops that the packet passed.
//!
//! 1. [`Query`] is read from options or a line of JSON, with an exact message for what is wrong.
//! 2. [`run`] finds the hops. A packet from a firewalled guest's NIC is judged there as Out, then one to a firewalled guest's NIC there as In;
//!    the first hop that does not accept ends the walk.
//! 3. [`frame`] makes the Ethernet frame that the judge sees; nothing else of the query reaches it but the state that the flow is to have.
//! 4. [`batch`] does this for a file of queries, [`text`] prints one for people.
//!
//! The host's own rules are not judged: `host` and ports of bridges are places that packets come from and go to. A packet that meets no
//! firewalled NIC is accepted.

pub mod batch;
pub mod endpoint;
pub mod frame;
pub mod pipeline;
pub mod protocol;
pub mod query;
pub mod text;

use fw_common::verdict::{Direction, Judgement, Verdict};
use serde::{Serialize, Serializer};

pub use self::endpoint::Endpoint;
use self::frame::{HOST_MAC, Link, NO_MAC, OUTSIDE_MAC};
pub use self::query::{Query, QueryError};
use crate::policy::{GuestKind, NodePolicy, Policy, PortPolicy};

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

/// What a judge finds for one packet at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The pipeline's result.
    pub judgement: Judgement,
    /// The rule that decided: an index into the rules of the port's policy of that direction.
    pub rule: Option<usize>,
}

/// Judges one frame at one port.
pub type Judge<'j> = dyn FnMut(&PortPolicy, Direction, &[u8], State) -> Judged + 'j;

/// What happened to the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop<'a> {
    /// Device of the guest's NIC.
    pub port: String,
    /// From the guest's point of view.
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
    query: &Query,
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
    let hops = [(sender, Direction::Out), (receiver, Direction::In)];
    let mut frame = Vec::new();
    for (port, direction) in hops {
        let Some(port) = port else { continue };
        if frame.is_empty() {
            query.frame_into(link, &mut frame);
        }
        let hop = hop(
            port,
            direction,
            judge(port, direction, &frame, query.state()),
        );
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

/// The policy of the NIC at a place; none if it is no guest's or not firewalled.
fn port<'a>(node: &'a NodePolicy, place: &Endpoint) -> Result<Option<&'a PortPolicy>, QueryError> {
    let Endpoint::Guest { kind, port: id } = place else {
        return Ok(None);
    };
    let found = node.ports.binary_search_by_key(id, |port| port.port);
    let port = found.ok().and_then(|index| node.ports.get(index));
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

fn hop(port: &PortPolicy, direction: Direction, judged: Judged) -> Hop<'_> {
    let policy: &Policy = match direction {
        Direction::In => &port.inbound,
        Direction::Out => &port.outbound,
    };
    let origin = judged
        .rule
        .and_then(|index| policy.rules.get(index))
        .map(|rule| &rule.origin);
    let rule = origin.and_then(|origin| {
        origin.line.as_ref().map(|line| RuleLine {
            file: &line.file,
            line: line.line,
            text: &origin.text,
        })
    });
    Hop {
        port: port.device(),
        direction,
        verdict: judged.judgement.verdict,
        reason: judged.judgement.reason.name(),
        rule,
        text: origin.map(|origin| &*origin.text),
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
