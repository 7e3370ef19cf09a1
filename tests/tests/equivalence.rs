//! The kernel programs and the pipeline in memory, side by side on a long stream of random and damaged frames: the same verdicts for the same
//! reasons by the same rules, the same flows afterwards, and the same packets and bytes by reason, port and rule.
//!
//! Both start with the same tables and the same clock; frames come from [`Shuffle`] with a fixed seed. A difference names the frame.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, HashMap, HashSet};

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::image::{Counted, Memory};
use fw_agent::policy::{NodePolicy, PortId};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Counter, RuleKey, counter};
use fw_common::verdict::{NO_RULE, Reason, Verdict};
use tapwall_tests::counted;
use tapwall_tests::kernel::{PASS, REDIRECT, Run, SHOT, TestKernel};
use tapwall_tests::patience::repetitions;
use tapwall_tests::shuffle::{End, Shuffle, Step};
use tapwall_tests::tree::{ConfigTree, NODE, facts};

/// Frames in all.
const FRAMES: u32 = 200_000;
/// Frames between two looks at the flows, which are forgotten then.
const ROUND: u32 = 10_000;

const CLUSTER: &str = "[OPTIONS]
enable: 1
[ALIASES]
peer 198.51.100.8
[IPSET blacklist]
203.0.113.0/28
2001:db8:bad::/48
[IPSET office]
198.51.100.0/24
!198.51.100.7
2001:db8:2::/48
[group web]
IN ACCEPT -p tcp -dport 80,443
IN ACCEPT -p udp -dport 53 -source +office
IN DROP -p udp -dport 123
OUT ACCEPT -p tcp -dport 443
";

const GUESTS: [(u32, &str); 3] = [
    (
        100,
        "[OPTIONS]
enable: 1
policy_in: DROP
policy_out: ACCEPT
ipfilter: 1
[IPSET ipfilter-net0]
192.0.2.100
2001:db8:1::100
[RULES]
IN ACCEPT -p tcp -dport 22 -source +dc/office
GROUP web
IN REJECT -p tcp -dport 25
IN ACCEPT -p icmp -icmp-type echo-request
IN ACCEPT -p icmpv6 -icmp-type echo-request
IN ACCEPT -p sctp -dport 22
OUT DROP -p udp -dport 123
OUT REJECT -p tcp -dport 25
",
    ),
    (
        101,
        "[OPTIONS]
enable: 1
policy_in: REJECT
policy_out: DROP
dhcp: 0
layer2_protocols: ARP,8847
[RULES]
IN ACCEPT -source dc/peer
OUT ACCEPT -p udp -dport 53
OUT ACCEPT -p tcp -sport 40000
OUT REJECT -p udp
GROUP web
",
    ),
    (
        102,
        "[OPTIONS]
enable: 1
policy_in: ACCEPT
policy_out: ACCEPT
macfilter: 0
radv: 1
[RULES]
IN DROP -p tcp -dport 1:1000
IN DROP -p gre
",
    ),
];

fn end(vmid: u32, last: u8, extra: &str) -> End {
    let mac = [0xbc, 0x24, 0x11, 0, 1, last];
    let addresses = format!("192.0.2.{vmid} 2001:db8:1::{vmid} {extra}");
    End {
        port: PortId { vmid, net: 0 },
        mac,
        addresses: addresses
            .split_whitespace()
            .map(|address| address.parse().unwrap())
            .collect(),
    }
}

fn ends() -> Vec<End> {
    vec![
        end(100, 0, "fe80::be24:11ff:fe00:100"),
        end(101, 1, "fe80::be24:11ff:fe00:101"),
        end(102, 2, "fe80::1"),
    ]
}

const OTHERS: &str = "198.51.100.7 198.51.100.8 198.51.100.9 203.0.113.5 203.0.113.99 192.0.2.101 255.255.255.255 224.0.0.251 0.0.0.0 127.0.0.1 \
     2001:db8:2::8 2001:db8:3::8 2001:db8:bad::1 fe80::2 ff02::1 ff02::1:ff00:100 :: ::1";

