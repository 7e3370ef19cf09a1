//! What a guest claims to be, in every packet: the addresses it sends from, its ARP, its neighbour advertisements. On tap and veth.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::node::{Station, hex};
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, UdpServer};
use tapwall_tests::tree::NODE;

use crate::bed::Bed;
use crate::marked::{Marked, RULES, arriving, mark, v4_end};

/// A configuration of each guest without addresses of its own, so that only those of its set count.
fn without_addresses(bed: &Bed) -> Result<()> {
    let mac = hex(bed.node.container.mac).to_uppercase();
    let line =
        format!("net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr={mac},ip=manual,type=veth\n");
    let file = format!("nodes/{NODE}/lxc/101.conf");
    let written = bed.agent.after(|| bed.tree.write(&file, &line))?;
    assert_eq!(written.errors, 0);
    Ok(())
}

fn with_set(rules: &str, addresses: &str) -> String {
    format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}\n[IPSET ipfilter-net0]\n{addresses}\n")
}

#[test]
fn a_changed_ip_filter_cuts_the_spoofed_direction_of_a_flow_that_runs() {
    let bed = Bed::new(RULES).unwrap();
    without_addresses(&bed).unwrap();
    let outside = &bed.node.outside;
    for (vmid, guest) in [(100, &bed.node.vm), (101, &bed.node.container)] {
        let to = guest.v4_port(80);
        let server = UdpServer::start(&guest.namespace, to).unwrap();
        // One socket and so one flow, whatever happens.
        let socket = outside.namespace.run(|| {
            let socket = UdpSocket::bind(outside.v4_port(0))?;
            socket.connect(to)?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        let ask = |timeout: Duration| -> Answer {
            let question = mark();
            socket.set_read_timeout(Some(timeout)).unwrap();
            socket.send(&question).unwrap();
            // The question always arrives: that direction has nothing to do with the guest's own address.
            assert!(server.receives(&question, TIMEOUT));
            let mut answer = [0; 64];
            while let Ok(length) = socket.recv(&mut answer) {
                if answer[..length] == *question {
                    return Answered;
                }
            }
            Silent
        };
        bed.expect("before", ask(TIMEOUT), &Answered);
        // The rule that accepted the flow goes away too: what arrives now does so because the flow runs.
        let foreign = with_set("", "192.0.2.77");
        let own = with_set("", &format!("192.0.2.77\n{}", guest.v4()));
        for (text, expect) in [
            (&foreign, Silent),
            (&own, Answered),
            (&foreign, Silent),
            (&own, Answered),
        ] {
            let written = bed.agent.after(|| bed.tree.write_firewall(vmid, text));
            assert_eq!(written.unwrap().errors, 0);
            bed.becomes(&expect, ask);
        }
    }
}

fn arp(from: &Station, operation: u16, sender: [u8; 4], target: [u8; 4]) -> Marked<'_> {
    let frame = Frame {
        dest_mac: [0xff; 6],
        source_mac: from.mac,
        tags: Vec::new(),
        body: Body::Arp {
            operation,
            sender_mac: from.mac,
            sender,
            target,
        },
    };
    // Behind the end, where the padding is.
    Box::new(move |mark| [frame.bytes(), mark.to_vec()].concat())
}

#[test]
fn a_guest_speaks_arp_as_itself_only() {
    let bed = Bed::new(RULES).unwrap();
    without_addresses(&bed).unwrap();
    let outside = &bed.node.outside;
    for (vmid, guest) in [(100, &bed.node.vm), (101, &bed.node.container)] {
        let own = *v4_end(guest, 0).ip();
        let written = bed.agent.after(|| {
            bed.tree
                .write_firewall(vmid, &with_set(RULES, &own.to_string()))
        });
        assert_eq!(written.unwrap().errors, 0);
        let (own, host, nobody) = (own.octets(), [192, 0, 2, 1], [0; 4]);
        let cases = [
            (1, own, host, true),
            (2, own, own, true),
            (2, host, host, false),
            (1, host, own, false),
            (1, nobody, own, true),
            (1, nobody, host, false),
        ];
        let frames =
            cases.map(|(operation, sender, target, _)| arp(guest, operation, sender, target));
        bed.becomes(&Silent, |_| {
            match arriving(guest, outside, &frames[2..3]).unwrap()[..] {
                [false] => Silent,
                _ => Answered,
            }
        });
        let expect = cases.map(|(.., expect)| expect);
        assert_eq!(
            arriving(guest, outside, &frames).unwrap(),
            expect,
            "guest {vmid}"
        );
    }
}

fn neighbour(kind: u8, from: &Station, source: Ipv6Addr, target: Ipv6Addr) -> Marked<'_> {
    let dest = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (source, dest) = (IpAddr::V6(source), IpAddr::V6(dest));
    Box::new(move |mark| {
        let message = Transport::Icmp {
            kind,
            code: 0,
            word: [0x20, 0, 0, 0],
            data: [&target.octets(), mark].concat(),
        };
        let datagram = Datagram {
            hops: 255,
            ..Datagram::new(source, dest, 58, message.payload(58, source, dest))
        };
        Frame {
            dest_mac: [0x33, 0x33, 0, 0, 0, 1],
            source_mac: from.mac,
            tags: Vec::new(),
            body: Body::Ip(datagram),
        }
        .bytes()
    })
}

#[test]
fn a_guest_advertises_its_own_addresses_only() {
    let bed = Bed::new(RULES).unwrap();
    without_addresses(&bed).unwrap();
    let outside = &bed.node.outside;
    for (vmid, guest) in [(100, &bed.node.vm), (101, &bed.node.container)] {
        let IpAddr::V6(own) = guest.v6() else {
            panic!("v6() is no IPv6 address");
        };
        let other = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
        let set = format!("{}\n{own}", guest.v4());
        let written = bed
            .agent
            .after(|| bed.tree.write_firewall(vmid, &with_set(RULES, &set)));
        assert_eq!(written.unwrap().errors, 0);
        let cases = [
            (136, own, own, true),
            (136, own, other, false),
            (136, other, other, false),
            (135, own, other, true),
            (135, Ipv6Addr::UNSPECIFIED, own, true),
            (135, Ipv6Addr::UNSPECIFIED, other, false),
        ];
        let frames = cases.map(|(kind, source, target, _)| neighbour(kind, guest, source, target));
        bed.becomes(&Silent, |_| {
            match arriving(guest, outside, &frames[1..2]).unwrap()[..] {
                [false] => Silent,
                _ => Answered,
            }
        });
        let expect = cases.map(|(.., expect)| expect);
        assert_eq!(
            arriving(guest, outside, &frames).unwrap(),
            expect,
            "guest {vmid}"
        );
    }
}
