//! Flows when there is no room for more, and when rules change: in the kernel and in memory. Needs root and `/sys/fs/bpf`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fw_agent::compile::{Compiled, compile};
use fw_agent::config::Sources;
use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::flows;
use fw_agent::datapath::sweep::sweep;
use fw_agent::image::{MapImage, Memory};
use fw_agent::policy::{NodePolicy, PortId};
use fw_agent::simulate::pipeline::Pipeline;
use fw_agent::simulate::{Query, run, text};
use fw_common::conntrack::{ANSWERED, SECOND, State};
use fw_common::event::{FlowChange, FlowEvent};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{name, settings_flag};
use fw_common::pipeline::judge;
use fw_common::verdict::{Direction, Reason};
use fw_common::wire::Headers;
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::TestKernel;
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const PORT: PortId = PortId { vmid: 100, net: 0 };
const GUEST_MAC: [u8; 6] = [0xbc, 0x24, 0x11, 0, 0, 0x64];
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SYN: u8 = 2;
const ACK: u8 = 16;

fn policies(rules: &str) -> NodePolicy {
    compiled(rules).policy
}

/// A guest with these rules; the policies are the defaults: nothing in, everything out.
fn compiled(rules: &str) -> Compiled {
    compiled_with("", rules)
}

/// Likewise in a cluster with these sets.
fn compiled_with(sets: &str, rules: &str) -> Compiled {
    let tree = ConfigTree::new().unwrap();
    let cluster = format!("[OPTIONS]\nenable: 1\n{sets}");
    tree.write("firewall/cluster.fw", &cluster).unwrap();
    tree.write(
        &format!("nodes/{NODE}/qemu-server/100.conf"),
        "net0: virtio=BC:24:11:00:00:64,bridge=vmbr0,firewall=1\n",
    )
    .unwrap();
    tree.write_firewall(100, &format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}"))
        .unwrap();
    let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
    assert_eq!(compiled.diagnostics, []);
    compiled
}

/// A packet of a flow that the outside (from port `port`) has with the guest.
#[derive(Clone, Copy, Debug)]
struct Talk {
    protocol: u8,
    v6: bool,
    port: u16,
}

impl Talk {
    /// A packet in one direction; of TCP with these flags.
    fn frame(self, direction: Direction, flags: u8) -> Vec<u8> {
        let [outside, guest]: [IpAddr; 2] = match self.v6 {
            false => ["203.0.113.5", "192.0.2.10"].map(|address| address.parse().unwrap()),
            true => ["2001:db8::5", "2001:db8::10"].map(|address| address.parse().unwrap()),
        };
        let comes = direction == Direction::In;
        let turned = |pair: [_; 2]| match comes {
            true => pair,
            false => [pair[1], pair[0]],
        };
        let [source, dest] = turned([outside, guest]);
        let [sport, dport] = match comes {
            true => [self.port, 22],
            false => [22, self.port],
        };
        let transport = match self.protocol {
            TCP => Transport::Tcp {
                sport,
                dport,
                sequence: 1000,
                acknowledge: 1000,
                flags,
                data: Vec::new(),
            },
            UDP => Transport::Udp {
                sport,
                dport,
                data: Vec::new(),
            },
            _ => Transport::Icmp {
                kind: match (self.v6, comes) {
                    (false, true) => 8,
                    (false, false) => 0,
                    (true, true) => 128,
                    (true, false) => 129,
                },
                code: 0,
                word: [0, 7, 0, 1],
                data: Vec::new(),
            },
        };
        let payload = transport.payload(self.protocol, source, dest);
        let (source_mac, dest_mac) = match comes {
            true => (OTHER_MAC, GUEST_MAC),
            false => (GUEST_MAC, OTHER_MAC),
        };
        let frame = Frame {
            dest_mac,
            source_mac,
            tags: Vec::new(),
            body: Body::Ip(Datagram::new(source, dest, self.protocol, payload)),
        };
        frame.bytes()
    }
}

