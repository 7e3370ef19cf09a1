//! Random rulesets, judged by iptables' way through them, one rule after the other, and by the pipeline on their translation.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A packet that begins a connection.
#[derive(Clone, Debug)]
struct Packet {
    interface: &'static str,
    protocol: &'static str,
    source: [u8; 4],
    dest: [u8; 4],
    sport: u16,
    dport: u16,
    icmp: u8,
}

/// One condition of a rule.
#[derive(Clone, Debug)]
enum Match {
    Interface(&'static str),
    Source([u8; 4], u32),
    Dest([u8; 4], u32),
    Range([u8; 4], [u8; 4]),
    Set,
    Protocol(&'static str),
    Sport(u16, u16),
    Dports(Vec<u16>),
    Icmp(u8),
    State(&'static str),
}

#[derive(Clone, Debug)]
enum Does {
    Verdict(&'static str),
    Return,
    Log,
    Jump(usize),
    Goto(usize),
}

#[derive(Clone, Debug)]
struct Line {
    matches: Vec<(bool, Match)>,
    does: Does,
}

/// The first chain is INPUT; a chain calls later ones only.
#[derive(Clone, Debug)]
struct Rules {
    chains: Vec<Vec<Line>>,
    policy: &'static str,
}

/// What is in the set.
const SET: &str = "create some hash:net family inet\nadd some 10.0.0.0/9\nadd some 10.0.1.0/24 nomatch\nadd some 203.0.113.9\n";

fn in_set(address: [u8; 4]) -> bool {
    let is_in = |net, bits| within(address, net, bits);
    is_in([203, 0, 113, 9], 32) || is_in([10, 0, 0, 0], 9) && !is_in([10, 0, 1, 0], 24)
}

fn within(address: [u8; 4], net: [u8; 4], bits: u32) -> bool {
    let shift = 32 - bits;
    let number = |address| u64::from(u32::from_be_bytes(address)) >> shift;
    number(address) == number(net)
}

impl Match {
    fn holds(&self, packet: &Packet) -> bool {
        match self {
            Self::Interface(name) => packet.interface == *name,
            Self::Source(net, bits) => within(packet.source, *net, *bits),
            Self::Dest(net, bits) => within(packet.dest, *net, *bits),
            Self::Range(first, last) => (*first..=*last).contains(&packet.source),
            Self::Set => in_set(packet.source),
            Self::Protocol(name) => packet.protocol == *name,
            Self::Sport(first, last) => (*first..=*last).contains(&packet.sport),
            Self::Dports(ports) => ports.contains(&packet.dport),
            Self::Icmp(kind) => packet.icmp == *kind,
            Self::State(names) => names.split(',').any(|name| name == "NEW"),
        }
    }

    /// As iptables-save writes it; the protocol that it needs stands before it.
    fn words(&self, not: &str) -> String {
        let dots = |address: &[u8; 4]| std::net::Ipv4Addr::from(*address);
        match self {
            Self::Interface(name) => format!("{not}-i {name}"),
            Self::Source(net, bits) => format!("{not}-s {}/{bits}", dots(net)),
            Self::Dest(net, bits) => format!("{not}-d {}/{bits}", dots(net)),
            Self::Range(a, b) => format!("-m iprange {not}--src-range {}-{}", dots(a), dots(b)),
            Self::Set => format!("-m set {not}--match-set some src"),
            Self::Protocol(name) => format!("{not}-p {name}"),
            Self::Sport(first, last) => format!("{not}--sport {first}:{last}"),
            Self::Dports(ports) => {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                format!("-m multiport {not}--dports {}", ports.join(","))
            }
            Self::Icmp(kind) => format!("-m icmp {not}--icmp-type {kind}"),
            Self::State(names) => format!("-m conntrack {not}--ctstate {names}"),
        }
    }
}

impl Rules {
    fn text(&self) -> String {
        let name = |chain: usize| match chain {
            0 => "INPUT".to_owned(),
            number => format!("chain{number}"),
        };
        let mut text = format!("*filter\n:INPUT {} [0:0]\n", self.policy);
        for chain in 1..self.chains.len() {
            text.push_str(&format!(":{} - [0:0]\n", name(chain)));
        }
        for (chain, rules) in self.chains.iter().enumerate() {
            for rule in rules {
                text.push_str(&format!("-A {}", name(chain)));
                for (negated, one) in &rule.matches {
                    let not = if *negated { "! " } else { "" };
                    text.push_str(&format!(" {}", one.words(not)));
                }
                let does = match &rule.does {
                    Does::Verdict(verdict) => format!("-j {verdict}"),
                    Does::Return => "-j RETURN".to_owned(),
                    Does::Log => "-m limit --limit 3/min -j LOG".to_owned(),
                    Does::Jump(chain) => format!("-j {}", name(*chain)),
                    Does::Goto(chain) => format!("-g {}", name(*chain)),
                };
                text.push_str(&format!(" {does}\n"));
            }
        }
        text.push_str("COMMIT\n");
        text
    }

    fn verdict(&self, packet: &Packet) -> &'static str {
        self.walk(0, packet).unwrap_or(self.policy)
    }

    fn walk(&self, chain: usize, packet: &Packet) -> Option<&'static str> {
        for rule in &self.chains[chain] {
            if !rule
                .matches
                .iter()
                .all(|(negated, one)| one.holds(packet) != *negated)
            {
                continue;
            }
            match rule.does {
                Does::Verdict(verdict) => return Some(verdict),
                Does::Return => return None,
                Does::Log => {}
                Does::Goto(to) => return self.walk(to, packet),
                Does::Jump(to) => {
                    if let Some(verdict) = self.walk(to, packet) {
                        return Some(verdict);
                    }
                }
            }
        }
        None
    }
}

const ADDRESSES: [[u8; 4]; 6] = [
    [10, 0, 0, 1],
    [10, 0, 1, 7],
    [10, 200, 0, 1],
    [192, 0, 2, 5],
    [192, 0, 2, 6],
    [203, 0, 113, 9],
];
const PORTS: [u16; 6] = [1, 22, 80, 443, 1024, 65535];
const INTERFACES: [&str; 3] = ["eth0", "eth1", "wlan0"];
const PROTOCOLS: [&str; 4] = ["tcp", "udp", "icmp", "gre"];

fn one() -> impl Strategy<Value = Match> {
    let nets = || {
        (
            select(&ADDRESSES[..]),
            select(&[1u32, 8, 9, 24, 31, 32][..]),
        )
    };
    prop_oneof![
        select(&INTERFACES[..]).prop_map(Match::Interface),
        nets().prop_map(|(net, bits)| Match::Source(masked(net, bits), bits)),
        nets().prop_map(|(net, bits)| Match::Dest(masked(net, bits), bits)),
        (select(&ADDRESSES[..]), select(&ADDRESSES[..]))
            .prop_map(|(a, b)| Match::Range(a.min(b), a.max(b))),
        Just(Match::Set),
        select(&PROTOCOLS[..]).prop_map(Match::Protocol),
        select(&["NEW", "NEW,RELATED", "ESTABLISHED,RELATED", "INVALID"][..])
            .prop_map(Match::State),
    ]
}

fn masked(net: [u8; 4], bits: u32) -> [u8; 4] {
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    (u32::from_be_bytes(net) & mask).to_be_bytes()
}

/// Conditions on ports or types, with the protocol that they need.
fn of_protocol() -> impl Strategy<Value = Vec<(bool, Match)>> {
    let ports = || {
        let sport = (select(&PORTS[..]), select(&PORTS[..]))
            .prop_map(|(a, b)| Match::Sport(a.min(b), a.max(b)));
        let dports = prop::collection::vec(select(&PORTS[..]), 1..4).prop_map(Match::Dports);
        prop_oneof![sport, dports]
    };
    prop_oneof![
        (select(&["tcp", "udp"][..]), any::<bool>(), ports())
            .prop_map(|(name, not, one)| vec![(false, Match::Protocol(name)), (not, one)]),
        (any::<bool>(), select(&[0u8, 3, 8][..])).prop_map(|(not, kind)| vec![
            (false, Match::Protocol("icmp")),
            (not, Match::Icmp(kind))
        ]),
    ]
}

fn rule(chain: usize, chains: usize) -> impl Strategy<Value = Line> {
    let later: Vec<usize> = (chain + 1..chains).collect();
    let verdicts = select(&["ACCEPT", "DROP", "REJECT"][..]).prop_map(Does::Verdict);
    let does = match later.is_empty() {
        true => prop_oneof![6 => verdicts, 1 => Just(Does::Return), 1 => Just(Does::Log)].boxed(),
        false => prop_oneof![
            4 => verdicts,
            1 => Just(Does::Return),
            1 => Just(Does::Log),
            2 => select(later.clone()).prop_map(Does::Jump),
            1 => select(later).prop_map(Does::Goto),
        ]
        .boxed(),
    };
    let others = prop::collection::vec((prop::bool::weighted(0.3), one()), 0..3);
    (others, prop::option::of(of_protocol()), does).prop_map(|(mut others, of, does)| {
        if let Some(of) = of {
            others.retain(|(_, one)| !matches!(one, Match::Protocol(_)));
            others.splice(0..0, of);
        }
        // Each once, as iptables wants it.
        let mut seen = Vec::new();
        others.retain(|(_, one)| {
            let kind = std::mem::discriminant(one);
            let is_new = !seen.contains(&kind);
            seen.push(kind);
            is_new
        });
        Line {
            matches: others,
            does,
        }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let chain = |number| prop::collection::vec(rule(number, 3), 0..6);
    (
        (chain(0), chain(1), chain(2)),
        select(&["ACCEPT", "DROP"][..]),
    )
        .prop_map(|((a, b, c), policy)| Rules {
            chains: vec![a, b, c],
            policy,
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    (
        select(&INTERFACES[..]),
        select(&PROTOCOLS[..]),
        (select(&ADDRESSES[..]), select(&ADDRESSES[..])),
        (select(&PORTS[..]), select(&PORTS[..])),
        select(&[0u8, 3, 8][..]),
    )
        .prop_map(
            |(interface, protocol, (source, dest), (sport, dport), icmp)| Packet {
                interface,
                protocol,
                source,
                dest,
                sport,
                dport,
                // An error or an answer without a question is invalid, not new.
                icmp: if icmp == 0 || icmp == 3 { 8 } else { 13 },
            },
        )
}

fn query(packet: &Packet) -> String {
    let dots = std::net::Ipv4Addr::from;
    let more = match packet.protocol {
        "tcp" | "udp" => format!(r#","sport":{},"dport":{}"#, packet.sport, packet.dport),
        "icmp" => format!(r#","icmp_type":{}"#, packet.icmp),
        _ => String::new(),
    };
    format!(
        r#"{{"from":"{}/x0","to":"host","proto":"{}","source":"{}","dest":"{}"{more}}}"#,
        packet.interface,
        packet.protocol,
        dots(packet.source),
        dots(packet.dest)
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_rules_decide_the_same(rules in rules(), packets in prop::collection::vec(packet(), 40)) {
        let text = rules.text();
        let input = Input { sets: Some(File { name: "sets", text: SET }), ..input(&text) };
        let translation = match translate(&input) {
            Ok(translation) => translation,
            Err(ImportError::TooLong { .. }) => return Ok(()),
            Err(error) => panic!("{error}"),
        };
        // Two conditions on sets and networks cannot be one; what else is generated must be translated. No packet here is untracked.
        let harmless = |why: &str| why.contains("UNTRACKED") || why.contains("log by itself");
        let left_out = translation.remarks.iter().filter(|remark| remark.state == State::LeftOut);
        let left_out: Vec<_> = left_out.filter(|remark| !harmless(&remark.why)).collect();
        if !left_out.is_empty() {
            prop_assert!(left_out.iter().all(|remark| remark.why.contains("a set and other addresses")), "{}\n{:?}", text, left_out);
            return Ok(());
        }
        let mut tried = Tried::new(&translation);
        for packet in &packets {
            let expect = match rules.verdict(packet) {
                "ACCEPT" => Verdict::Accept,
                // To ICMP there is no answer.
                "REJECT" if packet.protocol != "icmp" => Verdict::Reject,
                _ => Verdict::Drop,
            };
            let verdict = tried.verdict(&query(packet));
            prop_assert_eq!(verdict, expect, "{:?}\n{}\n{}", packet, text, translation.text);
        }
    }
}
