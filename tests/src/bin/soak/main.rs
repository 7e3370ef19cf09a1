//! `cargo xtask soak`: a demo node under everything at once, for minutes: traffic, edits, guests that come and go, restarts and kills.
//!
//! 1. Build a [`DemoNode`], start the agent, start flows that are accepted and datagrams that are forbidden under every policy that follows.
//! 2. Until the time is over, do one of: edit a guest's policy, replace the container's device, restart the agent, kill it.
//! 3. Print the table and exit 1 if a packet passed that should not have, one was dropped that should have passed, or the agent grew.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, VETH};
use tapwall_tests::probe::{Answer, ping};
use tapwall_tests::tree::ConfigTree;
use tapwall_tests::vigil::{Asking, Flow, Knocking, PATIENCE};

/// Ports that every policy of the soak accepts, and one that none does.
const ACCEPTED: [u16; 2] = [7003, 7004];
const FORBIDDEN: u16 = 7002;
/// Time between two datagrams of a flow.
const PACE: Duration = Duration::from_millis(5);
/// How long a new device may take to be attached, a new agent to apply.
const LIMIT: Duration = Duration::from_secs(20);
/// What the agent may have more at the end, in KiB.
const GAIN: u64 = 16 << 10;

#[derive(Parser)]
#[command(about = "Runs a demo node under traffic, edits, device churn, restarts and kills")]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 10)]
    minutes: u64,
}

fn main() -> ExitCode {
    let minutes = Arguments::parse().minutes;
    match soak(Duration::from_secs(60 * minutes)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What was done to the node.
#[derive(Default)]
struct Deeds {
    edits: u64,
    devices: u64,
    restarts: u64,
    kills: u64,
    /// Datagrams that reached the container before its new device was attached.
    early: u64,
    /// The container did not answer after it was back.
    unanswered: u64,
}

/// Rules and sets differ with each number; what they say of the ports above does not.
fn policy(number: u64, client: &str) -> String {
    let (set, action) = match number % 2 {
        0 => (client, "IN ACCEPT -p udp -dport 7003:7004 -source +allowed"),
        _ => (
            "203.0.113.9",
            "IN ACCEPT -p udp -dport 7003:7004\nIN ACCEPT -p udp -dport 7002 -source +allowed",
        ),
    };
    let others = (0..number % 11).map(|row| format!("198.51.100.{row}\n"));
    let others: String = others.collect();
    format!(
        "# edit {number}\n[OPTIONS]\nenable: 1\npolicy_in: DROP\n[IPSET allowed]\n{set}\n{others}[RULES]\n{action}\n"
    )
}

fn soak(time: Duration) -> Result<bool> {
    let node = DemoNode::new().context("building the demo node")?;
    let tree = ConfigTree::with_demo_guests()?;
    let (client, guest, container) = (&node.outside, &node.vm, &node.container);
    let address = client.v4().to_string();
    for vmid in [100, 101] {
        tree.write_firewall(vmid, &policy(0, &address))?;
    }
    let mut agent = Agent::start(&node.host.namespace, &tree)?;
    let same = Asking::start(client, guest, ACCEPTED[0], Flow::Same, PACE)?;
    let new = Asking::start(client, guest, ACCEPTED[1], Flow::New, PACE)?;
    let outgoing = Asking::start(guest, client, ACCEPTED[1], Flow::New, PACE)?;
    let forbidden = Knocking::start(client, guest, FORBIDDEN, PACE)?;
    let churned = Knocking::start(client, container, FORBIDDEN, PACE)?;

    let memory_at_start = agent.memory()?;
    let mut deeds = Deeds::default();
    let started = Instant::now();
    // A linear congruential generator (Knuth, MMIX), always from the same seed.
    let mut random = 1_u64;
    while started.elapsed() < time {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        match (random >> 33) % 20 {
            0 => {
                agent = agent.restart(&node.host.namespace)?;
                deeds.restarts += 1;
            }
            1 | 2 => {
                // Sooner or later after an edit: while it applies, perhaps.
                tree.write_firewall(100, &policy(deeds.edits, &address))?;
                deeds.edits += 1;
                std::thread::sleep(Duration::from_millis((random >> 40) % 60));
                agent.kill_and_start()?;
                agent.wait_for(LIMIT, "a record after a kill", |record| {
                    record.generation > 0
                })?;
                deeds.kills += 1;
            }
            3 | 4 => replace_container(&node, &agent, &churned, &mut deeds)?,
            _ => {
                deeds.edits += 1;
                let vmid = 100 + u32::from(random & (1 << 50) != 0);
                tree.write_firewall(vmid, &policy(deeds.edits, &address))?;
                std::thread::sleep(Duration::from_millis((random >> 40) % 100));
            }
        }
    }
    // The last edit is enforced, and the agent answers.
    agent.after(|| tree.write_firewall(100, &policy(deeds.edits + 1, &address)))?;
    deeds.edits += 1;
    let memory_at_end = agent.memory()?;

    let accepted = [same.tally(), new.tally(), outgoing.tally()];
    let refused = [forbidden.tally(), churned.tally()];
    let sent = accepted.iter().chain(&refused).map(|tally| tally.sent);
    let sent: u64 = sent.sum();
    let arrived: u64 = refused.iter().map(|tally| tally.arrived).sum();
    let passed = arrived - deeds.early;
    let dropped = accepted.iter().map(|tally| tally.lost).sum::<u64>() + deeds.unanswered;
    let longest = accepted.iter().map(|tally| tally.longest).max();
    let longest = longest.unwrap_or_default();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    for (what, value) in [
        ("time", format!("{} s", started.elapsed().as_secs())),
        ("packets sent", sent.to_string()),
        ("wrongly passed", passed.to_string()),
        ("wrongly dropped", dropped.to_string()),
        ("longest answer", format!("{} ms", longest.as_millis())),
        (
            "passed to a new device before it was attached",
            deeds.early.to_string(),
        ),
        ("edits", deeds.edits.to_string()),
        ("devices replaced", deeds.devices.to_string()),
        ("restarts", deeds.restarts.to_string()),
        ("kills", deeds.kills.to_string()),
        ("agent memory at start", format!("{memory_at_start} KiB")),
        ("agent memory at end", format!("{memory_at_end} KiB")),
    ] {
        table.add_row([what.to_owned(), value]);
    }
    println!("{table}");
    let sound = passed == 0
        && dropped == 0
        && sent > 0
        && longest < PATIENCE
        && memory_at_end < memory_at_start + GAIN;
    if !sound {
        println!("not sound; the agent said:\n{}", agent.stderr());
    }
    Ok(sound)
}

/// Unplugs the container and plugs it again, as a restart of it does; then it must answer.
fn replace_container(
    node: &DemoNode,
    agent: &Agent,
    knocks: &Knocking,
    deeds: &mut Deeds,
) -> Result<()> {
    let before = knocks.tally().arrived;
    let index = node.host.namespace.ifindex(VETH)?;
    node.unplug_container()?;
    node.plug_container()?;
    agent.wait_attached(VETH, Some(index))?;
    deeds.early += knocks.tally().arrived - before;
    deeds.devices += 1;
    let (guest, outside) = (&node.container, &node.outside);
    let seen = ping(&guest.namespace, guest.v4(), outside.v4(), PATIENCE);
    deeds.unanswered += u64::from(seen != Answer::Answered);
    Ok(())
}
