//! One packet at one port: the whole way from bytes to verdict.
//!
//! 1. Parse. At interfaces of the host, what is forwarded ends here. 2. Of what comes in, drop whose source is banned. 3. Limit connection
//!    requests. 4. Guard: checks that hold for *every* packet, whatever flow it belongs to. 5. Fragments get the ports of their first part.
//! 6. An address that a guest claims by neighbour discovery must be its own. 7. Find the flow and track it; an established one ends here, and so
//!    does an error about a known one. 8. Classify against the port's policy. 9. Accepted: commit the flow.
//!
//! The addresses a guest uses are checked by rules, which its policy for new flows begins with. For flows that run these rules stand alone
//! in the port's *guard*. A flow remembers the guard that accepted its local address, so that its packets pay one comparison;
//! when the guard changes, the next packet the guest sends is classified against it.
//!
//! A flow that runs is classified again if its source was blacklisted meanwhile, and, where that is wanted, if the rules that accepted it are
//! not the port's any more ([`crate::reevaluate`]).
//!
//! Frames that are not IP have no flows. What a guest sends of them is classified by the rules for them, if its policy has any.
//!
//! Invariant: whatever goes wrong on the way is a drop with a [`Reason`]; no early return accepts but for established flows, errors about known
//! flows, frames that are not IP, and what the host forwards. Counting, logging and acting on the judgement are the caller's.

use core::hint::black_box;

use crate::address;
use crate::classify::{Head, Values};
use crate::conntrack::{self, Commit, CtState, Tracked, is_error, may_run_on, tcp, track};
use crate::event::{FlowChange, FlowNews};
use crate::flow::{Flow, FlowKey, FlowRef};
use crate::guard::{check_vlan, guard};
use crate::host::Passage;
use crate::maps::policy::FIELDS;
use crate::maps::{Port, policy, port_flag, settings_flag, traits};
use crate::syn_limit;
use crate::tables::Tables;
use crate::verdict::{Direction, Judgement, NO_RULE, Reason, Verdict};
use crate::wire::tcp_flag::{ACK, FIN, RST, SYN};
use crate::wire::{Address, Fragment, Headers, IpVersion, Packet, protocol};

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
        Ok(judgement) | Err(judgement) => judgement,
    }
}

/// The error is a judgement too, not a reason: of two kinds of values at one place the compiler leaves bytes undefined that it believes not to
/// matter, and the verifier refuses programs that so much as copy them.
#[inline(always)]
fn try_judge<P: Packet, T: Tables>(
    packet: &P,
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &mut Headers,
) -> Result<Judgement, Judgement> {
    let mut values: Values;
    packet.parse(headers)?;
    if headers.version != IpVersion::None {
        match packet.passage(direction, headers) {
            Passage::Judged => {}
            Passage::Forwarded => return Ok(Judgement::accept(Reason::Forwarded)),
            Passage::Translated => return Ok(expect_answers(tables, port, direction, headers)),
            Passage::Martian => return Err(Reason::Martian.into()),
        }
    }
    if direction == Direction::In && tables.is_banned(headers) {
        return Err(Reason::Ban.into());
    }
    if syn_limit::is_request(headers)
        && tables.settings().syn_interval != 0
        && syn_limit::enters_here(packet, tables, port, direction)
        && tables.exceeds_syn_limit(headers)
    {
        return Err(Reason::SynLimit.into());
    }
    check_vlan(tables, port, headers)?;
    if direction == Direction::Out {
        guard(port, headers)?;
    }
    if headers.version == IpVersion::None {
        if direction == Direction::In || port.flags & port_flag::LAYER2 == 0 {
            return Ok(Judgement::accept(Reason::NotIp));
        }
        values = blank();
        let policy = port.policy[direction as usize & 1];
        tables.fill_values(port, headers, CtState::Untracked, policy, &mut values);
        return classify(tables, policy, &values);
    }
    if headers.fragment != Fragment::Whole {
        tables.complete_fragment(port, direction, headers)?;
    }
    if direction == Direction::Out && port.guard != 0 && claims_address(headers) {
        let target = packet.load(u32::from(headers.l4) + CLAIMED);
        let target = Address(target.ok_or(Reason::Malformed)?);
        values = blank();
        tables.fill_claim(port, &target, &mut values);
        let judgement = classify(tables, port.guard, &values)?;
        if judgement.verdict != Verdict::Accept {
            return Ok(judgement);
        }
    }

    let related = is_error(headers) && packet.related(tables, port, direction, headers);
    let tracked = tables.track(port, direction, headers);
    let state = match related {
        true => CtState::Related,
        false => tracked.state,
    };
    let pass = match state {
        CtState::Established => Some(Reason::Established),
        CtState::Related => Some(Reason::Related),
        CtState::New | CtState::Invalid | CtState::Untracked => None,
    };
    let is_claim_of_error = related && direction == Direction::Out && port.guard != 0;
    if tracked.unchecked || is_claim_of_error {
        values = blank();
        tables.fill_values(port, headers, state, port.guard, &mut values);
        let judgement = classify(tables, port.guard, &values)?;
        if judgement.verdict != Verdict::Accept {
            return Ok(judgement);
        }
        if tracked.unchecked {
            tables.note_checked(port, headers);
        }
    }
    let is_cut = pass.is_some() && is_cut(tables, port, direction, headers);
    let is_renewal = tracked.commit == Commit::Renew && !is_cut;
    if let Some(reason) = pass
        && !is_cut
        && !is_renewal
    {
        return Ok(Judgement::accept(reason));
    }

    let judged = match is_renewal {
        true => tracked.origin,
        false => direction,
    };
    let policy = port.policy[judged as usize & 1];
    values = blank();
    if is_renewal {
        tables.fill_opening(port, headers, judged != direction, policy, &mut values);
    } else {
        tables.fill_values(port, headers, state, policy, &mut values);
    }
    let judgement = classify(tables, policy, &values)?;
    if judgement.verdict == Verdict::Accept {
        tables.commit(port, direction, headers, tracked, judgement.rule);
        if is_renewal {
            return Ok(Judgement::accept(Reason::Established));
        }
    }
    Ok(judgement)
}

