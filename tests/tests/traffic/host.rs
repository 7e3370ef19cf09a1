//! The host's own traffic over its bridge: what reaches it, what it sends, and what only passes by.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tapwall_tests::node::{STRANGER_V4, STRANGER_V6};
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::{
    Session, TIMEOUT, TcpServer, UdpServer, connect, send_frame, transfer, udp_frame,
};

use crate::bed::{Bed, both, cluster, firewall};

#[test]
fn the_host_accepts_drops_and_rejects_over_its_bridge() {
    let bed = Bed::of_host(
        "policy_in: DROP\n",
        "[RULES]\nIN ACCEPT -p tcp -dport 80\nIN DROP -p tcp -dport 81\nIN REJECT -p tcp -dport 82\n\
         IN ACCEPT -p udp -dport 80\nIN DROP -p udp -dport 81\nIN REJECT -p udp -dport 82\n",
    )
    .unwrap();
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    for from in [outside, &bed.node.vm, &bed.node.container] {
        for (port, expect) in [(80, Answered), (81, Silent), (82, Refused), (83, Silent)] {
            for to in both(host, port) {
                let _tcp = TcpServer::start(&host.namespace, to).unwrap();
                let _udp = UdpServer::start(&host.namespace, to).unwrap();
                bed.expect(&format!("tcp {to}"), bed.tcp(from, to), &expect);
                let seen = bed.udp(from, to);
                bed.expect(&format!("udp {to} from {}", from.v4()), seen, &expect);
            }
        }
        for address in [host.v4(), host.v6()] {
            bed.expect("ping", bed.ping(from, address), &Silent);
        }
    }
    for address in both(host, 80) {
        let _server = TcpServer::start(&host.namespace, address).unwrap();
        let source = outside.address_like(address.ip());
        transfer(&outside.namespace, source, address, 4 << 20).unwrap();
    }
}

#[test]
fn what_the_host_sends_is_judged_and_its_answers_come_back() {
    let bed = Bed::of_host(
        "policy_in: DROP\npolicy_out: REJECT\n",
        "[RULES]\nOUT ACCEPT -p tcp -dport 80\nOUT DROP -p tcp -dport 81\nOUT ACCEPT -p udp -dport 80\n\
         OUT DROP -p udp -dport 81\nOUT Ping(ACCEPT)\nOUT ACCEPT -p icmpv6 -icmp-type echo-request\n",
    )
    .unwrap();
    let host = &bed.node.host;
    for to in [&bed.node.outside, &bed.node.vm, &bed.node.container] {
        for (port, expect) in [(80, Answered), (81, Silent), (82, Refused)] {
            for to in both(to, port) {
                let station = &bed.node;
                let namespace = [&station.outside, &station.vm, &station.container]
                    .into_iter()
                    .find(|station| [station.v4(), station.v6()].contains(&to.ip()))
                    .map(|station| &station.namespace)
                    .unwrap();
                let _tcp = TcpServer::start(namespace, to).unwrap();
                let _udp = UdpServer::start(namespace, to).unwrap();
                bed.expect(&format!("tcp {to}"), bed.tcp(host, to), &expect);
                bed.expect(&format!("udp {to}"), bed.udp(host, to), &expect);
            }
        }
        for address in [to.v4(), to.v6()] {
            bed.expect("ping", bed.ping(host, address), &Answered);
        }
    }
}

#[test]
fn a_guest_reaches_the_host_only_if_both_policies_let_it() {
    let bed = Bed::of_host("", "[RULES]\nIN ACCEPT -p tcp -dport 80:81\n").unwrap();
    let rules = "OUT REJECT -p tcp -dport 81\nOUT ACCEPT -p tcp -dport 80:82\n";
    for vmid in [100, 101] {
        bed.agent
            .after(|| bed.tree.write_firewall(vmid, &firewall("DROP", rules)))
            .unwrap();
    }
    let host = &bed.node.host;
    for guest in bed.guests() {
        for (port, expect) in [(80, Answered), (81, Refused), (82, Silent)] {
            for to in both(host, port) {
                let _server = TcpServer::start(&host.namespace, to).unwrap();
                bed.becomes(&expect, |_| bed.tcp(guest, to));
            }
        }
    }
}

#[test]
fn the_management_set_reaches_the_services_that_need_no_rule() {
    let bed = Bed::of_host(
        "",
        "[IPSET management]\n192.0.2.200\n2001:db8:1::200\n[RULES]\n",
    )
    .unwrap();
    let host = &bed.node.host;
    let outside = &bed.node.outside;
    for (port, expect) in [
        (8006, Answered),
        (22, Answered),
        (5900, Answered),
        (80, Silent),
    ] {
        for to in both(host, port) {
            let _server = TcpServer::start(&host.namespace, to).unwrap();
            bed.expect(&format!("tcp {to}"), bed.tcp(outside, to), &expect);
            let stranger = match to {
                SocketAddr::V4(_) => STRANGER_V4,
                SocketAddr::V6(_) => STRANGER_V6,
            };
            let seen = connect(&outside.namespace, stranger, to, TIMEOUT);
            bed.expect(&format!("stranger, tcp {to}"), seen, &Silent);
        }
    }
}

#[test]
fn a_flow_of_the_host_survives_an_edit_that_closes_its_port() {
    let bed = Bed::of_host("", "[RULES]\nIN ACCEPT -p tcp -dport 80\n").unwrap();
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    let to = host.v4_port(80);
    let _server = TcpServer::start(&host.namespace, to).unwrap();
    let mut session = Session::open(&outside.namespace, outside.v4(), to).unwrap();
    session.transfer(1000).unwrap();
    bed.agent
        .after(|| bed.tree.write("firewall/cluster.fw", &cluster("", "")))
        .unwrap();
    bed.becomes(&Silent, |timeout| {
        connect(&outside.namespace, outside.v4(), to, timeout)
    });
    session.transfer(1 << 20).unwrap();
}

