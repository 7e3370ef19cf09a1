//! What an administrator sees: the log, diagnostics, other tools, the sentence of an agent that cannot run.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use fw_agent::datapath::pins::Pins;
use fw_common::conntrack::{ANSWERED, State};
use fw_common::flow::{Flow, FlowKey};
use tapwall_tests::agent::program;
use tapwall_tests::kernel::fill_flows;
use tapwall_tests::netns::run;
use tapwall_tests::node::{TAP, VETH};
use tapwall_tests::probe::Answer::{Answered, Refused, Silent};
use tapwall_tests::probe::{Session, TcpServer, exchange};
use tapwall_tests::tree::{ConfigTree, NODE};

use crate::bed::{Bed, firewall};

#[test]
fn logged_packets_appear_in_the_log() {
    let bed = Bed::new("IN REJECT -p udp -dport 82 -log notice\n").unwrap();
    let node = &bed.node;
    for (guest, device, vmid, policy) in [
        (&node.vm, TAP, 100, " policy DROP: "),
        (&node.container, VETH, 101, " policy REJECT: "),
    ] {
        let (closed, rejected) = (guest.v4_port(8080), guest.v6_port(82));
        let seen = bed.tcp(&node.outside, closed);
        bed.expect("policy", seen, &bed.policy_of(guest));
        bed.expect("rule", bed.udp(&node.outside, rejected), &Refused);
        let dest = format!("DST={} ", guest.v4());
        for parts in [
            &[
                &format!("{vmid} 6 {device}-IN ")[..],
                policy,
                "SRC=192.0.2.200 ",
                &dest,
                "PROTO=TCP ",
                "DPT=8080 ",
            ][..],
            &[
                &format!("{vmid} 5 {device}-IN "),
                " REJECT: ",
                "PROTO=UDP ",
                "DPT=82 ",
            ],
        ] {
            let line = bed.agent.wait_log(parts).unwrap();
            assert!(line.starts_with(parts[0]), "{line}");
        }
    }
}

#[test]
fn a_flood_is_logged_no_faster_than_the_limit() {
    const SENT: usize = 60;
    let rules = "IN DROP -p udp -dport 85 -log info\nIN REJECT -p udp -dport 82 -log notice\n";
    let bed = Bed::new(rules).unwrap();
    let node = &bed.node;
    let started = Instant::now();
    for _ in 0..SENT {
        let (from, to) = (&node.outside, node.vm.v4_port(85));
        let seen = exchange(
            &from.namespace,
            from.v4(),
            to,
            b"flood",
            Duration::from_millis(2),
        );
        bed.expect("flood", seen, &Silent);
    }
    // Another rule has its own limit, and its line comes after those of the flood.
    let marker = bed.udp(&node.outside, node.vm.v4_port(82));
    bed.expect("marker", marker, &Refused);
    bed.agent.wait_log(&["DPT=82 "]).unwrap();
    let log = bed.agent.log();
    let lines = log.lines().filter(|line| line.contains("DPT=85 ")).count();
    let limit = 5 + 1 + started.elapsed().as_secs() as usize;
    assert!(
        (5..=limit).contains(&lines),
        "{lines} lines, not 5 to {limit}"
    );

    let output = bed.agent.fwctl(&["map", "dump", "COUNTERS", "--json"]);
    let counters: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let limited = counters.as_array().unwrap().iter();
    let limited = limited.filter(|row| row["counter"] == "logs-limited");
    let limited: u64 = limited.filter_map(|row| row["packets"].as_u64()).sum();
    assert_eq!(limited as usize, SENT - lines);
}

#[test]
fn a_full_flow_table_is_reported_and_traffic_goes_on() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\n").unwrap();
    let outside = &bed.node.outside;
    let to = bed.node.vm.v4_port(80);
    let _server = TcpServer::start(&bed.node.vm.namespace, to).unwrap();
    let mut old = Session::open(&outside.namespace, outside.v4(), to).unwrap();
    old.transfer(1000).unwrap();
    let pins = Pins::new(bed.agent.pin_directory());
    assert!(fill_flows(&pins).unwrap() > 0);
    let mut new = Session::open(&outside.namespace, outside.v4(), to).unwrap();
    new.transfer(100_000).unwrap();
    old.transfer(100_000).unwrap();
    bed.becomes(&Answered, |_| {
        match bed.agent.stderr().contains("the flow table is full") {
            true => Answered,
            false => {
                // The agent looks once a second; the next look is what is waited for.
                std::thread::sleep(Duration::from_millis(20));
                Silent
            }
        }
    });
}

