//! What changes while traffic flows: edited files, re-created devices, an agent that ends and comes back.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use fw_common::maps::capacity;
use rustix::process::Signal;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, TAP, VETH};
use tapwall_tests::probe::Answer::{Answered, Refused, Silent};
use tapwall_tests::probe::{Session, TIMEOUT, TcpServer, UdpServer, connect, receive};
use tapwall_tests::tree::{ConfigTree, NODE};

use crate::bed::{Bed, firewall};

#[test]
fn an_edit_is_enforced_while_the_agent_runs() {
    let bed = Bed::new("IN DROP -p tcp -dport 80\n").unwrap();
    let outside = &bed.node.outside;
    for (vmid, guest) in [(100, &bed.node.vm), (101, &bed.node.container)] {
        let to = guest.v4_port(80);
        let _server = TcpServer::start(&guest.namespace, to).unwrap();
        let attempt = |timeout| connect(&outside.namespace, outside.v4(), to, timeout);
        bed.expect("closed", attempt(TIMEOUT), &Silent);
        for (action, expect) in [("ACCEPT", Answered), ("REJECT", Refused), ("DROP", Silent)] {
            let text = firewall("DROP", &format!("IN {action} -p tcp -dport 80\n"));
            let record = bed
                .agent
                .after(|| bed.tree.write_firewall(vmid, &text))
                .unwrap();
            assert_eq!(record.errors, 0);
            bed.becomes(&expect, attempt);
        }
    }
}

#[test]
fn a_known_flow_survives_an_edit_that_closes_its_port() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\n").unwrap();
    let outside = &bed.node.outside;
    for (vmid, guest) in [(100, &bed.node.vm), (101, &bed.node.container)] {
        let to = guest.v4_port(80);
        let _server = TcpServer::start(&guest.namespace, to).unwrap();
        let mut session = Session::open(&outside.namespace, outside.v4(), to).unwrap();
        session.transfer(1000).unwrap();
        bed.agent
            .after(|| bed.tree.write_firewall(vmid, &firewall("DROP", "")))
            .unwrap();
        bed.becomes(&Silent, |timeout| {
            connect(&outside.namespace, outside.v4(), to, timeout)
        });
        session.transfer(1 << 20).unwrap();
    }
}

#[test]
fn a_known_flow_is_cut_by_an_edit_if_flows_are_judged_again() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let open = "IN ACCEPT -p udp -dport 514\n";
    for (vmid, policy) in [(100, "DROP"), (101, "REJECT")] {
        tree.write_firewall(vmid, &firewall(policy, open)).unwrap();
    }
    let agent = Agent::start_with(&node.host.namespace, &tree, &["--reevaluate"]).unwrap();
    let bed = Bed { agent, tree, node };
    let outside = &bed.node.outside;
    for (vmid, policy, guest, cut) in [
        (100, "DROP", &bed.node.vm, Silent),
        (101, "REJECT", &bed.node.container, Refused),
    ] {
        let to = guest.v4_port(514);
        let _server = UdpServer::start(&guest.namespace, to).unwrap();
        let socket = outside.namespace.run(|| {
            let socket = UdpSocket::bind((outside.v4(), 0))?;
            socket.connect(to)?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        let attempt = |timeout: Duration| {
            let asked = socket
                .set_read_timeout(Some(timeout))
                .and_then(|()| socket.send(b"still there?"));
            match asked.and_then(|_| receive(&socket, &mut [0; 100])) {
                Ok(_) => Answered,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Silent,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Refused,
                Err(error) => panic!("{error}"),
            }
        };
        bed.expect("open", attempt(TIMEOUT), &Answered);
        for (rules, expect) in [("", &cut), (open, &Answered)] {
            let text = firewall(policy, rules);
            bed.agent
                .after(|| bed.tree.write_firewall(vmid, &text))
                .unwrap();
            bed.becomes(expect, attempt);
            bed.expect("again", attempt(Duration::from_millis(200)), expect);
        }
    }
}

#[test]
fn the_flow_table_gets_another_size_under_a_connection() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\n").unwrap();
    let outside = &bed.node.outside;
    let to = bed.node.vm.v4_port(80);
    let _server = TcpServer::start(&bed.node.vm.namespace, to).unwrap();
    let mut session = Session::open(&outside.namespace, outside.v4(), to).unwrap();
    session.transfer(1000).unwrap();
    // From here on only its flow lets it pass.
    bed.agent
        .after(|| bed.tree.write_firewall(100, &firewall("DROP", "")))
        .unwrap();
    for (option, flows) in [("nf_conntrack_max: 300000", 303_104), ("", 262_144)] {
        let text = format!("[OPTIONS]\n{option}\n");
        let host = format!("nodes/{NODE}/host.fw");
        let record = bed.agent.after(|| bed.tree.write(&host, &text)).unwrap();
        assert_eq!(record.degraded, Vec::<String>::new());
        let output = bed.agent.fwctl(&["map", "list", "--json"]).unwrap();
        let maps: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let table = maps
            .as_array()
            .unwrap()
            .iter()
            .find(|map| map["map"] == "FLOWS");
        assert_eq!(table.unwrap()["capacity"], capacity::entries(flows));
        session.transfer(1 << 20).unwrap();
        bed.becomes(&Silent, |timeout| {
            connect(&outside.namespace, outside.v4(), to, timeout)
        });
    }
}

