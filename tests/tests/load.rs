//! Programs and maps in the running kernel: they load, maps outlive their opener, and a plan can be stopped anywhere.
//!
//! Needs root and `/sys/fs/bpf`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::Command;

use fw_agent::datapath::flows;
use fw_agent::datapath::plan::plan;
use fw_agent::datapath::{Action, AttachMode, Hook, Kernel, OBJECT, Plan, Role, State};
use fw_agent::image::MapImage;
use fw_agent::policy::{NodePolicy, PortId};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Port, name};
use fw_common::wire::Address;
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::{PASS, PinDirectory, SHOT, apply_to_maps};
use tapwall_tests::tree::ConfigTree;
use tapwall_tests::tree::{NODE, facts};

use fw_agent::compile::compile;
use fw_agent::config::Sources;

/// Interface indices that no device has.
const FIRST_INDEX: u32 = 1 << 20;

/// Guests of the configurations here.
const GUESTS: [u32; 3] = [100, 101, 102];

fn open(directory: &PinDirectory) -> Kernel {
    Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap()
}

/// Policies of a node whose guests accept TCP to these ports from these networks.
fn policies(guests: &[(u32, u16, &str)]) -> NodePolicy {
    let tree = ConfigTree::new().unwrap();
    tree.write("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n")
        .unwrap();
    for (vmid, port, source) in guests {
        tree.write(
            &format!("nodes/demo/qemu-server/{vmid}.conf"),
            &format!(
                "net0: virtio=BC:24:11:00:00:{:02X},bridge=vmbr0,firewall=1,trunks=5;7-9\n",
                vmid % 100
            ),
        )
        .unwrap();
        let rule = format!("IN ACCEPT -p tcp -dport {port} -source {source}");
        let own = "[IPSET ipfilter-net0]\n192.0.2.10\n";
        let text = format!("[OPTIONS]\nenable: 1\n{own}[RULES]\n{rule}\n");
        tree.write_firewall(*vmid, &text).unwrap();
    }
    let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
    assert_eq!(compiled.diagnostics, []);
    compiled.policy
}

fn image(guests: &[(u32, u16, &str)]) -> MapImage {
    MapImage::build(&policies(guests))
}

fn devices(vmids: &[u32]) -> BTreeMap<String, u32> {
    let index = |vmid: u32| FIRST_INDEX + vmid;
    vmids
        .iter()
        .map(|vmid| (format!("tap{vmid}i0"), index(*vmid)))
        .collect()
}

/// Port and place of the connections that a policy accepts.
type Accepted<'a> = &'a [(u16, u8)];

fn apply(kernel: &mut Kernel, action: &Action) {
    apply_to_maps(kernel, action).unwrap();
}

fn apply_all(kernel: &mut Kernel, plan: &Plan) {
    assert_eq!(plan.no_room, []);
    for action in &plan.actions {
        apply(kernel, action);
    }
}

#[test]
fn programs_load_and_are_cheap_to_verify() {
    let output = Command::new(env!("CARGO_BIN_EXE_verify")).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The header, a line per hook of ports, and the uplink.
    assert!(output.stdout.lines().count() > Role::ALL.len() * Hook::ALL.len() + 1);
}

#[test]
fn programs_have_no_log_of_their_own() {
    const MAP: &[u8] = b"AYA_LOGS";
    let found = OBJECT.windows(MAP.len()).any(|bytes| bytes == MAP);
    assert!(!found, "this object was built with `--debug-log`");
}

#[test]
fn maps_outlive_their_opener() {
    let directory = PinDirectory::new();
    let key = FlowKey {
        vmid: 100,
        net: 0,
        protocol: 6,
        version: 4,
        local: Address::v4(1),
        remote: Address::v4(2),
        local_port: 22,
        remote_port: 40000,
    };
    let flow = Flow {
        seen: 7,
        created: 3,
        state: 4,
        ..Flow::default()
    };
    let image = image(&[(100, 22, "203.0.113.0/24")]);
    let devices = devices(&[100]);
    let mut first = open(&directory);
    let mut state = State::default();
    let made = plan(&mut state, &image, &devices, |_| false);
    apply_all(&mut first, &made);
    let mut flows = directory.pins().hash::<FlowKey, Flow>(name::FLOWS).unwrap();
    flows.insert(key, flow, 0).unwrap();
    drop((first, flows));

    let second = open(&directory);
    let flows = directory.pins().hash::<FlowKey, Flow>(name::FLOWS).unwrap();
    assert_eq!(flows.get(&key, 0).unwrap(), flow);
    let recovered = second.recover(&devices).unwrap();
    assert_eq!(recovered.ports, state.ports);
    assert_eq!(recovered.free_words(), state.free_words());
}