#[test]
fn the_log_says_how_many_lines_were_left_out() {
    let rule = "IN DROP -p udp -dport 85 -log info";
    let bed = Bed::new(&format!("{rule}\n")).unwrap();
    let node = &bed.node;
    let started = Instant::now();
    let line = loop {
        let (from, to) = (&node.outside, node.vm.v4_port(85));
        let wait = Duration::from_millis(20);
        let seen = exchange(&from.namespace, from.v4(), to, b"flood", wait);
        bed.expect("flood", seen, &Silent);
        let log = bed.agent.log();
        let mut lines = log.lines();
        if let Some(line) = lines.find(|line| line.contains("suppressed")) {
            break line.to_owned();
        }
        // A token comes every second, and its event tells.
        assert!(started.elapsed() < Duration::from_secs(10), "{log}");
    };
    assert!(line.starts_with("0 5 - "), "{line}");
    let end = format!(" (rate limit) of 100 net0 IN rule: {rule}");
    assert!(line.ends_with(&end), "{line}");
}

#[test]
fn counters_of_rules_and_ports_survive_edits_and_restarts() {
    let rule = "IN DROP -p udp -dport 85\n";
    let mut bed = Bed::new(rule).unwrap();
    // The rule is the only one of guest 100 that drops; its policy's rule drops nothing here.
    let hit = |bed: &Bed, times: usize| {
        for _ in 0..times {
            let seen = exchange(
                &bed.node.outside.namespace,
                bed.node.outside.v4(),
                bed.node.vm.v4_port(85),
                b"counted",
                Duration::from_millis(20),
            );
            bed.expect("dropped", seen, &Silent);
        }
    };
    let dump = |bed: &Bed, map: &str| -> Vec<serde_json::Value> {
        let output = bed.agent.fwctl(&["map", "dump", map, "--json"]).unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let counted = |bed: &Bed, packets: u64| {
        let rules = dump(bed, "RULE_COUNTERS");
        let mine = |row: &&serde_json::Value| {
            row["guest"] == 100 && row["direction"] == "IN" && row["packets"] == packets
        };
        let row = rules.iter().find(mine);
        let row = row.unwrap_or_else(|| panic!("no rule with {packets}: {rules:?}"));
        assert_eq!(row["bytes"], packets * (14 + 20 + 8 + 7));
        assert!(row["seconds_ago"].as_u64().unwrap() < 60, "{row}");
        let ports = dump(bed, "PORT_COUNTERS");
        let dropped = |row: &&serde_json::Value| {
            row["guest"] == 100 && row["direction"] == "IN" && row["verdict"] == "DROP"
        };
        let row = ports.iter().find(dropped).unwrap();
        assert!(row["packets"].as_u64().unwrap() >= packets, "{row}");
    };
    hit(&bed, 3);
    counted(&bed, 3);
    let text = firewall("DROP", &format!("IN ACCEPT -p tcp -dport 80\n{rule}"));
    bed.agent
        .after(|| bed.tree.write_firewall(100, &text))
        .unwrap();
    hit(&bed, 2);
    counted(&bed, 5);
    bed.agent = bed.agent.restart(&bed.node.host.namespace).unwrap();
    hit(&bed, 2);
    counted(&bed, 7);
}

#[test]
fn a_bad_line_is_reported_and_the_rest_is_enforced() {
    let bed = Bed::new(
        "IN ACCEPT -p tcp -dport 80\nIN ACCEPT -p tcp -dport nonsense\nIN REJECT -p tcp -dport 82\n",
    )
    .unwrap();
    let record = bed.agent.record().unwrap().unwrap();
    assert_eq!(record.errors, 2, "one per guest: {}", bed.agent.stderr());
    for guest in bed.guests() {
        for (port, expect) in [(80, Answered), (82, Refused), (83, bed.policy_of(guest))] {
            let to = guest.v4_port(port);
            let _server = TcpServer::start(&guest.namespace, to).unwrap();
            let seen = bed.tcp(&bed.node.outside, to);
            bed.expect(&to.to_string(), seen, &expect);
        }
    }
}

#[test]
fn other_tools_see_the_programs_and_maps() {
    let bed = Bed::new("").unwrap();
    let programs = run(Command::new("bpftool").args(["prog", "show"])).unwrap();
    assert!(programs.contains("tapwall"), "{programs}");
    let maps = run(Command::new("bpftool").args(["map", "show"])).unwrap();
    assert!(maps.contains("name PORTS"), "{maps}");
    let status = bed.agent.fwctl(&["status"]).unwrap();
    assert!(status.status.success(), "{status:?}");
    let text = String::from_utf8(status.stdout).unwrap();
    for device in ["vmbr0", TAP, VETH] {
        let row = text.lines().find(|line| line.contains(device));
        assert!(row.is_some_and(|row| row.contains("filtered")), "{text}");
    }
    let own = bed.agent.fwctl(&["map", "dump", "LOCALS"]).unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    let host = &bed.node.host;
    for address in [host.v4(), host.v6()] {
        let shown = address.to_string();
        assert!(own.lines().any(|line| line.trim() == shown), "{own}");
    }
}

#[test]
fn without_a_bpf_file_system_the_agent_says_so_in_one_sentence() {
    let tree = ConfigTree::with_demo_guests().unwrap();
    let elsewhere = tree.path().join("pins");
    fs::create_dir(&elsewhere).unwrap();
    let output = Command::new(program("fw-agent").unwrap())
        .arg("--root")
        .arg(tree.path())
        .args(["--node", NODE])
        .arg("--pin-dir")
        .arg(&elsewhere)
        .arg("--run-dir")
        .arg(tree.path())
        .arg("--log-file")
        .arg(tree.path().join("log"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
fn flows_are_logged_when_the_host_s_option_says() {
    let mut bed = Bed::new("IN ACCEPT -p tcp -dport 80\nIN ACCEPT -p udp -dport 53\n").unwrap();
    let (outside, to) = (bed.node.outside.v4(), bed.node.vm.v4_port(80));
    let open = |bed: &Bed| Session::open(&bed.node.outside.namespace, outside, to).unwrap();
    let _server = TcpServer::start(&bed.node.vm.namespace, to).unwrap();
    let quiet = open(&bed);
    let turn = |bed: &Bed, on: u8| {
        let file = format!("nodes/{NODE}/host.fw");
        let text = format!("[OPTIONS]\nlog_nf_conntrack: {on}\n");
        bed.agent.after(|| bed.tree.write(&file, &text)).unwrap();
    };
    turn(&bed, 1);
    let mut session = open(&bed);
    session.transfer(1000).unwrap();
    let begun = " tcp      6 120 SYN_SENT ";
    let line = bed.agent.wait_log(&["[NEW]", begun, "dport=80 "]).unwrap();
    let port = line.split("sport=").nth(1).unwrap();
    let port = port.split(' ').next().unwrap();
    let (source, dest) = (outside, bed.node.vm.v4());
    let there = format!("src={source} dst={dest} sport={port} dport=80");
    let back = format!("src={dest} dst={source} sport=80 dport={port}");
    let flow = format!("{there} [UNREPLIED] {back} mark=100");
    assert_eq!(line, format!("    [NEW] ipv4     2{begun}{flow}"));
    // The flow is closed and expires. An agent that starts makes one at once.
    let table = fw_common::maps::name::FLOWS;
    let pins = Pins::new(bed.agent.pin_directory());
    let mut flows = pins.hash::<FlowKey, Flow>(table).unwrap();
    let known: Vec<_> = flows.iter().map(|entry| entry.unwrap()).collect();
    let state = State::Close as u32 | ANSWERED;
    for (key, flow) in known {
        let expired = Flow {
            seen: 0,
            state,
            ..flow
        };
        flows.insert(key, expired, 0).unwrap();
    }
    drop((session, quiet));
    bed.agent = bed.agent.restart(&bed.node.host.namespace).unwrap();
    let line = bed.agent.wait_log(&["[DESTROY]", &there]).unwrap();
    let flow = format!("{there} {back} [ASSURED] mark=100");
    assert_eq!(line, format!("[DESTROY] ipv4     2 tcp      6 {flow}"));

    turn(&bed, 0);
    let log = bed.agent.log();
    let _third = open(&bed);
    // What is logged after it in any case.
    let seen = bed.tcp(&bed.node.outside, bed.node.vm.v4_port(8080));
    bed.expect("policy", seen, &Silent);
    bed.agent.wait_log(&["DPT=8080 "]).unwrap();
    let count = |log: &str| log.matches("[NEW]").count();
    assert_eq!(count(&bed.agent.log()), count(&log));
}
