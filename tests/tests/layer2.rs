//! Rules for frames that are not IP against the reference model: for every list of such rules and every frame both find the same one.
//!
//! In: random lists with conditions on EtherType, ARP sender and ARP target, and frames at the edges of these. Each frame goes through the whole
//! pipeline, tagged or not, at a port whose policy for IP drops everything.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use fw_agent::image::{MapImage, Memory};
use fw_agent::policy::{
    AddressSet, GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy,
    Rule, SetEntry, Vlans,
};
use fw_common::pipeline;
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::Headers;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::Config;
use tapwall_tests::frame::{Body, Frame};
use tapwall_tests::model;

const PORT: PortId = PortId { vmid: 100, net: 0 };
const MAC: [u8; 6] = [0xbc, 0x24, 0x11, 0, 0, 1];
const ARP: u16 = 0x0806;

/// EtherTypes worth asking for: edges of ranges, lengths, neither IP nor a tag.
const ETHERTYPES: [u16; 10] = [
    0, 46, 0x05ff, 0x0805, ARP, 0x0807, 0x8137, 0x8847, 0x88cc, 0xffff,
];
const ADDRESSES: [[u8; 4]; 7] = [
    [0, 0, 0, 0],
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 0, 1, 1],
    [192, 0, 2, 1],
    [224, 0, 0, 1],
    [255, 255, 255, 255],
];

fn set() -> impl Strategy<Value = Arc<AddressSet>> {
    let entry = (select(ADDRESSES.to_vec()), 0_u8..=32, any::<bool>());
    vec(entry, 0..4).prop_map(|entries| {
        let mut entries: Vec<SetEntry> = entries
            .into_iter()
            .map(|(address, length, nomatch)| SetEntry {
                net: ipnet::Ipv4Net::new(Ipv4Addr::from(address), length)
                    .unwrap()
                    .trunc()
                    .into(),
                nomatch,
            })
            .collect();
        entries.sort_by_key(|entry| entry.net);
        entries.dedup_by_key(|entry| entry.net);
        Arc::new(AddressSet { entries })
    })
}

fn matches() -> impl Strategy<Value = Matches> {
    let ethertypes = (select(ETHERTYPES.to_vec()), select(ETHERTYPES.to_vec()));
    let ethertypes = ethertypes.prop_map(|(a, b)| (a.min(b), a.max(b)));
    let some_set = || prop::option::weighted(0.4, set());
    (vec(ethertypes, 0..3), some_set(), some_set()).prop_map(|(dport, source, dest)| Matches {
        not_ip: true,
        dport,
        source,
        dest,
        ..Matches::default()
    })
}

fn rule(matches: Matches, verdict: Verdict, number: usize) -> Rule {
    Rule {
        matches,
        verdict,
        reason: Reason::Layer2,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Standard,
            text: format!("rule {number}").into(),
        },
    }
}

fn frame() -> impl Strategy<Value = Frame> {
    let arp = (
        select(ADDRESSES.to_vec()),
        select(ADDRESSES.to_vec()),
        1_u16..3,
    );
    let arp = arp.prop_map(|(sender, target, operation)| Body::Arp {
        operation,
        sender_mac: MAC,
        sender,
        target,
    });
    let other = select(ETHERTYPES.to_vec())
        .prop_filter("ARP has a body of its own", |ethertype| *ethertype != ARP)
        .prop_map(|ethertype| Body::Other {
            ethertype,
            bytes: vec![0x45; 46],
        });
    let tags = vec((select(vec![0x8100, 0x88a8, 0x9100]), any::<u16>()), 0..3);
    (prop_oneof![3 => arp, 2 => other], tags).prop_map(|(body, tags)| Frame {
        dest_mac: [0xff; 6],
        source_mac: MAC,
        tags,
        body,
    })
}

fn for_model(frame: &Frame) -> model::Frame {
    match &frame.body {
        Body::Arp { sender, target, .. } => model::Frame {
            ethertype: ARP,
            arp: Some([*sender, *target].map(Into::into)),
        },
        Body::Other { ethertype, .. } => model::Frame {
            ethertype: *ethertype,
            arp: None,
        },
        Body::Ip(_) => panic!("frames here are not IP"),
    }
}

/// A port with these rules for frames that are not IP, and one that drops all IP.
fn port(outbound: &Policy) -> PortPolicy {
    PortPolicy {
        port: PORT,
        kind: GuestKind::Vm,
        mac: Some(MAC),
        macfilter: true,
        macfilter_layer2: true,
        vlans: Vlans::Any,
        dhcp: false,
        inbound: outbound.clone(),
        outbound: outbound.clone(),
        guard: None,
    }
}

proptest! {
    #![proptest_config(Config { cases: 400, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_pipeline_finds_the_model_s_rule(
        list in vec((matches(), any::<bool>()), 0..12),
        frames in vec(frame(), 1..20),
    ) {
        let verdict = |accept| if accept { Verdict::Accept } else { Verdict::Drop };
        let mut rules: Vec<Rule> = (0..)
            .zip(list)
            .map(|(number, (matches, accept))| rule(matches, verdict(accept), number))
            .collect();
        let all = Matches { not_ip: true, ..Matches::default() };
        rules.push(rule(all, Verdict::Accept, rules.len()));
        rules.push(rule(Matches::default(), Verdict::Drop, rules.len()));
        let policy = Policy { rules };
        let image = MapImage::build(&NodePolicy {
            enabled: true,
            ports: vec![port(&policy).into()],
            ..NodePolicy::default()
        });
        let memory = Memory::new(&image);
        let value = *memory.port_of(PORT).unwrap();
        let built = &image.policies[image.ports[&PORT].policies[Direction::Out as usize]];
        for frame in frames {
            let expect = model::judge_frame(&policy, &for_model(&frame));
            let bytes = frame.bytes();
            let judged = |direction| {
                let mut headers = Headers::default();
                pipeline::judge(&bytes.as_slice(), &memory, &value, direction, &mut headers)
            };
            let out = judged(Direction::Out);
            let found = built.rules.iter().position(|identity| *identity == out.rule);
            prop_assert_eq!(found, Some(expect), "{:?}", frame);
            prop_assert_eq!(out.verdict, policy.rules[expect].verdict);
            // Nothing of this is asked of what comes in.
            let inbound = judged(Direction::In);
            prop_assert_eq!((inbound.verdict, inbound.reason), (Verdict::Accept, Reason::NotIp));
        }
    }
}
