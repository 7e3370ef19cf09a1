//! One log line of a flow that begins or ends (host option `log_nf_conntrack`).
//!
//! ```text
//!     [NEW] ipv4     2 tcp      6 120 SYN_SENT src=… dst=… sport=… dport=… [UNREPLIED] src=… dst=… sport=… dport=… mark=…
//! [DESTROY] ipv4     2 tcp      6 src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… [ASSURED] mark=…
//! ```
//!
//! In: a record and the settings, for the timeout. Out: the line with its newline, without the columns that other lines have: the form is
//! conntrack-tools', as in the reference. The first addresses are those of the flow's first packet, the second those of its answers;
//! `mark` is the guest's number. What the host itself takes part in has none.
//!
//! Invariant: any record gives exactly one line.

use std::fmt::{self, Display};
use std::io::Write;
use std::net::IpAddr;

use fw_common::conntrack::{ANSWERED, State, timeout};
use fw_common::event::{FlowChange, FlowEvent};
use fw_common::maps::Settings;
use fw_common::verdict::Direction;
use fw_common::wire::protocol;

use super::json::address_of;

/// Types of the question and the answer of an exchange of ICMP and ICMPv6.
pub(super) const fn icmp_types(key: &fw_common::flow::FlowKey) -> (u8, u8) {
    match ((key.remote_port >> 8) as u8, key.protocol) {
        (0, protocol::ICMPV6) => (128, 129),
        (0, _) => (8, 0),
        (question, _) => (question, question.saturating_add(1)),
    }
}

/// One direction of a flow.
struct Tuple {
    source: IpAddr,
    dest: IpAddr,
    parts: Parts,
}

/// What follows the addresses.
#[derive(Clone, Copy)]
enum Parts {
    Ports(u16, u16),
    /// Type and identifier.
    Icmp(u8, u16),
    Nothing,
}

impl Tuple {
    /// The directions of the first packet and of its answers.
    fn both(event: &FlowEvent) -> [Self; 2] {
        let key = &event.key;
        let version = key.version;
        let [local, remote] = [key.local, key.remote].map(|end| address_of(version, &end));
        let (near, far) = (key.local_port, key.remote_port);
        let (question, answer) = icmp_types(key);
        let origin = Direction::from_u8(event.origin);
        let parts = |there: bool| match key.protocol {
            protocol::ICMP | protocol::ICMPV6 if there => Parts::Icmp(question, near),
            protocol::ICMP | protocol::ICMPV6 => Parts::Icmp(answer, near),
            protocol::TCP | protocol::UDP | SCTP | DCCP | UDPLITE => {
                match (origin == Direction::Out) == there {
                    true => Parts::Ports(near, far),
                    false => Parts::Ports(far, near),
                }
            }
            _ => Parts::Nothing,
        };
        let (source, dest) = match origin {
            Direction::Out => (local, remote),
            Direction::In => (remote, local),
        };
        [
            Self {
                source,
                dest,
                parts: parts(true),
            },
            Self {
                source: dest,
                dest: source,
                parts: parts(false),
            },
        ]
    }
}

impl Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src={} dst={} ", self.source, self.dest)?;
        match self.parts {
            Parts::Ports(source, dest) => write!(f, "sport={source} dport={dest} "),
            Parts::Icmp(kind, id) => write!(f, "type={kind} code=0 id={id} "),
            Parts::Nothing => Ok(()),
        }
    }
}

const SCTP: u8 = 132;
const DCCP: u8 = 33;
const UDPLITE: u8 = 136;

/// Names of protocols as conntrack-tools has them.
const fn protocol_name(number: u8) -> &'static str {
    match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        SCTP => "sctp",
        DCCP => "dccp",
        UDPLITE => "udplite",
        47 => "gre",
        _ => "unknown",
    }
}

/// Whether netfilter would keep the flow when its table is full.
pub(super) fn is_assured(event: &FlowEvent) -> bool {
    let state = State::from_u32(event.state);
    match event.key.protocol {
        protocol::TCP => {
            let settled = event.settled != 0 || is_past_handshake(state);
            event.state & ANSWERED != 0 && settled
        }
        protocol::UDP => state == State::Stream,
        _ => false,
    }
}

/// A flow whose table was full stays among the half-open ones.
const fn is_past_handshake(state: State) -> bool {
    match state {
        State::Established
        | State::FinWait
        | State::CloseWait
        | State::LastAck
        | State::TimeWait => true,
        State::Asked
        | State::Answered
        | State::SynSent
        | State::SynRecv
        | State::Close
        | State::SynSent2
        | State::Stream => false,
    }
}

/// Appends one line, newline included, to `out`.
pub fn format_into(out: &mut Vec<u8>, event: &FlowEvent, settings: &Settings) {
    let number = event.key.protocol;
    let (family, family_number) = match event.key.version {
        6 => ("ipv6", 10),
        _ => ("ipv4", 2),
    };
    let change = FlowChange::from_u8(event.change);
    let word = match change {
        FlowChange::Begins => "[NEW]",
        FlowChange::Ends => "[DESTROY]",
    };
    let name = protocol_name(number);
    let [there, back] = Tuple::both(event);
    let mut line = format!("{word:>9} {family:<8} {family_number} {name:<8} {number} ");
    if change == FlowChange::Begins {
        line += &format!("{} ", timeout(event.state, number, settings));
        if number == protocol::TCP {
            line += State::from_u32(event.state).name();
            line.push(' ');
        }
    }
    line += &there.to_string();
    if event.state & ANSWERED == 0 {
        line += "[UNREPLIED] ";
    }
    line += &back.to_string();
    if is_assured(event) {
        line += "[ASSURED] ";
    }
    if event.key.vmid != 0 {
        line += &format!("mark={} ", event.key.vmid);
    }
    // Writing to a vector cannot fail.
    writeln!(out, "{}", line.trim_end()).ok();
}

#[cfg(test)]
pub(super) mod tests;
