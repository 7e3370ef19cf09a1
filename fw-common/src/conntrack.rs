//! What a packet is to its flow: new, known, or nonsense.
//!
//! In: headers and the flow found under their key. Out: [`Tracked`], the connection-tracking state and what is to become of the flow.
//! Nothing is written here but the time and state of a flow that goes on.
//!
//! States and classes follow netfilter: loose pickup of TCP in mid-stream, neighbour and multicast-listener discovery untracked, a packet
//! NEW until an answer was seen. Absent so far: TCP windows, and RELATED (an ICMP error is INVALID, even if it quotes a known flow).
//! Different from netfilter: a reset that answers the first SYN does not end the flow before the last hop saw it
//! (`refused_connection_is_established`).

pub mod tcp;

use crate::flow::{FlowRef, Side, echo};
use crate::maps::Settings;
use crate::verdict::Direction;
use crate::wire::{Headers, IpVersion, protocol};

/// Connection-tracking state of a packet, in netfilter's words. (RELATED is absent: see the module's header.)
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
}

impl CtState {
    /// In netfilter's words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Invalid => "INVALID",
            Self::Untracked => "UNTRACKED",
        }
    }

    /// The state of a stored number; unknown ones are invalid.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::New,
            1 => Self::Established,
            3 => Self::Untracked,
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
}

/// Bit of [`crate::flow::Flow::state`]: an answer was seen.
pub const ANSWERED: u32 = 1 << 31;

impl State {
    /// The state of a stored number; unknown ones are closed.
    #[inline(always)]
    pub const fn from_u32(number: u32) -> Self {
        match number & !ANSWERED {
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
        }
    }
}

/// Seconds after which an idle flow is forgotten (netfilter's defaults).
#[inline(always)]
pub fn timeout(state: u32, number: u8, settings: &Settings) -> u32 {
    match State::from_u32(state) {
        State::Asked if number == protocol::UDP || is_icmp(number) => 30,
        State::Answered if number == protocol::UDP => 120,
        State::Answered if is_icmp(number) => 30,
        State::Asked | State::Answered => 600,
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

/// What a packet is, and what to do about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The packet's state, for the rules.
    pub state: CtState,
    /// What becomes of the flow table.
    pub commit: Commit,
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
        };
        self.state as u32 | kind << 8 | state << 16 | (self.unchecked as u32) << 31
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
                _ => Commit::Nothing,
            },
            unchecked: bits >> 31 != 0,
        }
    }
}

impl Tracked {
    /// What a frame without flows is.
    pub const NOT_TRACKED: Self = Self::plain(CtState::Untracked);

    const fn plain(state: CtState) -> Self {
        Self {
            state,
            commit: Commit::Nothing,
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
    let alive = flow.filter(|flow| {
        let limit = u64::from(timeout(flow.state(), headers.protocol, settings)) * SECOND;
        now.saturating_sub(flow.seen()) < limit
    });
    let Some(flow) = alive else {
        return begin(headers, established);
    };
    let side = if flow.origin() == direction {
        Side::Original
    } else {
        Side::Reply
    };
    let old = flow.state();
    let next = if is_tcp {
        match tcp::next(side, tcp::kind(headers.tcp_flags), State::from_u32(old)) {
            tcp::Next::State(state) => state,
            tcp::Next::Keep => State::from_u32(old),
            tcp::Next::Reopen => return begin(headers, established),
            tcp::Next::Invalid => return Tracked::plain(CtState::Invalid),
        }
    } else {
        if side == Side::Original && is_echo_reply(headers) {
            return Tracked::plain(CtState::Invalid);
        }
        match (side, State::from_u32(old)) {
            (Side::Reply, _) => State::Answered,
            (Side::Original, state) => state,
        }
    };
    let answered = match side {
        Side::Reply => ANSWERED,
        Side::Original => old & ANSWERED,
    };
    flow.touch(now, next as u32 | answered);
    if answered == 0 {
        return Tracked::plain(CtState::New);
    }
    let stays_half_open = matches!(
        next,
        State::SynSent | State::SynRecv | State::SynSent2 | State::Close
    );
    Tracked {
        state: CtState::Established,
        commit: if established || stays_half_open {
            Commit::Nothing
        } else {
            Commit::Establish
        },
        unchecked: false,
    }
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
        Some(state) => Tracked {
            state: CtState::New,
            commit: if over {
                Commit::Restart(state)
            } else {
                Commit::Begin(state)
            },
            unchecked: false,
        },
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
