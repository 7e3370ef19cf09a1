//! TCP's part of connection tracking: which flags may follow in which state.
//!
//! The table is netfilter's behaviour (RFC 9293 seen from the middle), written by packet kind. Of sequence numbers only that of a reset is
//! looked at: a stranger who guesses the ports must not end a connection. It is compared with the highest acknowledgement that the other end
//! has sent, as netfilter does. Windows are not checked beyond this, as with netfilter's `nf_conntrack_tcp_be_liberal`; so there are no
//! shorter timeouts for data that nobody acknowledges either.

use super::State;
use crate::flow::Side;
use crate::wire::tcp_flag::{ACK, FIN, PSH, RST, SYN, URG};

/// What a segment says, by its most telling flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// FIN.
    Fin,
    /// ACK and nothing more telling.
    Ack,
    /// RST.
    Rst,
    /// None of these.
    Nothing,
}

/// What a segment does to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The flow is now in this state.
    State(State),
    /// The segment is part of the flow, but proves nothing: neither state nor time change.
    Ignore,
    /// A reset that its receiver may refuse: the state stays, but unless something follows the flow is soon forgotten.
    Reset,
    /// The flow is over and the segment begins another between the same ends.
    Reopen,
    /// The segment makes no sense here.
    Invalid,
}

/// The kind of a segment with these flags.
#[inline(always)]
pub const fn kind(flags: u8) -> Kind {
    if flags & RST != 0 {
        Kind::Rst
    } else if flags & SYN != 0 {
        if flags & ACK != 0 {
            Kind::SynAck
        } else {
            Kind::Syn
        }
    } else if flags & FIN != 0 {
        Kind::Fin
    } else if flags & ACK != 0 {
        Kind::Ack
    } else {
        Kind::Nothing
    }
}

/// Whether any TCP sends this combination of flags.
#[inline(always)]
pub const fn plausible(flags: u8) -> bool {
    const SYN_ACK: u8 = SYN | ACK;
    const SYN_URG: u8 = SYN | URG;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    const FIN_ACK_URG: u8 = FIN | ACK | URG;
    const ACK_URG: u8 = ACK | URG;
    matches!(
        flags & (FIN | SYN | RST | ACK | URG),
        SYN | SYN_URG | SYN_ACK | RST | RST_ACK | FIN_ACK | FIN_ACK_URG | ACK | ACK_URG
    )
}

/// The state that a segment without a flow begins, if it can begin one.
#[inline(always)]
pub const fn first(kind: Kind) -> Option<State> {
    match kind {
        Kind::Syn => Some(State::SynSent),
        Kind::Ack => Some(State::Established),
        Kind::SynAck | Kind::Fin | Kind::Rst | Kind::Nothing => None,
    }
}

/// Bytes that no receiver's window exceeds in practice.
const WINDOW: i32 = 1 << 25;

/// What a reset with this sequence number does to a flow in `state`. `acknowledged`: the highest number that the other end has acknowledged;
/// 0: none is known.
///
/// Its receiver believes it at once if it stands exactly there. One before is old or forged. One beyond may be right (data before it were lost, or
/// are not acknowledged yet) or not: the receiver will ask for another one (RFC 5961), unless it is beyond its window, where nobody looks at it.
#[inline(always)]
pub const fn reset(state: State, answered: bool, sequence: u32, acknowledged: u32) -> Next {
    const CLOSE: Next = Next::State(State::Close);
    let runs = match state {
        State::Established => answered,
        State::SynSent | State::SynRecv | State::SynSent2 => false,
        State::FinWait
        | State::CloseWait
        | State::LastAck
        | State::TimeWait
        | State::Close
        | State::Asked
        | State::Answered
        | State::Stream => return CLOSE,
    };
    if acknowledged == 0 || (sequence == 0 && !runs) {
        return CLOSE;
    }
    match sequence.wrapping_sub(acknowledged).cast_signed() {
        ..0 => Next::Invalid,
        1..WINDOW if runs => Next::Reset,
        WINDOW.. if runs => Next::Ignore,
        0.. => CLOSE,
    }
}

/// What a segment of `side` does to a flow in `state`; of resets [`reset`] says it.
#[inline(always)]
pub const fn next(side: Side, kind: Kind, state: State) -> Next {
    match kind {
        Kind::Rst => Next::State(State::Close),
        Kind::Nothing => Next::Invalid,
        Kind::Fin => match state {
            State::SynSent | State::SynSent2 => Next::Invalid,
            State::SynRecv | State::Established => Next::State(State::FinWait),
            State::FinWait | State::CloseWait | State::LastAck => Next::State(State::LastAck),
            State::TimeWait | State::Close | State::Asked | State::Answered | State::Stream => {
                Next::State(state)
            }
        },
        Kind::Syn => match (side, state) {
            (_, State::TimeWait) | (Side::Original, State::Close) => Next::Reopen,
            (Side::Original, State::SynSent) => Next::State(State::SynSent),
            (Side::Reply, State::SynSent | State::SynSent2) | (Side::Original, State::SynSent2) => {
                Next::State(State::SynSent2)
            }
            (Side::Original, _) => Next::Ignore,
            (Side::Reply, _) => Next::Invalid,
        },
        Kind::SynAck => match (side, state) {
            (_, State::SynSent2)
            | (Side::Original, State::SynRecv)
            | (Side::Reply, State::SynSent) => Next::State(State::SynRecv),
            (Side::Original, _) => Next::Invalid,
            (Side::Reply, _) => Next::Ignore,
        },
        Kind::Ack => match (side, state) {
            (Side::Original, State::SynSent | State::SynSent2) => Next::Invalid,
            (Side::Reply, State::SynSent | State::SynSent2) => Next::Ignore,
            (Side::Original, State::SynRecv) | (_, State::Established) => {
                Next::State(State::Established)
            }
            (Side::Reply, State::SynRecv) => Next::State(State::SynRecv),
            (_, State::FinWait | State::CloseWait) => Next::State(State::CloseWait),
            (_, State::LastAck | State::TimeWait) => Next::State(State::TimeWait),
            (_, State::Close | State::Asked | State::Answered | State::Stream) => {
                Next::State(state)
            }
        },
    }
}

/// Whether flags are one of the combinations that option `tcpflags` drops (spec: masks and values of the reference).
#[inline(always)]
pub const fn is_scan(flags: u8, sport: u16) -> bool {
    const ALL: u8 = FIN | SYN | RST | PSH | ACK | URG;
    flags & ALL == FIN | PSH | URG
        || flags & ALL == 0
        || flags & (SYN | RST) == SYN | RST
        || flags & (FIN | SYN) == FIN | SYN
        || (flags & (FIN | SYN | RST | ACK) == SYN && sport == 0)
}

#[cfg(test)]
mod tests;