#[test]
fn a_guest_that_leaves_keeps_its_policy_until_its_device_is_gone() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\nIN REJECT -p tcp -dport 82\n").unwrap();
    let config = bed.tree.path().join("nodes").join(NODE);
    let config = config.join("qemu-server/100.conf");
    let left = bed.agent.after(|| Ok(std::fs::remove_file(&config)?));
    let left = left.unwrap();
    assert!(left.ports.iter().all(|port| port.vmid != 100), "{left:?}");
    for (port, expect) in [(80, Answered), (82, Refused), (83, Silent)] {
        let to = bed.node.vm.v4_port(port);
        let _server = TcpServer::start(&bed.node.vm.namespace, to).unwrap();
        bed.expect(&to.to_string(), bed.tcp(&bed.node.outside, to), &expect);
    }
}

#[test]
fn a_recreated_device_is_filtered_again() {
    let mut bed = Bed::new("IN ACCEPT -p tcp -dport 80\nIN REJECT -p tcp -dport 82\n").unwrap();
    let host = &bed.node.host.namespace;
    let before = [TAP, VETH].map(|device| host.ifindex(device).unwrap());
    bed.agent.wait_attached(TAP, None).unwrap();
    bed.agent.wait_attached(VETH, None).unwrap();
    bed.node.unplug_vm();
    bed.node.unplug_container().unwrap();
    bed.node.plug_vm().unwrap();
    bed.node.plug_container().unwrap();
    bed.agent.wait_attached(TAP, Some(before[0])).unwrap();
    bed.agent.wait_attached(VETH, Some(before[1])).unwrap();
    for guest in bed.guests() {
        // The outside may remember that the address was unreachable; the guest speaks first, as a starting one does.
        let outside = &bed.node.outside;
        bed.expect("hello", bed.ping(guest, outside.v4()), &Answered);
        for (port, expect) in [(80, Answered), (82, Refused), (83, bed.policy_of(guest))] {
            let to = guest.v4_port(port);
            let _server = TcpServer::start(&guest.namespace, to).unwrap();
            bed.expect(&to.to_string(), bed.tcp(outside, to), &expect);
        }
    }
}

