//! Bans: who is banned, how long, and what is cut; in memory and in the kernel alike.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::IpAddr;

use fw_agent::compile::{Compiled, compile};
use fw_agent::config::Sources;
use fw_agent::datapath::monotonic;
use fw_agent::image::Memory;
use fw_agent::policy::PortId;
use fw_common::conntrack::SECOND;
use fw_common::pipeline;
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::Headers;
use ipnet::IpNet;
use tapwall_tests::frame::Frame;
use tapwall_tests::kernel::{PASS, SHOT, TestKernel};
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const PORT: PortId = PortId { vmid: 100, net: 0 };
const MAC: [u8; 6] = [0xbc, 0x24, 0x11, 0, 1, 0x00];
const GUEST: [&str; 2] = ["192.0.2.100", "2001:db8:1::100"];

/// A guest that accepts everything, both ways.
fn compiled() -> Compiled {
    let tree = ConfigTree::with_demo_guests().unwrap();
    let text = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
    tree.write_firewall(PORT.vmid, text).unwrap();
    compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0)
}

/// A datagram of the same flow in a direction.
fn frame(direction: Direction, peer: &str) -> Vec<u8> {
    let peer: IpAddr = peer.parse().unwrap();
    let guest: IpAddr = GUEST[usize::from(peer.is_ipv6())].parse().unwrap();
    let (source, dest, macs) = match direction {
        Direction::In => (peer, guest, [MAC, [2, 0, 0, 0, 0, 1]]),
        Direction::Out => (guest, peer, [[2, 0, 0, 0, 0, 1], MAC]),
    };
    Frame::udp(macs, [source, dest], [5000, 5000]).bytes()
}

/// The same tables in memory and in the kernel.
struct Both {
    memory: Memory,
    kernel: TestKernel,
}

impl Both {
    fn new() -> Self {
        let compiled = compiled();
        let mut kernel = TestKernel::new().unwrap();
        kernel.load(&compiled.policy).unwrap();
        Self {
            memory: Memory::new(&compiled.image),
            kernel,
        }
    }

    /// Bans from now on for some seconds (not positive: ended already); none: for ever.
    fn ban(&self, net: &str, seconds: Option<i64>) {
        let net: IpNet = net.parse().unwrap();
        let until = |now: u64| {
            seconds.map_or(0, |seconds| {
                now.saturating_add_signed(seconds * SECOND.cast_signed())
            })
        };
        self.memory.ban(net, until((&self.memory).now()));
        let mut bans = self.kernel.bans().unwrap();
        bans.add(net, until(monotonic()), 7).unwrap();
    }

    /// What both say.
    fn judge(&mut self, direction: Direction, peer: &str) -> (Verdict, Reason) {
        let frame = frame(direction, peer);
        let port = *self.memory.port_of(PORT).unwrap();
        let mut headers = Headers::default();
        let bytes = &frame[..];
        let found = pipeline::judge(&bytes, &self.memory, &port, direction, &mut headers);
        let run = self.kernel.run(PORT, direction, &frame).unwrap();
        let expect = match found.verdict {
            Verdict::Accept => PASS,
            Verdict::Drop => SHOT,
            Verdict::Reject => unreachable!("nothing rejects here"),
        };
        assert_eq!((run.action, run.reason), (expect, found.reason), "{peer}");
        (found.verdict, found.reason)
    }

    fn is_banned(&mut self, peer: &str) -> bool {
        match self.judge(Direction::In, peer) {
            (Verdict::Drop, Reason::Ban) => true,
            (verdict, reason) => {
                assert_eq!(verdict, Verdict::Accept, "{reason:?}");
                false
            }
        }
    }
}

