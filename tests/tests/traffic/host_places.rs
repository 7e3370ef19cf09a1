//! The host's other interfaces: NICs outside any bridge, tunnels, what it routes between them, and what changes while the agent runs.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{IpAddr, SocketAddr};

use tapwall_tests::netns::Netns;
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, connect, exchange, ping};
use tapwall_tests::tap::{Offloads, Tap, TapPeer};

use crate::bed::{Bed, both, cluster};

/// The host's and the other end's addresses of a second network.
const HOST: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
pub const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace behind a NIC `eno2` of the host that is in no bridge; waits until the agent has it.
pub fn behind_a_nic(bed: &Bed) -> Netns {
    let far = Netns::new("far").unwrap();
    quiet(&far);
    let host = &bed.node.host.namespace;
    host.ip(&format!(
        "link add eno2 type veth peer name eth0 netns {}\n\
         addr add {}/24 dev eno2\naddr add {}/64 dev eno2 nodad\nlink set eno2 up",
        far.name(),
        HOST[0],
        HOST[1],
    ))
    .unwrap();
    far.ip(&format!(
        "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via {}\nroute add default via {}",
        FAR[0], FAR[1], HOST[0], HOST[1],
    ))
    .unwrap();
    attached(bed, "eno2");
    far
}

fn quiet(namespace: &Netns) {
    for key in ["all", "default"] {
        namespace
            .sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0")
            .unwrap();
    }
    namespace
        .sysctl("net/ipv4/ping_group_range", "0 2147483647")
        .unwrap();
}

fn attached(bed: &Bed, device: &str) {
    bed.agent
        .wait_for(TIMEOUT * 4, device, |record| {
            let mut rows = record.host.iter();
            rows.any(|row| row.device == device && row.attached)
        })
        .unwrap();
}

/// Tries TCP and UDP to ports of the host from another network.
fn try_host(bed: &Bed, from: &Netns, ports: &[(u16, Answer)]) {
    let host = &bed.node.host.namespace;
    for (port, expect) in ports {
        for (own, far) in HOST.into_iter().zip(FAR) {
            let (to, source) = (SocketAddr::new(address(own), *port), address(far));
            let _tcp = TcpServer::start(host, to).unwrap();
            let _udp = UdpServer::start(host, to).unwrap();
            let seen = connect(from, source, to, TIMEOUT);
            bed.expect(&format!("tcp {to}"), seen, expect);
            let seen = exchange(from, source, to, b"place", TIMEOUT);
            bed.expect(&format!("udp {to}"), seen, expect);
        }
    }
}

#[test]
fn a_nic_without_a_bridge_has_rules_of_its_own() {
    let bed = Bed::of_host(
        "",
        "[RULES]\nIN ACCEPT -i eno2 -p tcp -dport 80\nIN ACCEPT -i eno2 -p udp -dport 80\n\
         IN REJECT -p tcp -dport 82\nIN REJECT -p udp -dport 82\n\
         IN ACCEPT -i vmbr0 -p tcp -dport 83\n",
    )
    .unwrap();
    let far = behind_a_nic(&bed);
    let cases = [(80, Answered), (81, Silent), (82, Refused), (83, Silent)];
    try_host(&bed, &far, &cases);
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    for (port, expect) in [(80, Silent), (82, Refused), (83, Answered)] {
        for to in both(host, port) {
            let _server = TcpServer::start(&host.namespace, to).unwrap();
            bed.expect(&format!("bridge, tcp {to}"), bed.tcp(outside, to), &expect);
        }
    }
}

#[test]
fn a_nic_that_joins_a_bridge_is_the_hosts_no_more() {
    let bed = Bed::of_host("", "").unwrap();
    let _far = behind_a_nic(&bed);
    let host = &bed.node.host.namespace;
    let has =
        |record: &fw_agent::record::Record| record.host.iter().any(|row| row.device == "eno2");
    host.ip("link set eno2 master vmbr0").unwrap();
    bed.agent
        .wait_for(TIMEOUT * 4, "eno2 as a port", |record| !has(record))
        .unwrap();
    host.ip("link set eno2 nomaster").unwrap();
    attached(&bed, "eno2");
}

