//! Tunnels that end at the host: what comes out of one is judged by the rules of its device, and its outer packets by those of the NIC.

use std::net::SocketAddr;

use tapwall_tests::netns::Netns;
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};

use crate::bed::{Bed, FAR, HOST, address, configure, rules, tool};

/// Outer addresses: the host's and the other end's.
const OUTER: [&str; 2] = ["203.0.113.1", "203.0.113.2"];
const OUTER_V6: [&str; 2] = ["2001:db8:3::1", "2001:db8:3::2"];

/// A node and the other end of its tunnel `device`. `outer` are the rules that let the tunnel's packets in.
fn bed(device: &str, outer: &str) -> (Bed, Netns) {
    let bed = Bed::new(&rules(device, outer));
    let far = bed.far(1);
    let ends = [OUTER, OUTER_V6];
    configure(bed.host(), "eno2", ends.map(|end| end[0]));
    configure(&far, "eth0", ends.map(|end| end[1]));
    bed.attached("eno2");
    (bed, far)
}

/// Makes both ends with the same options, but for the addresses.
fn make(bed: &Bed, far: &Netns, device: &str, options: &str, outer: [&str; 2]) {
    let [own, other] = outer;
    let ends = [(bed.host(), own, other, HOST), (far, other, own, FAR)];
    for (namespace, local, remote, inner) in ends {
        let line = format!("link add {device} {options} local {local} remote {remote}");
        namespace.ip(&line).unwrap();
        configure(namespace, device, inner);
    }
    bed.attached(device);
}

#[test]
fn gre_tunnels_are_judged_inside_and_outside() {
    let cases = [
        ("gre1", "type gre", OUTER),
        ("gre1", "type gre key 5", OUTER),
        ("gre1", "type ip6gre", OUTER_V6),
        ("gre1", "type gretap", OUTER),
    ];
    for (device, options, outer) in cases {
        println!("{options}");
        let (bed, far) = bed(device, "IN ACCEPT -i eno2 -p gre\n");
        make(&bed, &far, device, options, outer);
        bed.judged_both_ways(&far);
    }
}

#[test]
fn a_vxlan_device_is_judged_inside_and_outside() {
    let (bed, far) = bed("vx1", "IN ACCEPT -i eno2 -p udp -dport 4789\n");
    let options = "type vxlan id 7 dstport 4789";
    make(&bed, &far, "vx1", options, OUTER);
    bed.judged_both_ways(&far);
}

#[test]
fn a_tunnel_whose_outer_packets_no_rule_accepts_carries_nothing() {
    let (bed, far) = bed("gre1", "");
    make(&bed, &far, "gre1", "type gre", OUTER);
    let to = SocketAddr::new(address(HOST[0]), 80);
    let _server = TcpServer::start(bed.host(), to).unwrap();
    let seen = connect(&far, address(FAR[0]), to, TIMEOUT);
    bed.expect("over a tunnel that is not let in", seen, &Silent);
}

#[test]
fn wireguard_is_judged_inside_and_outside() {
    let (bed, far) = bed("wg0", "IN ACCEPT -i eno2 -p udp -dport 51820\n");
    let directory = tapwall_tests::tree::temporary_directory("keys").unwrap();
    let ends = [(bed.host(), HOST), (&far, FAR)];
    let mut public = Vec::new();
    for (number, (namespace, inner)) in ends.into_iter().enumerate() {
        let key = directory.path().join(number.to_string());
        std::fs::write(&key, tool(namespace, "wg genkey")).unwrap();
        namespace.ip("link add wg0 type wireguard").unwrap();
        let set = format!("wg set wg0 listen-port 51820 private-key {}", key.display());
        tool(namespace, &set);
        public.push(tool(namespace, "wg show wg0 public-key").trim().to_owned());
        configure(namespace, "wg0", inner);
    }
    public.reverse();
    for ((namespace, _), (key, outer)) in ends
        .into_iter()
        .zip(public.iter().zip([OUTER[1], OUTER[0]]))
    {
        let set =
            format!("wg set wg0 peer {key} endpoint {outer}:51820 allowed-ips 0.0.0.0/0,::/0");
        tool(namespace, &set);
    }
    bed.attached("wg0");
    bed.judged_both_ways(&far);
}
