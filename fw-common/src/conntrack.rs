//! What a packet is to its flow: new, known, or nonsense.
//!
//! In: headers and the flow found under their key. Out: [`Tracked`], the connection-tracking state and what is to become of the flow.
//! Nothing is written here but the time and state of a flow that goes on.
//!
//! States and classes follow netfilter: loose pickup of TCP in mid-stream, neighbour and multicast-listener discovery untracked, a packet
//! NEW until an answer was seen. ICMP errors are looked at before ([`related`]): here one is INVALID. TCP windows are not checked
//! (see [`tcp`]).
//! Different from netfilter: a reset that answers the first SYN does not end the flow before the last hop saw it
//! (`refused_connection_is_established`).

mod related;
pub mod tcp;

pub use related::{is_error, related};

use crate::flow::{FlowRef, Side, echo};
use crate::maps::Settings;
use crate::verdict::Direction;
use crate::wire::tcp_flag::{ACK, FIN, RST, SYN};
use crate::wire::{Fragment, Headers, IpVersion, protocol};

/// Connection-tracking state of a packet, in netfilter's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CtState {
    /// The first packet of a flow, or one more before any answer.
    New = 0,
    /// Part of a flow that was answered, or the answer.
    Established = 1,
    /// Fits no flow and cannot begin one.
    Invalid = 2,
    /// Not tracked by design.
    Untracked = 3,
    /// An error about a flow.
    Related = 4,
}

impl CtState {
    /// In netfilter's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Invalid => "INVALID",
            Self::Untracked => "UNTRACKED",
            Self::Related => "RELATED",
        }
    }

    /// The state of a number; unknown ones are INVALID.
    #[inline(always)]
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::New,
            1 => Self::Established,
            3 => Self::Untracked,
            4 => Self::Related,
            _ => Self::Invalid,
        }
    }
}

/// How far a flow has come. TCP's states are netfilter's; of other protocols only whether there was an answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Not TCP: only one end was heard.
    Asked = 0,
    /// Not TCP: both ends were heard.
    Answered = 1,
    /// SYN seen.
    SynSent = 2,
    /// SYN and SYN+ACK seen.
    SynRecv = 3,
    /// The handshake is complete, or the flow was picked up in mid-stream.
    Established = 4,
    /// One end has finished.
    FinWait = 5,
    /// One end has finished and the other acknowledged.
    CloseWait = 6,
    /// Both ends have finished.
    LastAck = 7,
    /// Both have finished and acknowledged.
    TimeWait = 8,
    /// Reset.
    Close = 9,
    /// Both ends sent a SYN.
    SynSent2 = 10,
    /// UDP: both ends were heard, and one again when the flow was no longer young.
    Stream = 11,
}

/// Bit of [`crate::flow::Flow::state`]: an answer was seen.
pub const ANSWERED: u32 = 1 << 31;

/// Bit of [`crate::flow::Flow::state`]: the last segment was a reset that its receiver may have refused.
pub const RESET: u32 = 1 << 30;

/// Bit of [`crate::flow::Flow::state`]: the original end has just sent a SYN that makes no sense to us. If the other end has lost its state,
/// a new connection begins under the old one's name, or is refused.
pub const REOPENS: u32 = 1 << 29;

/// Bits of [`crate::flow::Flow::state`] that hold the [`State`].
const STATE: u32 = 0xff;

impl State {
    /// The state of a stored number; unknown ones are closed.
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number & STATE {
            0 => Self::Asked,
            1 => Self::Answered,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::Established,
            5 => Self::FinWait,
            6 => Self::CloseWait,
            7 => Self::LastAck,
            8 => Self::TimeWait,
            10 => Self::SynSent2,
            11 => Self::Stream,
            _ => Self::Close,
        }
    }

    /// The state's name, as in `/proc/net/nf_conntrack`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "UNREPLIED",
            Self::Answered => "REPLIED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
            Self::Stream => "STREAM",
        }
    }
}

/// Seconds after which an idle question of UDP or ICMP is forgotten, and its answer.
const SHORT_TIMEOUT: u32 = 30;

/// Seconds after which an idle stream of UDP is forgotten (as the others below).
const STREAM_TIMEOUT: u32 = 120;

/// Seconds after which an idle flow is forgotten (netfilter's defaults).
#[inline(always)]
pub fn timeout(state: u32, number: u8, settings: &Settings) -> u32 {
    let is_short = number == protocol::UDP || is_icmp(number);
    match State::from_u32(state) {
        State::Asked | State::Answered if is_short => SHORT_TIMEOUT,
        State::Asked | State::Answered => 600,
        State::Stream => STREAM_TIMEOUT,
        _ if state & RESET != 0 => 10,
        State::SynSent | State::SynSent2 | State::FinWait | State::TimeWait => 120,
        State::SynRecv => settings.tcp_syn_recv,
        State::Established if state & ANSWERED == 0 => 300,
        State::Established => settings.tcp_established,
        State::CloseWait => 60,
        State::LastAck => 30,
        State::Close => 10,
    }
}

