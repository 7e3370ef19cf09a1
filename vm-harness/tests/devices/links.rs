//! Devices over or around others: VLAN devices on a NIC, bonds, VRFs.

use std::net::SocketAddr;

use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};

use crate::bed::{Bed, FAR, HOST, IN, address, configure, rules, tool};

#[test]
fn a_vlan_device_on_a_nic_has_rules_of_its_own() {
    let bed = Bed::new(&rules("eno2.20", ""));
    let far = bed.far(1);
    for (namespace, device) in [(bed.host(), "eno2"), (&far, "eth0")] {
        let text = format!(
            "link set {device} up\nlink add link {device} name {device}.20 type vlan id 20"
        );
        namespace.ip(&text).unwrap();
    }
    configure(bed.host(), "eno2.20", HOST);
    configure(&far, "eth0.20", FAR);
    bed.attached("eno2.20");
    bed.attached("eno2");
    bed.judged_both_ways(&far);
}

#[test]
fn a_bond_is_judged_once_and_survives_the_loss_of_a_wire() {
    let bed = Bed::new(&rules("bond0", ""));
    let far = bed.far(2);
    for (namespace, wires) in [(bed.host(), ["eno2", "eno3"]), (&far, ["eth0", "eth1"])] {
        namespace
            .ip("link add bond0 type bond mode active-backup miimon 50")
            .unwrap();
        for wire in wires {
            namespace
                .ip(&format!("link set {wire} master bond0"))
                .unwrap();
        }
    }
    configure(bed.host(), "bond0", HOST);
    configure(&far, "bond0", FAR);
    bed.attached("bond0");
    let record = bed.agent.record().unwrap().unwrap();
    let members = record
        .host
        .iter()
        .filter(|row| row.device.starts_with("eno"));
    let members: Vec<&str> = members.map(|row| row.device.as_str()).collect();
    assert!(members.is_empty(), "{members:?} are the bond's");
    bed.judged_both_ways(&far);
    // Both ends lose the wire, as both see the carrier go.
    bed.host().ip("link set eno2 down").unwrap();
    bed.judged_both_ways(&far);
}

#[test]
fn members_of_a_vrf_are_judged_and_the_vrf_hides_nothing() {
    let bed = Bed::new(&rules("eno2", ""));
    let far = bed.far(1);
    let host = bed.host();
    host.ip("link add red type vrf table 100\nlink set red up\nlink set eno2 master red")
        .unwrap();
    host.sysctl("net/ipv4/tcp_l3mdev_accept", "1").unwrap();
    configure(host, "eno2", HOST);
    configure(&far, "eth0", FAR);
    bed.attached("eno2");
    for (own, other) in HOST.into_iter().zip(FAR) {
        for (port, expect) in &IN {
            // The address is the VRF's, so that only a server of every address and every VRF has it.
            let any = if own.contains(':') { "::" } else { "0.0.0.0" };
            let server = SocketAddr::new(address(any), *port);
            let _server = TcpServer::start(host, server).unwrap();
            let to = SocketAddr::new(address(own), *port);
            let seen = connect(&far, address(other), to, TIMEOUT);
            bed.expect(&format!("tcp {to}"), seen, expect);
        }
    }
    assert!(tool(host, "ip vrf show").contains("red"));
}