/// What judges: the kernel, and the same pipeline on tables in memory.
struct Both {
    kernel: TestKernel,
    memory: Memory,
    reevaluate: bool,
}

impl Both {
    fn new(node: &NodePolicy, reevaluate: bool) -> Self {
        let mut kernel = TestKernel::new().unwrap();
        if reevaluate {
            kernel.reevaluate();
        }
        kernel.load(node).unwrap();
        let mut image = MapImage::build(node);
        if reevaluate {
            image.reevaluate();
        }
        Self {
            kernel,
            memory: Memory::new(&image),
            reevaluate,
        }
    }

    /// Other rules, the same flows.
    fn load(&mut self, node: &NodePolicy) {
        self.kernel.load(node).unwrap();
        let mut image = MapImage::build(node);
        if self.reevaluate {
            image.reevaluate();
        }
        self.memory.replace(&image);
    }

    /// The reason that both give, and whether the kernel found no room for a flow.
    #[track_caller]
    fn judge(&mut self, direction: Direction, frame: &[u8]) -> (Reason, bool) {
        let run = self.kernel.run(PORT, direction, frame).unwrap();
        let port = self.memory.port_of(PORT).unwrap();
        let mut headers = Headers::default();
        let before = self.memory.refused_flows();
        let judged = judge(&frame, &self.memory, port, direction, &mut headers);
        let refused = self.memory.refused_flows() > before;
        assert_eq!((judged.reason, refused), (run.reason, run.refused));
        (run.reason, run.refused)
    }

    /// What both told of flows: the change, the state and whether the flow was settled.
    fn told(&mut self) -> Vec<(FlowChange, u32, bool)> {
        let short = |events: Vec<FlowEvent>| -> Vec<_> {
            let parts = events.iter().map(|event| {
                let change = FlowChange::from_u8(event.change);
                let news = (change, event.state, event.settled != 0);
                (event.key, event.origin, event.time_ns != 0, news)
            });
            parts.collect()
        };
        let kernel = short(self.kernel.take_told());
        assert_eq!(short(self.memory.take_told()), kernel);
        kernel.into_iter().map(|(_, _, _, news)| news).collect()
    }

    fn advance(&mut self, seconds: u64) {
        self.kernel.advance(seconds * SECOND).unwrap();
        self.memory.advance(seconds * SECOND);
    }

    #[track_caller]
    fn expect(&mut self, direction: Direction, frame: &[u8], reason: Reason) {
        assert_eq!(self.judge(direction, frame), (reason, false));
    }
}

#[test]
fn a_full_table_keeps_its_flows_and_new_ones_stay_half_open() {
    let mut both = Both::new(&policies("IN ACCEPT -p tcp -dport 22\n"), false);
    let talk = |port| Talk {
        protocol: TCP,
        v6: false,
        port,
    };
    let (old, new) = (talk(1000), talk(2000));
    let open = |both: &mut Both, talk: Talk, refused| {
        for (direction, flags, reason, establishes) in [
            (Direction::In, SYN, Reason::Rule, false),
            (Direction::Out, SYN | ACK, Reason::Established, false),
            (Direction::In, ACK, Reason::Established, true),
            (Direction::Out, ACK, Reason::Established, true),
        ] {
            let seen = both.judge(direction, &talk.frame(direction, flags));
            assert_eq!(seen, (reason, establishes && refused), "{talk:?} {flags}");
        }
    };
    open(&mut both, old, false);
    both.memory.limit_flows(1);
    let filled = both.kernel.fill_flows().unwrap();
    assert!(filled > 0);
    // Another flow works, but finds no room with each packet. The old one goes on, and its packets need none.
    open(&mut both, new, true);
    for direction in [Direction::In, Direction::Out] {
        both.expect(direction, &old.frame(direction, ACK), Reason::Established);
    }
    let [established, half_open] = both.kernel.flows().unwrap();
    assert_eq!((established.len(), half_open.len()), (1, 1));
    // Nothing that no rule accepted comes in because there is no room.
    let mut stray = talk(3000);
    stray.v6 = true;
    both.expect(
        Direction::In,
        &stray.frame(Direction::In, ACK),
        Reason::Rule,
    );
    let closed = Talk {
        protocol: UDP,
        ..stray
    };
    both.expect(
        Direction::In,
        &closed.frame(Direction::In, 0),
        Reason::Policy,
    );
}

