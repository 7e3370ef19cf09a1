//! What frames look like: VLAN tags, connection requests by the dozen, headers that are not whole, fragments. On tap and veth.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::node::Station;
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{Answered, Failed, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, UdpServer, exchange};
use tapwall_tests::tree::NODE;

use crate::bed::{Bed, both};
use crate::marked::{Marked, RULES, arriving};

/// A datagram to port 9 behind tags: EtherType and tag from the outermost.
fn tagged<'f>(from: &'f Station, to: &'f Station, tags: &'f [(u16, u16)]) -> Marked<'f> {
    Box::new(move |mark| {
        let message = Transport::Udp {
            sport: 4000,
            dport: 9,
            data: mark.to_vec(),
        };
        let payload = message.payload(17, from.v4(), to.v4());
        Frame {
            dest_mac: to.mac,
            source_mac: from.mac,
            tags: tags.to_vec(),
            body: Body::Ip(Datagram::new(from.v4(), to.v4(), 17, payload)),
        }
        .bytes()
    })
}

#[test]
fn vlans_are_for_those_who_may_use_them() {
    let bed = Bed::new(RULES).unwrap();
    let outside = &bed.node.outside;
    const Q: u16 = 0x8100;
    const AD: u16 = 0x88a8;
    // Tags, and whether they pass without trunks, with the trunk 10, with the filter off. Outer tags reach the hooks beside the frame, inner ones
    // inside it.
    type Tags = &'static [(u16, u16)];
    let cases: [(Tags, [bool; 3]); 7] = [
        (&[], [true, true, true]),
        (&[(Q, 0x6000)], [true, true, true]),
        (&[(Q, 10)], [false, true, true]),
        (&[(AD, 10), (Q, 11)], [false, true, true]),
        (&[(Q, 11)], [false, false, true]),
        (&[(AD, 11), (Q, 10)], [false, false, true]),
        (&[(Q, 0), (Q, 11)], [false, false, true]),
    ];
    let guests = [
        (100, &bed.node.vm, "qemu-server/100.conf"),
        (101, &bed.node.container, "lxc/101.conf"),
    ];
    for (vmid, guest, file) in guests {
        let file = format!("nodes/{NODE}/{file}");
        let plain = std::fs::read_to_string(bed.tree.path().join(&file)).unwrap();
        let trunk = plain.replace("firewall=1", "firewall=1,trunks=10;12-20");
        assert_ne!(plain, trunk);
        let on = format!("[OPTIONS]\nenable: 1\n[RULES]\n{RULES}\n");
        let off = on.replace("enable: 1", "enable: 1\nvlan_filter: 0");
        let steps = [(&plain, &on), (&trunk, &on), (&plain, &off)];
        for (step, (nic, firewall)) in steps.into_iter().enumerate() {
            // Something else changes too, so that each step is one that the agent has to apply.
            let firewall = format!("{firewall}IN ACCEPT -p udp -dport {}\n", 100 + step);
            let written = bed.agent.after(|| {
                bed.tree.write(&file, nic)?;
                bed.tree.write_firewall(vmid, &firewall)
            });
            assert_eq!(written.unwrap().errors, 0);
            let expect: Vec<bool> = cases.iter().map(|(_, passes)| passes[step]).collect();
            for (from, to) in [(guest, outside), (outside, guest)] {
                let frames: Vec<Marked<'_>> = cases
                    .iter()
                    .map(|(tags, _)| tagged(from, to, tags))
                    .collect();
                let started = Instant::now();
                loop {
                    let arrived = arriving(from, to, &frames).unwrap();
                    if arrived == expect {
                        break;
                    }
                    assert!(
                        started.elapsed() < patience(Duration::from_secs(2)),
                        "guest {vmid}, step {step}, to {}: {arrived:?}, not {expect:?}",
                        to.v4()
                    );
                }
            }
        }
    }
}

fn request<'f>(from: &'f Station, to: &'f Station, source: IpAddr, sport: u16) -> Marked<'f> {
    Box::new(move |mark| {
        let message = Transport::Tcp {
            sport,
            dport: 80,
            sequence: 1,
            acknowledge: 0,
            flags: 2,
            data: mark.to_vec(),
        };
        let payload = message.payload(6, source, to.v4());
        Frame {
            dest_mac: to.mac,
            source_mac: from.mac,
            tags: Vec::new(),
            body: Body::Ip(Datagram::new(source, to.v4(), 6, payload)),
        }
        .bytes()
    })
}

