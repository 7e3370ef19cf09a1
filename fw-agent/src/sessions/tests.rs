//! Connections, two configurations each, and what is said to be cut.

use fw_common::flow::{Flow, FlowKey};

use super::*;
use crate::compile::compile;
use crate::config::Sources;
use crate::inventory::facts::HostFacts;
use crate::migrate::key_address;

fn compiled(cluster: &str, host: &str, guest: &str) -> Compiled {
    let mut sources = Sources {
        node: "n".into(),
        ..Sources::default()
    };
    for (path, text) in [
        ("firewall/cluster.fw", cluster),
        ("nodes/n/host.fw", host),
        ("firewall/100.fw", guest),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,bridge=vmbr0,firewall=1\n",
        ),
    ] {
        sources.files.insert(path.into(), text.to_owned().into());
    }
    compile(&sources, &HostFacts::default(), 1_700_000_000)
}

fn session(name: &str, port: u16, inbound: bool) -> Session {
    Session {
        name: name.to_owned(),
        protocol: "tcp",
        local: SocketAddr::new("192.0.2.1".parse().unwrap(), port),
        remote: SocketAddr::new("198.51.100.7".parse().unwrap(), 50_000),
        inbound,
        interface: Some("vmbr0".to_owned()),
        is_own: name == "SSH",
    }
}

const ON: &str = "[OPTIONS]\nenable: 1\n";
const OPEN: &str = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";

fn said(before: [&str; 2], after: [&str; 2], reevaluates: bool) -> Vec<String> {
    let sessions = [
        session("web interface", 8006, true),
        session("SSH", 22, true),
        session("migration", 40_000, false),
    ];
    let [old, new] = [before, after].map(|[cluster, host]| compiled(cluster, host, ON));
    let mut old = Court::new(&old, reevaluates);
    let mut new = Court::new(&new, reevaluates);
    let cuts = cuts(&sessions, &mut old, &mut new);
    cuts.iter().map(ToString::to_string).collect()
}

#[test]
fn what_could_not_be_opened_again_is_told_with_the_rule() {
    let drops = "[RULES]\nIN DROP -p tcp -dport 22\n";
    assert_eq!(said([OPEN, ""], [OPEN, ""], false), [""; 0]);
    assert_eq!(
        said([OPEN, ""], [OPEN, drops], false),
        [
            "SSH: tcp 198.51.100.7:50000 -> 192.0.2.1:22 at vmbr0 (this session): goes on, but could not be opened again: DROP (rule), by nodes/n/host.fw:2: IN DROP -p tcp -dport 22"
        ]
    );
    let both = said([OPEN, ""], [ON, ""], false);
    assert!(
        both.len() == 2 && both[0].starts_with("SSH"),
        "its own first: {both:?}"
    );
    let out = "[RULES]\nOUT REJECT -p tcp -dport 50000 -i vmbr0\n";
    let out = said([OPEN, ""], [OPEN, out], false);
    assert!(out.len() == 1 && out[0].starts_with("migration"), "{out:?}");
    assert_eq!(
        said([ON, ""], [ON, drops], false),
        [""; 0],
        "that is so now, too"
    );
    assert_eq!(
        said(["", ""], [ON, ""], false).len(),
        2,
        "the firewall goes on"
    );
    assert_eq!(
        said([ON, ""], ["", ""], false),
        [""; 0],
        "the firewall goes off"
    );
}

#[test]
fn what_is_cut_at_once_is_told_as_that() {
    let listed = format!("{OPEN}[IPSET blacklist]\n198.51.100.0/24\n");
    let cut = said([OPEN, ""], [&listed, ""], false);
    let at_once = |cut: &&String| cut.contains("cut at once");
    assert_eq!(cut.iter().filter(at_once).count(), 3, "{cut:?}");
    let cut = said([OPEN, ""], [ON, ""], true);
    let again = "the host's flows are never judged again";
    assert_eq!(
        (cut.len(), cut.iter().filter(at_once).count()),
        (2, 0),
        "{again}: {cut:?}"
    );
}

#[test]
fn flows_of_guests_are_counted() {
    let open = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
    let flow = |port: u16, origin| {
        let key = FlowKey {
            vmid: 100,
            net: 0,
            protocol: TCP,
            version: 4,
            local: key_address("192.0.2.100".parse().unwrap()),
            remote: key_address("198.51.100.7".parse().unwrap()),
            local_port: port,
            remote_port: 50_000,
        };
        let flow = Flow {
            origin,
            ..Flow::default()
        };
        Entry {
            key,
            flow,
            settled: true,
        }
    };
    let flows = [
        flow(22, Direction::In as u8),
        flow(80, Direction::In as u8),
        flow(40_000, Direction::Out as u8),
    ];
    let count = |before: &str, after: &str, reevaluates| {
        let [old, new] = [before, after].map(|guest| compiled(ON, "", guest));
        guest_cuts(
            &flows,
            &mut Court::new(&old, reevaluates),
            &mut Court::new(&new, reevaluates),
        )
    };
    assert_eq!(count(open, open, false), GuestCuts::default());
    let only_web = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 80\n";
    let found = count(open, only_web, false);
    assert_eq!((found.at_once, found.not_again), (0, 1));
    assert_eq!(found.guests, [(100, 1)].into());
    let none = "[OPTIONS]\nenable: 1\npolicy_out: DROP\n";
    assert_eq!(count(open, none, false).not_again, 3);
    let found = count(open, none, true);
    assert_eq!(
        (found.at_once, found.not_again),
        (3, 0),
        "they are judged again"
    );
}