/// Flows of each kind, and the flags of a later packet of TCP.
const TALKS: [Talk; 4] = [
    Talk {
        protocol: TCP,
        v6: false,
        port: 1000,
    },
    Talk {
        protocol: UDP,
        v6: true,
        port: 1000,
    },
    Talk {
        protocol: ICMP,
        v6: false,
        port: 0,
    },
    Talk {
        protocol: ICMPV6,
        v6: true,
        port: 0,
    },
];

const OPEN: &str = "IN ACCEPT -p tcp -dport 22\nIN ACCEPT -p udp -dport 22\n\
    IN ACCEPT -p icmp -icmp-type echo-request\nIN ACCEPT -p ipv6-icmp -icmp-type echo-request\n";

fn begin(both: &mut Both) {
    for talk in TALKS {
        let begins = talk.frame(Direction::In, SYN);
        both.expect(Direction::In, &begins, Reason::Rule);
        let answers = talk.frame(Direction::Out, SYN | ACK);
        both.expect(Direction::Out, &answers, Reason::Established);
        let goes_on = talk.frame(Direction::In, ACK);
        both.expect(Direction::In, &goes_on, Reason::Established);
    }
}

#[test]
fn a_removed_rule_cuts_its_flows_only_if_that_is_wanted() {
    for (reevaluate, first) in [
        (false, Direction::In),
        (false, Direction::Out),
        (true, Direction::In),
        (true, Direction::Out),
    ] {
        let mut both = Both::new(&policies(OPEN), reevaluate);
        begin(&mut both);
        both.load(&policies("IN ACCEPT -p tcp -dport 23\n"));
        let reason = match reevaluate {
            true => Reason::Policy,
            false => Reason::Established,
        };
        // Once cut a flow stays cut: the guest, which may send anything, does not bring it back.
        for direction in [first, first.opposite(), first, first.opposite()] {
            for talk in TALKS {
                let seen = both.judge(direction, &talk.frame(direction, ACK));
                assert_eq!(seen, (reason, false), "{talk:?} {direction:?} {reevaluate}");
            }
        }
        // What the guest begins is another matter.
        let own = Talk {
            protocol: UDP,
            v6: false,
            port: 53,
        };
        let begins = own.frame(Direction::Out, 0);
        both.expect(Direction::Out, &begins, Reason::Policy);
        // With the rule back the flows are alive.
        both.load(&policies(OPEN));
        for talk in TALKS {
            let again = talk.frame(first, ACK);
            both.expect(first, &again, Reason::Established);
        }
    }
}

#[test]
fn a_flow_that_is_still_allowed_is_judged_again_once() {
    let mut both = Both::new(&policies(OPEN), true);
    begin(&mut both);
    let epochs = |both: &Both| -> Vec<(u32, u32)> {
        let [flows, half_open] = both.kernel.flows().unwrap();
        assert_eq!((flows.len(), half_open.len()), (TALKS.len(), 0));
        flows
            .iter()
            .map(|(_, flow)| (flow.epoch, flow.rule))
            .collect()
    };
    let before = epochs(&both);
    both.load(&policies(
        "IN ACCEPT -p tcp -dport 22:30\nIN ACCEPT -p udp -dport 22:30\nIN ACCEPT -p icmp\nIN ACCEPT -p ipv6-icmp\n",
    ));
    for talk in TALKS {
        for direction in [Direction::Out, Direction::In] {
            let goes_on = talk.frame(direction, ACK);
            both.expect(direction, &goes_on, Reason::Established);
        }
    }
    let after = epochs(&both);
    for (epoch, rule) in &after {
        assert!(before.iter().all(|(old, _)| old < epoch));
        assert!(before.iter().all(|(_, old)| old != rule));
    }
}

