//! The ledger: after each packet exactly the counters moved that should, by exactly one packet of its length, in the kernel programs
//! (`BPF_PROG_TEST_RUN`) and in memory.
//!
//! In: one guest whose policy has a rule for every verdict, and a table of frames with what each is counted under. Out: all counters that moved.
//!
//! Needs root and `/sys/fs/bpf`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::datapath::leftovers::{forget_counters, suppressed_lines};
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::sweep::now;
use fw_agent::image::{Counted, Logged, MapImage, Memory};
use fw_agent::policy::{NodePolicy, PortId};
use fw_common::conntrack::SECOND;
use fw_common::ledger::LogLimit;
use fw_common::maps::{Counter, Port, PortCounters, PortKey, RuleKey, counter, name};
use fw_common::verdict::{Direction, Reason, Verdict};
use tapwall_tests::frame::{Body, Datagram, Frame, Part, Transport};
use tapwall_tests::kernel::TestKernel;
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const PORT: PortId = PortId { vmid: 100, net: 0 };
const GUEST: [u8; 6] = [0xbc, 0x24, 0x11, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NEAR: &str = "192.0.2.10";
const FAR: &str = "203.0.113.5";

const SYN: u8 = 2;
const ACK: u8 = 16;

const IN: Direction = Direction::In;
const OUT: Direction = Direction::Out;

/// The guest's policies. Lines are logged at most twice at once, and then once an hour.
fn policy() -> NodePolicy {
    let tree = ConfigTree::new().unwrap();
    let cluster = "[OPTIONS]\nenable: 1\nlog_ratelimit: enable=1,rate=1/hour,burst=2\n\
                   [IPSET blacklist]\n198.51.100.66\n";
    tree.write("firewall/cluster.fw", cluster).unwrap();
    tree.write(
        "nodes/demo/qemu-server/100.conf",
        "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1\n",
    )
    .unwrap();
    let rules = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 22\n\
                 IN DROP -p tcp -dport 23 -log info\nIN REJECT -p tcp -dport 24\n\
                 OUT REJECT -p tcp -dport 25\n";
    tree.write_firewall(100, rules).unwrap();
    let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
    assert_eq!(compiled.diagnostics, []);
    compiled.policy
}

/// A frame of the guest's link, in the direction.
fn framed(direction: Direction, body: Body) -> Frame {
    let (dest_mac, source_mac) = match direction {
        Direction::In => (GUEST, OTHER),
        Direction::Out => (OTHER, GUEST),
    };
    Frame {
        dest_mac,
        source_mac,
        tags: Vec::new(),
        body,
    }
}

/// TCP between two ends.
fn between(direction: Direction, ends: [&str; 2], ports: [u16; 2], flags: u8) -> Frame {
    let [source, dest] = ends.map(|address| address.parse().unwrap());
    let transport = Transport::Tcp {
        sport: ports[0],
        dport: ports[1],
        sequence: 1,
        acknowledge: 1,
        flags,
        data: vec![7; 11],
    };
    let payload = transport.payload(6, source, dest);
    framed(direction, Body::Ip(Datagram::new(source, dest, 6, payload)))
}

/// TCP to the guest, or its own.
fn tcp(direction: Direction, ports: [u16; 2], flags: u8) -> Frame {
    let ends = match direction {
        Direction::In => [FAR, NEAR],
        Direction::Out => [NEAR, FAR],
    };
    between(direction, ends, ports, flags)
}

fn part(offset: u16, more: bool) -> Frame {
    let mut frame = tcp(IN, [40_000, 22], SYN);
    if let Body::Ip(datagram) = &mut frame.body {
        datagram.part = Some(Part {
            id: 77,
            offset,
            more,
        });
    }
    frame
}

/// What a packet is to do.
struct Case {
    name: &'static str,
    direction: Direction,
    frame: Vec<u8>,
    verdict: Verdict,
    reason: Reason,
    /// Text of the rule that decides.
    rule: Option<&'static str>,
    /// Counters beside that of the reason.
    beside: &'static [u32],
}

/// A row of the table.
fn case(
    name: &'static str,
    direction: Direction,
    frame: Frame,
    (verdict, reason): (Verdict, Reason),
    rule: Option<&'static str>,
) -> Case {
    Case {
        name,
        direction,
        frame: frame.bytes(),
        verdict,
        reason,
        rule,
        beside: &[],
    }
}

fn cases() -> Vec<Case> {
    use Reason as Why;
    use Verdict::{Accept, Drop, Reject};
    let ssh = Some("IN ACCEPT -p tcp -dport 22");
    let telnet = Some("IN DROP -p tcp -dport 23 -log info");
    let mut cut = case(
        "cut short",
        IN,
        tcp(IN, [1, 22], SYN),
        (Drop, Why::Malformed),
        None,
    );
    cut.frame.truncate(40);
    let mut lying = tcp(OUT, [22, 40_000], ACK);
    lying.source_mac = OTHER;
    let mut deep = tcp(IN, [1, 22], SYN);
    deep.tags = vec![(0x8100, 5); 3];
    let arp = Body::Arp {
        operation: 1,
        sender_mac: GUEST,
        sender: [192, 0, 2, 10],
        target: [192, 0, 2, 1],
    };
    let suppressed = Case {
        beside: &[counter::LOGS_LIMITED],
        ..case(
            "dropped and no more logged",
            IN,
            tcp(IN, [4, 23], SYN),
            (Drop, Why::Rule),
            telnet,
        )
    };
    vec![
        case(
            "begins by a rule",
            IN,
            tcp(IN, [40_000, 22], SYN),
            (Accept, Why::Rule),
            ssh,
        ),
        case(
            "the same again",
            IN,
            tcp(IN, [40_000, 22], SYN),
            (Accept, Why::Rule),
            ssh,
        ),
        case(
            "answered",
            OUT,
            tcp(OUT, [22, 40_000], SYN | ACK),
            (Accept, Why::Established),
            None,
        ),
        case(
            "established",
            IN,
            tcp(IN, [40_000, 22], ACK),
            (Accept, Why::Established),
            None,
        ),
        case(
            "dropped and logged",
            IN,
            tcp(IN, [1, 23], SYN),
            (Drop, Why::Rule),
            telnet,
        ),
        case(
            "dropped and logged twice",
            IN,
            tcp(IN, [2, 23], SYN),
            (Drop, Why::Rule),
            telnet,
        ),
        suppressed,
        case(
            "rejected",
            IN,
            tcp(IN, [1, 24], SYN),
            (Reject, Why::Rule),
            Some("IN REJECT -p tcp -dport 24"),
        ),
        case(
            "rejected on its way out",
            OUT,
            tcp(OUT, [1, 25], SYN),
            (Reject, Why::Rule),
            Some("OUT REJECT -p tcp -dport 25"),
        ),
        case(
            "by policy",
            IN,
            tcp(IN, [1, 80], SYN),
            (Drop, Why::Policy),
            Some("policy_in: DROP"),
        ),
        case(
            "out by policy",
            OUT,
            tcp(OUT, [1, 80], SYN),
            (Accept, Why::Policy),
            Some("policy_out: ACCEPT"),
        ),
        cut,
        case(
            "another's hardware address",
            OUT,
            lying,
            (Drop, Why::MacFilter),
            None,
        ),
        case("three tags", IN, deep, (Drop, Why::HeaderChain), None),
        case("ARP", OUT, framed(OUT, arp), (Accept, Why::NotIp), None),
        case(
            "a later fragment alone",
            IN,
            part(32, false),
            (Drop, Why::Fragment),
            None,
        ),
    ]
}

/// Reads all counters of the kernel that are not zero.
fn read(pins: &Pins, port: &Port) -> Counted {
    let mut counted = Counted::default();
    let entries = pins.per_cpu::<Counter>(name::COUNTERS).unwrap();
    for entry in 0..counter::ENTRIES {
        let sum = Counter::sum(entries.get(&entry, 0).unwrap().iter());
        if sum != Counter::default() {
            counted.entries.insert(entry, sum);
        }
    }
    let ports = pins.per_cpu::<PortCounters>(name::PORT_COUNTERS).unwrap();
    // The host's, the port's own, and its neighbours'.
    for slot in [0, port.counters, port.counters + 1] {
        let values = ports.get(&slot, 0).unwrap();
        let mut sum = PortCounters::default();
        for (direction, row) in sum.0.iter_mut().enumerate() {
            for (verdict, counter) in row.iter_mut().enumerate() {
                *counter = Counter::sum(values.iter().map(|value| &value.0[direction][verdict]));
            }
        }
        if sum != PortCounters::default() {
            counted.ports.insert(slot, sum);
        }
    }
    let rules = pins
        .per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)
        .unwrap();
    for entry in rules.iter() {
        let (key, values) = entry.unwrap();
        counted.rules.insert(key, Counter::sum(values.iter()));
    }
    counted
}

