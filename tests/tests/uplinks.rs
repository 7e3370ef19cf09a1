//! Early drop at uplinks: only what the hook behind drops too, for the same reason, in memory and in the kernel alike.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::HashMap;
use std::net::IpAddr;

use fw_agent::compile::{Compiled, compile};
use fw_agent::config::Sources;
use fw_agent::datapath::monotonic;
use fw_agent::image::Memory;
use fw_agent::policy::PortId;
use fw_common::conntrack::SECOND;
use fw_common::early::early;
use fw_common::syn_limit::exceeds;
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Reason};
use fw_common::wire::{Headers, Packet};
use ipnet::IpNet;
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::{PASS, SHOT, TestKernel};
use tapwall_tests::shuffle::{End, Shuffle};
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const VM: PortId = PortId { vmid: 100, net: 0 };
const MAC: [u8; 6] = [0xbc, 0x24, 0x11, 0, 1, 0x00];
const NOBODY: [u8; 6] = [0xbc, 0x24, 0x11, 0, 1, 0x77];
const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

const LISTED: [&str; 2] = ["198.51.100.7", "2001:db8:bad::7"];
const EXCEPTED: [&str; 2] = ["198.51.100.8", "2001:db8:bad::8"];
const BANNED: [&str; 2] = ["203.0.113.7", "2001:db8:b::7"];
const FREE: [&str; 2] = ["203.0.113.8", "2001:db8::8"];

/// Index of the uplink; no port has it.
const UPLINK: u32 = 1 << 21;

/// The least limit of connection requests there is.
const LIMIT: &str =
    "protection_synflood: 1\nprotection_synflood_rate: 1\nprotection_synflood_burst: 4";
/// Requests of one source at once.
const BURST: usize = 4;

/// Guests that accept everything, on a host with these options.
fn compiled(options: &str) -> Compiled {
    let tree = ConfigTree::with_demo_guests().unwrap();
    let cluster = "[OPTIONS]\nenable: 1\n[IPSET blacklist]\n198.51.100.0/24\n!198.51.100.8\n2001:db8:bad::/48\n!2001:db8:bad::8\n";
    tree.write("firewall/cluster.fw", cluster).unwrap();
    let nic = "net0: virtio=BC:24:11:00:01:00,bridge=vmbr0,firewall=1,trunks=7;8\n";
    tree.write(&format!("nodes/{NODE}/qemu-server/100.conf"), nic)
        .unwrap();
    let host = format!("[OPTIONS]\n{options}\n");
    tree.write(&format!("nodes/{NODE}/host.fw"), &host).unwrap();
    let text = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
    tree.write_firewall(VM.vmid, text).unwrap();
    compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0)
}

/// A frame from an address to a station, behind VLAN tags.
fn frame(dest_mac: [u8; 6], source: &str, tags: &[u16], protocol: u8) -> Vec<u8> {
    let source: IpAddr = source.parse().unwrap();
    let dest = match source {
        IpAddr::V4(_) => "192.0.2.100",
        IpAddr::V6(_) => "2001:db8:1::100",
    };
    let dest: IpAddr = dest.parse().unwrap();
    let transport = match protocol {
        17 => Transport::Udp {
            sport: 5000,
            dport: 5000,
            data: vec![0; 8],
        },
        58 => Transport::Icmp {
            kind: 135,
            code: 0,
            word: [0; 4],
            data: vec![0; 16],
        },
        _ => Transport::Tcp {
            sport: 5000,
            dport: 80,
            sequence: 1,
            acknowledge: 0,
            flags: 2,
            data: Vec::new(),
        },
    };
    let payload = transport.payload(protocol, source, dest);
    let frame = Frame {
        dest_mac,
        source_mac: [2, 0, 0, 0, 0, 1],
        tags: tags.iter().map(|tag| (0x8100, *tag)).collect(),
        body: Body::Ip(Datagram::new(source, dest, protocol, payload)),
    };
    frame.bytes()
}

/// The same tables in memory and in the kernel, with the banned ones banned.
struct Both {
    memory: Memory,
    kernel: TestKernel,
}

impl Both {
    fn new(options: &str) -> Self {
        let compiled = compiled(options);
        let mut kernel = TestKernel::new().unwrap();
        kernel.load_as_is(&compiled.policy).unwrap();
        let memory = Memory::new(&compiled.image);
        let mut bans = kernel.bans().unwrap();
        for net in BANNED {
            let net = IpNet::from(net.parse::<IpAddr>().unwrap());
            memory.ban(net, (&memory).now() + 60 * SECOND);
            bans.add(net, monotonic() + 60 * SECOND, 0).unwrap();
        }
        Self { memory, kernel }
    }

