//! One packet at one port: the whole way from bytes to verdict.
//!
//! 1. Parse. 2. Guard: checks that hold for *every* packet, whatever flow it belongs to. 3. Fragments get the ports of their first part.
//! 4. Find the flow and track it; an established one ends here. 5. Classify against the port's policy. 6. Accepted: commit the flow.
//!
//! Invariant: whatever goes wrong on the way is a drop with a [`Reason`]; no early return accepts but for established flows and for frames
//! that are not IP. Counting, logging and acting on the judgement are the caller's.

use crate::classify::Values;
use crate::conntrack::{Commit, CtState, Tracked, tcp, track};
use crate::flow::{Flow, FlowKey};
use crate::maps::{FragmentKey, FragmentValue, Port, policy, port_flag, traits};
use crate::tables::Tables;
use crate::verdict::{Direction, Judgement, Reason, Verdict};
use crate::wire::tcp_flag::{ACK, FIN, RST, SYN};
use crate::wire::{self, ETHERTYPE_ARP, Fragment, Headers, IpVersion, Packet, protocol};

/// Judges one packet. `headers` must be [`Headers::default`]; afterwards it holds what was parsed.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(
    packet: &P,
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &mut Headers,
) -> Judgement {
    match try_judge(packet, tables, port, direction, headers) {
        Ok(judgement) => judgement,
        Err(reason) => Judgement::drop(reason),
    }
}

#[inline(always)]
fn try_judge<P: Packet, T: Tables>(
    packet: &P,
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &mut Headers,
) -> Result<Judgement, Reason> {
    packet.parse(headers)?;
    if direction == Direction::Out {
        guard(port, headers)?;
    }
    if headers.version == IpVersion::None {
        return Ok(Judgement::accept(Reason::NotIp));
    }
    if headers.fragment != Fragment::Whole {
        tables.complete_fragment(port, direction, headers)?;
    }

    let tracked = tables.track(port, direction, headers);
    if tracked.state == CtState::Established {
        return Ok(Judgement::accept(Reason::Established));
    }

    let start = port.policy[direction as usize & 1];
    if start == 0 {
        return Err(Reason::NoPolicy);
    }
    let values = values(tables, port, headers, tracked.state);
    let judgement = tables
        .classify(start, &values)
        .ok_or(Reason::BadPolicy)?
        .judgement();
    if judgement.verdict == Verdict::Accept {
        tables.commit(port, direction, headers, tracked, judgement.rule);
    }
    Ok(judgement)
}

/// Finds the packet's flow and tracks it. A flow that has become an established one is moved there.
#[inline(always)]
pub fn track_flow<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &Headers,
) -> Tracked {
    let key = FlowKey::of(headers, port, direction);
    let settled = tables.flow(&key);
    let found = match settled {
        Some(flow) => Some(flow),
        None => tables.half_open(&key),
    };
    let tracked = track(
        headers,
        direction,
        found,
        settled.is_some(),
        &tables.settings(),
        tables.now(),
    );
    if let (Commit::Establish, Some(flow)) = (tracked.commit, found) {
        tables.establish(&key, &flow.copy());
    }
    tracked
}

/// Does what `tracked` says to the flow table, now that `rule` has accepted the packet.
#[inline(always)]
pub fn commit_flow<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &Headers,
    tracked: Tracked,
    rule: u32,
) {
    let (state, over) = match tracked.commit {
        Commit::Begin(state) => (state, false),
        Commit::Restart(state) => (state, true),
        Commit::Nothing | Commit::Establish => return,
    };
    let key = FlowKey::of(headers, port, direction);
    if over {
        tables.remove_flow(&key);
    }
    let now = tables.now();
    let flow = Flow {
        seen: now,
        created: now,
        state: state as u32,
        epoch: port.epoch,
        rule,
        origin: direction as u8,
        reserved: [0; 3],
    };
    tables.insert_half_open(&key, &flow);
}

