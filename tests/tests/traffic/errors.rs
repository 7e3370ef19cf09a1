//! ICMP errors about accepted traffic: what a router on the way or the other end has to say reaches who has to know it.

use std::net::SocketAddr;

use anyhow::Result;
use tapwall_tests::netns::Netns;
use tapwall_tests::node::Station;
use tapwall_tests::probe::Answer::Refused;
use tapwall_tests::probe::{TcpServer, transfer};

use crate::bed::{Bed, both};

/// Addresses of a machine behind the one outside.
const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];

/// A namespace behind [`Station`] `router`, over a link that takes no packet above 1300 bytes.
fn behind(router: &Station) -> Result<Netns> {
    let far = Netns::new("far")?;
    router.namespace.sysctl("net/ipv4/ip_forward", "1")?;
    router
        .namespace
        .sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let [v4, v6] = FAR;
    router.namespace.ip(&format!(
        "link add far0 type veth peer name eth0 netns {}\n\
         addr add 198.51.100.1/24 dev far0\n\
         addr add 2001:db8:2::1/64 dev far0 nodad\n\
         link set far0 up\n\
         route add {v4}/32 dev far0 mtu 1300\n\
         route add {v6}/128 dev far0 mtu 1300",
        far.name()
    ))?;
    far.ip(&format!(
        "addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via 198.51.100.1\n\
         route add default via 2001:db8:2::1"
    ))?;
    Ok(far)
}

/// Packets that were accepted because they are about a known flow.
fn related(bed: &Bed) -> Result<u64> {
    let output = bed
        .agent
        .fwctl(&["map", "dump", "COUNTERS", "--json"])?
        .stdout;
    let counters: Vec<serde_json::Value> = serde_json::from_slice(&output)?;
    let rows = counters.iter().filter(|row| row["counter"] == "related");
    Ok(rows.filter_map(|row| row["packets"].as_u64()).sum())
}

#[test]
fn a_sender_learns_of_a_small_link_on_the_way() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 5001\n").unwrap();
    let outside = &bed.node.outside;
    let far = behind(outside).unwrap();
    for guest in bed.guests() {
        guest
            .namespace
            .ip(&format!(
                "route add 198.51.100.0/24 via {}\n\
                 route add 2001:db8:2::/64 via {}",
                outside.v4(),
                outside.v6()
            ))
            .unwrap();
    }
    // What the far end has asked the VM for, and what the container sends by itself: both are cut to the link's size on the way out.
    for (address, service) in FAR.into_iter().zip(both(&bed.node.vm, 5001)) {
        let before = related(&bed).unwrap();
        let _server = TcpServer::start(&bed.node.vm.namespace, service).unwrap();
        transfer(&far, address.parse().unwrap(), service, 1 << 20)
            .unwrap_or_else(|error| panic!("{address} from {service}: {error:#}"));
        assert!(related(&bed).unwrap() > before, "{service}");
    }
    let container = &bed.node.container;
    for address in FAR {
        let before = related(&bed).unwrap();
        let service = SocketAddr::new(address.parse().unwrap(), 5002);
        let _server = TcpServer::start(&far, service).unwrap();
        let source = container.address_like(service.ip());
        transfer(&container.namespace, source, service, 1 << 20)
            .unwrap_or_else(|error| panic!("{source} to {service}: {error:#}"));
        assert!(related(&bed).unwrap() > before, "{service}");
    }
}

#[test]
fn a_closed_port_refuses_what_the_rules_accept() {
    let bed = Bed::new("IN ACCEPT -p udp -dport 514\n").unwrap();
    let outside = &bed.node.outside;
    for guest in bed.guests() {
        let ways = [(guest, outside, 9), (outside, guest, 514)];
        for (from, to, port) in ways {
            for address in both(to, port) {
                let before = related(&bed).unwrap();
                bed.expect(&address.to_string(), bed.udp(from, address), &Refused);
                assert!(related(&bed).unwrap() > before, "{address}");
            }
        }
    }
}
