//! The size of the flow table and how long flows stay: from the host's options to the running kernel.
//!
//! Needs root and `/sys/fs/bpf`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData, MapInfo};
use fw_agent::compile::{Compiled, compile};
use fw_agent::config::Sources;
use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::flow_filter::FlowFilter;
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::sweep::{now, sweep};
use fw_agent::datapath::{Action, AttachMode, Error, Kernel};
use fw_agent::policy::PortId;
use fw_common::conntrack::{ANSWERED, SECOND, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{capacity, name};
use fw_common::verdict::{Direction, Reason};
use fw_common::wire::{Address, protocol};
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::{PASS, PinDirectory, SHOT, TestKernel};
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const PORT: PortId = PortId { vmid: 100, net: 0 };
const GUEST: [u8; 6] = [0xbc, 0x24, 0x11, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A node with these options of the host, whose guest has these rules.
fn compiled(host: &str, rules: &str) -> Compiled {
    let tree = ConfigTree::new().unwrap();
    tree.write("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n")
        .unwrap();
    tree.write("nodes/demo/host.fw", &format!("[OPTIONS]\n{host}\n"))
        .unwrap();
    tree.write(
        "nodes/demo/qemu-server/100.conf",
        "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1\n",
    )
    .unwrap();
    let text = format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}\n");
    tree.write_firewall(100, &text).unwrap();
    compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0)
}

const SSH: &str = "IN ACCEPT -p tcp -dport 22";

#[test]
fn the_host_s_options_say_how_many_flows_and_how_long() {
    // Option, entries of the table, quota of a port, seconds of an established TCP flow, of an answered SYN.
    let rows = [
        ("", 262_144, 131_072, 432_000, 60),
        ("nf_conntrack_max: 40000", 262_144, 131_072, 432_000, 60),
        ("nf_conntrack_max: 262144", 262_144, 131_072, 432_000, 60),
        ("nf_conntrack_max: 262145", 270_336, 135_168, 432_000, 60),
        ("nf_conntrack_max: 1048576", 1_048_576, 524_288, 432_000, 60),
        (
            "nf_conntrack_tcp_timeout_established: 7875",
            262_144,
            131_072,
            7875,
            60,
        ),
        (
            "nf_conntrack_tcp_timeout_syn_recv: 30",
            262_144,
            131_072,
            432_000,
            30,
        ),
    ];
    for (option, entries, quota, established, syn_recv) in rows {
        let image = compiled(option, SSH).image;
        let settings = image.settings;
        assert_eq!(
            (
                image.flow_capacity,
                settings.flow_quota,
                settings.tcp_established,
                settings.tcp_syn_recv
            ),
            (entries, quota, established, syn_recv),
            "{option:?}"
        );
    }
}

/// A segment between the guest's port 22 and a client.
fn segment(direction: Direction, client: u16, flags: u8) -> Vec<u8> {
    let near = ("192.0.2.10", 22, GUEST);
    let far = ("203.0.113.5", client, OTHER);
    let (from, to) = match direction {
        Direction::In => (far, near),
        Direction::Out => (near, far),
    };
    let (source, dest) = (from.0.parse().unwrap(), to.0.parse().unwrap());
    let transport = Transport::Tcp {
        sport: from.1,
        dport: to.1,
        sequence: 1,
        acknowledge: 1,
        flags,
        data: Vec::new(),
    };
    let payload = transport.payload(protocol::TCP, source, dest);
    let frame = Frame {
        dest_mac: to.2,
        source_mac: from.2,
        tags: Vec::new(),
        body: Body::Ip(Datagram::new(source, dest, protocol::TCP, payload)),
    };
    frame.bytes()
}

fn connect(kernel: &mut TestKernel, client: u16, steps: &[(Direction, u8)]) {
    for (direction, flags) in steps {
        let frame = segment(*direction, client, *flags);
        assert_eq!(kernel.act(PORT, *direction, &frame).unwrap(), PASS);
    }
}

const HANDSHAKE: [(Direction, u8); 3] = [
    (Direction::In, SYN),
    (Direction::Out, SYN | ACK),
    (Direction::In, ACK),
];

#[test]
fn flows_end_when_the_host_s_options_say() {
    let options = "nf_conntrack_tcp_timeout_established: 9000\n\
                   nf_conntrack_tcp_timeout_syn_recv: 31";
    // The clock counts from boot, and time passes by having been seen earlier: in steps that a kernel just started can go.
    let rows = [(&HANDSHAKE[..2], 31), (&HANDSHAKE[..], 9000)];
    for (steps, limit) in rows {
        for (idle, stays) in [(limit - 10, true), (limit + 1, false)] {
            if now() < (idle + 1) * SECOND {
                continue;
            }
            let mut kernel = TestKernel::new().unwrap();
            kernel.load(&compiled(options, SSH).policy).unwrap();
            connect(&mut kernel, 40_000, steps);
            kernel.advance(idle * SECOND).unwrap();
            let answer = segment(Direction::Out, 40_000, SYN | ACK);
            let run = kernel.run(PORT, Direction::Out, &answer).unwrap();
            let known = run.reason == Reason::Established;
            assert_eq!(known, stays, "{} packets, {idle} s", steps.len());
        }
    }
}