/// Checks on everything a guest sends. DHCP requests are exempt where the guest may use DHCP, as in the reference.
#[inline(always)]
fn guard(port: &Port, headers: &Headers) -> Result<(), Reason> {
    if port.flags & port_flag::MACFILTER == 0 {
        return Ok(());
    }
    let arp_lies =
        headers.ethertype == ETHERTYPE_ARP && headers.arp_mac != 0 && headers.arp_mac != port.mac;
    if headers.source_mac == port.mac && !arp_lies {
        return Ok(());
    }
    if port.flags & port_flag::DHCP != 0 && is_dhcp_request(headers) {
        return Ok(());
    }
    Err(Reason::MacFilter)
}

/// DHCPv4 and DHCPv6 from a client.
fn is_dhcp_request(headers: &Headers) -> bool {
    headers.protocol == protocol::UDP
        && headers.has_ports == 1
        && matches!(
            (headers.version, headers.sport, headers.dport),
            (IpVersion::V4, 68, 67) | (IpVersion::V6, 546, 547)
        )
}

/// Remembers first fragments and gives later ones their ports.
///
/// Neighbour discovery in fragments is dropped (RFC 6980). A later fragment of a protocol with ports whose first was not seen is dropped.
///
/// # Errors
/// [`Reason::Fragment`].
#[inline(always)]
pub fn complete_fragment<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let key = FragmentKey {
        vmid: port.vmid,
        net: port.net,
        protocol: headers.protocol,
        direction: direction as u8,
        id: headers.fragment_id,
        source: headers.source,
        dest: headers.dest,
    };
    if headers.fragment == Fragment::First {
        if headers.protocol == protocol::ICMPV6 && matches!(headers.sport, 133..=137) {
            return Err(Reason::Fragment);
        }
        tables.remember_fragment(
            &key,
            &FragmentValue {
                seen: tables.now(),
                sport: headers.sport,
                dport: headers.dport,
                echo_id: headers.echo_id,
                tcp_flags: headers.tcp_flags,
                reserved: 0,
            },
        );
        return Ok(());
    }
    let has_type = matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6);
    if !wire::has_ports(headers.protocol) && !has_type {
        return Ok(());
    }
    /// Seconds that a datagram may take to arrive (RFC 8200 section 4.5).
    const REASSEMBLY: u64 = 60 * crate::conntrack::SECOND;
    let first = tables.first_fragment(&key).ok_or(Reason::Fragment)?;
    if tables.now().saturating_sub(first.seen) > REASSEMBLY {
        return Err(Reason::Fragment);
    }
    headers.sport = first.sport;
    headers.dport = first.dport;
    headers.echo_id = first.echo_id;
    headers.tcp_flags = first.tcp_flags;
    headers.has_ports = 1;
    Ok(())
}

/// The packet's value in every field of a policy.
#[inline(always)]
fn values<T: Tables>(tables: T, port: &Port, headers: &Headers, state: CtState) -> Values {
    let (sport, dport) = match headers.has_ports {
        0 => (policy::NO_PORT, policy::NO_PORT),
        _ => (u32::from(headers.sport), u32::from(headers.dport)),
    };
    let version_base = match headers.version {
        IpVersion::V6 => policy::PROTOCOL_V6,
        IpVersion::V4 | IpVersion::None => 0,
    };
    let mut values = [0; policy::FIELDS];
    values[policy::SOURCE] = tables.class(port.space, headers.version, &headers.source);
    values[policy::DEST] = tables.class(port.space, headers.version, &headers.dest);
    values[policy::SPORT] = sport;
    values[policy::DPORT] = dport;
    values[policy::PROTOCOL] = version_base + u32::from(headers.protocol);
    values[policy::TRAITS] = u32::from(packet_traits(headers, state));
    values
}

/// The packet's bits of [`traits`].
#[inline(always)]
pub fn packet_traits(headers: &Headers, state: CtState) -> u8 {
    let mut bits = match state {
        CtState::New => traits::NEW,
        CtState::Invalid => traits::INVALID,
        CtState::Established | CtState::Untracked => 0,
    };
    if headers.to_group() {
        bits |= traits::TO_GROUP;
    }
    if headers.from_group() {
        bits |= traits::FROM_GROUP;
    }
    if headers.protocol == protocol::TCP {
        if headers.tcp_flags & (FIN | SYN | RST | ACK) != SYN {
            bits |= traits::NOT_SYN;
        }
        if tcp::is_scan(headers.tcp_flags, headers.sport) {
            bits |= traits::BAD_TCP_FLAGS;
        }
    }
    bits
}
