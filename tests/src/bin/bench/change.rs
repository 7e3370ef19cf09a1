//! How long a change takes until it is enforced: one rule of one guest among many, a start with all of them, a large set.
//!
//! Tapwall's time is from a renamed file to the first packet that the change lets through. The others' is that of loading the whole node's rules,
//! or the whole set, from a file that is there: what their daemons do with every change, without what those need to notice it and to make the rules.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::temporary_directory;

use crate::Effort;
use crate::bed::{VMID, load, tracking};
use crate::crowd::{Crowd, load_file};
use crate::line::{Line, Subject};
use crate::traffic::inject::datagram;

/// Numbers of guests.
const GUESTS: [usize; 3] = [10, 100, 1_000];
/// Ports that edits open, one after the other.
const PORTS: std::ops::Range<u16> = 2_000..9_000;
/// Address that edits come from.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 222);
/// Port that members of the set may use.
const SET_PORT: u16 = 1_999;
/// Longest time that edits of one node are made; there are [`FEWEST`] at least.
const TIME: Duration = Duration::from_secs(40);
const FEWEST: usize = 5;

/// Measures everything.
pub fn run(effort: Effort) -> Result<()> {
    let guests = if effort.quick { &GUESTS[..2] } else { &GUESTS };
    for &guests in guests {
        of_node(guests, effort).with_context(|| format!("with {guests} guests"))?;
    }
    of_set(if effort.quick { 50_000 } else { 1_000_000 }, effort).context("with a large set")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Starts and edits.
fn of_node(guests: usize, effort: Effort) -> Result<()> {
    eprintln!("change: making a node with {guests} guests");
    let crowd = Crowd::new(guests)?;
    let tree = crowd.tree()?;
    let (mut starts, mut resident) = (Vec::new(), Vec::new());
    let mut agent = None;
    for round in 0..effort.rounds(1, 3) {
        eprintln!("change: start {} with {guests} guests", round + 1);
        // The one before goes first, with all that it pinned.
        drop(agent.take());
        let (started, took) = crowd.start(&tree)?;
        starts.push(milliseconds(took));
        resident.push(started.memory()? as f64 / 1024.0);
        agent = Some(started);
    }
    let line = |case: &str, unit| Line::new("change", case, unit).at("guests", guests);
    line("cold start", "ms").with(starts).print()?;
    line("resident after a cold start", "MiB")
        .with(resident)
        .print()?;

    let directory = temporary_directory("rulesets")?;
    let elsewhere = Netns::new("rulesets")?;
    let tracking = tracking(&elsewhere)?;
    load(&elsewhere, "nft", &["-f", "-"], tracking.preamble())?;
    let (mut own, mut iptables, mut nftables) = (Vec::new(), Vec::new(), Vec::new());
    let edits = if effort.quick { 8 } else { 200 };
    let others = edits / effort.rounds(2, 5);
    let begun = Instant::now();
    for (number, port) in PORTS.take(edits).enumerate() {
        if begun.elapsed() > TIME && number >= FEWEST {
            break;
        }
        if number % others.max(1) == 0 {
            eprintln!("change: edit {number} with {guests} guests");
            let (text, nft) = crowd.rulesets(port, tracking);
            for (samples, program, options, text) in [
                (&mut iptables, "iptables-legacy-restore", &[][..], &text),
                (&mut nftables, "nft", &["-f"][..], &nft),
            ] {
                let file = directory.path().join(program);
                fs::write(&file, text)?;
                let file = file.display().to_string();
                let arguments = [options, &[&file]].concat();
                samples.push(milliseconds(load_file(&elsewhere, program, &arguments)?));
            }
        }
        let server = crowd.bed.server(port)?;
        let text = Crowd::real(Some(port));
        let frame = datagram(CLIENT, port)?;
        let file = format!("firewall/{VMID}.fw");
        let took = crowd.until_enforced(&tree, &file, &[&text], frame, &server)?;
        own.push(milliseconds(took));
        // Not in step with anything that the agent does now and then.
        std::thread::sleep(Duration::from_millis(20 + 7 * (number as u64 % 13)));
    }
    for (subject, samples) in [
        (Subject::Iptables, iptables),
        (Subject::Nftables, nftables),
        (Subject::Tapwall, own),
    ] {
        line("one rule edited", "ms")
            .of(subject)
            .with(samples)
            .print()?;
    }
    Ok(())
}

/// A set from an empty one, and one address more.
fn of_set(entries: usize, effort: Effort) -> Result<()> {
    let crowd = Crowd::new(1)?;
    let tree = crowd.tree()?;
    let rules = format!("IN ACCEPT -p udp -dport {SET_PORT} -source +large\n");
    let guest = format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}");
    tree.write_firewall(VMID, &guest)?;
    let head = "[OPTIONS]\nenable: 1\n[IPSET large]\n";
    tree.write("firewall/cluster.fw", &format!("{head}203.0.113.1\n"))?;
    let (agent, _) = crowd.start(&tree)?;
    let members = members(entries);
    let (first, last) = members.split_at(members.len() / 2);
    let text = |members: &[Ipv4Addr]| {
        let lines = members.iter().map(|member| format!("{member}\n"));
        lines.collect::<String>()
    };
    let (first, last) = (text(first), text(last));
    let server = crowd.bed.server(SET_PORT)?;
    let file = "firewall/cluster.fw";
    let (mut loads, mut adds) = (Vec::new(), Vec::new());
    for round in 0..effort.rounds(1, 3) {
        eprintln!("change: a set of {entries}, round {}", round + 1);
        if round > 0 {
            // Empty again; the agent records when it is, and before that what the last edit left to do.
            std::thread::sleep(Duration::from_millis(500));
            let before = agent.record()?.map_or(0, |record| record.generation);
            tree.write(file, &format!("{head}203.0.113.1\n"))?;
            agent.wait_for(crate::crowd::LIMIT, "an empty set", |record| {
                record.generation > before
            })?;
        }
        // Another one each time: the flow of the last one still runs.
        let member = members[members.len() / 3 + round];
        let frame = datagram(member, SET_PORT)?;
        let parts = [head, &first, &last];
        let took = crowd.until_enforced(&tree, file, &parts, frame, &server)?;
        loads.push(milliseconds(took));
        let mut more = String::new();
        for number in 0..effort.rounds(3, 10) as u8 {
            let address = Ipv4Addr::new(198, 18, round as u8, 1 + 2 * number);
            more.push_str(&format!("{address}\n"));
            let parts = [head, &first, &more, &last];
            let frame = datagram(address, SET_PORT)?;
            // What the load or the edit before left to do is done.
            std::thread::sleep(Duration::from_millis(300));
            let took = crowd.until_enforced(&tree, file, &parts, frame, &server)?;
            adds.push(milliseconds(took));
        }
    }
    let line = |case: &str| Line::new("change", case, "ms").at("prefixes", entries);
    line("loading a set").with(loads).print()?;
    line("one address into a set").with(adds).print()?;
    for (subject, samples) in others(&members)? {
        for case in ["loading a set", "one address into a set"] {
            line(case).of(subject).with(samples.clone()).print()?;
        }
    }
    Ok(())
}

