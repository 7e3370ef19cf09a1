//! Big sets: the same membership as ever, behind a prefilter, and enforced by the kernel with a million prefixes.
//!
//! In: random sets, some of which are big because they are blacklists; sets beyond the size from which on every set is a big one. Each address is
//! asked for by the model, which scans the sets, and by the pipeline, in memory and in the kernel.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fw_agent::image::{MapImage, Memory};
use fw_agent::policy::{
    AddressSet, GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy,
    Rule, SetEntry, Vlans,
};
use fw_common::address;
use fw_common::classify::{Values, classify};
use fw_common::maps::policy as layout;
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::IpVersion;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use tapwall_tests::frame::Frame;
use tapwall_tests::kernel::{PASS, TestKernel};
use tapwall_tests::model;
use tapwall_tests::strategy::{prefix, set};

const PORT: PortId = PortId { vmid: 100, net: 0 };

fn rule(index: usize, source: Option<Arc<AddressSet>>, reason: Reason, verdict: Verdict) -> Rule {
    Rule {
        matches: Matches {
            source,
            ..Matches::default()
        },
        verdict,
        reason,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Rule,
            text: format!("rule {index}").into(),
        },
    }
}

/// A node with a port per set: what comes in is accepted from the set only. Those of `blacklists` count as blacklists.
fn node(sets: &[Arc<AddressSet>], blacklists: &[bool]) -> NodePolicy {
    let port = |index: usize| {
        let reason = match blacklists[index] {
            true => Reason::Blacklist,
            false => Reason::Rule,
        };
        let member = rule(
            2 * index,
            Some(Arc::clone(&sets[index])),
            reason,
            Verdict::Accept,
        );
        let last = rule(2 * index + 1, None, Reason::Policy, Verdict::Drop);
        PortPolicy {
            port: PortId {
                vmid: PORT.vmid + index as u32,
                net: 0,
            },
            kind: GuestKind::Vm,
            mac: None,
            macfilter: false,
            macfilter_layer2: false,
            vlans: Vlans::None,
            dhcp: false,
            inbound: Policy {
                rules: vec![member, last.clone()],
            },
            outbound: Policy { rules: vec![last] },
            guard: None,
        }
    };
    NodePolicy {
        enabled: true,
        ports: (0..sets.len()).map(port).map(Arc::new).collect(),
        ..NodePolicy::default()
    }
}

fn version(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

/// Whether each set holds the address, as the pipeline finds it.
fn members(memory: &Memory, count: usize, address: IpAddr) -> Vec<bool> {
    let holds = |index: usize| {
        let vmid = PORT.vmid + index as u32;
        let port = memory.port_of(PortId { vmid, net: 0 }).unwrap();
        let mut values: Values = [0; layout::FIELDS];
        values[layout::SPORT] = layout::NO_PORT;
        values[layout::DPORT] = layout::NO_PORT;
        values[layout::SOURCE] = address::class(memory, port, version(address), &address.into());
        let word = classify(memory, port.policy[Direction::In as usize], &values).unwrap();
        word.judgement().verdict == Verdict::Accept
    };
    (0..count).map(holds).collect()
}

/// First and last address of a prefix, and their neighbours outside.
fn edges(net: ipnet::IpNet) -> Vec<IpAddr> {
    match net {
        ipnet::IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            edges.map(|number| Ipv4Addr::from(number).into()).into()
        }
        ipnet::IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            edges.map(|number| Ipv6Addr::from(number).into()).into()
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 96, failure_persistence: None, ..Config::default() })]

    #[test]
    fn big_and_small_sets_hold_what_they_say(
        sets in vec(set(), 1..6),
        blacklists in vec(any::<bool>(), 6),
        others in vec(prefix(), 0..12),
    ) {
        let sets: Vec<Arc<AddressSet>> = sets.into_iter().map(Arc::new).collect();
        let image = MapImage::build(&node(&sets, &blacklists));
        let memory = Memory::new(&image);
        let nets = sets.iter().flat_map(|set| &set.entries).map(|entry| entry.net);
        for address in nets.chain(others).flat_map(edges) {
            let expect: Vec<bool> = sets.iter().map(|set| model::contains(set, address)).collect();
            prop_assert_eq!(members(&memory, sets.len(), address), &expect[..], "of {}", address);
            let listed = sets
                .iter()
                .enumerate()
                // A set that is equal to a blacklist is one.
                .any(|(index, set)| blacklists[index] && model::contains(set, address));
            let port = memory.port_of(PORT).unwrap();
            let found = address::is_blacklisted(&memory, port, version(address), &address.into());
            prop_assert_eq!(found, listed, "of {}", address);
        }
    }
}

/// Distinct prefixes in no order: a third /32, a third /28, a third /64, some of each excepted from a wider one.
fn scattered(entries: u32) -> AddressSet {
    let mut entries: Vec<SetEntry> = (0..entries)
        .map(|number| {
            let scattered = number.wrapping_mul(0x9e3_779b) & 0xfff_ffff;
            let net = match number % 3 {
                0 => ipnet::Ipv4Net::new((0x1000_0000 + scattered).into(), 32)
                    .unwrap()
                    .into(),
                1 => ipnet::Ipv4Net::new((0x4000_0000 + (scattered & !15)).into(), 28)
                    .unwrap()
                    .into(),
                _ => {
                    let number = 0x2001_0db8 << 96 | u128::from(scattered) << 64;
                    ipnet::Ipv6Net::new(number.into(), 64).unwrap().into()
                }
            };
            SetEntry {
                net,
                nomatch: number % 64 == 63,
            }
        })
        .collect();
    entries.push(SetEntry {
        net: "17.0.0.0/8".parse().unwrap(),
        nomatch: false,
    });
    entries.sort_unstable();
    entries.dedup_by_key(|entry| entry.net);
    AddressSet { entries }
}

