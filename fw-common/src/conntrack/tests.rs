//! Timeouts, the packed form, and what becomes of a flow packet by packet.

use super::*;
use crate::flow::Flow;

const NONE: u32 = 0;

#[test]
fn timeouts() {
    let settings = Settings {
        tcp_established: 1000,
        tcp_syn_recv: 45,
        ..Settings::default()
    };
    let (tcp, udp, other) = (protocol::TCP, protocol::UDP, 47);
    for (number, state, bits, seconds) in [
        (udp, State::Asked, NONE, 30),
        (udp, State::Answered, ANSWERED, 30),
        (udp, State::Stream, ANSWERED, 120),
        (protocol::ICMP, State::Asked, NONE, 30),
        (protocol::ICMPV6, State::Answered, ANSWERED, 30),
        (other, State::Asked, NONE, 600),
        (other, State::Answered, ANSWERED, 600),
        (tcp, State::SynSent, NONE, 120),
        (tcp, State::SynSent2, ANSWERED, 120),
        (tcp, State::SynRecv, ANSWERED, 45),
        (tcp, State::Established, NONE, 300),
        (tcp, State::Established, ANSWERED, 1000),
        (tcp, State::Established, ANSWERED | RESET, 10),
        (tcp, State::FinWait, ANSWERED, 120),
        (tcp, State::CloseWait, ANSWERED, 60),
        (tcp, State::LastAck, ANSWERED, 30),
        (tcp, State::TimeWait, ANSWERED, 120),
        (tcp, State::Close, ANSWERED, 10),
    ] {
        let found = timeout(state as u32 | bits, number, &settings);
        assert_eq!(found, seconds, "{number} {} {bits:x}", state.name());
    }
}

#[test]
fn what_crosses_a_function_boundary_comes_back() {
    let states = (0..=11).map(State::from_u32);
    let begun = states.flat_map(|state| [Commit::Begin(state), Commit::Restart(state)]);
    let commits = begun.chain([Commit::Nothing, Commit::Establish, Commit::Renew]);
    for commit in commits {
        for state in [
            CtState::New,
            CtState::Established,
            CtState::Invalid,
            CtState::Untracked,
            CtState::Related,
        ] {
            for (origin, unchecked) in [
                (Direction::In, false),
                (Direction::Out, false),
                (Direction::In, true),
                (Direction::Out, true),
            ] {
                let tracked = Tracked {
                    state,
                    commit,
                    origin,
                    unchecked,
                };
                assert_eq!(Tracked::from_bits(tracked.to_bits()), tracked);
            }
        }
    }
    assert_eq!(CtState::from_u8(9), CtState::Invalid);
}

/// Tracks one packet of a flow that began inwards.
fn step(flow: &mut Flow, headers: &Headers, direction: Direction, now: u64) -> Tracked {
    // SAFETY: the reference is used in this function only.
    let found = unsafe { FlowRef::new(flow) };
    let settings = Settings::default();
    track(headers, direction, Some(found), false, &settings, now)
}

fn udp() -> Headers {
    Headers {
        version: IpVersion::V4,
        protocol: protocol::UDP,
        has_ports: 1,
        ..Headers::default()
    }
}

#[test]
fn udp_becomes_a_stream_when_both_were_heard_and_time_has_passed() {
    use Direction::{In, Out};
    for (packets, expected) in [
        (&[(In, 0)][..], State::Asked),
        (&[(In, 10)], State::Asked),
        (&[(Out, 0)], State::Answered),
        (&[(Out, 10)], State::Answered),
        (&[(Out, 0), (In, 1)], State::Answered),
        (&[(Out, 0), (In, 2)], State::Answered),
        (&[(Out, 0), (In, 3)], State::Stream),
        (&[(Out, 0), (Out, 3)], State::Stream),
        (&[(Out, 5), (In, 5)], State::Stream),
        (&[(Out, 0), (In, 3), (Out, 4)], State::Stream),
    ] {
        let mut flow = Flow::default();
        for (direction, seconds) in packets {
            step(&mut flow, &udp(), *direction, seconds * SECOND);
        }
        assert_eq!(State::from_u32(flow.state), expected, "{packets:?}");
    }
}