fn is_icmp(number: u8) -> bool {
    number == protocol::ICMP || number == protocol::ICMPV6
}

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Age of a UDP flow from which on a packet makes it a stream: questions with one answer are over by then.
const STREAM_AGE: u64 = 2 * SECOND;

/// What a packet is, and what to do about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The packet's state, for the rules.
    pub state: CtState,
    /// What becomes of the flow table.
    pub commit: Commit,
    /// With [`Commit::Renew`] the direction in which the flow began; else In. (Not a part of it: payloads of several types would be
    /// uninitialised registers to the kernel's verifier.)
    pub origin: Direction,
    /// The flow's local address was not checked by the guard that the port has now.
    pub unchecked: bool,
}

/// Change of the flow table that a packet causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// None.
    Nothing,
    /// If the packet is accepted a flow begins in this state.
    Begin(State),
    /// Likewise, and the established flow under the same key is over.
    Restart(State),
    /// Both ends have now taken part: the flow belongs to the established ones.
    Establish,
    /// The flow was accepted under another epoch: if its opening is accepted again, it is of the port's.
    Renew,
}

impl Tracked {
    /// As a number, to cross a function boundary in the kernel.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        let (kind, state) = match self.commit {
            Commit::Nothing => (0, 0),
            Commit::Begin(state) => (1, state as u32),
            Commit::Restart(state) => (2, state as u32),
            Commit::Establish => (3, 0),
            Commit::Renew => (4, 0),
        };
        self.state as u32
            | kind << 8
            | state << 16
            | (self.origin as u32 & 1) << 24
            | (self.unchecked as u32) << 31
    }

    /// From [`Tracked::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        let state = State::from_u32(bits >> 16 & 0x7fff);
        Self {
            state: CtState::from_u8(bits as u8),
            commit: match bits >> 8 & 0xff {
                1 => Commit::Begin(state),
                2 => Commit::Restart(state),
                3 => Commit::Establish,
                4 => Commit::Renew,
                _ => Commit::Nothing,
            },
            origin: Direction::from_u8((bits >> 24 & 1) as u8),
            unchecked: bits >> 31 != 0,
        }
    }
}

impl Tracked {
    /// What a frame without flows is.
    pub const NOT_TRACKED: Self = Self::plain(CtState::Untracked);

    /// A packet in this state that changes no flow.
    #[inline(always)]
    pub const fn plain(state: CtState) -> Self {
        Self::new(state, Commit::Nothing)
    }

    const fn new(state: CtState, commit: Commit) -> Self {
        Self {
            state,
            commit,
            origin: Direction::In,
            unchecked: false,
        }
    }
}

/// Judges a packet against its flow. `established`: the flow was found among those that both ends have taken part in.
#[inline(always)]
pub fn track(
    headers: &Headers,
    direction: Direction,
    flow: Option<FlowRef<'_>>,
    established: bool,
    settings: &Settings,
    now: u64,
) -> Tracked {
    if is_untracked(headers) {
        return Tracked::plain(CtState::Untracked);
    }
    if is_icmp_without_flow(headers) {
        return Tracked::plain(CtState::Invalid);
    }
    let is_tcp = headers.protocol == protocol::TCP;
    if is_tcp && !tcp::plausible(headers.tcp_flags) {
        return Tracked::plain(CtState::Invalid);
    }
    let alive = flow.filter(|flow| is_alive(*flow, headers.protocol, settings, now));
    let Some(flow) = alive else {
        return begin(headers, established);
    };
    let side = if flow.origin() == direction {
        Side::Original
    } else {
        Side::Reply
    };
    let old = flow.state();
    let answered = match side {
        Side::Reply => ANSWERED,
        Side::Original => old & ANSWERED,
    };
    let state = State::from_u32(old);
    let next = if is_tcp {
        match segment(headers, side, old, flow) {
            tcp::Next::State(next) => {
                flow.touch(now, next as u32 | answered);
                next
            }
            tcp::Next::Reset => {
                flow.touch(now, state as u32 | answered | RESET);
                state
            }
            tcp::Next::Ignore => {
                flow.set_state(flow.state() | answered);
                state
            }
            tcp::Next::Reopen => return begin(headers, established),
            tcp::Next::Invalid => return Tracked::plain(CtState::Invalid),
        }
    } else {
        if side == Side::Original && is_echo_reply(headers) {
            return Tracked::plain(CtState::Invalid);
        }
        let is_stream = old & ANSWERED != 0
            && headers.protocol == protocol::UDP
            && now.saturating_sub(flow.created()) > STREAM_AGE;
        let next = match (side, state) {
            _ if is_stream => State::Stream,
            (Side::Reply, _) => State::Answered,
            (Side::Original, state) => state,
        };
        flow.touch(now, next as u32 | answered);
        next
    };
    if answered == 0 {
        return Tracked::plain(CtState::New);
    }
    let stays_half_open = matches!(
        next,
        State::SynSent | State::SynRecv | State::SynSent2 | State::Close
    );
    let commit = match established || stays_half_open {
        true => Commit::Nothing,
        false => Commit::Establish,
    };
    Tracked::new(CtState::Established, commit)
}

