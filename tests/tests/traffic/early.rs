//! Early drop at the NIC of the node (a veth device with native XDP): the same answers with and without it.

use std::collections::HashMap;

use anyhow::Result;
use fw_agent::datapath::Bans;
use fw_agent::datapath::pins::Pins;
use fw_common::maps::ABI;
use tapwall_tests::netns;
use tapwall_tests::node::{STRANGER_V4, STRANGER_V6, Station};
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{Session, TIMEOUT, TcpServer, UdpServer, connect, exchange, ping};
use tapwall_tests::tree::NODE;

use crate::bed::{Bed, both};

/// Packets by counter, for these counters.
fn counters<const N: usize>(bed: &Bed, names: [&str; N]) -> Result<[u64; N]> {
    let dump = bed.agent.fwctl(&["map", "dump", "COUNTERS", "--json"])?;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&dump.stdout)?;
    let packets: HashMap<_, _> = rows
        .iter()
        .filter_map(|row| Some((row["counter"].as_str()?, row["packets"].as_u64()?)))
        .collect();
    Ok(names.map(|name| packets[name]))
}

/// Both guests and the host.
fn places(bed: &Bed) -> [&Station; 3] {
    let [vm, container] = bed.guests();
    [vm, container, &bed.node.host]
}

/// What each source gets from each place by each kind of probe, in a fixed order.
fn answers(bed: &Bed) -> Vec<(String, tapwall_tests::probe::Answer)> {
    let outside = &bed.node.outside;
    let mut seen = Vec::new();
    for guest in places(bed) {
        for (to, own, stranger) in [
            (both(guest, 80)[0], outside.v4(), STRANGER_V4),
            (both(guest, 80)[1], outside.v6(), STRANGER_V6),
        ] {
            for source in [own, stranger] {
                let from = &outside.namespace;
                for (what, answer) in [
                    ("tcp", connect(from, source, to, TIMEOUT)),
                    ("udp", exchange(from, source, to, b"early", TIMEOUT)),
                    ("ping", ping(from, source, to.ip(), TIMEOUT)),
                ] {
                    seen.push((format!("{what} from {source} to {to}"), answer));
                }
            }
        }
    }
    seen
}

#[test]
fn blacklisted_and_banned_sources_get_the_same_with_and_without_it() {
    let rules = "IN ACCEPT -p tcp -dport 80\nIN ACCEPT -p udp -dport 80\nIN Ping(ACCEPT)\n";
    let bed = Bed::new(rules).unwrap();
    let host = format!("[RULES]\n{rules}");
    bed.agent
        .after(|| bed.tree.write(&format!("nodes/{NODE}/host.fw"), &host))
        .unwrap();
    let places = places(&bed)
        .into_iter()
        .flat_map(|place| both(place, 80).map(|to| (place, to)));
    let _servers: Vec<_> = places
        .map(|(place, to)| {
            let tcp = TcpServer::start(&place.namespace, to).unwrap();
            (tcp, UdpServer::start(&place.namespace, to).unwrap())
        })
        .collect();
    let before = answers(&bed);
    assert!(
        before.iter().all(|(_, answer)| *answer == Answered),
        "{before:?}"
    );
    const NAMES: [&str; 3] = ["blacklist", "ban", "early-drops"];
    assert_eq!(counters(&bed, NAMES).unwrap(), [0; 3]);
    // The stranger is blacklisted by IPv4 and banned by IPv6.
    let text = format!("[OPTIONS]\nenable: 1\n[IPSET blacklist]\n{STRANGER_V4}\n");
    let record = bed
        .agent
        .after(|| bed.tree.write("firewall/cluster.fw", &text));
    let uplinks: Vec<_> = record.unwrap().uplinks;
    let [uplink] = &uplinks[..] else {
        panic!("{uplinks:?}");
    };
    assert_eq!((uplink.device.as_str(), &uplink.refused), ("eno1", &None));
    let pins = bed.agent.pin_directory();
    Bans::open(&Pins::new(pins))
        .unwrap()
        .add(STRANGER_V6.into(), 0, 0)
        .unwrap();
    let expect: Vec<_> = before
        .iter()
        .map(|(what, _)| {
            let cut = [STRANGER_V4, STRANGER_V6].map(|source| format!("from {source} "));
            let is_cut = cut.iter().any(|cut| what.contains(cut));
            (what.clone(), if is_cut { Silent } else { Answered })
        })
        .collect();
    assert_eq!(answers(&bed), expect, "with early drop");
    let with = counters(&bed, NAMES).unwrap();
    let [listed, banned, early] = with;
    assert!(listed > 0 && banned > 0, "{with:?}");
    // Questions for neighbours go to groups, and are left to the hooks behind.
    assert!(early > 0 && early <= listed + banned, "{with:?}");

    // Large frames of a source that is not concerned pass the program.
    let to = bed.node.vm.v4_port(80);
    let outside = &bed.node.outside;
    let mut session = Session::open(&outside.namespace, outside.v4(), to).unwrap();
    session.transfer(1 << 20).unwrap();

    // Without its pin the link is gone, and with it the program.
    let pin = pins.join(format!("v{ABI}/links/eno1-uplink"));
    std::fs::remove_file(pin).unwrap();
    assert_eq!(answers(&bed), expect, "without early drop");
    let without = counters(&bed, NAMES).unwrap();
    assert_eq!(without[2], early, "{without:?}");
    assert!(without[0] > listed && without[1] > banned, "{without:?}");
}

#[test]
fn a_stop_takes_it_off_and_another_agent_adopts_it() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\n").unwrap();
    let text = format!("[OPTIONS]\nenable: 1\n[IPSET blacklist]\n{STRANGER_V4}\n");
    bed.agent
        .after(|| bed.tree.write("firewall/cluster.fw", &text))
        .unwrap();
    let Bed {
        agent,
        tree: _tree,
        node,
    } = bed;
    let program = || {
        let mut ip = node.host.namespace.command("ip");
        let links = netns::run(ip.args(["-details", "link", "show", "dev", "eno1"])).unwrap();
        let (_, id) = links.split_once("prog/xdp id ")?;
        id.split_whitespace().next().map(str::to_owned)
    };
    let first = program().expect("an XDP program");
    let mut agent = agent.restart(&node.host.namespace).unwrap();
    let second = program().expect("an XDP program");
    assert_ne!(first, second, "the new agent's program");
    agent.terminate().unwrap();
    assert_eq!(program(), Some(second));
    agent.fwctl(&["stop"]).unwrap();
    assert_eq!(program(), None);
}
