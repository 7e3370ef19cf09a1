//! Flows of an older epoch, judged again.
//!
//! In: a packet of an established flow that was accepted under other rules than the port has now. Out: what the rules look at in the packet that
//! opened the flow; [`crate::pipeline`] classifies that as NEW by the policy of the flow's original direction.
//!
//! The opening packet is reconstructed as far as rules look at it: ends as of the original side, a question for an answer, SYN. If it is
//! accepted, the flow is of the new epoch and the packet at hand goes on. Else the verdict is that packet's.
//!
//! Invariant: a flow that is refused keeps its old epoch, so that its next packet, of either end, meets the rules again. It is not removed: a
//! segment of the end that nothing is forbidden to would begin a flow of its own in mid-stream and bring the other one back.

use crate::classify::Values;
use crate::conntrack::CtState;
use crate::flow::{Echo, echo};
use crate::maps::Port;
use crate::pipeline::fill_values;
use crate::tables::Tables;
use crate::wire::tcp_flag::SYN;
use crate::wire::{Headers, has_ports};

/// Fills in what rules look at in the packet that opened the flow of a packet. `is_reply`: it comes from the other side than the opening did.
#[inline(always)]
pub fn fill_opening<T: Tables>(
    tables: T,
    port: &Port,
    headers: &Headers,
    is_reply: bool,
    policy: u32,
    values: &mut Values,
) {
    let opening = opening(headers, is_reply);
    fill_values(tables, port, &opening, CtState::New, policy, values);
}

/// The packet that opened a flow, from another one of it.
#[inline(always)]
fn opening(headers: &Headers, is_reply: bool) -> Headers {
    let mut first = *headers;
    first.tcp_flags = SYN;
    if !is_reply {
        return first;
    }
    first.source = headers.dest;
    first.dest = headers.source;
    first.source_mac = headers.dest_mac;
    first.dest_mac = headers.source_mac;
    if has_ports(headers.protocol) {
        first.sport = headers.dport;
        first.dport = headers.sport;
    }
    if echo(headers) == Some(Echo::Reply) {
        first.sport = asked(headers.sport);
    }
    first
}

/// The type of the question that an answer's type belongs to.
const fn asked(answer: u16) -> u16 {
    match answer {
        0 => 8,
        answer => answer - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Address, IpVersion, protocol};

    fn headers(number: u8, sport: u16, dport: u16) -> Headers {
        Headers {
            source_mac: 1,
            dest_mac: 2,
            source: Address::v4(3),
            dest: Address::v4(4),
            version: match number {
                protocol::ICMPV6 => IpVersion::V6,
                _ => IpVersion::V4,
            },
            protocol: number,
            sport,
            dport,
            has_ports: 1,
            tcp_flags: 0x18,
            ..Headers::default()
        }
    }

    #[test]
    fn what_opened_the_flow_of_a_packet() {
        for (number, reply, ports) in [
            (protocol::TCP, false, (1000, 22)),
            (protocol::TCP, true, (22, 1000)),
            (protocol::UDP, true, (22, 1000)),
            (47, true, (1000, 22)),
        ] {
            let packet = headers(number, 1000, 22);
            let first = opening(&packet, reply);
            assert_eq!((first.sport, first.dport), ports, "{number} {reply}");
            assert_eq!(first.tcp_flags, SYN);
            let ends = |headers: &Headers| (headers.source_mac, headers.source);
            let others = |headers: &Headers| (headers.dest_mac, headers.dest);
            let (from, to) = match reply {
                false => (ends(&packet), others(&packet)),
                true => (others(&packet), ends(&packet)),
            };
            assert_eq!((ends(&first), others(&first)), (from, to));
        }
    }

    #[test]
    fn an_answer_is_turned_into_its_question() {
        for (number, answer, question) in [
            (protocol::ICMP, 0, 8),
            (protocol::ICMP, 14, 13),
            (protocol::ICMP, 16, 15),
            (protocol::ICMP, 18, 17),
            (protocol::ICMPV6, 129, 128),
            (protocol::ICMPV6, 140, 139),
        ] {
            assert_eq!(opening(&headers(number, answer, 0), true).sport, question);
            assert_eq!(
                opening(&headers(number, question, 0), false).sport,
                question
            );
        }
    }
}
