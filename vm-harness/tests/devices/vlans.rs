//! VLANs on a bridge that filters them: tagged guests, a guest behind an access port, the host's own VLAN device on the bridge.

use std::net::SocketAddr;

use tapwall_tests::netns::Netns;
use tapwall_tests::node::{Station, TAP, VETH};
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::NODE;

use crate::bed::{Bed, FAR, HOST, address, configure, rules, tool};

const GUEST_RULES: &str = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 80\nIN ACCEPT -p udp -dport 80\n\
                           IN REJECT -p tcp -dport 82\nIN REJECT -p udp -dport 82\n";

/// What becomes of traffic to a guest with those rules.
const JUDGED: [(u16, Answer); 3] = [(80, Answered), (81, Silent), (82, Answer::Refused)];

/// Addresses of both guests in the VLAN.
const GUESTS: [[&str; 2]; 2] = [
    ["198.51.100.100", "2001:db8:2::100"],
    ["198.51.100.101", "2001:db8:2::101"],
];

/// Lets a VLAN pass at ports of a bridge that filters.
fn vlan_aware(bed: &Bed, vid: u16, ports: &[&str]) {
    let host = bed.host();
    host.ip("link set vmbr0 type bridge vlan_filtering 1")
        .unwrap();
    for port in ports {
        tool(host, &format!("bridge vlan add dev {port} vid {vid}"));
    }
    tool(host, &format!("bridge vlan add dev vmbr0 vid {vid} self"));
}

/// A VLAN device on a station's NIC.
fn tagged(station: &Station, vid: u16, addresses: [&str; 2]) {
    station
        .namespace
        .ip(&format!(
            "link add link eth0 name eth0.{vid} type vlan id {vid}"
        ))
        .unwrap();
    configure(&station.namespace, &format!("eth0.{vid}"), addresses);
}

/// Adds an option to the NICs of both guests.
fn nics(bed: &Bed, option: &str) {
    for file in ["qemu-server/100.conf", "lxc/101.conf"] {
        let file = format!("nodes/{NODE}/{file}");
        let text = std::fs::read_to_string(bed.tree.path().join(&file)).unwrap();
        let changed = text.replace("firewall=1", &format!("firewall=1,{option}"));
        assert_ne!(text, changed);
        bed.agent.after(|| bed.tree.write(&file, &changed)).unwrap();
    }
}

#[track_caller]
fn both_families(bed: &Bed, from: &Netns, to: (&Netns, [&str; 2]), ports: &[(u16, Answer)]) {
    for (source, dest) in FAR.into_iter().zip(to.1) {
        bed.judged((from, source), (to.0, dest), ports);
    }
}

#[test]
fn tagged_guests_are_judged_inside_their_trunks_only() {
    let bed = Bed::new("[OPTIONS]\nenable: 1\n");
    let guests = [&bed.node.vm, &bed.node.container];
    vlan_aware(&bed, 10, &[TAP, VETH, "eno1"]);
    tagged(&bed.node.outside, 10, FAR);
    for (vmid, (guest, addresses)) in [100, 101].into_iter().zip(guests.into_iter().zip(GUESTS)) {
        tagged(guest, 10, addresses);
        bed.agent
            .after(|| bed.tree.write_firewall(vmid, GUEST_RULES))
            .unwrap();
    }
    let outside = &bed.node.outside.namespace;
    for (guest, addresses) in guests.into_iter().zip(GUESTS) {
        for (source, dest) in FAR.into_iter().zip(addresses) {
            let to = SocketAddr::new(address(dest), 80);
            let _server = TcpServer::start(&guest.namespace, to).unwrap();
            let seen = connect(outside, address(source), to, TIMEOUT);
            // Its address is not even found out: silence at first, then no way there.
            let nothing = !matches!(seen, Answered | Answer::Refused);
            assert!(nothing, "{to}: {seen}; {}", bed.agent.stderr());
        }
    }
    nics(&bed, "trunks=10");
    for (guest, addresses) in guests.into_iter().zip(GUESTS) {
        both_families(&bed, outside, (&guest.namespace, addresses), &JUDGED);
    }
}

#[test]
fn a_guest_behind_an_access_port_is_judged_without_knowing_its_vlan() {
    let bed = Bed::new("[OPTIONS]\nenable: 1\n");
    vlan_aware(&bed, 10, &["eno1"]);
    tagged(&bed.node.outside, 10, FAR);
    nics(&bed, "tag=10");
    let guests = [(100, TAP, &bed.node.vm), (101, VETH, &bed.node.container)];
    for ((vmid, port, guest), addresses) in guests.into_iter().zip(GUESTS) {
        tool(
            bed.host(),
            &format!("bridge vlan add dev {port} vid 10 pvid untagged"),
        );
        configure(&guest.namespace, "eth0", addresses);
        bed.agent
            .after(|| bed.tree.write_firewall(vmid, GUEST_RULES))
            .unwrap();
        let outside = &bed.node.outside.namespace;
        both_families(&bed, outside, (&guest.namespace, addresses), &JUDGED);
    }
}

#[test]
fn a_vlan_device_on_the_bridge_is_the_hosts_and_has_rules_of_its_own() {
    let bed = Bed::new(&rules("vmbr0.10", ""));
    vlan_aware(&bed, 10, &["eno1"]);
    tagged(&bed.node.outside, 10, FAR);
    bed.host()
        .ip("link add link vmbr0 name vmbr0.10 type vlan id 10")
        .unwrap();
    configure(bed.host(), "vmbr0.10", HOST);
    bed.attached("vmbr0.10");
    bed.judged_both_ways(&bed.node.outside.namespace);
}