#[test]
fn a_resized_table_has_every_flow_and_the_programs_go_on() {
    let mut kernel = TestKernel::new().unwrap();
    kernel.load_as_is(&compiled("", SSH).policy).unwrap();
    connect(&mut kernel, 40_000, &HANDSHAKE);
    // No rule accepts it any more: only its flow does.
    for (option, flows) in [
        ("", 262_144),
        ("nf_conntrack_max: 262145", 270_336),
        ("nf_conntrack_max: 40000", 262_144),
    ] {
        let node = compiled(option, "").policy;
        kernel.load_as_is(&node).unwrap();
        let pinned = MapInfo::from_pin(kernel.pins().map(name::FLOWS)).unwrap();
        assert_eq!(pinned.max_entries(), capacity::entries(flows));
        for (direction, flags) in [(Direction::In, ACK), (Direction::Out, ACK)] {
            let frame = segment(direction, 40_000, flags);
            assert_eq!(
                kernel.act(PORT, direction, &frame).unwrap(),
                PASS,
                "{option}"
            );
        }
        let stranger = segment(Direction::In, 40_001, SYN);
        assert_eq!(kernel.act(PORT, Direction::In, &stranger).unwrap(), SHOT);
        let [flows, _] = kernel.flows().unwrap();
        assert_eq!(flows.len(), 1, "{option}");
    }
    // What the programs establish now is in the pinned table.
    kernel.load_as_is(&compiled("", SSH).policy).unwrap();
    connect(&mut kernel, 40_002, &HANDSHAKE);
    assert_eq!(kernel.flows().unwrap()[0].len(), 2);
}

fn key(number: u32) -> FlowKey {
    FlowKey {
        vmid: 100,
        net: 0,
        protocol: protocol::TCP,
        version: 4,
        local: Address::v4(number),
        remote: Address::v4(2),
        local_port: 22,
        remote_port: 40_000,
    }
}

fn flow(state: State, seen: u64) -> Flow {
    Flow {
        seen,
        created: 1,
        state: state as u32 | ANSWERED,
        ..Flow::default()
    }
}

fn table(pins: &Pins) -> HashMap<MapData, FlowKey, Flow> {
    pins.hash(name::FLOWS).unwrap()
}

fn contents(pins: &Pins) -> BTreeMap<u32, Flow> {
    let flows = table(pins);
    let entry = |entry: Result<(FlowKey, Flow), _>| {
        let (key, flow) = entry.unwrap();
        (u32::from_be(key.local.0[3].to_be()), flow)
    };
    flows.iter().map(entry).collect()
}

#[test]
fn what_happens_while_the_table_is_resized_is_fetched() {
    let directory = PinDirectory::new();
    let mut kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    let pins = directory.pins();
    let old = table(&pins);
    let old = Batch::of(&old, name::FLOWS).unwrap();
    let idle = flow(State::Established, 5);
    old.write((0..20_000).map(|number| (key(number), idle)))
        .unwrap();

    let entries = capacity::FLOWS + 8192;
    kernel.apply(&Action::ResizeFlows { entries }).unwrap();
    assert_eq!(kernel.flow_capacity().unwrap(), entries);
    assert!(kernel.is_resizing());
    assert_eq!(contents(&pins).len(), 20_000);
    assert!(contents(&pins).values().all(|flow| *flow == idle));

    // Programs that still have the old table establish a flow and end one; those with the new one see a packet of that, or end another.
    let recent = now();
    let ended = flow(State::FinWait, recent);
    let begun = flow(State::Established, recent);
    let closed = flow(State::TimeWait, recent);
    old.write([(key(1), ended), (key(2), ended), (key(20_000), begun)])
        .unwrap();
    let new = table(&pins);
    Batch::of(&new, name::FLOWS)
        .unwrap()
        .write([(key(2), closed), (key(3), closed)])
        .unwrap();

    kernel.apply(&Action::FetchFlows).unwrap();
    assert!(!kernel.is_resizing());
    let mut expect: BTreeMap<u32, Flow> = (0..20_000).map(|number| (number, idle)).collect();
    expect.extend([(1, ended), (2, closed), (3, closed), (20_000, begun)]);
    assert!(contents(&pins) == expect);
    assert!(!pins.map("FLOWS_NEXT").exists());

    // The next agent takes the table as it is, and one that is too small for the flows is refused.
    drop(kernel);
    let mut next = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    let state = next.recover(&BTreeMap::new()).unwrap();
    assert_eq!((state.flow_capacity, state.fetch_flows), (entries, false));
    let refused = next.apply(&Action::ResizeFlows { entries: 8192 });
    assert!(
        matches!(refused, Err(Error::TooManyFlows { flows: 20_001, .. })),
        "{refused:?}"
    );
    assert_eq!(next.flow_capacity().unwrap(), entries);
    assert!(contents(&pins) == expect);
}

#[test]
fn while_the_table_is_resized_the_sweep_does_not_say_which_flows_there_are() {
    let directory = PinDirectory::new();
    let mut kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    let pins = directory.pins();
    let filter = FlowFilter::open(&pins).unwrap();
    let swept = || {
        sweep(&pins).unwrap();
        filter.asked()
    };
    let asked = swept();
    assert!(asked.is_some());
    let entries = capacity::FLOWS + 8192;
    kernel.apply(&Action::ResizeFlows { entries }).unwrap();
    // What programs that still have the old table establish is in no table that the sweep sees.
    assert_eq!([swept(), swept()], [asked; 2]);
    kernel.apply(&Action::FetchFlows).unwrap();
    assert_ne!(swept(), asked);
    // Nor does an agent that was killed meanwhile leave it so.
    kernel
        .apply(&Action::ResizeFlows {
            entries: capacity::FLOWS,
        })
        .unwrap();
    drop(kernel);
    let asked = swept();
    let _next = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    assert_ne!(swept(), asked);
}
