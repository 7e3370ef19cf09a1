//! The agent's sweep of the flow tables, on the running kernel's maps.
//!
//! Needs root and `/sys/fs/bpf`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;

use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::flows::{self, Entry};
use fw_agent::datapath::sweep::{now, remove_expired, sweep};
use fw_agent::datapath::{Action, AttachMode, Kernel};
use fw_common::conntrack::{ANSWERED, SECOND, State, timeout};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{PortKey, Settings, name};
use fw_common::wire::{Address, protocol};
use tapwall_tests::kernel::PinDirectory;

fn open(directory: &PinDirectory, settings: Settings) -> Kernel {
    let mut kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    kernel.apply(&Action::WriteSettings(settings)).unwrap();
    kernel
}

fn key(vmid: u32, protocol: u8, number: u32) -> FlowKey {
    FlowKey {
        vmid,
        net: 1,
        protocol,
        version: 4,
        local: Address::v4(number),
        remote: Address::v4(2),
        local_port: 22,
        remote_port: 40_000,
    }
}

/// A flow whose last packet was so many seconds ago.
fn flow(state: u32, idle: u64) -> Flow {
    Flow {
        seen: now().saturating_sub(idle * SECOND),
        state,
        ..Flow::default()
    }
}

const fn port(vmid: u32) -> PortKey {
    PortKey {
        vmid,
        net: 1,
        reserved: 0,
    }
}

/// Every state a flow can be in, by protocol, answered or not.
fn states() -> Vec<(u8, u32)> {
    let tcp = [
        State::SynSent,
        State::SynRecv,
        State::Established,
        State::FinWait,
        State::CloseWait,
        State::LastAck,
        State::TimeWait,
        State::Close,
        State::SynSent2,
    ];
    let others = [State::Asked, State::Answered];
    let tcp = tcp.map(|state| (protocol::TCP, state as u32));
    let rest = [protocol::UDP, protocol::ICMP, 47]
        .into_iter()
        .flat_map(|number| others.map(|state| (number, state as u32)));
    tcp.into_iter()
        .chain(rest)
        .flat_map(|(number, state)| [(number, state), (number, state | ANSWERED)])
        .collect()
}

#[test]
fn flows_older_than_their_timeout_go_and_others_stay() {
    let directory = PinDirectory::new();
    // Not the defaults: the host's options count.
    let settings = Settings {
        tcp_established: 9000,
        tcp_syn_recv: 45,
        flow_quota: 1000,
        ..Settings::default()
    };
    let _kernel = open(&directory, settings);
    let pins = directory.pins();
    for settled in [true, false] {
        let entry = |(key, flow)| Entry { key, flow, settled };
        let (mut young, mut old) = (Vec::new(), Vec::new());
        for (number, (protocol, state)) in (0..).zip(states()) {
            let limit = u64::from(timeout(state, protocol, &settings));
            // A minute is far more than this test takes; the shortest timeout is ten seconds.
            let idle = limit.saturating_sub(60.min(limit / 2 + 1));
            young.push((key(100, protocol, 2 * number), flow(state, idle)));
            // The clock counts from boot: a kernel that has just started cannot have flows of any age.
            if now() > limit * SECOND {
                let key = key(101, protocol, 2 * number + 1);
                old.push((key, flow(state, limit)));
            }
        }
        assert!(old.len() > 1);
        let all: Vec<Entry> = old.iter().chain(&young).copied().map(entry).collect();
        assert_eq!(flows::insert(&pins, &all).unwrap().inserted, all.len());

        let swept = sweep(&pins).unwrap();
        assert_eq!(swept.removed, old.len() as u64, "settled: {settled}");
        assert_eq!(swept.returned, 0);
        let counted = match settled {
            true => swept.flows.values().sum(),
            false => swept.half_open,
        };
        assert_eq!(counted, young.len() as u64);
        let mut left = flows::list(&pins, |entry| entry.settled == settled).unwrap();
        left.sort_by_key(|entry| entry.key.local.0);
        let mut expect: Vec<Entry> = young.iter().copied().map(entry).collect();
        expect.sort_by_key(|entry| entry.key.local.0);
        assert_eq!(left, expect);
        let again = sweep(&pins).unwrap();
        assert_eq!(again.removed, 0);
        flows::remove(&pins, |_| true).unwrap();
    }
}

#[test]
fn a_flow_that_got_a_packet_after_the_look_is_put_back() {
    let directory = PinDirectory::new();
    let settings = Settings {
        tcp_established: 10,
        ..Settings::default()
    };
    let _kernel = open(&directory, settings);
    let map = directory.pins().hash(name::FLOWS).unwrap();
    let batch = Batch::of(&map, name::FLOWS).unwrap();
    let state = State::Established as u32 | ANSWERED;
    let [dead, alive, absent] = [0, 1, 2].map(|number| key(100, protocol::TCP, number));
    let fresh = flow(state, 0);
    batch
        .write([(dead, flow(state, 10)), (alive, fresh)])
        .unwrap();
    let mut removed = Vec::new();
    let note = |key: &FlowKey, _: &Flow| removed.push(*key);
    let returned = remove_expired(&batch, &[dead, alive, absent], &settings, note).unwrap();
    assert_eq!(removed, [dead]);
    assert_eq!(returned, [alive]);
    assert_eq!(batch.keys(|_, _| true).unwrap(), [alive]);
    assert_eq!(map.get(&alive, 0).unwrap(), fresh);
}

#[test]
fn flows_are_counted_per_port() {
    let directory = PinDirectory::new();
    let _kernel = open(&directory, Settings::default());
    let pins = directory.pins();
    let flows = pins.hash(name::FLOWS).unwrap();
    let flows = Batch::of(&flows, name::FLOWS).unwrap();
    let usage = pins.hash::<PortKey, u64>(name::FLOW_USAGE).unwrap();
    let read = || -> BTreeMap<PortKey, u64> { usage.iter().map(|entry| entry.unwrap()).collect() };
    let state = State::Established as u32 | ANSWERED;
    let many = |vmid, count| (0..count).map(move |n| (key(vmid, protocol::TCP, n), flow(state, 0)));
    flows.write(many(100, 9000).chain(many(101, 3))).unwrap();
    // What the kernel has counted so far is wrong, for one port too many and for another nothing; a third has no flows left.
    Batch::of(&usage, name::FLOW_USAGE)
        .unwrap()
        .write([(port(100), 9001), (port(102), 5)])
        .unwrap();

    let swept = sweep(&pins).unwrap();
    let expect = BTreeMap::from([(port(100), 9000), (port(101), 3)]);
    assert_eq!(swept.flows, expect);
    assert_eq!(read(), expect);

    let all: Vec<FlowKey> = many(101, 3).map(|(key, _)| key).collect();
    flows.remove(&all).unwrap();
    sweep(&pins).unwrap();
    assert_eq!(read(), BTreeMap::from([(port(100), 9000)]));
}