#[test]
fn connection_requests_of_a_source_are_limited() {
    const BURST: usize = 5;
    let bed = Bed::new(&format!("{RULES}\nIN ACCEPT -p tcp -dport 80\n")).unwrap();
    let limits = format!(
        "[OPTIONS]\nprotection_synflood: 1\nprotection_synflood_rate: 1\nprotection_synflood_burst: {BURST}\n"
    );
    let written = bed
        .agent
        .after(|| bed.tree.write(&format!("nodes/{NODE}/host.fw"), &limits));
    assert_eq!(written.unwrap().errors, 0);
    let outside = &bed.node.outside;
    let ways = [
        (outside, &bed.node.vm, 0),
        (outside, &bed.node.container, 1),
        (&bed.node.vm, outside, 2),
        (&bed.node.container, outside, 3),
        (&bed.node.vm, &bed.node.container, 4),
        (&bed.node.container, &bed.node.vm, 5),
    ];
    for (from, to, way) in ways {
        // Each way has sources of its own; no other test of the limit may have used them up.
        let source = |number: u8| IpAddr::from([192, 0, 2, 10 + 2 * way + number]);
        let flood: Vec<Marked<'_>> = (0..20)
            .map(|sport| request(from, to, source(0), 1000 + sport))
            .collect();
        let started = Instant::now();
        let arrived = arriving(from, to, &flood).unwrap();
        let count = arrived.iter().filter(|arrived| **arrived).count();
        let refilled = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
        assert!(
            (BURST..=BURST + refilled).contains(&count),
            "way {way}: {count} of 20"
        );
        assert!(arrived[..BURST].iter().all(|arrived| *arrived), "way {way}");
        // A full bucket of one source is nothing to another.
        let other = [request(from, to, source(1), 1000)];
        assert_eq!(arriving(from, to, &other).unwrap(), [true], "way {way}");
        // One a second comes back; two questions of less than a second apart cannot both be refused for long.
        let started = Instant::now();
        let later = [request(from, to, source(0), 2000)];
        while arriving(from, to, &later).unwrap() != [true] {
            assert!(
                started.elapsed() < Duration::from_secs(3),
                "way {way}: nothing comes back"
            );
        }
    }
}

/// Packets that the programs have dropped as malformed.
fn malformed(bed: &Bed) -> Result<u64> {
    let dumped = bed.agent.fwctl(&["map", "dump", "COUNTERS", "--json"])?;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&dumped.stdout)?;
    let mut packets = rows
        .iter()
        .filter(|row| row["counter"] == "malformed")
        .filter_map(|row| row["packets"].as_u64());
    packets.next().context("a counter of malformed packets")
}

#[test]
fn frames_that_end_within_their_ip_header_go_nowhere() {
    let bed = Bed::new(RULES).unwrap();
    let outside = &bed.node.outside;
    for guest in bed.guests() {
        let short = |ethertype: u16, missing: usize| -> Marked<'_> {
            Box::new(move |mark| {
                let header = if ethertype == 0x0800 { 20 } else { 40 };
                let mut packet = vec![if header == 20 { 0x45 } else { 0x60 }];
                packet.resize(header - missing - mark.len(), 0);
                let head = [&outside.mac, &guest.mac, &ethertype.to_be_bytes()[..]].concat();
                [head, packet, mark.to_vec()].concat()
            })
        };
        let frames = [
            short(0x0800, 1),
            short(0x0800, 7),
            short(0x86dd, 1),
            short(0x86dd, 20),
            short(0x86dd, 27),
        ];
        let before = malformed(&bed).unwrap();
        assert_eq!(arriving(guest, outside, &frames).unwrap(), [false; 5]);
        assert_eq!(malformed(&bed).unwrap(), before + 5);
    }
}

#[test]
fn datagrams_in_fragments_arrive_whole_where_their_ports_are_open() {
    let bed = Bed::new("IN ACCEPT -p udp -dport 80\n").unwrap();
    let outside = &bed.node.outside;
    let large = |number: u8| -> Vec<u8> { (0..9000_u32).map(|at| number ^ at as u8).collect() };
    for guest in bed.guests() {
        for (port, expect) in [(80, Answered), (81, Silent)] {
            for to in both(guest, port) {
                let server = UdpServer::start(&guest.namespace, to).unwrap();
                let source = outside.address_like(to.ip());
                let payload = large(1);
                let seen = exchange(&outside.namespace, source, to, &payload, TIMEOUT);
                // The container's policy rejects what it can answer; a fragment is answered with an error or not at all.
                match expect {
                    Answered => bed.expect(&to.to_string(), seen, &Answered),
                    Refused | Silent | Failed(_) => assert_ne!(seen, Answered, "{to}"),
                }
                let arrived = server.receives(&payload, Duration::ZERO);
                assert_eq!(arrived, expect == Answered, "{to}");
            }
        }
        // What the guest begins, and its answer.
        for to in both(outside, 90) {
            let _server = UdpServer::start(&outside.namespace, to).unwrap();
            let source = guest.address_like(to.ip());
            let seen = exchange(&guest.namespace, source, to, &large(2), TIMEOUT);
            bed.expect(&to.to_string(), seen, &Answered);
        }
    }
}
