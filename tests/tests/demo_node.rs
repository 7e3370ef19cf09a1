//! The demo node without any firewall: everything is reachable, and the probes tell the three answers apart.
//!
//! What fails here is the test bed's fault, not the firewall's. Needs root.

use std::net::{IpAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use tapwall_tests::netns::{Netns, run};
use tapwall_tests::node::{DemoNode, STRANGER_V4, STRANGER_V6, Station, VETH};
use tapwall_tests::probe::{
    Answer, TIMEOUT, TcpServer, UdpServer, connect, exchange, ping, send_frame, transfer, udp_frame,
};
use tapwall_tests::tap::Offloads;

fn ping_from(from: &Station, to: IpAddr) -> Answer {
    ping(&from.namespace, from.address_like(to), to, TIMEOUT)
}

#[test]
fn everybody_reaches_everybody() {
    let node = DemoNode::new().unwrap();
    for (from_name, from) in node.stations() {
        for (to_name, to) in node.stations() {
            for address in [to.v4(), to.v6()] {
                assert_eq!(
                    ping_from(from, address),
                    Answer::Answered,
                    "{from_name} to {to_name} {address}"
                );
            }
        }
    }
    let outside = &node.outside.namespace;
    assert_eq!(
        ping(outside, STRANGER_V4, node.vm.v4(), TIMEOUT),
        Answer::Answered
    );
    assert_eq!(
        ping(outside, STRANGER_V6, node.vm.v6(), TIMEOUT),
        Answer::Answered
    );
    assert_eq!(node.peer().unwrap().lost(), 0);
}

#[test]
fn probes_tell_answered_refused_and_silent_apart() {
    let node = DemoNode::new().unwrap();
    let from = &node.outside;
    for to in [&node.vm, &node.container] {
        for address in [to.v4_port(80), to.v6_port(80)] {
            let source = from.address_like(address.ip());
            let tcp = || connect(&from.namespace, source, address, TIMEOUT);
            let udp = || exchange(&from.namespace, source, address, b"probe", TIMEOUT);
            assert_eq!(tcp(), Answer::Refused, "{address}: nobody listens");
            assert_eq!(udp(), Answer::Refused, "{address}: nobody listens");
            let tcp_server = TcpServer::start(&to.namespace, address).unwrap();
            let udp_server = UdpServer::start(&to.namespace, address).unwrap();
            assert_eq!(tcp(), Answer::Answered, "{address}");
            assert_eq!(udp(), Answer::Answered, "{address}");
            assert!(udp_server.receives(b"probe", TIMEOUT));
            drop((tcp_server, udp_server));
            assert_eq!(tcp(), Answer::Refused, "{address}: nobody listens any more");
        }
    }
    // A route that leads nowhere: silence, in time.
    node.vm
        .namespace
        .ip("route add blackhole 192.0.2.200/32\nroute add blackhole 2001:db8:1::200/128")
        .unwrap();
    let timeout = Duration::from_millis(300);
    let started = Instant::now();
    for address in [node.vm.v4_port(80), node.vm.v6_port(80)] {
        let source = from.address_like(address.ip());
        assert_eq!(
            connect(&from.namespace, source, address, timeout),
            Answer::Silent
        );
        assert_eq!(
            exchange(&from.namespace, source, address, b"?", timeout),
            Answer::Silent
        );
        assert_eq!(
            ping(&from.namespace, source, address.ip(), timeout),
            Answer::Silent
        );
    }
    assert!(started.elapsed() < 40 * timeout, "{:?}", started.elapsed());
}

#[test]
fn transfers_keep_their_bytes_with_every_kind_of_offload() {
    for offloads in [Offloads::None, Offloads::Tcp, Offloads::TcpUdp] {
        let node = DemoNode::with_offloads(offloads).unwrap();
        for (from, to) in [
            (&node.outside, &node.vm),
            (&node.vm, &node.container),
            (&node.container, &node.outside),
        ] {
            for address in [to.v4_port(5001), to.v6_port(5001)] {
                let _server = TcpServer::start(&to.namespace, address).unwrap();
                let source = from.address_like(address.ip());
                let done =
                    transfer(&from.namespace, source, address, 4 << 20).unwrap_or_else(|error| {
                        panic!("{offloads:?} {source} to {address}: {error:#}")
                    });
                assert_eq!(done.bytes, 4 << 20);
            }
        }
        let large = node.peer().unwrap().large();
        match offloads {
            Offloads::None => assert_eq!(large, 0, "no offload, no super-packets"),
            Offloads::Tcp | Offloads::TcpUdp => assert!(large > 100, "only {large} super-packets"),
        }
    }
}

#[test]
fn guests_can_be_unplugged_and_plugged_again() {
    let mut node = DemoNode::new().unwrap();
    let before = node.host.namespace.ifindex(VETH).unwrap();
    node.unplug_container().unwrap();
    node.unplug_vm();
    node.host.namespace.ifindex(VETH).unwrap_err();
    for address in [node.container.v4(), node.vm.v4()] {
        let answer = ping(
            &node.outside.namespace,
            node.outside.v4(),
            address,
            Duration::from_millis(300),
        );
        assert_ne!(answer, Answer::Answered, "{address} is unplugged");
    }
    node.plug_container().unwrap();
    node.plug_vm().unwrap();
    assert_ne!(node.host.namespace.ifindex(VETH).unwrap(), before);
    for station in [&node.container, &node.vm] {
        // The outside may still believe that the address is unreachable: the guest speaks first, as a starting one does.
        assert_eq!(ping_from(station, node.outside.v4()), Answer::Answered);
        assert_eq!(ping_from(&node.outside, station.v4()), Answer::Answered);
    }
}

#[test]
fn a_frame_with_any_source_address_crosses_the_bridge() {
    let node = DemoNode::new().unwrap();
    let to = SocketAddrV4::new("192.0.2.200".parse().unwrap(), 9999);
    let server = UdpServer::start(&node.outside.namespace, to.into()).unwrap();
    for guest in [&node.vm, &node.container] {
        let IpAddr::V4(source) = guest.v4() else {
            panic!("v4() is no IPv4 address");
        };
        for mac in [guest.mac, [2, 0xba, 0xdb, 0xad, 0, guest.mac[5]]] {
            let payload = [&mac[..], &source.octets()[..]].concat();
            let frame = udp_frame(
                mac,
                node.outside.mac,
                SocketAddrV4::new(source, 4000),
                to,
                &payload,
            )
            .unwrap();
            send_frame(&guest.namespace, guest.device, &frame).unwrap();
            assert!(server.receives(&payload, TIMEOUT), "{source} as {mac:?}");
        }
    }
}

#[test]
fn a_namespace_vanishes_with_its_processes_also_after_a_panic() {
    let namespace = Netns::new("short").unwrap();
    let (name, path) = (namespace.name().to_owned(), namespace.path());
    let mut sleeper = namespace.command("sleep").arg("600").spawn().unwrap();
    // Entering takes nsenter a moment; a process that is not inside yet is not the namespace's to end.
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let link = format!("/proc/{}/ns/net", sleeper.id());
    while std::fs::read_link(&link).is_ok_and(|inside| inside == own) {
        std::thread::yield_now();
    }
    let result = std::thread::spawn(move || {
        let _namespace = namespace;
        panic!("on purpose");
    })
    .join();
    assert!(result.is_err());
    assert!(!sleeper.wait().unwrap().success(), "the process was ended");
    assert!(!path.exists());
    let list = run(std::process::Command::new("ip").args(["netns", "list"])).unwrap();
    assert!(!list.contains(&name), "{list}");
}

#[test]
fn a_panic_inside_a_namespace_reaches_the_caller() {
    let namespace = Netns::new("panic").unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        namespace.run(|| -> anyhow::Result<()> { panic!("inside") })
    }));
    assert!(caught.is_err());
    namespace.run(|| Ok(())).unwrap();
}
