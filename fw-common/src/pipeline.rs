//! One packet at one port: the whole way from bytes to verdict.
//!
//! 1. Parse. 2. Guard: checks that hold for *every* packet, whatever flow it belongs to. At interfaces of the host, what is forwarded ends here.
//! 3. Fragments get the ports of their first part.
//! 4. Find the flow and track it; an established one ends here. 5. Classify against the port's policy. 6. Accepted: commit the flow.
//!
//! Invariant: whatever goes wrong on the way is a drop with a [`Reason`]; no early return accepts but for established flows, for frames
//! that are not IP, and for what the host forwards. Counting, logging and acting on the judgement are the caller's.

use crate::classify::Values;
use crate::conntrack::{Commit, CtState, Tracked, tcp, track};
use crate::flow::{Flow, FlowKey};
use crate::guard::guard;
use crate::host::Passage;
use crate::maps::{Port, policy, traits};
use crate::tables::Tables;
use crate::verdict::{Direction, Judgement, NO_RULE, Reason, Verdict};
use crate::wire::tcp_flag::{ACK, FIN, RST, SYN};
use crate::wire::{Fragment, Headers, IpVersion, Packet, protocol};

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
    match packet.passage(direction, headers) {
        Passage::Judged => {}
        Passage::Forwarded => return Ok(Judgement::accept(Reason::Forwarded)),
        Passage::Translated => return Ok(expect_answers(tables, port, direction, headers)),
        Passage::Martian => return Err(Reason::Martian),
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

/// Lets a packet pass that the host forwards with its own address as the source, and tracks it as if a rule had accepted it: the answers are
/// addressed to the host when its hook sees them, and are forwarded only behind it.
#[inline(always)]
fn expect_answers<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &mut Headers,
) -> Judgement {
    let whole = headers.fragment == Fragment::Whole
        || tables.complete_fragment(port, direction, headers).is_ok();
    if whole {
        let tracked = tables.track(port, direction, headers);
        if tracked.state == CtState::New {
            tables.commit(port, direction, headers, tracked, NO_RULE);
        }
    }
    Judgement::accept(Reason::Forwarded)
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
        ..Flow::default()
    };
    tables.insert_half_open(&key, &flow);
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