/// What moved: packets and bytes by which each counter is higher, and the time of the last packet.
fn moved(before: &Counted, after: &Counted) -> BTreeMap<String, (u64, u64, u64)> {
    fn rows(counted: &Counted) -> BTreeMap<String, Counter> {
        let mut rows = BTreeMap::new();
        for (entry, counter) in &counted.entries {
            rows.insert(format!("counter {entry}"), *counter);
        }
        for (slot, counters) in &counted.ports {
            for (direction, row) in counters.0.iter().enumerate() {
                for (verdict, counter) in row.iter().enumerate() {
                    rows.insert(format!("port {slot} {direction} {verdict}"), *counter);
                }
            }
        }
        for (key, counter) in &counted.rules {
            rows.insert(format!("rule {key:?}"), *counter);
        }
        rows
    }
    let old = rows(before);
    let differs = |(name, now): (String, Counter)| {
        let old = old.get(&name).copied().unwrap_or_default();
        (now != old).then(|| {
            let by = (now.packets - old.packets, now.bytes - old.bytes, now.last);
            (name, by)
        })
    };
    rows(after).into_iter().filter_map(differs).collect()
}

/// What should move.
fn expected(case: &Case, image: &MapImage, port: &Port) -> BTreeMap<String, (u64, u64)> {
    let by = (1, case.frame.len() as u64);
    let direction = case.direction as usize;
    let mut rows = BTreeMap::from([
        (format!("counter {}", case.reason as u8), by),
        (
            format!("port {} {direction} {}", port.counters, case.verdict as u8),
            by,
        ),
    ]);
    for entry in case.beside {
        rows.insert(format!("counter {entry}"), by);
    }
    if let Some(text) = case.rule {
        let policy = &image.policies[image.ports[&PORT].policies[direction]];
        let is_it = |rule: &&u32| &*image.rules.get(**rule).unwrap().text == text;
        let rule = policy.rules.iter().find(is_it);
        let rule = *rule.unwrap_or_else(|| panic!("no rule {text:?}"));
        let key = RuleKey::new(port, case.direction, rule);
        rows.insert(format!("rule {key:?}"), by);
    }
    rows
}