#[test]
fn the_blacklist_cuts_a_flow_whatever_its_opening_is_worth() {
    let mut both = Both::new(&policies(""), true);
    let talk = TALKS[0];
    let begins = talk.frame(Direction::Out, SYN);
    both.expect(Direction::Out, &begins, Reason::Policy);
    let answers = talk.frame(Direction::In, SYN | ACK);
    both.expect(Direction::In, &answers, Reason::Established);
    both.load(&compiled_with("[IPSET blacklist]\n203.0.113.5\n", "").policy);
    let [goes, comes] = [Direction::Out, Direction::In].map(|direction| talk.frame(direction, ACK));
    both.expect(Direction::In, &comes, Reason::Blacklist);
    // What the guest sends is not the blacklist's business, and brings nothing back.
    both.expect(Direction::Out, &goes, Reason::Established);
    both.expect(Direction::In, &comes, Reason::Blacklist);
}

#[test]
fn a_simulated_packet_has_the_state_that_it_is_said_to_have() {
    let compiled = compiled("");
    let mut pipeline = Pipeline::new(&compiled);
    for (state, verdict, reason) in [
        ("NEW", "DROP", Reason::Policy),
        ("ESTABLISHED", "ACCEPT", Reason::Established),
        ("RELATED", "ACCEPT", Reason::Related),
        ("INVALID", "DROP", Reason::Invalid),
        ("UNTRACKED", "DROP", Reason::Policy),
    ] {
        let line =
            format!(r#"{{"from": "outside", "to": "vm100", "dport": 22, "state": "{state}"}}"#);
        let query = Query::parse(line.as_bytes()).unwrap();
        let outcome = run(
            &query,
            &compiled.policy,
            &mut |zone, direction, frame, state| pipeline.judge(zone, direction, frame, state),
        )
        .unwrap();
        assert_eq!(
            (outcome.verdict.name(), outcome.reason),
            (verdict, reason.name()),
            "{state}"
        );
        let trace = text::print(&query, &outcome, true);
        assert!(
            trace.contains(&format!("tracking finds {state}\n")),
            "{trace}"
        );
    }
}

#[test]
fn flows_that_begin_and_are_replaced_are_told_if_the_settings_ask() {
    use FlowChange::{Begins, Ends};
    let [tcp, udp] = [TCP, UDP].map(|protocol| Talk {
        protocol,
        v6: protocol == UDP,
        port: 1000,
    });
    let mut node = policies("IN ACCEPT -p tcp -dport 22\nIN ACCEPT -p udp -dport 22\n");
    let established = State::Established as u32 | ANSWERED;
    let (sent, asked) = (State::SynSent as u32, State::Asked as u32);
    node.settings.tcp_established = 30;
    for is_told in [false, true] {
        node.settings.flags = match is_told {
            true => settings_flag::LOG_FLOWS,
            false => 0,
        };
        let mut both = Both::new(&node, false);
        let expect = |both: &mut Both, news: &[_]| {
            assert_eq!(both.told(), if is_told { news } else { &[] });
        };
        let syn = tcp.frame(Direction::In, SYN);
        both.expect(Direction::In, &syn, Reason::Rule);
        expect(&mut both, &[(Begins, sent, false)]);
        // One more packet of it, the answers, and what no rule accepts tell nothing.
        both.expect(Direction::In, &syn, Reason::Rule);
        let answer = tcp.frame(Direction::Out, SYN | ACK);
        both.expect(Direction::Out, &answer, Reason::Established);
        for _ in 0..2 {
            let ack = tcp.frame(Direction::In, ACK);
            both.expect(Direction::In, &ack, Reason::Established);
        }
        let ping = Talk {
            protocol: ICMP,
            ..tcp
        };
        let ping = ping.frame(Direction::In, 0);
        both.expect(Direction::In, &ping, Reason::Policy);
        expect(&mut both, &[]);
        // Another flow takes the place of a settled one, and of a half-open one, that has expired.
        both.advance(31);
        both.expect(Direction::In, &syn, Reason::Rule);
        expect(
            &mut both,
            &[(Ends, established, true), (Begins, sent, false)],
        );
        let datagram = udp.frame(Direction::In, 0);
        both.expect(Direction::In, &datagram, Reason::Rule);
        expect(&mut both, &[(Begins, asked, false)]);
        both.advance(31);
        both.expect(Direction::In, &datagram, Reason::Rule);
        expect(&mut both, &[(Ends, asked, false), (Begins, asked, false)]);
    }
}

/// A question of the guest's, whose answer the rules let in only as that.
fn asked(port: u16) -> [Vec<u8>; 2] {
    let talk = Talk {
        protocol: UDP,
        v6: false,
        port,
    };
    [Direction::Out, Direction::In].map(|direction| talk.frame(direction, 0))
}

#[test]
fn the_sweep_s_filter_misses_no_flow_while_it_is_made() {
    const LEAST: u32 = 50;
    const MOST: u16 = 60_000;
    let mut kernel = TestKernel::new().unwrap();
    kernel.load(&policies("")).unwrap();
    let pins = kernel.pins();
    let (sweeps, over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                sweep(&pins).unwrap();
                sweeps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut judge = |(direction, frame): (Direction, &[u8]), expect| {
            let reason = kernel.run(PORT, direction, frame).unwrap().reason;
            // Not by a panic: the other thread would go on for ever.
            (reason != expect).then_some(reason)
        };
        let missed = (1..MOST).find_map(|port| {
            let [question, answer] = asked(port);
            let [_, older] = asked(port.div_ceil(2));
            let missed = judge((Direction::Out, &question), Reason::Policy)
                .or_else(|| judge((Direction::In, &answer), Reason::Established))
                .or_else(|| judge((Direction::In, &older), Reason::Established));
            let done = sweeps.load(Ordering::Relaxed) >= LEAST;
            (missed.is_some() || done).then_some((port, missed))
        });
        over.store(true, Ordering::Relaxed);
        assert!(matches!(missed, Some((_, None))), "{missed:?}");
    });
    assert!(sweeps.into_inner() >= LEAST);
}