/// Values that are to be filled in. Of constants the kernel's compiler would make a call of a loop over bytes.
#[inline(always)]
fn blank() -> Values {
    [black_box(0); FIELDS]
}

/// The judgement of a policy, given by its first word.
#[inline(always)]
fn classify<T: Tables>(tables: T, start: u32, values: &Values) -> Result<Judgement, Judgement> {
    if start == 0 {
        return Err(Reason::NoPolicy.into());
    }
    let word = tables.classify(start, values);
    Ok(word.ok_or(Reason::BadPolicy)?.judgement())
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
    values[policy::SOURCE] = address::class(tables, port, IpVersion::V6, target);
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
    if let Some(flow) = find_flow(&tables, &key) {
        flow.note_guard_epoch(port.guard_epoch);
    }
}

/// Whether a packet of a running flow is judged by the rules all the same: the blacklist has come to hold its source. The policy has a rule for
/// that, which drops, counts and logs it as any other packet from there.
#[inline(always)]
fn is_cut<T: Tables>(tables: T, port: &Port, direction: Direction, headers: &Headers) -> bool {
    direction == Direction::In
        && port.flags & port_flag::BLACKLIST != 0
        && tables.is_blacklisted(port, headers)
}

/// The flow under a key, in either table.
#[inline(always)]
pub(crate) fn find_flow<'t, T: Tables>(tables: &'t T, key: &FlowKey) -> Option<FlowRef<'t>> {
    match tables.flow(key) {
        Some(flow) => Some(flow),
        None => tables.half_open(key),
    }
}

/// What [`run_on`] found.
enum RunOn {
    /// The flow runs on, and that is noted.
    Did(Tracked),
    /// [`track_in_full`] must say what the packet is, and look for its flow there.
    Differs(Sought),
}

/// Where a packet's flow may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Not among those that both ends have taken part in.
    HalfOpen = 0,
    /// Anywhere.
    Everywhere = 1,
}

impl Sought {
    /// From its number; what has none is sought everywhere.
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::HalfOpen,
            _ => Self::Everywhere,
        }
    }
}

/// Finds the packet's flow and tracks it.
#[inline(always)]
pub fn track_flow<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &Headers,
) -> Tracked {
    track_by(tables, port, direction, headers, |sought| {
        track_in_full(tables, port, direction, headers, sought)
    })
}

/// [`track_flow`], with a way of the caller's own to call [`track_in_full`].
#[inline(always)]
pub fn track_by<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &Headers,
    in_full: impl Fn(Sought) -> Tracked,
) -> Tracked {
    match run_on(&tables, port, direction, headers) {
        RunOn::Did(tracked) => tracked,
        RunOn::Differs(sought) => in_full(sought),
    }
}