/// Without the times, which must be those of now.
fn timeless(
    moved: BTreeMap<String, (u64, u64, u64)>,
    times: std::ops::RangeInclusive<u64>,
) -> BTreeMap<String, (u64, u64)> {
    let row = |(name, (packets, bytes, last)): (String, (u64, u64, u64))| {
        assert!(times.contains(&last), "{name}: {last} is not in {times:?}");
        (name, (packets, bytes))
    };
    moved.into_iter().map(row).collect()
}

#[test]
fn each_packet_moves_the_counters_that_it_should_and_no_other() {
    let node = policy();
    let mut kernel = TestKernel::new().unwrap();
    let image = kernel.load_as_is(&node).unwrap();
    let in_kernel = kernel.port(PORT).unwrap();
    assert_ne!(in_kernel.counters, 0, "the host's are not a guest's");
    let memory = Memory::new(&image);
    let in_memory = *memory.port_of(PORT).unwrap();
    for case in cases() {
        let before = read(&kernel.pins(), &in_kernel);
        let start = now();
        kernel.act(PORT, case.direction, &case.frame).unwrap();
        let after = read(&kernel.pins(), &in_kernel);
        let found = timeless(moved(&before, &after), start..=now());
        assert_eq!(
            found,
            expected(&case, &image, &in_kernel),
            "{} in the kernel",
            case.name
        );

        let before = memory.books().counted();
        memory.advance(1);
        let (judgement, _) = memory.judge(&in_memory, case.direction, &case.frame);
        assert_eq!(
            (judgement.verdict, judgement.reason),
            (case.verdict, case.reason)
        );
        let after = memory.books().counted();
        let clock = after.entries[&(case.reason as u32)].last;
        let found = timeless(moved(&before, &after), clock..=clock);
        assert_eq!(
            found,
            expected(&case, &image, &in_memory),
            "{} in memory",
            case.name
        );
    }
}

#[test]
fn flows_over_the_quota_work_but_stay_half_open() {
    let mut node = policy();
    node.settings.flow_quota = 2;
    let mut kernel = TestKernel::new().unwrap();
    let image = kernel.load_as_is(&node).unwrap();
    let port = kernel.port(PORT).unwrap();
    let memory = Memory::new(&image);
    let in_memory = *memory.port_of(PORT).unwrap();
    let refused = counter::FLOWS_OVER_QUOTA;
    let mut expect = 0;
    for client in 0..4 {
        for (direction, flags) in [(IN, SYN), (OUT, SYN | ACK), (IN, ACK), (OUT, ACK)] {
            let ports = match direction {
                Direction::In => [40_000 + client, 22],
                Direction::Out => [22, 40_000 + client],
            };
            let frame = tcp(direction, ports, flags).bytes();
            assert_eq!(kernel.act(PORT, direction, &frame).unwrap(), -1, "accepted");
            let (judgement, _) = memory.judge(&in_memory, direction, &frame);
            assert_eq!(judgement.verdict, Verdict::Accept);
            // The handshake is complete with the third packet; from then on each tries.
            expect += u64::from(client >= 2 && flags == ACK);
            for counted in [read(&kernel.pins(), &port), memory.books().counted()] {
                let packets = counted
                    .entries
                    .get(&refused)
                    .map_or(0, |entry| entry.packets);
                assert_eq!(packets, expect, "client {client}, {direction:?} {flags}");
            }
        }
    }
    let [established, half_open] = kernel.flows().unwrap();
    assert_eq!([established.len(), half_open.len()], [2, 2]);
    let usage = kernel
        .pins()
        .hash::<PortKey, u64>(name::FLOW_USAGE)
        .unwrap();
    let usage: Vec<(PortKey, u64)> = usage.iter().map(|entry| entry.unwrap()).collect();
    let key = PortKey {
        vmid: 100,
        net: 0,
        reserved: 0,
    };
    assert_eq!(usage, [(key, 2)]);
}