    /// What both say.
    fn both(&mut self, frame: &[u8]) -> Option<Reason> {
        let mut headers = Headers::default();
        let expect = early(&frame, &self.memory, &mut headers);
        assert_eq!(self.kernel.run_uplink(frame).unwrap(), expect, "kernel");
        expect
    }

    /// What both say; and the hook behind says the same of what is dropped.
    fn early(&mut self, frame: &[u8]) -> Option<Reason> {
        let expect = self.both(frame);
        if let Some(reason) = expect {
            let behind = self.kernel.run_from(VM, Direction::In, frame, UPLINK);
            let behind = behind.unwrap();
            assert_eq!((behind.action, behind.reason), (SHOT, reason), "behind");
        }
        expect
    }
}

#[test]
fn who_is_dropped_early() {
    let mut both = Both::new("");
    for v6 in [0, 1] {
        for protocol in [6, 17, 58] {
            for tags in [&[][..], &[7], &[7, 8]] {
                for (source, expect) in [
                    (LISTED[v6], Some(Reason::Blacklist)),
                    (BANNED[v6], Some(Reason::Ban)),
                    (EXCEPTED[v6], None),
                    (FREE[v6], None),
                ] {
                    let what = format!("{source} protocol {protocol} tags {tags:?}");
                    let to = |mac| frame(mac, source, tags, protocol);
                    assert_eq!(both.early(&to(MAC)), expect, "{what}");
                    assert_eq!(both.early(&to(NOBODY)), None, "{what} to nobody");
                    assert_eq!(both.early(&to(GROUP)), None, "{what} to a group");
                }
            }
        }
    }
}

#[test]
fn requests_beyond_the_limit_are_dropped_early_and_counted_once() {
    for source in FREE {
        let mut both = Both::new(LIMIT);
        let request = frame(MAC, source, &[], 6);
        for number in 0..BURST {
            // However often it is looked at here, what counts is what gets to the hook behind.
            for _ in 0..3 {
                assert_eq!(both.early(&request), None, "{source}, request {number}");
            }
            let mut headers = Headers::default();
            (&request[..]).parse(&mut headers).unwrap();
            assert!(!exceeds(&both.memory, &headers));
            let behind = both.kernel.run_from(VM, Direction::In, &request, UPLINK);
            assert_eq!(behind.unwrap().action, PASS, "{source}, request {number}");
        }
        assert_eq!(both.early(&request), Some(Reason::SynLimit), "{source}");
        assert_eq!(both.early(&frame(MAC, source, &[], 17)), None, "{source}");
    }
}

#[test]
fn whatever_is_dropped_early_is_dropped_behind() {
    let mut both = Both::new("");
    let addresses = |texts: &[&str]| -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let end = End {
        port: VM,
        mac: MAC,
        addresses: addresses(&["192.0.2.100", "2001:db8:1::100"]),
    };
    let others = [LISTED, EXCEPTED, BANNED, FREE].concat();
    let mut shuffle = Shuffle::new(vec![end], addresses(&others), 7);
    let mut dropped = HashMap::new();
    for number in 0..20_000 {
        let step = shuffle.step();
        if step.direction == Direction::Out {
            continue;
        }
        if let Some(reason) = both.both(&step.frame) {
            *dropped.entry(reason).or_insert(0) += 1;
            let behind = both.kernel.run_from(VM, Direction::In, &step.frame, UPLINK);
            let behind = behind.unwrap();
            assert_eq!(
                behind.action, SHOT,
                "frame {number}, {reason:?}: {behind:?}"
            );
        }
    }
    let often = |reason| dropped.get(&reason).is_some_and(|count| *count > 100);
    assert!(
        often(Reason::Ban) && often(Reason::Blacklist),
        "{dropped:?}"
    );
}

#[test]
fn what_is_logged_is_left_to_the_hook_that_logs_it() {
    let mut both = Both::new("log_level_in: info");
    for v6 in [0, 1] {
        assert_eq!(both.early(&frame(MAC, LISTED[v6], &[], 17)), None);
        let banned = both.early(&frame(MAC, BANNED[v6], &[], 17));
        assert_eq!(banned, Some(Reason::Ban));
    }
}

#[test]
fn what_does_not_parse_is_left_to_the_hook_behind() {
    let mut both = Both::new("");
    for source in LISTED.into_iter().chain(BANNED) {
        let whole = frame(MAC, source, &[], 17);
        let three_tags = frame(MAC, source, &[7, 8, 9], 17);
        assert_eq!(both.early(&three_tags), None, "{source}");
        for length in 14..50 {
            assert_eq!(
                both.early(&whole[..length]),
                None,
                "{source}, {length} bytes"
            );
        }
    }
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat();
    assert_eq!(both.early(&arp), None);
}