#[test]
fn a_flow_that_is_put_there_is_known_at_once_and_otherwise_from_the_next_sweep_on() {
    let mut kernel = TestKernel::new().unwrap();
    kernel.load(&policies("")).unwrap();
    let pins = kernel.pins();
    let [question, answer] = asked(1);
    let judge = |kernel: &mut TestKernel, frame: &[u8], direction| {
        kernel.run(PORT, direction, frame).unwrap().reason
    };
    judge(&mut kernel, &question, Direction::Out);
    judge(&mut kernel, &answer, Direction::In);
    let flow = flows::list(&pins, |_| true).unwrap().remove(0);
    // The same flow under keys that the filter does not know.
    let of = |port| {
        let mut other = flow;
        other.key.remote_port = port;
        (other, asked(port)[1].clone())
    };
    let ((put, answer), (written, late)) = (of(2), of(3));
    assert_eq!(flows::insert(&pins, &[put]).unwrap().inserted, 1);
    assert_eq!(
        judge(&mut kernel, &answer, Direction::In),
        Reason::Established
    );
    let table = pins.hash::<FlowKey, Flow>(name::FLOWS).unwrap();
    let table = Batch::of(&table, name::FLOWS).unwrap();
    table.write([(written.key, written.flow)]).unwrap();
    assert_ne!(
        judge(&mut kernel, &late, Direction::In),
        Reason::Established
    );
    sweep(&pins).unwrap();
    assert_eq!(
        judge(&mut kernel, &late, Direction::In),
        Reason::Established
    );
}