/// Whether a packet may be one for [`run_on`]: TCP that only acknowledges, or UDP.
#[inline(always)]
pub fn may_run_on(headers: &Headers) -> bool {
    let is_kind = match headers.protocol {
        protocol::TCP => headers.tcp_flags & (FIN | SYN | RST | ACK) == ACK,
        protocol::UDP => true,
        _ => false,
    };
    is_kind && headers.fragment == Fragment::Whole
}

/// [`track`] for a packet that [`may_run_on`], of a flow that both ends have taken part in, as long as its state stays: of TCP established, of UDP an
/// answered one and then a stream. Then the packet is ESTABLISHED, and no more is to be done. False, and nothing was done, if the state may be another.
#[inline(always)]
pub fn run_on(
    headers: &Headers,
    direction: Direction,
    flow: FlowRef<'_>,
    settings: &Settings,
    now: u64,
) -> bool {
    let is_young = now.saturating_sub(flow.created()) <= STREAM_AGE;
    let (runs, seconds) = match headers.protocol {
        protocol::TCP => (State::Established, settings.tcp_established),
        _ if is_young => (State::Answered, SHORT_TIMEOUT),
        _ => (State::Stream, STREAM_TIMEOUT),
    };
    let state = runs as u32 | ANSWERED;
    if flow.state() != state || now.saturating_sub(flow.seen()) >= u64::from(seconds) * SECOND {
        return false;
    }
    if runs == State::Established {
        let side = match flow.origin() == direction {
            true => Side::Original,
            false => Side::Reply,
        };
        flow.acknowledge(side, headers.acknowledge);
    }
    flow.touch(now, state);
    true
}

/// What a segment does to its flow; notes what it acknowledges. A later fragment has no header of its own to look at.
#[inline(always)]
fn segment(headers: &Headers, side: Side, old: u32, flow: FlowRef<'_>) -> tcp::Next {
    if headers.fragment == Fragment::Later {
        return tcp::Next::Ignore;
    }
    let state = State::from_u32(old);
    let kind = tcp::kind(headers.tcp_flags);
    let is_awaited = old & REOPENS != 0 && side == Side::Reply;
    if kind == tcp::Kind::Rst {
        let acknowledged = match is_awaited {
            true => 0,
            false => flow.acknowledged(side.other()),
        };
        return tcp::reset(state, old & ANSWERED != 0, headers.sequence, acknowledged);
    }
    let next = tcp::next(side, kind, state);
    match next {
        tcp::Next::Ignore if kind == tcp::Kind::Syn => flow.set_state(old | REOPENS),
        tcp::Next::State(_) | tcp::Next::Ignore => {
            if is_awaited && kind == tcp::Kind::SynAck {
                flow.forget_acknowledged();
            }
            if headers.tcp_flags & ACK != 0 {
                flow.acknowledge(side, headers.acknowledge);
            }
        }
        tcp::Next::Reset | tcp::Next::Reopen | tcp::Next::Invalid => {}
    }
    next
}

/// Whether a flow of a protocol has been heard of recently enough.
#[inline(always)]
fn is_alive(flow: FlowRef<'_>, number: u8, settings: &Settings, now: u64) -> bool {
    let limit = u64::from(timeout(flow.state(), number, settings)) * SECOND;
    now.saturating_sub(flow.seen()) < limit
}

/// A packet without a flow (or whose established flow is `over`): can it begin one?
#[inline(always)]
fn begin(headers: &Headers, over: bool) -> Tracked {
    let state = if headers.protocol == protocol::TCP {
        tcp::first(tcp::kind(headers.tcp_flags))
    } else if is_echo_reply(headers) {
        None
    } else {
        Some(State::Asked)
    };
    match state {
        None => Tracked::plain(CtState::Invalid),
        Some(state) => {
            let commit = match over {
                true => Commit::Restart(state),
                false => Commit::Begin(state),
            };
            Tracked::new(CtState::New, commit)
        }
    }
}

fn is_echo_reply(headers: &Headers) -> bool {
    echo(headers) == Some(crate::flow::Echo::Reply)
}

/// Neighbour and multicast-listener discovery (ICMPv6 130–136 and 143) have no flows.
fn is_untracked(headers: &Headers) -> bool {
    headers.version == IpVersion::V6
        && headers.protocol == protocol::ICMPV6
        && matches!(headers.sport, 130..=136 | 143)
}

/// ICMP of any type but questions and their answers begins no flow and belongs to none.
fn is_icmp_without_flow(headers: &Headers) -> bool {
    let own_icmp = match headers.version {
        IpVersion::V4 => protocol::ICMP,
        IpVersion::V6 => protocol::ICMPV6,
        IpVersion::None => return false,
    };
    headers.protocol == own_icmp && echo(headers).is_none()
}

#[cfg(test)]
mod tests;
