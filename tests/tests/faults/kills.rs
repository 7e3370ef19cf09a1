//! An agent that is killed again and again while it starts and applies: traffic does not notice.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::time::{Duration, Instant};

use fw_agent::datapath::pins::Pins;
use fw_common::maps::{Counter, name};
use fw_common::verdict::REASONS;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::{Session, TcpServer};
use tapwall_tests::tree::ConfigTree;
use tapwall_tests::vigil::{Asking, Flow, Knocking, PATIENCE};

use crate::policies::{ACCEPTED, ESTABLISHED, FORBIDDEN, policy};

const KILLS: u64 = 200;
/// After so long there is no further kill, whatever their number: a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(80);
/// Fewer would show nothing.
const AT_LEAST: u64 = 40;

/// Packets of all reasons.
fn counted(pins: &Path) -> u64 {
    let counters = Pins::new(pins).per_cpu::<Counter>(name::COUNTERS).unwrap();
    let reasons = (0..REASONS as u32).map(|reason| counters.get(&reason, 0).unwrap());
    reasons
        .map(|counts| counts.iter().map(|count| count.packets).sum::<u64>())
        .sum()
}

#[test]
fn killed_two_hundred_times_nothing_stalls_and_nothing_passes() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let (client, guest) = (&node.outside, &node.vm);
    let address = client.v4().to_string();
    tree.write_firewall(100, &policy(0, &address)).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let pins = agent.pin_directory().to_path_buf();

    // Opened under policy A, which accepts it; under B only its flow lets it pass.
    let _server = TcpServer::start(&guest.namespace, guest.v4_port(80)).unwrap();
    let mut session = Session::open(&client.namespace, client.v4(), guest.v4_port(80)).unwrap();
    session.transfer(1000).unwrap();
    let pace = Duration::from_millis(2);
    let same = Asking::start(client, guest, ESTABLISHED, Flow::Same, pace).unwrap();
    let new = Asking::start(client, guest, ACCEPTED, Flow::New, pace).unwrap();
    let forbidden = Knocking::start(client, guest, FORBIDDEN, pace).unwrap();

    let started = Instant::now();
    let mut killed = 0;
    let mut before = counted(&pins);
    // A linear congruential generator (Knuth, MMIX), always from the same seed.
    let mut random = 1_u64;
    while killed < KILLS && started.elapsed() < LIMIT {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        agent.kill_and_start().unwrap();
        killed += 1;
        // Edits go on while it starts, so that there is something to apply; the moment of the next kill is anywhere in that.
        let moment = Instant::now() + Duration::from_millis((random >> 33) % 400);
        let mut edit = killed as u32;
        while Instant::now() < moment {
            edit += 1;
            tree.write_firewall(100, &policy(edit, &address)).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        let now = counted(&pins);
        assert!(now >= before, "counters went from {before} to {now}");
        before = now;
        session.transfer(100).unwrap();
    }
    // Its own record, not one that a killed one left.
    agent
        .wait_for(LIMIT, "a record of the last agent", |_| true)
        .unwrap();
    agent
        .after(|| tree.write_firewall(100, &format!("# the last\n{}", policy(1, &address))))
        .unwrap();
    session.transfer(1000).unwrap();
    let (same, new, forbidden) = (same.tally(), new.tally(), forbidden.tally());
    println!(
        "{killed} kills in {:?}; {same:?}; {new:?}; {forbidden:?}",
        started.elapsed()
    );
    assert!(killed >= AT_LEAST, "{killed} kills");
    for tally in [same, new] {
        assert!(tally.sent > 10 * killed, "{tally:?}");
        assert_eq!(tally.lost, 0, "{tally:?}");
        assert!(tally.longest < PATIENCE, "{tally:?}");
    }
    assert!(forbidden.sent > 10 * killed, "{forbidden:?}");
    assert_eq!(forbidden.arrived, 0, "{forbidden:?}");
    // Each was counted at the guest's port, from the first agent to the last.
    assert!(counted(&pins) >= same.sent + new.sent + forbidden.sent);
    // An answer proves that the last one is alive.
    assert!(agent.fwctl(&["status"]).unwrap().status.success());
}