#[test]
fn a_tunnel_without_link_headers_is_judged_in_both_directions() {
    let bed = Bed::of_host(
        "",
        "[RULES]\nIN ACCEPT -i tun0 -p tcp -dport 80\nIN ACCEPT -i tun0 -p udp -dport 80\n\
         IN REJECT -p tcp -dport 82\nIN REJECT -p udp -dport 82\nIN DROP -p tcp -dport 81 -log info\n\
         OUT REJECT -p tcp -dport 90\nOUT REJECT -p udp -dport 90\nOUT DROP -p tcp -dport 91\n\
         OUT DROP -p udp -dport 91\n",
    )
    .unwrap();
    let host = &bed.node.host.namespace;
    let far = Netns::new("far").unwrap();
    quiet(&far);
    let near_end = Tap::tun(host, "tun0", Offloads::TcpUdp).unwrap();
    let far_end = Tap::tun(&far, "tun0", Offloads::TcpUdp).unwrap();
    for (namespace, addresses) in [(host, HOST), (&far, FAR)] {
        namespace
            .ip(&format!(
                "addr add {}/24 dev tun0\naddr add {}/64 dev tun0 nodad\nlink set tun0 up",
                addresses[0], addresses[1]
            ))
            .unwrap();
    }
    let _peer = TapPeer::start(near_end, far_end).unwrap();
    attached(&bed, "tun0");
    let cases = [(80, Answered), (81, Silent), (82, Refused), (83, Silent)];
    try_host(&bed, &far, &cases);
    for (port, expect) in [(90, Refused), (91, Silent), (92, Answered)] {
        for (own, far_address) in HOST.into_iter().zip(FAR) {
            let to = SocketAddr::new(address(far_address), port);
            let _tcp = TcpServer::start(&far, to).unwrap();
            let _udp = UdpServer::start(&far, to).unwrap();
            let seen = connect(host, address(own), to, TIMEOUT);
            bed.expect(&format!("tcp {to}"), seen, &expect);
            let seen = exchange(host, address(own), to, b"place", TIMEOUT);
            bed.expect(&format!("udp {to}"), seen, &expect);
        }
    }
    // The log line is that of a packet, though it began without an Ethernet header.
    bed.agent
        .wait_log(&[
            "0 6 PVEFW-HOST-IN ",
            " DROP: IN=tun0 SRC=198.51.100.2 DST=198.51.100.1 LEN=60 ",
            "DPT=81",
        ])
        .unwrap();
}

#[test]
fn what_the_host_routes_is_not_its_own() {
    let bed = Bed::of_host("policy_in: DROP\npolicy_out: DROP\n", "").unwrap();
    let far = behind_a_nic(&bed);
    let (host, outside) = (&bed.node.host.namespace, &bed.node.outside);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.sysctl(key, "1").unwrap();
    }
    outside
        .namespace
        .ip("route add 198.51.100.0/24 via 192.0.2.1\nroute add 2001:db8:2::/64 via 2001:db8:1::1")
        .unwrap();
    for (own, far_address) in HOST.into_iter().zip(FAR) {
        let to = SocketAddr::new(address(far_address), 80);
        let _tcp = TcpServer::start(&far, to).unwrap();
        let _udp = UdpServer::start(&far, to).unwrap();
        bed.expect("routed tcp", bed.tcp(outside, to), &Answered);
        bed.expect("routed udp", bed.udp(outside, to), &Answered);
        let back = SocketAddr::new(outside.address_like(to.ip()), 80);
        let _server = TcpServer::start(&outside.namespace, back).unwrap();
        let seen = connect(&far, address(far_address), back, TIMEOUT);
        bed.expect("routed back", seen, &Answered);
        // The host's own address of the other network is no way around its policy.
        let to = SocketAddr::new(address(own), 80);
        let _server = TcpServer::start(host, to).unwrap();
        bed.expect("the host's other address", bed.tcp(outside, to), &Silent);
    }
}

