//! Addresses that the host translates: the kernel's own NAT, with rules by `nft`. Machines without that program skip these tests and say so;
//! what the programs do about translated packets is also tested without it (`tests/host_programs.rs`).
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tapwall_tests::netns::{Netns, run};
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, connect, exchange, ping, transfer};

use crate::bed::{Bed, both};
use crate::host_places::{FAR, address, behind_a_nic};

/// Says why a test is skipped, if it must be.
fn has_nft() -> bool {
    let found = Command::new("nft").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no program `nft`");
    }
    found
}

/// Loads rules and lets the host forward.
fn translate(host: &Netns, rules: &str) {
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.sysctl(key, "1").unwrap();
    }
    run(host.command("nft").arg(rules)).unwrap();
}

#[test]
fn a_network_behind_the_host_is_masqueraded() {
    if !has_nft() {
        return;
    }
    let bed = Bed::of_host("policy_in: DROP\npolicy_out: DROP\n", "").unwrap();
    let far = behind_a_nic(&bed);
    let (host, outside) = (&bed.node.host.namespace, &bed.node.outside);
    // Outside has no route to the network behind: without translation nothing comes back.
    let to = outside.v4_port(80);
    let _server = TcpServer::start(&outside.namespace, to).unwrap();
    let seen = connect(&far, address(FAR[0]), to, TIMEOUT);
    bed.expect("not translated", seen, &Silent);
    let chain = "{ type nat hook postrouting priority 100; oifname vmbr0 masquerade; }";
    translate(
        host,
        &format!("table ip n {{ chain p {chain}; }}; table ip6 n {{ chain p {chain}; }};"),
    );
    for (source, to) in FAR.into_iter().zip(both(outside, 81)) {
        let source = address(source);
        let _tcp = TcpServer::start(&outside.namespace, to).unwrap();
        let _udp = UdpServer::start(&outside.namespace, to).unwrap();
        bed.expect("tcp", connect(&far, source, to, TIMEOUT), &Answered);
        let seen = exchange(&far, source, to, b"nat", TIMEOUT);
        bed.expect("udp", seen, &Answered);
        let seen = ping(&far, source, to.ip(), TIMEOUT);
        bed.expect("ping", seen, &Answered);
        transfer(&far, source, to, 1 << 20).unwrap();
        // The host itself is as closed as before.
        let own = SocketAddr::new(bed.node.host.address_like(to.ip()), 80);
        let _server = TcpServer::start(host, own).unwrap();
        bed.expect("the host", bed.tcp(outside, own), &Silent);
    }
}

#[test]
fn a_port_that_leads_elsewhere_needs_a_rule() {
    if !has_nft() {
        return;
    }
    let bed = Bed::of_host(
        "policy_in: DROP\npolicy_out: DROP\n",
        "[RULES]\nIN ACCEPT -p tcp -dport 8080\n",
    )
    .unwrap();
    let far = behind_a_nic(&bed);
    let (host, outside) = (&bed.node.host, &bed.node.outside);
    let to = SocketAddr::new(address(FAR[0]), 80);
    let _server = TcpServer::start(&far, to).unwrap();
    // Bridge netfilter would translate within the bridge already, before the host's interface.
    let bridge = "net/bridge/bridge-nf-call-iptables";
    if Path::new("/proc/sys").join(bridge).exists() {
        host.namespace.sysctl(bridge, "0").unwrap();
    }
    translate(
        &host.namespace,
        "table ip n { chain p { type nat hook prerouting priority -100; tcp dport { 8080, 8081 } dnat to 198.51.100.2:80; }; };",
    );
    for (port, expect) in [(8080, Answered), (8081, Silent)] {
        let seen = bed.tcp(outside, host.v4_port(port));
        bed.expect(&format!("port {port}"), seen, &expect);
    }
    transfer(
        &outside.namespace,
        outside.v4(),
        host.v4_port(8080),
        1 << 20,
    )
    .unwrap();
}