#[test]
fn a_plan_applied_leaves_nothing_to_do() {
    let directory = PinDirectory::new();
    let mut kernel = open(&directory);
    let mut state = State::default();
    let all = devices(&GUESTS);
    for guests in [
        &[(100, 22, "203.0.113.0/24"), (101, 22, "203.0.113.0/24")][..],
        &[
            (100, 23, "203.0.113.0/25"),
            (101, 22, "203.0.113.0/24"),
            (102, 80, "0.0.0.0/0"),
        ],
        &[(102, 80, "0.0.0.0/0")],
    ] {
        let image = image(guests);
        let first = plan(&mut state, &image, &all, |_| false);
        assert!(!first.actions.is_empty());
        apply_all(&mut kernel, &first);
        let second = plan(&mut state, &image, &all, |_| false);
        assert_eq!(second, Plan::default(), "of {guests:?}");
    }
    // Nothing is left of those that are gone.
    let ports = directory.pins().hash::<u32, Port>(name::PORTS).unwrap();
    let left: Vec<u32> = ports.keys().map(|key| key.unwrap()).collect();
    assert_eq!(left, [FIRST_INDEX + 102]);
}

/// A frame of a new connection to the guest's port.
fn syn(source: &str, port: u16) -> Vec<u8> {
    let source = source.parse().unwrap();
    let dest = "192.0.2.10".parse().unwrap();
    let transport = Transport::Tcp {
        sport: 40000,
        dport: port,
        sequence: 1,
        acknowledge: 0,
        flags: 2,
        data: Vec::new(),
    };
    let payload = transport.payload(6, source, dest);
    let frame = Frame {
        dest_mac: [0xbc, 0x24, 0x11, 0, 0, 0],
        source_mac: [2, 0, 0, 0, 0, 1],
        tags: Vec::new(),
        body: Body::Ip(Datagram::new(source, dest, 6, payload)),
    };
    frame.bytes()
}

/// What the port's policy does with connections to two ports from three places: the accepted ones.
fn accepted(kernel: &mut Kernel, directory: &PinDirectory, port: Option<Port>) -> Vec<(u16, u8)> {
    const LOOPBACK: u32 = 1;
    if let Some(port) = port {
        kernel
            .apply(&Action::SetPort {
                ifindex: LOOPBACK,
                device: "lo".to_owned(),
                port,
            })
            .unwrap();
    }
    let mut found = Vec::new();
    for dport in [22, 23, 80] {
        for (place, source) in [
            (1, "203.0.113.1"),
            (2, "203.0.113.200"),
            (3, "198.51.100.1"),
        ] {
            let mut out = [0; 256];
            let run = kernel
                .test_run(Hook::Egress, LOOPBACK, &syn(source, dport), &mut out)
                .unwrap();
            match run.return_value.cast_signed() {
                PASS => found.push((dport, place)),
                action => assert_eq!(action, SHOT),
            }
        }
    }
    // A flow must not speak for the policy.
    flows::remove(&directory.pins(), |_| true).unwrap();
    if port.is_some() {
        kernel
            .apply(&Action::RemovePort { ifindex: LOOPBACK })
            .unwrap();
    }
    found
}

/// What every guest accepts now, by the ports in the map.
fn behaviour(kernel: &mut Kernel, directory: &PinDirectory) -> BTreeMap<u32, Vec<(u16, u8)>> {
    let ports = directory.pins().hash::<u32, Port>(name::PORTS).unwrap();
    GUESTS
        .iter()
        .map(|vmid| {
            let port = ports.get(&(FIRST_INDEX + vmid), 0).ok();
            (*vmid, accepted(kernel, directory, port))
        })
        .collect()
}

#[test]
fn every_prefix_of_a_plan_leaves_each_port_an_old_or_a_new_policy() {
    let old = [(100, 22, "203.0.113.0/24"), (101, 80, "203.0.113.0/25")];
    let new = [
        (100, 23, "203.0.113.128/25"),
        (101, 80, "0.0.0.0/0"),
        (102, 22, "198.51.100.0/24"),
    ];
    let all = devices(&GUESTS);
    let directory = PinDirectory::new();
    let mut kernel = open(&directory);
    let mut state = State::default();
    let mut seen = Vec::new();
    for stop in 0.. {
        let first = plan(&mut state, &image(&old), &all, |_| false);
        apply_all(&mut kernel, &first);
        let second = plan(&mut state, &image(&new), &all, |_| false);
        assert!(second.actions.len() > 5);
        if stop > second.actions.len() {
            break;
        }
        for action in &second.actions[..stop] {
            apply(&mut kernel, action);
        }
        let now = behaviour(&mut kernel, &directory);
        let expect: [(u32, [Accepted<'_>; 2]); 3] = [
            (100, [&[(22, 1), (22, 2)], &[(23, 2)]]),
            (101, [&[(80, 1)], &[(80, 1), (80, 2), (80, 3)]]),
            (102, [&[], &[(22, 3)]]),
        ];
        for (vmid, either) in expect {
            let found = &now[&vmid][..];
            assert!(
                either.contains(&found),
                "guest {vmid} after {stop} of {:?}: {found:?}",
                second.actions
            );
        }
        seen.push(now);

        // Whoever comes next finishes the work from what the kernel holds.
        state = kernel.recover(&all).unwrap();
        let rest = plan(&mut state, &image(&new), &all, |_| false);
        apply_all(&mut kernel, &rest);
        let last = behaviour(&mut kernel, &directory);
        for (vmid, [_, new]) in expect {
            assert_eq!(last[&vmid], new, "guest {vmid} after {stop} and the rest");
        }
    }
    assert_ne!(seen.first(), seen.last());
    let id = PortId { vmid: 102, net: 0 };
    assert!(image(&new).ports.contains_key(&id));
}
