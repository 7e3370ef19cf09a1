//! The ledger: after each packet exactly the counters moved that should, by exactly one packet of its length, in the kernel programs
//! (`BPF_PROG_TEST_RUN`) and in memory.
//!
//! In: one guest whose policy has a rule for every verdict, and a table of frames with what each is counted under. Out: all counters that moved.
//!
//! Needs root and `/sys/fs/bpf`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod cases;
mod moved;

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::datapath::leftovers::{forget_counters, suppressed_lines};
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::sweep::now;
use fw_agent::image::{Counted, Logged, Memory};
use fw_agent::policy::{NodePolicy, PortId};
use fw_common::conntrack::SECOND;
use fw_common::ledger::LogLimit;
use fw_common::maps::{Port, PortKey, RuleKey, counter, name};
use fw_common::verdict::{Direction, NO_RULE, Verdict};
use tapwall_tests::counted;
use tapwall_tests::kernel::TestKernel;
use tapwall_tests::tree::{ConfigTree, NODE, facts};

use self::cases::{ACK, IN, OUT, SYN, cases, tcp};
use self::moved::{expected, moved, timeless};

const PORT: PortId = PortId { vmid: 100, net: 0 };
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

/// Counters of the kernel: of the host, the port and its neighbour.
fn read(pins: &Pins, port: &Port) -> Counted {
    counted::read(pins, &[0, port.counters, port.counters + 1]).unwrap()
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
        let before = memory.books().counted();
        memory.advance(1);
        let (judgement, _) = memory.judge(&in_memory, case.direction, &case.frame);
        let rule = judgement.rule;
        assert_eq!(
            (judgement.verdict, judgement.reason),
            (case.verdict, case.reason),
            "{}",
            case.name
        );
        assert_eq!(rule == NO_RULE, case.rule.is_none(), "{}", case.name);
        let after = memory.books().counted();
        let clock = after.entries[&(case.reason as u32)].last;
        let found = timeless(moved(&before, &after), clock..=clock);
        let expect = expected(&case, &image, &in_memory, rule);
        assert_eq!(found, expect, "{} in memory", case.name);

        let before = read(&kernel.pins(), &in_kernel);
        let start = now();
        kernel.act(PORT, case.direction, &case.frame).unwrap();
        let after = read(&kernel.pins(), &in_kernel);
        let found = timeless(moved(&before, &after), start..=now());
        let expect = expected(&case, &image, &in_kernel, rule);
        assert_eq!(found, expect, "{} in the kernel", case.name);
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
        forget_counters(&pins, &[].into(), || true).unwrap(),
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
    assert_eq!(
        forget_counters(&pins, &known, || true).unwrap(),
        0,
        "it is only off"
    );
    let stopped = forget_counters(&pins, &[].into(), || false);
    assert_eq!(stopped.unwrap(), 0, "it is to end");
    assert_eq!(count(), 1);
    assert_eq!(forget_counters(&pins, &[].into(), || true).unwrap(), 1);
    assert_eq!(count(), 0);
}
