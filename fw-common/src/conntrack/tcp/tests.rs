//! Tables of what each kind of segment does in each state.

use super::*;

#[test]
fn a_connection_from_syn_to_time_wait() {
    let mut state = first(Kind::Syn).unwrap();
    for (side, flags, expected) in [
        (Side::Original, SYN, State::SynSent),
        (Side::Reply, SYN | ACK, State::SynRecv),
        (Side::Original, ACK, State::Established),
        (Side::Reply, ACK | PSH, State::Established),
        (Side::Original, FIN | ACK, State::FinWait),
        (Side::Reply, ACK, State::CloseWait),
        (Side::Reply, FIN | ACK, State::LastAck),
        (Side::Original, ACK, State::TimeWait),
    ] {
        match next(side, kind(flags), state) {
            Next::State(new) => state = new,
            other @ (Next::Ignore | Next::Reset | Next::Reopen | Next::Invalid) => {
                panic!("{flags:#x}: {other:?}")
            }
        }
        assert_eq!(state, expected, "{side:?} {flags:#x}");
    }
    assert_eq!(next(Side::Original, Kind::Syn, state), Next::Reopen);
}

#[test]
fn what_cannot_begin_a_flow() {
    for flags in [SYN | ACK, FIN | ACK, RST, RST | ACK, 0, URG, PSH] {
        assert_eq!(first(kind(flags)), None, "{flags:#x}");
    }
    assert_eq!(first(kind(SYN)), Some(State::SynSent));
    assert_eq!(first(kind(ACK | PSH)), Some(State::Established));
}

#[test]
fn implausible_flags() {
    for flags in [0, URG, FIN, SYN | FIN, SYN | RST, FIN | PSH | URG, 63] {
        assert!(!plausible(flags), "{flags:#x}");
    }
    for flags in [
        SYN,
        SYN | PSH,
        SYN | ACK,
        ACK,
        ACK | PSH | URG,
        FIN | ACK,
        RST,
        0xc2,
    ] {
        assert!(plausible(flags), "{flags:#x}");
    }
}

#[test]
fn scans() {
    for (flags, sport, expected) in [
        (FIN | PSH | URG, 5, true),
        (0, 5, true),
        (SYN | RST | ACK, 5, true),
        (SYN | FIN, 5, true),
        (SYN, 0, true),
        (SYN, 5, false),
        (SYN | ACK, 0, false),
        (ACK, 0, false),
    ] {
        assert_eq!(is_scan(flags, sport), expected, "{flags:#x} {sport}");
    }
}

const STATES: [State; 9] = [
    State::SynSent,
    State::SynRecv,
    State::Established,
    State::FinWait,
    State::CloseWait,
    State::LastAck,
    State::TimeWait,
    State::Close,
    State::SynSent2,
];

/// A cell of the table by the abbreviation of its state: `--` is ignored, `!!` invalid, `>>` opens again.
fn cell(text: &str) -> Next {
    Next::State(match text {
        "SS" => State::SynSent,
        "SR" => State::SynRecv,
        "ES" => State::Established,
        "FW" => State::FinWait,
        "CW" => State::CloseWait,
        "LA" => State::LastAck,
        "TW" => State::TimeWait,
        "CL" => State::Close,
        "S2" => State::SynSent2,
        "--" => return Next::Ignore,
        "!!" => return Next::Invalid,
        ">>" => return Next::Reopen,
        other => panic!("{other}"),
    })
}

#[test]
fn every_kind_in_every_state() {
    use Kind::{Ack, Fin, Nothing, Syn, SynAck};
    use Side::{Original, Reply};
    for (side, kind, row) in [
        //                     SS SR ES FW CW LA TW CL S2
        (Original, Syn, "      SS -- -- -- -- -- >> >> S2"),
        (Original, SynAck, "   !! SR !! !! !! !! !! !! SR"),
        (Original, Fin, "      !! FW FW LA LA LA TW CL !!"),
        (Original, Ack, "      !! ES ES CW CW TW TW CL !!"),
        (Original, Nothing, "  !! !! !! !! !! !! !! !! !!"),
        (Reply, Syn, "         S2 !! !! !! !! !! >> !! S2"),
        (Reply, SynAck, "      SR -- -- -- -- -- -- -- SR"),
        (Reply, Fin, "         !! FW FW LA LA LA TW CL !!"),
        (Reply, Ack, "         -- SR ES CW CW TW TW CL --"),
        (Reply, Nothing, "     !! !! !! !! !! !! !! !! !!"),
    ] {
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(cells.len(), STATES.len());
        for (state, text) in STATES.into_iter().zip(cells) {
            assert_eq!(
                next(side, kind, state),
                cell(text),
                "{side:?} {kind:?} {state:?}"
            );
        }
    }
}

#[test]
fn resets_by_their_sequence_number() {
    const CLOSE: Next = Next::State(State::Close);
    for (state, answered, sequence, acknowledged, expected) in [
        // Nothing is known of the other end.
        (State::SynSent, false, 0, 0, CLOSE),
        (State::Established, false, 5, 0, CLOSE),
        (State::Established, true, 5, 0, CLOSE),
        // A connection that runs.
        (State::Established, true, 99, 100, Next::Invalid),
        (State::Established, true, 0, 100, Next::Invalid),
        (State::Established, true, 100, 100, CLOSE),
        (State::Established, true, 101, 100, Next::Reset),
        (State::Established, true, u32::MAX, 5, Next::Invalid),
        (State::Established, true, 5, u32::MAX, Next::Reset),
        (State::Established, true, 0x8000_0063, 100, Next::Ignore),
        (State::Established, true, 100 + (1 << 25), 100, Next::Ignore),
        (State::Established, true, 99 + (1 << 25), 100, Next::Reset),
        (State::Established, true, 0x8000_0065, 100, Next::Invalid),
        // One that has not come so far: a reset of a listener that knows nothing has number 0.
        (State::SynRecv, true, 99, 100, Next::Invalid),
        (State::SynRecv, true, 0, 100, CLOSE),
        (State::SynRecv, true, 7000, 100, CLOSE),
        (State::SynSent2, true, 100, 100, CLOSE),
        (State::Established, false, 7000, 100, CLOSE),
        // One that ends anyway.
        (State::FinWait, true, 5, 100, CLOSE),
        (State::CloseWait, true, 5, 100, CLOSE),
        (State::LastAck, true, 5, 100, CLOSE),
        (State::TimeWait, true, 5, 100, CLOSE),
        (State::Close, true, 5, 100, CLOSE),
    ] {
        assert_eq!(
            reset(state, answered, sequence, acknowledged),
            expected,
            "{state:?} {answered} {sequence} {acknowledged}"
        );
    }
}