#[test]
fn the_policy_outlives_the_agent_and_the_next_agent_adopts_it() {
    let mut bed = Bed::new("IN ACCEPT -p tcp -dport 80\nIN REJECT -p tcp -dport 82\n").unwrap();
    let check = |bed: &Bed, when: &str| {
        for guest in bed.guests() {
            for (port, expect) in [(80, Answered), (82, Refused), (83, bed.policy_of(guest))] {
                let to = guest.v4_port(port);
                let _server = TcpServer::start(&guest.namespace, to).unwrap();
                let seen = bed.tcp(&bed.node.outside, to);
                bed.expect(&format!("{when}: {to}"), seen, &expect);
            }
        }
    };
    check(&bed, "first agent");
    let to = bed.node.vm.v4_port(80);
    let server = TcpServer::start(&bed.node.vm.namespace, to).unwrap();
    let outside = &bed.node.outside;
    let mut session = Session::open(&outside.namespace, outside.v4(), to).unwrap();
    bed.agent.terminate().unwrap();
    session.transfer(1000).unwrap();
    drop(server);
    check(&bed, "no agent");
    bed.agent = bed.agent.restart(&bed.node.host.namespace).unwrap();
    session.transfer(1000).unwrap();
    check(&bed, "second agent");
}

#[test]
fn a_stop_opens_the_node() {
    let mut bed = Bed::new("").unwrap();
    let to = bed.node.vm.v4_port(80);
    let _server = TcpServer::start(&bed.node.vm.namespace, to).unwrap();
    bed.expect("closed", bed.tcp(&bed.node.outside, to), &Silent);
    bed.agent.terminate().unwrap();
    let stopped = bed.agent.fwctl(&["stop"]).unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    bed.expect("open", bed.tcp(&bed.node.outside, to), &Answered);
}

#[test]
fn a_cluster_that_is_off_filters_nothing() {
    let bed = Bed::new("").unwrap();
    let (outside, guest) = (&bed.node.outside, &bed.node.vm);
    let to = guest.v4_port(80);
    let _server = TcpServer::start(&guest.namespace, to).unwrap();
    let attempt = |timeout| connect(&outside.namespace, outside.v4(), to, timeout);
    bed.expect("on", attempt(TIMEOUT), &Silent);
    for (enable, expect) in [(0, Answered), (1, Silent)] {
        let text = format!("[OPTIONS]\nenable: {enable}\n");
        let record = bed
            .agent
            .after(|| bed.tree.write("firewall/cluster.fw", &text))
            .unwrap();
        assert_eq!(record.enabled, enable == 1);
        bed.becomes(&expect, attempt);
    }
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let rules = "IN ACCEPT -p tcp -dport 80\n";
    let bed = Bed::new(rules).unwrap();
    // The line is said for each plan with any action.
    let plans = |bed: &Bed| {
        // Without the escape sequences of its colours.
        let said = bed.agent.stderr();
        let parts = said.split('\u{1b}');
        let plain: String = parts
            .map(|part| match part.starts_with('[') {
                true => part.split_once('m').map_or("", |(_, text)| text),
                false => part,
            })
            .collect();
        let lines = plain.lines();
        let lines = lines.filter(|line| line.contains("policy enforced"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = plans(&bed);
    assert!(!first.is_empty(), "{}", bed.agent.stderr());
    let text = |rules: &str| firewall("DROP", rules);
    let edit = |text: &str| {
        bed.agent
            .after(|| bed.tree.write_firewall(100, text))
            .unwrap();
    };
    // Another text that means the same is a round of its own, and an empty plan.
    edit(&text(&format!("{rules}# a remark\n")));
    assert_eq!(plans(&bed), first);
    // The same text again, in another file, is none.
    let before = bed.agent.record().unwrap().unwrap().generation;
    bed.tree
        .write_firewall(100, &text(&format!("{rules}# a remark\n")))
        .unwrap();
    bed.agent.signal(Signal::HUP).unwrap();
    bed.agent.wait_said("SIGHUP").unwrap();
    // One policy, one port, and waiting for those who still read the old one.
    edit(&text("IN ACCEPT -p tcp -dport 81\n"));
    let after = bed.agent.record().unwrap().unwrap().generation;
    assert_eq!(after, before + 1);
    let all = plans(&bed);
    assert_eq!(all.len(), first.len() + 1, "{all:?}");
    assert!(all[first.len()].contains("actions=3 "), "{all:?}");
}