/// A file with so many rules more that a search among them is worth remembering. Each is about one of the frames' ports and sources, or next to them.
fn many_rules(text: &str) -> String {
    let mut text = text.to_owned();
    for number in 0..600 {
        let verdict = ["ACCEPT", "DROP", "REJECT"][number % 3];
        let protocol = ["udp", "tcp"][number / 3 % 2];
        let port = [22, 25, 53, 80, 123, 443, 546, 40_000][number / 6 % 8] + number / 300;
        let source = ["198.51.100", "203.0.113", "192.0.2"][number / 48 % 3];
        let host = number / 4 % 110;
        text.push_str(&format!(
            "IN {verdict} -p {protocol} -dport {port} -source {source}.{host}\n"
        ));
    }
    text
}

/// The node's policies, with these options of the host.
fn node(host: &str) -> NodePolicy {
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write("firewall/cluster.fw", CLUSTER).unwrap();
    let host = format!("[OPTIONS]\ntcpflags: 1\n{host}");
    tree.write(&format!("nodes/{NODE}/host.fw"), &host).unwrap();
    tree.write(
        &format!("nodes/{NODE}/qemu-server/102.conf"),
        "net0: virtio=BC:24:11:00:01:02,bridge=vmbr0,firewall=1,trunks=5;7\n",
    )
    .unwrap();
    for (vmid, text) in GUESTS {
        tree.write_firewall(vmid, text).unwrap();
    }
    tree.write_firewall(102, &many_rules(GUESTS[2].1)).unwrap();
    let sources = Sources::read(tree.path(), NODE);
    let compiled = compile(&sources, &facts(NODE), 0);
    assert_eq!(compiled.diagnostics, [], "the configuration is clean");
    compiled.policy
}

/// The flows of a table, without their times and the epoch, which in memory is always 0.
fn flows(table: impl IntoIterator<Item = (FlowKey, Flow)>) -> HashMap<FlowKey, Flow> {
    let comparable = |flow| Flow {
        seen: 0,
        created: 0,
        epoch: 0,
        ..flow
    };
    let flows = table.into_iter();
    flows.map(|(key, flow)| (key, comparable(flow))).collect()
}

/// The flows that two tables do not agree on.
fn differences(kernel: &HashMap<FlowKey, Flow>, memory: &HashMap<FlowKey, Flow>) -> String {
    let keys: HashSet<_> = kernel.keys().chain(memory.keys()).collect();
    let differ = keys
        .into_iter()
        .filter(|key| kernel.get(key) != memory.get(key));
    let lines = differ.map(|key| {
        let (kernel, memory) = (kernel.get(key), memory.get(key));
        format!("{key:x?}\n  kernel {kernel:?}\n  memory {memory:?}\n")
    });
    lines.collect()
}

/// The kernel and the memory, and what they said so far.
struct Pair {
    kernel: TestKernel,
    memory: Memory,
    clock: u64,
    counted: BTreeMap<Reason, u64>,
}

impl Pair {
    fn new(node: &NodePolicy) -> Self {
        let mut kernel = TestKernel::new().unwrap();
        let image = kernel.load(node).unwrap();
        Self {
            kernel,
            memory: Memory::new(&image),
            clock: 0,
            counted: BTreeMap::new(),
        }
    }

    /// Sets the memory's clock to the one the programs read.
    fn synchronise(&mut self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        let now = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
        self.memory.advance(now - self.clock);
        self.clock = now;
    }

    /// Judges a frame twice and compares. False if the kernel does not take such a frame for a test run.
    fn judge(&mut self, step: &Step) -> bool {
        let port = *self.memory.port_of(step.port).unwrap();
        if !is_testable(&step.frame) {
            return false;
        }
        self.synchronise();
        let run = self
            .kernel
            .run(step.port, step.direction, &step.frame)
            .unwrap();
        let (said, _) = self.memory.judge(&port, step.direction, &step.frame);
        let rule = (said.rule != NO_RULE).then_some((said.verdict, said.rule));
        let actions: &[i32] = match said.verdict {
            Verdict::Accept => &[PASS],
            Verdict::Drop => &[SHOT],
            Verdict::Reject => &[REDIRECT, SHOT],
        };
        let Run { action, reason, .. } = run;
        assert!(
            actions.contains(&action) && reason == said.reason && run.rule == rule,
            "the kernel: {action} {reason:?} {:?}, in memory: {said:?}\n{step:02x?}",
            run.rule
        );
        *self.counted.entry(said.reason).or_default() += 1;
        true
    }

