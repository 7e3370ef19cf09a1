//! Files that are lost, cut off or unreadable: nothing opens, others do not notice, the status says so, and all is well when they return.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, Station};
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{UdpServer, exchange};
use tapwall_tests::tree::ConfigTree;

const LIMIT: Duration = Duration::from_secs(10);
const OPEN: u16 = 80;
const CLOSED: u16 = 81;
const CLUSTER: &str = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p udp -dport 80\n";

/// Fields are dropped in this order: the agent goes first.
struct Bed {
    agent: Agent,
    tree: ConfigTree,
    _servers: Vec<UdpServer>,
    node: DemoNode,
}

impl Bed {
    fn new() -> Self {
        let node = DemoNode::new().unwrap();
        let tree = ConfigTree::with_demo_guests().unwrap();
        tree.write("firewall/cluster.fw", CLUSTER).unwrap();
        for vmid in [100, 101] {
            tree.write_firewall(vmid, RULES).unwrap();
        }
        let servers = [&node.vm, &node.container].into_iter().flat_map(|guest| {
            [OPEN, CLOSED]
                .map(|port| UdpServer::start(&guest.namespace, guest.v4_port(port)).unwrap())
        });
        let servers = servers.collect();
        let agent = Agent::start(&node.host.namespace, &tree).unwrap();
        Self {
            agent,
            tree,
            _servers: servers,
            node,
        }
    }

    fn try_port(&self, guest: &Station, port: u16) -> Answer {
        let outside = &self.node.outside;
        let timeout = Duration::from_millis(match port {
            OPEN => 1500,
            _ => 150,
        });
        let to = guest.v4_port(port);
        exchange(&outside.namespace, outside.v4(), to, b"fault", timeout)
    }

    /// Both guests let in what they should and nothing else.
    #[track_caller]
    fn holds(&self, when: &str) {
        for guest in [&self.node.vm, &self.node.container] {
            for (port, expect) in [(OPEN, Answered), (CLOSED, Silent)] {
                let seen = self.try_port(guest, port);
                let said = self.agent.stderr();
                assert_eq!(seen, expect, "{when}: {} {port}\n{said}", guest.v4());
            }
        }
    }

    /// Waits until the status names this, or nothing at all. Nothing that is closed may be open meanwhile.
    #[track_caller]
    fn wait_degraded(&self, names: Option<&str>, when: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let degraded = self.agent.record().unwrap().unwrap().degraded;
            let there = match names {
                Some(name) => degraded.iter().any(|text| text.contains(name)),
                None => degraded.is_empty(),
            };
            if there {
                return;
            }
            let seen = self.try_port(&self.node.vm, CLOSED);
            assert_eq!(seen, Silent, "{when}");
            let said = self.agent.stderr();
            assert!(Instant::now() < deadline, "{when}: {degraded:?}\n{said}");
        }
    }
}

fn unmake(path: &Path) {
    match path.is_dir() {
        true => fs::remove_dir(path).unwrap(),
        false if path.exists() => fs::remove_file(path).unwrap(),
        false => {}
    }
}

/// Does something to a file that had this text.
type Damage = fn(&Path, &str);

/// What happens to a file, by name.
const DAMAGES: [(&str, Damage); 4] = [
    ("deleted", |path, _| fs::remove_file(path).unwrap()),
    ("emptied", |path, _| fs::write(path, "").unwrap()),
    ("cut off", |path, text| {
        fs::write(path, &text[..text.len() / 2]).unwrap();
    }),
    // Root may read every file, but no directory as if it were one.
    ("unreadable", |path, _| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
];

#[test]
fn damaged_files_open_nothing_and_are_in_force_again_when_they_return() {
    let bed = Bed::new();
    bed.holds("before");
    let files = [
        "firewall/100.fw",
        "firewall/cluster.fw",
        "nodes/demo/qemu-server/100.conf",
    ];
    for file in files {
        let path = bed.tree.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        for (damage, make) in DAMAGES {
            let when = format!("{file} {damage}");
            make(&path, &text);
            match (damage, file.ends_with(".conf")) {
                // A guest that leaves: no fault, and its policy stays with its device.
                ("deleted", true) => {
                    let left = |record: &fw_agent::record::Record| {
                        record.ports.iter().all(|port| port.vmid != 100)
                    };
                    bed.agent.wait_for(LIMIT, &when, left).unwrap();
                }
                (_, _) => bed.wait_degraded(Some(file), &when),
            }
            bed.holds(&when);
            let status = bed.agent.fwctl(&["status"]).unwrap();
            let status = String::from_utf8(status.stdout).unwrap();
            let says = status.contains(file) || (damage == "deleted" && file.ends_with(".conf"));
            assert!(says, "{when}: {status}");
            unmake(&path);
            bed.tree.write(file, &text).unwrap();
            bed.wait_degraded(None, &format!("{when}, returned"));
            bed.agent.wait_attached("tap100i0", None).unwrap();
            bed.holds(&format!("{when}, returned"));
        }
    }
    // It is not merely frozen.
    bed.agent
        .after(|| bed.tree.write_firewall(100, &RULES.replace("80", "81")))
        .unwrap();
    assert_eq!(bed.try_port(&bed.node.vm, CLOSED), Answered);
}

#[test]
fn a_file_that_says_so_still_turns_the_firewall_off() {
    let bed = Bed::new();
    let off = RULES.replace("enable: 1", "enable: 0");
    bed.agent
        .after(|| bed.tree.write_firewall(100, &off))
        .unwrap();
    assert_eq!(bed.try_port(&bed.node.vm, CLOSED), Answered);
    assert_eq!(bed.try_port(&bed.node.container, CLOSED), Silent);
    // Off as it is, it may go.
    let record = bed.agent.after(|| bed.tree.remove("firewall/100.fw"));
    assert_eq!(record.unwrap().degraded, Vec::<String>::new());
}

#[test]
fn the_configuration_s_directory_disappears_and_returns() {
    let bed = Bed::new();
    let root = bed.tree.path();
    let away = root.with_extension("away");
    fs::rename(root, &away).unwrap();
    bed.wait_degraded(Some("the last policy stays in force"), "away");
    bed.holds("away");
    // What was written meanwhile counts when it is back.
    let text = RULES.replace("80", "81");
    fs::write(away.join("firewall/100.fw"), text).unwrap();
    fs::rename(&away, root).unwrap();
    let deadline = Instant::now() + LIMIT;
    while bed.try_port(&bed.node.vm, CLOSED) != Answered {
        assert!(Instant::now() < deadline, "{}", bed.agent.stderr());
    }
    bed.agent
        .wait_for(LIMIT, "nothing degraded", |record| {
            record.degraded.is_empty()
        })
        .unwrap();
    assert_eq!(bed.try_port(&bed.node.container, OPEN), Answered);
    assert_eq!(bed.try_port(&bed.node.container, CLOSED), Silent);
}
