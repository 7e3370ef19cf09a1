//! What becomes of packets: accepted, dropped, rejected, to and from both kinds of guest.

use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use tapwall_tests::node::{STRANGER_V4, STRANGER_V6, Station};
use tapwall_tests::probe::Answer::{Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, ping, send_frame, udp_frame};

use crate::bed::{Bed, both};

#[test]
fn tcp_and_udp_are_accepted_dropped_and_rejected_as_configured() {
    let bed = Bed::new(
        "IN ACCEPT -p tcp -dport 80\nIN DROP -p tcp -dport 81\nIN REJECT -p tcp -dport 82\n\
         IN ACCEPT -p udp -dport 80\nIN DROP -p udp -dport 81\nIN REJECT -p udp -dport 82\n",
    )
    .unwrap();
    let outside = &bed.node.outside;
    for guest in bed.guests() {
        for (port, expect) in [
            (80, Answered),
            (81, Silent),
            (82, Refused),
            (83, bed.policy_of(guest)),
        ] {
            for to in both(guest, port) {
                let _tcp = TcpServer::start(&guest.namespace, to).unwrap();
                let _udp = UdpServer::start(&guest.namespace, to).unwrap();
                bed.expect(&format!("tcp {to}"), bed.tcp(outside, to), &expect);
                bed.expect(&format!("udp {to}"), bed.udp(outside, to), &expect);
            }
        }
    }
}

#[test]
fn ping_follows_the_rules_and_a_reject_never_answers_it() {
    let bed = Bed::new("IN Ping(ACCEPT) -source 192.0.2.200\nIN Ping(REJECT)\n").unwrap();
    let outside = &bed.node.outside;
    for guest in bed.guests() {
        bed.expect("named source", bed.ping(outside, guest.v4()), &Answered);
        bed.expect("v6 is not named", bed.ping(outside, guest.v6()), &Silent);
        for (stranger, to) in [(STRANGER_V4, guest.v4()), (STRANGER_V6, guest.v6())] {
            let seen = ping(&outside.namespace, stranger, to, TIMEOUT);
            bed.expect("stranger", seen, &Silent);
        }
    }
}

#[test]
fn what_guests_send_is_judged_too() {
    let bed = Bed::new(
        "OUT REJECT -p tcp -dport 25\nOUT DROP -p udp -dport 53\nOUT REJECT -p udp -dport 54\n",
    )
    .unwrap();
    let outside = &bed.node.outside;
    for (port, tcp, udp) in [
        (25, Refused, Answered),
        (443, Answered, Answered),
        (53, Answered, Silent),
        (54, Answered, Refused),
    ] {
        for to in both(outside, port) {
            let _tcp = TcpServer::start(&outside.namespace, to).unwrap();
            let _udp = UdpServer::start(&outside.namespace, to).unwrap();
            for guest in bed.guests() {
                bed.expect(&format!("tcp to {to}"), bed.tcp(guest, to), &tcp);
                bed.expect(&format!("udp to {to}"), bed.udp(guest, to), &udp);
                bed.expect("ping", bed.ping(guest, to.ip()), &Answered);
            }
        }
    }
}

#[test]
fn between_two_guests_both_sides_must_accept() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80:82\nOUT REJECT -p tcp -dport 82\n").unwrap();
    for (from, to) in [
        (&bed.node.vm, &bed.node.container),
        (&bed.node.container, &bed.node.vm),
    ] {
        for (port, expect) in [(80, Answered), (82, Refused), (90, bed.policy_of(to))] {
            for address in both(to, port) {
                let _server = TcpServer::start(&to.namespace, address).unwrap();
                bed.expect(&address.to_string(), bed.tcp(from, address), &expect);
            }
        }
    }
}

#[test]
fn a_forged_hardware_address_is_dropped_unless_the_filter_is_off() {
    let bed = Bed::new("").unwrap();
    let outside = &bed.node.outside;
    let to = SocketAddrV4::new("192.0.2.200".parse().unwrap(), 9999);
    let sink = UdpServer::start(&outside.namespace, to.into()).unwrap();
    let arrives = |guest: &Station, mac: [u8; 6], name: &str, timeout: Duration| {
        let IpAddr::V4(source) = guest.v4() else {
            panic!("v4() is no IPv4 address");
        };
        let source = SocketAddrV4::new(source, 4000);
        let payload = format!("{name} from {source}");
        let frame = udp_frame(mac, outside.mac, source, to, payload.as_bytes()).unwrap();
        send_frame(&guest.namespace, guest.device, &frame).unwrap();
        sink.receives(payload.as_bytes(), timeout)
    };
    for (vmid, guest) in [(100, &bed.node.vm), (101, &bed.node.container)] {
        let forged = [2, 0xba, 0xdb, 0xad, 0, guest.mac[5]];
        // A later honest datagram on the same way shows that the forged one is not merely late; and a known flow is no excuse.
        assert!(arrives(guest, guest.mac, "first", TIMEOUT));
        assert!(!arrives(guest, forged, "forged", Duration::ZERO));
        assert!(arrives(guest, guest.mac, "second", TIMEOUT));
        let payload = format!("forged from {}:4000", guest.v4());
        assert!(!sink.receives(payload.as_bytes(), Duration::ZERO));

        let text = "[OPTIONS]\nenable: 1\nmacfilter: 0\n";
        bed.agent
            .after(|| bed.tree.write_firewall(vmid, text))
            .unwrap();
        bed.becomes(&Answered, |timeout| {
            if arrives(guest, forged, "permitted", timeout) {
                Answered
            } else {
                Silent
            }
        });
    }
}