    /// Compares the flows, then forgets them.
    fn compare_flows(&mut self) -> usize {
        let [kernel, half_open] = self.kernel.flows().unwrap().map(flows);
        let [memory, memory_half_open] = self.memory.all_flows().map(flows);
        assert_eq!(differences(&kernel, &memory), "", "established flows");
        let half_open_differ = differences(&half_open, &memory_half_open);
        assert_eq!(half_open_differ, "", "half-open flows");
        self.kernel.forget_flows().unwrap();
        self.memory.forget_flows();
        kernel.len() + half_open.len()
    }

    /// Compares what was counted in all: by reason, by port and by rule.
    fn compare_counters(&self) {
        let memory = self.memory.books().counted();
        let in_kernel = |id| self.kernel.port(id).unwrap().counters;
        let in_memory = |id| self.memory.port_of(id).unwrap().counters;
        let ids: Vec<PortId> = ends().iter().map(|end| end.port).collect();
        let slots: Vec<u32> = ids.iter().map(|id| in_kernel(*id)).collect();
        let kernel = counted::read(&self.kernel.pins(), &slots).unwrap();
        let by_entry = |counted: &Counted| -> BTreeMap<u32, (u64, u64)> {
            let entries = counted.entries.iter();
            // How many answers are held back depends on how fast this test is.
            let entries = entries.filter(|(entry, _)| **entry != counter::REJECTS_LIMITED);
            entries
                .map(|(entry, found)| (*entry, size(found)))
                .collect()
        };
        assert_eq!(by_entry(&kernel), by_entry(&memory));
        for id in ids {
            let sizes = |counted: &Counted, slot| {
                counted.ports[&slot]
                    .0
                    .map(|row| row.map(|found| size(&found)))
            };
            let (kernel, memory) = (sizes(&kernel, in_kernel(id)), sizes(&memory, in_memory(id)));
            assert_eq!(kernel, memory, "{id:?}");
        }
        let by_rule = |counted: &Counted| -> BTreeMap<RuleKey, (u64, u64)> {
            let rules = counted.rules.iter();
            rules.map(|(rule, found)| (*rule, size(found))).collect()
        };
        assert_eq!(by_rule(&kernel), by_rule(&memory));
    }
}

/// Packets and bytes of a counter.
fn size(counter: &Counter) -> (u64, u64) {
    (counter.packets, counter.bytes)
}

/// `BPF_PROG_TEST_RUN` refuses frames whose EtherType promises a longer header than there is.
fn is_testable(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.len() >= 34,
        Some([0x86, 0xdd]) => frame.len() >= 54,
        Some(_) => true,
        None => false,
    }
}

fn check(host: &str, seed: u8) {
    let mut pair = Pair::new(&node(host));
    let others = OTHERS.split_whitespace();
    let others = others.map(|address| address.parse().unwrap()).collect();
    let mut shuffle = Shuffle::new(ends(), others, seed);
    let (mut judged, mut flows) = (0, 0);
    while judged < repetitions(FRAMES / 2) {
        judged += u32::from(pair.judge(&shuffle.step()));
        if judged % repetitions(ROUND) == 0 {
            flows += pair.compare_flows();
        }
    }
    pair.compare_counters();
    println!("{judged} frames, {flows} flows: {:?}", pair.counted);
    // A stream that reaches only few ends would prove little.
    for (reason, least) in [
        (Reason::Rule, 1000),
        (Reason::Policy, 1000),
        (Reason::Established, 1000),
        (Reason::Standard, 100),
        (Reason::Noise, 100),
        (Reason::Blacklist, 100),
        (Reason::MacFilter, 100),
        (Reason::IpFilter, 100),
        (Reason::Malformed, 100),
        (Reason::Fragment, 100),
        (Reason::HeaderChain, 10),
        (Reason::NotIp, 100),
        (Reason::Related, 1000),
        (Reason::Vlan, 1000),
        (Reason::Layer2, 100),
    ] {
        let count = pair.counted.get(&reason).copied().unwrap_or(0);
        assert!(count >= repetitions(least).into(), "{reason:?}: {count}");
    }
}

#[test]
fn random_frames() {
    check("", 1);
}

#[test]
fn random_frames_where_invalid_packets_get_further() {
    check("nf_conntrack_allow_invalid: 1\n", 2);
}