#[test]
fn suppressed_lines_are_told_once_by_the_next_event_or_by_the_sweep() {
    let mut node = policy();
    // A burst of two, and then none for longer than this test takes, in kernel time.
    node.settings.log_burst = 2;
    node.settings.log_interval = 3600 * SECOND;
    let mut kernel = TestKernel::new().unwrap();
    let image = kernel.load_as_is(&node).unwrap();
    let memory = Memory::new(&image);
    let port = *memory.port_of(PORT).unwrap();
    let hit = |kernel: &mut TestKernel, times: u16| -> (Vec<u64>, Vec<Logged>) {
        let mut logged = Vec::new();
        for sport in 0..times {
            let frame = tcp(IN, [sport + 1, 23], SYN).bytes();
            kernel.act(PORT, IN, &frame).unwrap();
            let (_, outcome) = memory.judge(&port, IN, &frame);
            if outcome != Logged::Suppressed {
                logged.push(outcome);
            }
        }
        (kernel.take_suppressed().unwrap(), logged)
    };
    let zeroes = (vec![0, 0], vec![Logged::After(0), Logged::After(0)]);
    assert_eq!(hit(&mut kernel, 9), zeroes);
    assert_eq!(
        suppressed_lines(&kernel.pins()).unwrap(),
        [],
        "more may come"
    );

    let pins = kernel.pins();
    let mut limits = pins.hash::<RuleKey, LogLimit>(name::LOG_LIMITS).unwrap();
    // Two hours pass for the bucket: the next packet's event tells.
    let rewind = |limits: &mut aya::maps::HashMap<_, RuleKey, LogLimit>| {
        let (key, mut limit) = limits.iter().next().unwrap().unwrap();
        limit.bucket.empty_at = 0;
        limits.insert(key, limit, 0).unwrap();
        key
    };
    rewind(&mut limits);
    memory.advance(2 * 3600 * SECOND);
    let told = (vec![7, 0], vec![Logged::After(7), Logged::After(0)]);
    assert_eq!(hit(&mut kernel, 5), told);

    // Or nothing comes, and the sweep tells, once.
    let key = rewind(&mut limits);
    assert_eq!((key.vmid, key.net, key.direction), (100, 0, IN as u8));
    assert_eq!(suppressed_lines(&kernel.pins()).unwrap(), [(key, 3)]);
    assert_eq!(suppressed_lines(&kernel.pins()).unwrap(), []);
    assert_eq!(limits.get(&key, 0).unwrap().suppressed, 0);
    let (kernel_lines, _) = hit(&mut kernel, 1);
    assert_eq!(kernel_lines, [0]);
}

#[test]
fn rule_counters_are_forgotten_with_their_port_only() {
    let mut kernel = TestKernel::new().unwrap();
    kernel.load_as_is(&policy()).unwrap();
    let port = kernel.port(PORT).unwrap();
    let frame = tcp(IN, [1, 22], SYN).bytes();
    kernel.act(PORT, IN, &frame).unwrap();
    let pins = kernel.pins();
    let count = || read(&pins, &port).rules.len();
    assert_eq!(count(), 1);
    assert_eq!(
        forget_counters(&pins, &[].into()).unwrap(),
        0,
        "its device is there"
    );
    let gone = NodePolicy {
        enabled: true,
        ..NodePolicy::default()
    };
    kernel.load_as_is(&gone).unwrap();
    pins.hash::<u32, Port>(name::PORTS)
        .unwrap()
        .remove(&1)
        .unwrap();
    let configured = PortKey {
        vmid: 100,
        net: 0,
        reserved: 0,
    };
    let known = [configured].into();
    assert_eq!(forget_counters(&pins, &known).unwrap(), 0, "it is only off");
    assert_eq!(count(), 1);
    assert_eq!(forget_counters(&pins, &[].into()).unwrap(), 1);
    assert_eq!(count(), 0);
}