#[test]
fn two_nics_of_the_host_are_one_zone() {
    let bed = Bed::of_host(
        "policy_out: DROP\n",
        "[RULES]\nIN ACCEPT -p tcp -dport 80\n",
    )
    .unwrap();
    let far = behind_a_nic(&bed);
    let (host, outside) = (&bed.node.host.namespace, &bed.node.outside);
    // Outside is also in the second network: requests come in by vmbr0, and answers leave by eno2.
    for key in ["all", "default", "vmbr0", "eno2"] {
        host.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")
            .unwrap();
    }
    far.sysctl("net/ipv4/ip_forward", "1").unwrap();
    for namespace in [&far, &outside.namespace] {
        for key in ["all", "default", "eth0"] {
            namespace
                .sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")
                .unwrap();
        }
    }
    // far and outside share a wire of their own.
    far.ip(&format!(
        "link add eth1 type veth peer name eth1 netns {}\naddr add 203.0.113.1/24 dev eth1\nlink set eth1 up",
        outside.namespace.name()
    ))
    .unwrap();
    outside
        .namespace
        .ip("addr add 203.0.113.2/24 dev eth1\nlink set eth1 up")
        .unwrap();
    outside
        .namespace
        .sysctl("net/ipv4/conf/eth1/rp_filter", "0")
        .unwrap();
    host.ip("route add 203.0.113.0/24 via 198.51.100.2")
        .unwrap();
    let to = bed.node.host.v4_port(80);
    let _server = TcpServer::start(host, to).unwrap();
    let seen = connect(&outside.namespace, address("203.0.113.2"), to, TIMEOUT);
    bed.expect("in by vmbr0, out by eno2", seen, &Answered);
}

#[test]
fn an_address_that_is_added_is_the_hosts_at_once() {
    let bed = Bed::of_host("", "[RULES]\nIN ACCEPT -p tcp -dport 80\n").unwrap();
    let (host, outside) = (&bed.node.host.namespace, &bed.node.outside);
    host.sysctl("net/ipv4/ip_forward", "1").unwrap();
    host.ip("addr add 192.0.2.50/24 dev vmbr0\naddr add 203.0.113.50/32 dev lo")
        .unwrap();
    outside
        .namespace
        .ip("route add 203.0.113.50/32 via 192.0.2.1")
        .unwrap();
    for own in ["192.0.2.50", "203.0.113.50"] {
        for (port, expect) in [(80, Answered), (81, Silent)] {
            let to = SocketAddr::new(address(own), port);
            let _server = TcpServer::start(host, to).unwrap();
            bed.expect(own, bed.tcp(outside, to), &expect);
        }
    }
}

#[test]
fn the_host_talks_to_itself_whatever_its_policies() {
    let bed = Bed::of_host("policy_in: DROP\npolicy_out: DROP\n", "").unwrap();
    let host = &bed.node.host;
    host.namespace.ip("link set lo up").unwrap();
    for to in both(host, 80) {
        let _tcp = TcpServer::start(&host.namespace, to).unwrap();
        let _udp = UdpServer::start(&host.namespace, to).unwrap();
        bed.expect("tcp to itself", bed.tcp(host, to), &Answered);
        bed.expect("udp to itself", bed.udp(host, to), &Answered);
        bed.expect("ping to itself", bed.ping(host, to.ip()), &Answered);
    }
    // Its policies do hold for everybody else.
    let outside = &bed.node.outside;
    let seen = ping(&host.namespace, host.v4(), outside.v4(), TIMEOUT);
    bed.expect("ping to outside", seen, &Silent);
    let text = cluster("policy_out: ACCEPT\n", "");
    bed.agent
        .after(|| bed.tree.write("firewall/cluster.fw", &text))
        .unwrap();
    bed.becomes(&Answered, |timeout| {
        ping(&host.namespace, host.v4(), outside.v4(), timeout)
    });
}