#[test]
fn acknowledgements_are_noted_by_side_and_only_if_they_advance() {
    use Direction::{In, Out};
    let mut flow = Flow {
        state: State::Established as u32 | ANSWERED,
        ..Flow::default()
    };
    let segment = |flags, acknowledge| Headers {
        protocol: protocol::TCP,
        tcp_flags: flags,
        acknowledge,
        ..udp()
    };
    for (direction, flags, acknowledge, expected) in [
        (In, 0x10, 100, [100, 0]),
        (Out, 0x18, 7, [100, 7]),
        (In, 0x10, 99, [100, 7]),
        (In, 0x10, 101, [101, 7]),
        (Out, 0x04, 900, [101, 7]),
        (Out, 0x14, 900, [101, 7]),
        (In, 0x11, 0x7fff_ffff, [0x7fff_ffff, 7]),
        (In, 0x10, 0xf000_0000, [0xf000_0000, 7]),
        (In, 0x10, 5, [5, 7]),
        // New numbers count only after a SYN of the end that began.
        (Out, 0x12, 3, [5, 7]),
        (In, 0x02, 0, [5, 7]),
    ] {
        if flags & 4 != 0 {
            flow.state = State::Close as u32 | ANSWERED;
        }
        step(&mut flow, &segment(flags, acknowledge), direction, 1);
        assert_eq!(
            flow.acknowledged, expected,
            "{direction:?} {flags:x} {acknowledge}"
        );
        flow.state = State::Established as u32 | ANSWERED;
    }
    step(&mut flow, &segment(0x02, 0), In, 1);
    step(&mut flow, &segment(0x12, 3), Out, 1);
    assert_eq!(flow.acknowledged, [0, 3]);
    step(&mut flow, &segment(0x10, 4), In, 1);
    assert_eq!(flow.acknowledged, [4, 3]);
    let mut later = segment(0x10, 50);
    later.fragment = Fragment::Later;
    step(&mut flow, &later, In, 1);
    assert_eq!(flow.acknowledged, [4, 3]);
}

#[test]
fn what_is_an_error() {
    let of = |version, number, kind| Headers {
        version,
        protocol: number,
        sport: kind,
        ..Headers::default()
    };
    for kind in 0..=255 {
        let v4 = of(IpVersion::V4, protocol::ICMP, kind);
        assert_eq!(is_error(&v4), [3, 4, 5, 11, 12].contains(&kind), "{kind}");
        let v6 = of(IpVersion::V6, protocol::ICMPV6, kind);
        assert_eq!(is_error(&v6), [1, 2, 3, 4].contains(&kind), "{kind}");
        assert!(!is_error(&of(IpVersion::V6, protocol::ICMP, kind)));
        assert!(!is_error(&of(IpVersion::V4, protocol::ICMPV6, kind)));
        let mut part = v4;
        part.fragment = Fragment::First;
        assert!(!is_error(&part));
    }
}

/// The short way answers what the long one does, and leaves the same flow behind.
#[test]
fn a_flow_that_runs_on_is_tracked_alike_by_both_ways() {
    let settings = Settings {
        tcp_established: 1000,
        ..Settings::default()
    };
    let start = 5000 * SECOND;
    let mut did = 0;
    for number in [protocol::TCP, protocol::UDP] {
        let states = (0..=11).flat_map(|state| [NONE, ANSWERED].map(|bits| state | bits));
        let states =
            states.chain([RESET, REOPENS].map(|bit| State::Established as u32 | ANSWERED | bit));
        for state in states {
            for age in [
                0,
                SECOND / 4,
                SECOND,
                119 * SECOND,
                121 * SECOND,
                1001 * SECOND,
            ] {
                for (flags, acknowledge) in (0..64).flat_map(|flags| [(flags, 7), (flags, 99)]) {
                    for direction in [Direction::In, Direction::Out] {
                        let headers = Headers {
                            version: IpVersion::V4,
                            protocol: number,
                            tcp_flags: if number == protocol::TCP { flags } else { 0 },
                            acknowledge,
                            ..Headers::default()
                        };
                        if !may_run_on(&headers) {
                            continue;
                        }
                        let flow = Flow {
                            seen: start,
                            created: start - SECOND,
                            state,
                            acknowledged: [50, 0],
                            ..Flow::default()
                        };
                        let (mut short, mut long) = (flow, flow);
                        let now = start + age;
                        // SAFETY: each reference is used in its own call only.
                        let (short_ref, long_ref) =
                            unsafe { (FlowRef::new(&mut short), FlowRef::new(&mut long)) };
                        if !run_on(&headers, direction, short_ref, &settings, now) {
                            assert_eq!((short.seen, short.state), (flow.seen, flow.state));
                            continue;
                        }
                        did += 1;
                        let tracked =
                            track(&headers, direction, Some(long_ref), true, &settings, now);
                        assert_eq!(tracked, Tracked::plain(CtState::Established));
                        assert_eq!(short, long, "{headers:?} {flow:?} after {age}");
                    }
                }
            }
        }
    }
    assert!(did > 100, "the short way was taken {did} times only");
}