/// The same set for the others: a new one is filled and takes the old one's place.
fn others(members: &[Ipv4Addr]) -> Result<[(Subject, Vec<f64>); 2]> {
    let directory = temporary_directory("sets")?;
    let namespace = Netns::new("sets")?;
    let entries = members.len();
    let mut text = format!(
        "create large hash:net maxelem {entries} -exist\ncreate large_swap hash:net maxelem {entries}\n"
    );
    for member in members {
        text.push_str(&format!("add large_swap {member}\n"));
    }
    text.push_str("swap large large_swap\ndestroy large_swap\n");
    let ipset = directory.path().join("ipset");
    fs::write(&ipset, text)?;
    let elements: Vec<String> = members.iter().map(Ipv4Addr::to_string).collect();
    let nft = directory.path().join("nft");
    fs::write(
        &nft,
        format!(
            "table bridge sets\ndelete table bridge sets\ntable bridge sets {{ set large {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}; }}\n",
            elements.join(", ")
        ),
    )?;
    let (ipset, nft) = (ipset.display().to_string(), nft.display().to_string());
    eprintln!("change: the set by ipset and nft");
    // Once: a million take nft longer than everything else here.
    let first = load_file(&namespace, "ipset", &["-file", &ipset, "restore"])?;
    let second = load_file(&namespace, "nft", &["-f", &nft])?;
    Ok([(Subject::Iptables, first), (Subject::Nftables, second)]
        .map(|(subject, took)| (subject, vec![milliseconds(took)])))
}

/// Distinct addresses, in no order.
pub fn members(entries: usize) -> Vec<Ipv4Addr> {
    let numbers = 0..entries as u32;
    let members = numbers.map(|number| {
        // An odd multiplier makes every number of 28 bits another one; the last bit is clear, so that no two are one prefix.
        let scattered = number.wrapping_mul(0x9e3_779b) & 0xfff_ffff;
        let [a, b, c, d] = (scattered << 1).to_be_bytes();
        Ipv4Addr::new(64 + a, b, c, d)
    });
    members.collect()
}