/// The short way of [`track_flow`] for most packets: the flow both ends have taken part in runs on, and nothing changes but when it was last seen
/// and what was acknowledged. Answers what [`track_in_full`] would.
#[inline(always)]
fn run_on<T: Tables>(tables: &T, port: &Port, direction: Direction, headers: &Headers) -> RunOn {
    if !may_run_on(headers) {
        return RunOn::Differs(Sought::Everywhere);
    }
    let key = FlowKey::of(headers, port, direction);
    // TCP that acknowledges mostly has a flow; of the rest anything may be the first of one.
    if headers.protocol != protocol::TCP && !tables.may_know(&key) {
        return RunOn::Differs(Sought::HalfOpen);
    }
    let Some(flow) = tables.flow(&key) else {
        return RunOn::Differs(Sought::HalfOpen);
    };
    let is_of_epoch = port.flags & port_flag::REEVALUATE == 0 || flow.epoch() == port.epoch;
    if !is_of_epoch
        || !conntrack::run_on(headers, direction, flow, &tables.settings(), tables.now())
    {
        return RunOn::Differs(Sought::Everywhere);
    }
    RunOn::Did(Tracked {
        unchecked: is_unchecked(port, direction, flow),
        ..Tracked::plain(CtState::Established)
    })
}

/// Whether the flow's local address is still to be checked by the guard that the port has now.
#[inline(always)]
fn is_unchecked(port: &Port, direction: Direction, flow: FlowRef<'_>) -> bool {
    direction == Direction::Out && port.guard != 0 && flow.guard_epoch() != port.guard_epoch
}

/// The long way of [`track_flow`]. A flow that has become an established one is moved there. One of another epoch is to be judged
/// again, if the port wants that.
#[inline(always)]
pub fn track_in_full<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &Headers,
    sought: Sought,
) -> Tracked {
    let key = FlowKey::of(headers, port, direction);
    let settled = match sought {
        Sought::Everywhere if tables.may_know(&key) => tables.flow(&key),
        Sought::Everywhere | Sought::HalfOpen => None,
    };
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
    if let Some(flow) = found
        && tracked.state == CtState::Established
    {
        if port.flags & port_flag::REEVALUATE != 0 && flow.epoch() != port.epoch {
            tracked.commit = Commit::Renew;
            tracked.origin = flow.origin();
        }
        tracked.unchecked = is_unchecked(port, direction, flow);
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
    let key = FlowKey::of(headers, port, direction);
    let (state, over) = match tracked.commit {
        Commit::Begin(state) => (state, false),
        Commit::Restart(state) => (state, true),
        Commit::Renew => {
            if let Some(flow) = find_flow(&tables, &key) {
                flow.renew(port.epoch, rule);
            }
            return;
        }
        Commit::Nothing | Commit::Establish => return,
    };
    let is_told = tables.settings().flags & settings_flag::LOG_FLOWS != 0;
    if is_told {
        tell_replaced(&tables, &key);
    }
    if over {
        tables.remove_flow(&key);
    }
    let now = tables.now();
    let acknowledges = headers.protocol == protocol::TCP && headers.tcp_flags & ACK != 0;
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
        acknowledged: [if acknowledges { headers.acknowledge } else { 0 }, 0],
        ..Flow::default()
    };
    let begins = tables.insert_half_open(&key, &flow);
    if is_told && begins {
        let news = FlowNews {
            change: FlowChange::Begins,
            state: state as u32,
            origin: direction,
            settled: false,
        };
        tables.tell_flow(&key, news);
    }
}

/// Tells of the flow that another under the same key takes the place of, if there is one.
#[inline(always)]
fn tell_replaced<T: Tables>(tables: &T, key: &FlowKey) {
    let settled = tables.flow(key);
    let old = match settled {
        Some(flow) => Some(flow),
        None => tables.half_open(key),
    };
    if let Some(flow) = old {
        let news = FlowNews {
            change: FlowChange::Ends,
            state: flow.state(),
            origin: flow.origin(),
            settled: settled.is_some(),
        };
        tables.tell_flow(key, news);
    }
}

/// Fills in the packet's value in every field that a policy looks at; `start` is its first word.
#[inline(always)]
pub fn fill_values<T: Tables>(
    tables: T,
    port: &Port,
    headers: &Headers,
    state: CtState,
    start: u32,
    values: &mut Values,
) {
    let (sport, dport) = match (headers.version, headers.has_ports) {
        (IpVersion::None, _) => (policy::NO_PORT, u32::from(headers.ethertype)),
        (_, 0) => (policy::NO_PORT, policy::NO_PORT),
        _ => (u32::from(headers.sport), u32::from(headers.dport)),
    };
    let protocol = match headers.version {
        IpVersion::V4 => u32::from(headers.protocol),
        IpVersion::V6 => policy::PROTOCOL_V6 + u32::from(headers.protocol),
        IpVersion::None => policy::NOT_IP,
    };
    // A policy that cannot be asked is not classified against either.
    let head = Head(tables.word(start).unwrap_or(0));
    let version = address::version(headers);
    if head.looks_at(policy::SOURCE) {
        values[policy::SOURCE] = address::class(tables, port, version, &headers.source);
    }
    if head.looks_at(policy::DEST) {
        values[policy::DEST] = address::class(tables, port, version, &headers.dest);
    }
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
        CtState::Established | CtState::Related | CtState::Untracked => 0,
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