/// Bans and how many seconds they last, who is banned by them, who is not.
type Case<'a> = (&'a [(&'a str, Option<i64>)], &'a [&'a str], &'a [&'a str]);

#[test]
fn the_longest_ban_that_lasts_decides() {
    const HOUR: Option<i64> = Some(3600);
    const OVER: Option<i64> = Some(-1);
    let cases: &[Case<'_>] = &[
        (&[], &[], &["203.0.113.1", "2001:db8::1"]),
        (
            &[("203.0.113.1/32", HOUR)],
            &["203.0.113.1"],
            &["203.0.113.0", "203.0.113.2", "2001:db8::1"],
        ),
        (
            &[("203.0.113.0/24", None)],
            &["203.0.113.0", "203.0.113.255"],
            &["203.0.112.255", "203.0.114.0"],
        ),
        (&[("203.0.113.1/32", OVER)], &[], &["203.0.113.1"]),
        (
            // Behind one that has ended is another that has not.
            &[("203.0.113.1/32", OVER), ("203.0.113.0/24", HOUR)],
            &["203.0.113.1", "203.0.113.2"],
            &["203.0.112.1"],
        ),
        (
            &[
                ("203.0.113.1/32", OVER),
                ("203.0.113.0/31", OVER),
                ("203.0.113.0/30", OVER),
                ("203.0.112.0/20", HOUR),
            ],
            &["203.0.113.1", "203.0.113.3", "203.0.112.9"],
            &["203.0.128.1"],
        ),
        (
            &[("203.0.113.1/32", HOUR), ("203.0.113.0/24", OVER)],
            &["203.0.113.1"],
            &["203.0.113.2"],
        ),
        (
            &[("2001:db8::/32", HOUR)],
            &["2001:db8::1", "2001:db8:ffff::"],
            &["2001:db9::", "203.0.113.1"],
        ),
        // A ban of all IPv6 addresses is none of those that stand for IPv4.
        (
            &[("::/0", HOUR)],
            &["2001:db8::1", "fd00::1"],
            &["203.0.113.1"],
        ),
        (
            &[("0.0.0.0/0", HOUR)],
            &["203.0.113.1", "10.0.0.1"],
            &["2001:db8::1"],
        ),
    ];
    for (bans, banned, free) in cases {
        let mut both = Both::new();
        for (net, seconds) in *bans {
            both.ban(net, *seconds);
        }
        for peer in *banned {
            assert!(both.is_banned(peer), "{peer} with {bans:?}");
        }
        for peer in *free {
            assert!(!both.is_banned(peer), "{peer} with {bans:?}");
        }
    }
}

#[test]
fn a_ban_cuts_what_comes_in_of_running_flows_too() {
    let mut both = Both::new();
    for peer in ["203.0.113.1", "2001:db8::1"] {
        assert_eq!(
            both.judge(Direction::Out, peer),
            (Verdict::Accept, Reason::Policy)
        );
        let reply = both.judge(Direction::In, peer);
        assert_eq!(reply, (Verdict::Accept, Reason::Established));
    }
    both.ban("203.0.113.0/24", Some(60));
    both.ban("2001:db8::/64", None);
    for peer in ["203.0.113.1", "2001:db8::1"] {
        assert!(both.is_banned(peer));
        let asked = both.judge(Direction::Out, peer);
        assert_eq!(asked, (Verdict::Accept, Reason::Established));
    }
}

#[test]
fn bans_that_have_ended_are_removed_and_the_last_one_switches_the_lookup_off() {
    let mut both = Both::new();
    let mut bans = both.kernel.bans().unwrap();
    let nets: Vec<IpNet> = ["10.0.0.0/8", "203.0.113.1/32", "2001:db8::/32", "::/0"]
        .map(|net| net.parse().unwrap())
        .into();
    for (net, until) in nets.iter().zip([0, 20, 30, 40]) {
        bans.add(*net, until, 9).unwrap();
    }
    let listed = |bans: &fw_agent::datapath::Bans| -> Vec<String> {
        let list = bans.list().unwrap().into_iter();
        list.map(|(net, ban)| format!("{net} {} {}", ban.until, ban.reason))
            .collect()
    };
    let all = [
        "10.0.0.0/8 0 9",
        "203.0.113.1/32 20 9",
        "::/0 40 9",
        "2001:db8::/32 30 9",
    ];
    assert_eq!(listed(&bans), all);
    assert_eq!(bans.expire(30).unwrap(), 2);
    assert_eq!(listed(&bans), ["10.0.0.0/8 0 9", "::/0 40 9"]);
    assert_eq!(bans.expire(u64::MAX).unwrap(), 1);
    assert!(both.kernel.has_bans().unwrap());
    bans.remove(nets[0]).unwrap();
    bans.remove(nets[0]).unwrap();
    assert_eq!(listed(&bans), [""; 0]);
    assert!(!both.kernel.has_bans().unwrap());
    assert_eq!(bans.expire(u64::MAX).unwrap(), 0);
    assert!(!both.is_banned("10.0.0.1"));
    bans.add(nets[0], 0, 9).unwrap();
    assert_eq!(
        both.kernel
            .run(PORT, Direction::In, &frame(Direction::In, "10.0.0.1"))
            .unwrap()
            .reason,
        Reason::Ban
    );
}
