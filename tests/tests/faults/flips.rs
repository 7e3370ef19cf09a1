//! Policies that change under traffic: every packet is judged by one of them as a whole.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::datapath::plan::{Present, plan_node};
use fw_agent::datapath::{AttachMode, Hook, Kernel, Role, State, TestPlace};
use fw_agent::image::MapImage;
use fw_common::wire::protocol;
use tapwall_tests::agent::Agent;
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::{PASS, PinDirectory, SHOT, apply_to_maps};
use tapwall_tests::node::{DemoNode, TAP, VETH};
use tapwall_tests::tree::{ConfigTree, NODE, facts};
use tapwall_tests::vigil::{Asking, Flow, Knocking};

use crate::policies::{ACCEPTED, FORBIDDEN, policy};

/// Edits that the agent carries out.
const EDITS: u32 = 300;
/// The loopback device, whose index exists everywhere.
const LOOPBACK: u32 = 1;
/// An index that no device has.
const NOWHERE: u32 = 1 << 20;

/// A datagram of the client to the guest.
pub fn datagram(sport: u16, dport: u16) -> Vec<u8> {
    let (source, dest) = (
        "192.0.2.200".parse().unwrap(),
        "192.0.2.100".parse().unwrap(),
    );
    let transport = Transport::Udp {
        sport,
        dport,
        data: b"flip".to_vec(),
    };
    let payload = transport.payload(protocol::UDP, source, dest);
    let frame = Frame {
        dest_mac: [0xbc, 0x24, 0x11, 0, 1, 0],
        source_mac: [2, 0, 0, 0, 0, 0xc8],
        tags: Vec::new(),
        body: Body::Ip(Datagram::new(source, dest, protocol::UDP, payload)),
    };
    frame.bytes()
}

/// A node whose guest 100 has one of the policies, and 101 another.
fn image(of_100: u32, of_101: u32) -> MapImage {
    let tree = ConfigTree::with_demo_guests().unwrap();
    for (vmid, number) in [(100, of_100), (101, of_101)] {
        tree.write_firewall(vmid, &policy(number, "192.0.2.200"))
            .unwrap();
    }
    compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0).image
}

/// Puts these images into the maps in turn, `flips` times or until `limit`, while datagrams are judged: how often, and how many datagrams.
fn flip(images: &[MapImage], flips: u32, limit: Duration) -> (u32, u64) {
    let directory = PinDirectory::new();
    let mode = AttachMode::of_this_kernel();
    let mut writer = Kernel::open(directory.path(), mode).unwrap();
    // Programs of its own on the same maps.
    let mut reader = Kernel::open(directory.path(), mode).unwrap();
    let present = Present {
        devices: [(TAP.to_owned(), LOOPBACK), (VETH.to_owned(), NOWHERE)].into(),
        ..Present::default()
    };
    let mut state = State::default();
    let mut apply = |number: u32| {
        let image = &images[number as usize % images.len()];
        let plan = plan_node(&mut state, image, &present, |_| false);
        assert!(plan.no_room.is_empty());
        for action in &plan.actions {
            apply_to_maps(&mut writer, action).unwrap();
        }
        assert!(!plan.actions.is_empty(), "every change changes something");
    };
    apply(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let judging = scope.spawn(|| judge(&mut reader, &done));
        let started = Instant::now();
        let mut flipped = 0;
        while flipped < flips && started.elapsed() < limit && !judging.is_finished() {
            flipped += 1;
            apply(flipped);
        }
        println!("{flipped} changes in {:?}", started.elapsed());
        done.store(true, Ordering::Relaxed);
        (flipped, judging.join().unwrap())
    })
}

/// Has datagrams judged until `done`; says how many. What both policies say holds for each.
fn judge(reader: &mut Kernel, done: &AtomicBool) -> u64 {
    let at = TestPlace {
        ifindex: LOOPBACK,
        ..TestPlace::default()
    };
    let mut judged = 0_u64;
    while !done.load(Ordering::Relaxed) {
        // Another client port each time: no flow that an earlier one began.
        let sport = 1024 + (judged % 60_000) as u16;
        for (dport, expect) in [(ACCEPTED, PASS), (FORBIDDEN, SHOT)] {
            let frame = datagram(sport, dport);
            let result = reader
                .test_run_at(Role::Guest, Hook::Egress, at, &frame, &mut [0; 2048])
                .unwrap();
            let seen = result.return_value.cast_signed();
            assert_eq!(seen, expect, "port {dport}, frame {judged}");
        }
        judged += 1;
    }
    judged
}

#[test]
fn a_thousand_policies_written_and_removed_never_show_a_mixture() {
    let images: Vec<MapImage> = (0..14).map(|number| image(number, 0)).collect();
    let (flipped, judged) = flip(&images, 1000, Duration::from_secs(30));
    println!("{judged} datagrams to either port");
    assert!(flipped >= 300 && judged > 1000, "{flipped} {judged}");
}

#[test]
fn thousands_of_changes_per_second_never_show_a_mixture() {
    // Either port has what the other had: nothing is written or removed but the ports' values.
    let images = [image(0, 1), image(1, 0)];
    let (flipped, judged) = flip(&images, 20_000, Duration::from_secs(15));
    println!("{judged} datagrams to either port");
    assert!(flipped >= 5000 && judged > 1000, "{flipped} {judged}");
}

#[test]
fn edits_as_fast_as_the_agent_applies_never_show_a_mixture() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let (client, guest) = (&node.outside, &node.vm);
    let address = client.v4().to_string();
    tree.write_firewall(100, &policy(0, &address)).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let pace = Duration::from_millis(1);
    let new = Asking::start(client, guest, ACCEPTED, Flow::New, pace).unwrap();
    let forbidden = Knocking::start(client, guest, FORBIDDEN, pace).unwrap();
    for number in 1..=EDITS {
        let record = agent.after(|| tree.write_firewall(100, &policy(number, &address)));
        assert_eq!(record.unwrap().degraded, Vec::<String>::new());
    }
    let (asked, knocked) = (new.tally(), forbidden.tally());
    println!("{EDITS} edits; {asked:?}; {knocked:?}");
    assert!(asked.sent > 500 && knocked.sent > 500);
    assert_eq!(asked.lost, 0, "{asked:?}");
    assert_eq!(knocked.arrived, 0, "{knocked:?}");
}
