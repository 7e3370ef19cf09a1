//! Addresses move between sets while packets are judged: by what was, or by what is.
//!
//! In: a guest that drops what comes from a set of networks with exceptions; addresses go into the set and out of it, one at a time, while other
//! threads run the kernel programs on frames. Out: the verdicts of these. Whoever is in the set throughout, beside, above and below the prefixes that
//! are written, is dropped by each run, whoever is never in it passes, and of the address that moves every verdict is one of the two. Between two moves
//! it is that of the configuration in force.
//!
//! Needs root.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use fw_agent::datapath::{AttachMode, Hook, Kernel, Role, TestPlace};
use fw_agent::policy::{
    AddressSet, GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy,
    Rule, SetEntry, Vlans,
};
use fw_common::verdict::{Direction, Reason, Verdict};
use tapwall_tests::frame::Frame;
use tapwall_tests::kernel::{PASS, SHOT, TestKernel};
use tapwall_tests::patience::repetitions;

const PORT: PortId = PortId { vmid: 100, net: 0 };
const LOOPBACK: u32 = 1;
const MOVES: u32 = 2000;
const READERS: usize = 2;

/// In the set whatever moves: around the moving addresses, and in their neighbourhood.
const INSIDE: [[u8; 4]; 3] = [[10, 2, 0, 1], [10, 1, 255, 1], [10, 0, 0, 1]];
/// Never in the set: of the exception, and of nothing at all.
const OUTSIDE: [[u8; 4]; 3] = [[10, 1, 0, 255], [10, 1, 128, 255], [192, 0, 2, 7]];

/// The address that moves in a round: of the exception, and each another one.
fn moving(round: u32) -> Ipv4Addr {
    // No host number 255: that is how those that stay outside end.
    Ipv4Addr::from(0x0a01_0000 + (round / 250) * 256 + round % 250)
}

fn node(moved: Option<Ipv4Addr>) -> NodePolicy {
    let listed = [
        ("10.0.0.0/8", false),
        ("10.1.0.0/16", true),
        ("10.1.255.0/24", false),
    ];
    let mut entries: Vec<SetEntry> = listed
        .into_iter()
        .map(|(net, nomatch)| SetEntry {
            net: net.parse().unwrap(),
            nomatch,
        })
        .collect();
    entries.extend(moved.map(|address| SetEntry {
        net: IpAddr::V4(address).into(),
        nomatch: false,
    }));
    entries.sort();
    let rule = |source, verdict| Rule {
        matches: Matches {
            source,
            ..Matches::default()
        },
        verdict,
        reason: Reason::Rule,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Rule,
            text: "rule".into(),
        },
    };
    let port = PortPolicy {
        port: PORT,
        kind: GuestKind::Vm,
        mac: None,
        macfilter: false,
        macfilter_layer2: false,
        vlans: Vlans::None,
        dhcp: false,
        inbound: Policy {
            rules: vec![
                rule(Some(Arc::new(AddressSet { entries })), Verdict::Drop),
                rule(None, Verdict::Accept),
            ],
        },
        outbound: Policy {
            rules: vec![rule(None, Verdict::Accept)],
        },
        guard: None,
    };
    NodePolicy {
        enabled: true,
        ports: vec![Arc::new(port)],
        ..NodePolicy::default()
    }
}

/// A datagram of a flow of its own: `number` says its ports.
fn frame(source: Ipv4Addr, number: u32) -> Vec<u8> {
    let [source, dest] = [source, Ipv4Addr::new(192, 0, 2, 10)].map(IpAddr::V4);
    let macs = [[0xbc, 0x24, 0x11, 0, 0, 0x64], [0x02, 0, 0, 0, 0, 0xc8]];
    let ports = [number as u16, 1 + (number >> 16) as u16];
    Frame::udp(macs, [source, dest], ports).bytes()
}

#[test]
fn while_addresses_move_each_packet_is_judged_by_what_was_or_what_is() {
    let mut kernel = TestKernel::new().unwrap();
    kernel.load_as_is(&node(None)).unwrap();
    // From here on the value of the port stands for the loopback device.
    let inside = Ipv4Addr::from(INSIDE[0]);
    assert_eq!(
        kernel.act(PORT, Direction::In, &frame(inside, 1)).unwrap(),
        SHOT
    );
    let port = kernel.port(PORT).unwrap();

    let mode = AttachMode::of_this_kernel();
    let readers: Vec<Kernel> = (0..READERS)
        .map(|_| Kernel::open(kernel.directory(), mode).unwrap())
        .collect();
    let moves = repetitions(MOVES);
    let (over, round) = (AtomicBool::new(false), AtomicU32::new(0));
    let (flow, runs) = (AtomicU32::new(1 << 16), AtomicU64::new(0));
    let read = |mut reader: Kernel| {
        let mut answer = [0; 256];
        let mut act = |source: Ipv4Addr| {
            let at = TestPlace {
                ifindex: LOOPBACK,
                ..TestPlace::default()
            };
            let frame = frame(source, flow.fetch_add(1, Ordering::Relaxed));
            let ran = reader.test_run_at(Role::Guest, Hook::Egress, at, &frame, &mut answer);
            runs.fetch_add(1, Ordering::Relaxed);
            ran.unwrap().return_value.cast_signed()
        };
        while !over.load(Ordering::Relaxed) {
            for source in INSIDE {
                assert_eq!(act(source.into()), SHOT, "{source:?} is in the set");
            }
            for source in OUTSIDE {
                assert_eq!(act(source.into()), PASS, "{source:?} is not in the set");
            }
            let now = moving(round.load(Ordering::Relaxed));
            assert!([PASS, SHOT].contains(&act(now)), "{now} moves");
        }
    };
    std::thread::scope(|scope| {
        let read = &read;
        let threads: Vec<_> = readers
            .into_iter()
            .map(|reader| scope.spawn(move || read(reader)))
            .collect();
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..moves {
                round.store(number, Ordering::Relaxed);
                let address = moving(number);
                let own = |side: u32| frame(address, 2 * number + side);
                for (moved, side, expect) in [(Some(address), 0, SHOT), (None, 1, PASS)] {
                    let image = kernel.load_as_is(&node(moved)).unwrap();
                    assert!(
                        image.moved.contains(&PORT),
                        "{address} does not move at once"
                    );
                    assert_eq!(kernel.port(PORT), Some(port), "nothing else is written");
                    let found = kernel.act(PORT, Direction::In, &own(side)).unwrap();
                    assert_eq!(found, expect, "{address}");
                }
                assert!(
                    threads.iter().all(|thread| !thread.is_finished()),
                    "a verdict was wrong"
                );
            }
        }));
        over.store(true, Ordering::Relaxed);
        moved.unwrap();
    });
    assert!(runs.into_inner() > u64::from(moves));
}
