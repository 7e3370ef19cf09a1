//! One packet at one port: the whole way from bytes to verdict.
//!
//! 1. Parse. 2. Limit connection requests. 3. Guard: checks that hold for *every* packet, whatever flow it belongs to. 4. Fragments get the
//!    ports of their first part. 5. An address that a guest claims by neighbour discovery must be its own.
//! 6. Find the flow and track it; an established one ends here. 7. Classify against the port's policy. 8. Accepted: commit the flow.
//!
//! The addresses a guest uses are checked by rules, which its policy for new flows begins with. For flows that run these rules stand alone
//! in the port's *guard*. A flow remembers the guard that accepted its local address, so that its packets pay one comparison;
//! when the guard changes, the next packet the guest sends is classified against it.
//!
//! Frames that are not IP have no flows. What a guest sends of them is classified by the rules for them, if its policy has any.
//!
//! Invariant: whatever goes wrong on the way is a drop with a [`Reason`]; no early return accepts but for established flows and for frames
//! that are not IP. Counting, logging and acting on the judgement are the caller's.

use crate::classify::Values;
use crate::conntrack::{Commit, CtState, Tracked, tcp, track};
use crate::flow::{Flow, FlowKey};
use crate::guard::{check_vlan, guard};
use crate::maps::{Port, policy, port_flag, traits};
use crate::syn_limit;
use crate::tables::Tables;
use crate::verdict::{Direction, Judgement, Reason, Verdict};
use crate::wire::tcp_flag::{ACK, FIN, RST, SYN};
use crate::wire::{Address, ETHERTYPE_ARP, Fragment, Headers, IpVersion, Packet, protocol};

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
    if syn_limit::is_request(headers)
        && syn_limit::enters_here(packet, tables, port, direction)
        && tables.exceeds_syn_limit(headers)
    {
        return Err(Reason::SynLimit);
    }
    check_vlan(tables, port, headers)?;
    if direction == Direction::Out {
        guard(port, headers)?;
    }
    let mut start = port.policy[direction as usize & 1];
    let mut tracked = Tracked::NOT_TRACKED;
    let mut values = [0; policy::FIELDS];
    // Why the packet passes if the guard lets it; none: the policy decides.
    let mut known = None;
    if headers.version == IpVersion::None {
        if direction == Direction::In || port.flags & port_flag::LAYER2 == 0 {
            return Ok(Judgement::accept(Reason::NotIp));
        }
    } else {
        if headers.fragment != Fragment::Whole {
            tables.complete_fragment(port, direction, headers)?;
        }
        if direction == Direction::Out && port.guard != 0 && claims_address(headers) {
            let target = packet.load(u32::from(headers.l4) + CLAIMED);
            let target = Address(target.ok_or(Reason::Malformed)?);
            tables.fill_claim(port, &target, &mut values);
            let word = tables.classify(port.guard, &values);
            let judgement = word.ok_or(Reason::BadPolicy)?.judgement();
            if judgement.verdict != Verdict::Accept {
                return Ok(judgement);
            }
        }
        tracked = tables.track(port, direction, headers);
        if tracked.state == CtState::Established {
            if !tracked.unchecked {
                return Ok(Judgement::accept(Reason::Established));
            }
            known = Some(Reason::Established);
            start = port.guard;
        }
    }
    if start == 0 {
        return Err(Reason::NoPolicy);
    }
    tables.fill_values(port, headers, tracked.state, &mut values);
    let judgement = tables
        .classify(start, &values)
        .ok_or(Reason::BadPolicy)?
        .judgement();
    if judgement.verdict != Verdict::Accept {
        return Ok(judgement);
    }
    if let Some(reason) = known {
        tables.note_checked(port, headers);
        return Ok(Judgement::accept(reason));
    }
    tables.commit(port, direction, headers, tracked, judgement.rule);
    Ok(judgement)
}

/// Whether a packet tells others that an address is the sender's: a neighbour advertisement, or a solicitation from `::`, which asks whether
/// the address is free (RFC 4862).
#[inline(always)]
fn claims_address(headers: &Headers) -> bool {
    const SOLICITATION: u16 = 135;
    const ADVERTISEMENT: u16 = 136;
    headers.version == IpVersion::V6
        && headers.protocol == protocol::ICMPV6
        && (headers.sport == ADVERTISEMENT
            || headers.sport == SOLICITATION && headers.source == Address::default())
}

/// Offset of the claimed address (the target) in either message (RFC 4861).
const CLAIMED: u32 = 8;

/// Fills in what stands for a claimed address, so that the guard judges it as it judges sources.
#[inline(always)]
pub fn fill_claim<T: Tables>(tables: T, port: &Port, target: &Address, values: &mut Values) {
    values[policy::SOURCE] = tables.class(port.space, IpVersion::V6, target);
    values[policy::DEST] = 0;
    values[policy::SPORT] = policy::NO_PORT;
    values[policy::DPORT] = policy::NO_PORT;
    values[policy::PROTOCOL] = policy::PROTOCOL_V6 + u32::from(protocol::ICMPV6);
    values[policy::TRAITS] = 0;
}

/// Notes that the port's guard has accepted the local address of a flow.
#[inline(always)]
pub fn note_checked<T: Tables>(tables: T, port: &Port, headers: &Headers) {
    let key = FlowKey::of(headers, port, Direction::Out);
    for flow in [tables.flow(&key), tables.half_open(&key)]
        .into_iter()
        .flatten()
    {
        flow.note_guard_epoch(port.guard_epoch);
    }
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
    let mut tracked = track(
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
    tracked.unchecked = direction == Direction::Out
        && port.guard != 0
        && tracked.state == CtState::Established
        && found.is_none_or(|flow| flow.guard_epoch() != port.guard_epoch);
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
        guard_epoch: match direction {
            Direction::In => 0,
            Direction::Out => port.guard_epoch,
        },
        ..Flow::default()
    };
    tables.insert_half_open(&key, &flow);
}

/// Fills in the packet's value in every field of a policy.
#[inline(always)]
pub fn fill_values<T: Tables>(
    tables: T,
    port: &Port,
    headers: &Headers,
    state: CtState,
    values: &mut Values,
) {
    let (sport, dport) = match (headers.version, headers.has_ports) {
        (IpVersion::None, _) => (policy::NO_PORT, u32::from(headers.ethertype)),
        (_, 0) => (policy::NO_PORT, policy::NO_PORT),
        _ => (u32::from(headers.sport), u32::from(headers.dport)),
    };
    let (protocol, addresses) = match (headers.version, headers.ethertype) {
        (IpVersion::V4, _) => (u32::from(headers.protocol), IpVersion::V4),
        (IpVersion::V6, _) => (
            policy::PROTOCOL_V6 + u32::from(headers.protocol),
            IpVersion::V6,
        ),
        (IpVersion::None, ETHERTYPE_ARP) => (policy::NOT_IP, IpVersion::V4),
        (IpVersion::None, _) => (policy::NOT_IP, IpVersion::None),
    };
    values[policy::SOURCE] = tables.class(port.space, addresses, &headers.source);
    values[policy::DEST] = tables.class(port.space, addresses, &headers.dest);
    values[policy::SPORT] = sport;
    values[policy::DPORT] = dport;
    values[policy::PROTOCOL] = protocol;
    values[policy::TRAITS] = u32::from(packet_traits(headers, state));
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