#[test]
fn a_long_set_is_a_big_one_and_holds_what_it_says() {
    let sets = [scattered(6000), scattered(100), scattered(5000)].map(Arc::new);
    let image = MapImage::build(&node(&sets, &[false; 3]));
    assert_eq!(image.space.big.count(), 3, "big classes");
    assert!(image.space.big.prefixes.v4.len() > 2000 && image.space.small.prefixes.v4.len() < 100);
    let memory = Memory::new(&image);
    let every = sets[0].entries.iter().step_by(17);
    for address in every.flat_map(|entry| edges(entry.net)) {
        let expect = sets.each_ref().map(|set| model::contains(set, address));
        assert_eq!(members(&memory, 3, address), expect, "of {address}");
    }
}

#[test]
fn sets_that_overlap_in_too_many_ways_are_small_ones() {
    // Seven long sets and all combinations of them: 128 classes.
    let sets: Vec<Arc<AddressSet>> = (0..7)
        .map(|bit| {
            let mut set = scattered(5000);
            set.entries
                .extend(
                    (0..128_u32)
                        .filter(|number| number >> bit & 1 == 1)
                        .map(|number| {
                            let net =
                                ipnet::Ipv4Net::new((0xc612_0000 + number).into(), 32).unwrap();
                            SetEntry {
                                net: net.into(),
                                nomatch: false,
                            }
                        }),
                );
            set.entries.sort_unstable();
            Arc::new(set)
        })
        .collect();
    let blacklists = [true, false, false, false, false, false, false];
    let image = MapImage::build(&node(&sets, &blacklists));
    assert_eq!(image.space.big.count(), 2, "big classes");
    let memory = Memory::new(&image);
    for number in 0..128_u32 {
        let address = Ipv4Addr::from(0xc612_0000 + number).into();
        let expect: Vec<bool> = (0..7).map(|bit| number >> bit & 1 == 1).collect();
        assert_eq!(members(&memory, 7, address), expect, "of {address}");
    }
}

/// A frame from an address.
fn frame(source: IpAddr) -> Vec<u8> {
    let dest: IpAddr = match source {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1).into(),
    };
    let macs = [[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]];
    Frame::udp(macs, [source, dest], [1, 2]).bytes()
}

#[test]
fn the_kernel_looks_up_big_and_small_sets() {
    let sets = [scattered(6000), scattered(100), scattered(50)].map(Arc::new);
    let node = node(&sets, &[false, false, true]);
    let mut kernel = TestKernel::new().unwrap();
    kernel.load(&node).unwrap();
    let (mut held, mut asked) = (0, 0);
    let entries = sets
        .iter()
        .flat_map(|set| set.entries.iter().step_by(set.entries.len() / 40));
    for address in entries.flat_map(|entry| edges(entry.net)) {
        for (index, set) in sets.iter().enumerate() {
            let vmid = PORT.vmid + index as u32;
            let id = PortId { vmid, net: 0 };
            let run = kernel.run(id, Direction::In, &frame(address)).unwrap();
            let expect = model::contains(set, address);
            assert_eq!(run.action == PASS, expect, "{address} in set {index}");
            held += u32::from(expect);
            asked += 1;
        }
    }
    assert!(held > 100 && asked - held > 100, "{held} of {asked}");
}

#[test]
fn the_kernel_takes_new_classes_for_their_ancestors() {
    let of = |nets: &str| {
        let nets = nets.split_whitespace();
        let mut entries: Vec<SetEntry> = nets
            .map(|net| SetEntry {
                net: net.parse().unwrap(),
                nomatch: false,
            })
            .collect();
        entries.sort_unstable();
        Arc::new(AddressSet { entries })
    };
    let wide = of("10.0.0.0/8 2001:db8::/32");
    let mut kernel = TestKernel::new().unwrap();
    let narrow = [
        "10.1.0.0/16",
        "10.1.0.0/16 10.1.2.0/24",
        "10.0.0.0/9 10.1.2.0/24 10.1.2.3/32 192.0.2.1/32",
        "2001:db8:1::/48 10.1.2.0/24",
        "10.0.0.0/7",
    ];
    let mut parents = 0;
    for nets in narrow {
        let sets = [Arc::clone(&wide), of(nets), of("10.1.2.3/32")];
        let image = kernel.load(&node(&sets, &[false; 3])).unwrap();
        parents = parents.max(image.space.small.parents.len());
        let entries = sets.iter().flat_map(|set| &set.entries);
        for address in entries.flat_map(|entry| edges(entry.net)) {
            for (index, set) in sets.iter().enumerate() {
                let vmid = PORT.vmid + index as u32;
                let id = PortId { vmid, net: 0 };
                let run = kernel.run(id, Direction::In, &frame(address)).unwrap();
                let expect = model::contains(set, address);
                assert_eq!(run.action == PASS, expect, "{address} in {index} of {nets}");
            }
        }
        kernel.restart().unwrap();
    }
    assert!(parents >= 3, "{parents} classes have parents");
}