#[test]
fn the_switches_of_cluster_and_node_attach_and_detach() {
    let bed = Bed::of_host("", "").unwrap();
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    let to = host.v4_port(80);
    let _server = TcpServer::start(&host.namespace, to).unwrap();
    let attempt = |timeout| connect(&outside.namespace, outside.v4(), to, timeout);
    bed.expect("on", attempt(TIMEOUT), &Silent);
    let steps: [(&str, &str, Answer); 4] = [
        ("nodes/demo/host.fw", "[OPTIONS]\nenable: 0\n", Answered),
        ("nodes/demo/host.fw", "[OPTIONS]\nenable: 1\n", Silent),
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 0\n", Answered),
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n", Silent),
    ];
    for (file, text, expect) in steps {
        let record = bed.agent.after(|| bed.tree.write(file, text)).unwrap();
        let names: Vec<&str> = record.host.iter().map(|row| row.device.as_str()).collect();
        let on: &[&str] = if expect == Silent { &["vmbr0"] } else { &[] };
        assert_eq!(names, on, "{file}: {text}");
        assert!(record.host.iter().all(|row| row.attached), "{record:?}");
        bed.becomes(&expect, attempt);
    }
    let stopped = bed.agent.fwctl(&["stop"]).unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    bed.expect("stopped", attempt(TIMEOUT), &Answered);
}

#[test]
fn what_a_promiscuous_bridge_sees_is_not_the_hosts() {
    let bed = Bed::of_host("policy_in: REJECT\n", "").unwrap();
    bed.node
        .host
        .namespace
        .ip("link set vmbr0 promisc on")
        .unwrap();
    for (from, to) in [
        (&bed.node.outside, &bed.node.vm),
        (&bed.node.container, &bed.node.outside),
    ] {
        for address in both(to, 80) {
            let _tcp = TcpServer::start(&to.namespace, address).unwrap();
            let _udp = UdpServer::start(&to.namespace, address).unwrap();
            bed.expect("tcp", bed.tcp(from, address), &Answered);
            bed.expect("udp", bed.udp(from, address), &Answered);
        }
    }
}

#[test]
fn datagrams_to_everybody_and_to_groups_are_the_hosts() {
    let bed = Bed::of_host("", "[RULES]\nIN ACCEPT -p udp -dport 5000\n").unwrap();
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    let any = |port| SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port);
    let group = "239.1.2.3";
    // A membership of the device, as a routing daemon's; sockets bound to all addresses get what is sent to the group.
    host.namespace
        .ip("addr add 239.1.2.3/32 dev vmbr0 autojoin")
        .unwrap();
    let sinks = [5000, 5001].map(|port| UdpServer::start(&host.namespace, any(port)).unwrap());
    let send = |mac: [u8; 6], dest: &str, port: u16, payload: &str| -> Result<()> {
        let source = "192.0.2.200:4000".parse()?;
        let dest = format!("{dest}:{port}").parse()?;
        let frame = udp_frame(outside.mac, mac, source, dest, payload.as_bytes())?;
        send_frame(&outside.namespace, outside.device, &frame)
    };
    let everybody = [0xff; 6];
    let group_mac = [0x01, 0, 0x5e, 1, 2, 3];
    for (name, mac, dest) in [
        ("broadcast", everybody, "255.255.255.255"),
        ("broadcast of the network", everybody, "192.0.2.255"),
        ("unicast in a broadcast frame", everybody, "192.0.2.1"),
        ("multicast", group_mac, group),
        ("unicast", host.mac, "192.0.2.1"),
    ] {
        send(mac, dest, 5001, &format!("dropped {name}")).unwrap();
        send(mac, dest, 5000, name).unwrap();
        assert!(sinks[0].receives(name.as_bytes(), TIMEOUT), "{name}");
        // It was sent before, on the same way.
        let dropped = format!("dropped {name}");
        assert!(
            !sinks[1].receives(dropped.as_bytes(), Duration::ZERO),
            "{name}"
        );
    }
}

#[test]
fn a_priority_tag_is_no_way_around_the_policy() {
    let bed = Bed::of_host("", "[RULES]\nIN ACCEPT -p udp -dport 5000\n").unwrap();
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    let sinks =
        [5000, 5001].map(|port| UdpServer::start(&host.namespace, host.v4_port(port)).unwrap());
    let send = |tag: u16, port: u16, payload: &str| -> Result<()> {
        let source = "192.0.2.200:4000".parse()?;
        let dest = format!("192.0.2.1:{port}").parse()?;
        let mut frame = udp_frame(outside.mac, host.mac, source, dest, payload.as_bytes())?;
        frame.splice(
            12..12,
            [0x8100_u16.to_be_bytes(), tag.to_be_bytes()].concat(),
        );
        send_frame(&outside.namespace, outside.device, &frame)
    };
    send(0xe000, 5001, "closed").unwrap();
    // A VLAN that the host has no interface of: the host's stack drops it itself.
    send(100, 5000, "of a VLAN").unwrap();
    send(0xe000, 5000, "open").unwrap();
    assert!(sinks[0].receives(b"open", TIMEOUT));
    assert!(!sinks[0].receives(b"of a VLAN", Duration::ZERO));
    assert!(!sinks[1].receives(b"closed", Duration::ZERO));
}
