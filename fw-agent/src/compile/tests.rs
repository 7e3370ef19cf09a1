//! Compiling with what is remembered gives what compiling from nothing gives.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::inventory::facts::Route;

const NOW: u64 = 1_700_000_000;

/// Parts of `cluster.fw`, one of each kind of which is taken.
const CLUSTER_PARTS: [&[&str]; 6] = [
    &[
        "",
        "[OPTIONS]\nenable: 1\n",
        "\n[OPTIONS]\nenable: 1\nebtables: 0\n",
        "[OPTIONS]\nenable: 0\n",
    ],
    &[
        "",
        "[ALIASES]\nab 10.0.0.1\nother 10.3.0.0/16\n",
        "[ALIASES]\nab fd00::1\n",
        "[ALIASES]\nlocal_network 10.1.0.0/16\nab 10.0.0.1\nab 10.0.0.2\n",
    ],
    &[
        "",
        "[IPSET s1]\nab\n10.5.0.0/16\n",
        "[IPSET s1]\n10.5.0.0/16\n!10.5.1.0/24\nnot/good\n",
        "# moved\n[IPSET s1]\n10.5.0.0/16\n!10.5.1.0/24\n10.5.0.0/16\n",
    ],
    &[
        "",
        "[IPSET blacklist]\n10.66.0.0/16\n",
        "[IPSET blacklist]\n10.66.0.0/16\n10.67.0.1-10.67.0.9\n",
    ],
    &[
        "",
        "[group web]\nIN HTTP(ACCEPT)\nIN ACCEPT -source +s1\n",
        "[group web]\nIN HTTP(ACCEPT)\n[group base]\nIN Ping(ACCEPT)\n",
        "[group wev]\nIN ACCEPT -source ab\n",
    ],
    &[
        "",
        "[RULES]\nIN ACCEPT -source ab\nGROUP web\n",
        "[RULES]\nIN DROP -source +nope\nFORWARD DROP\n",
    ],
];

/// Firewall files of a guest.
const GUEST_FILES: [Option<&str>; 9] = [
    None,
    Some(""),
    Some("[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 22\n"),
    Some("[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 22 # why\n"),
    Some("[OPTIONS]\nenable: 1\n[RULES]\nGROUP web\nIN ACCEPT -source ab\nIN DROP -source +s1\n"),
    Some(
        "[OPTIONS]\nenable: 1\nipfilter: 1\n[ALIASES]\nab 10.9.9.9\n[IPSET s1]\nab\ndc/ab\n[IPSET ipfilter-net0]\nother\n[RULES]\nOUT DROP -dest +s1\nIN ACCEPT -source +dc/s1\n",
    ),
    Some(
        "[OPTIONS]\nenable: 1\npolicy_in: nothing\n[RULES]\nIN ACCEPT -source other\nIN ACCEPT -source +sdn/v1-all\n",
    ),
    Some("[OPTIONS]\nenable: 0\n[RULES]\nGROUP base\n"),
    Some("[RULES]\nIN ACCEPT -i net1\nGROUP wev\nIN\n"),
];

/// Other files of the node.
const OTHERS: [(&str, &[Option<&str>]); 9] = [
    (
        "nodes/n/host.fw",
        &[
            None,
            Some("[OPTIONS]\nnosmurfs: 1\ntcpflags: 1\n"),
            Some("[OPTIONS]\nlog_level_in: info\n[RULES]\nIN ACCEPT -source +s1\n"),
            Some("[OPTIONS]\nenable: 0\nnf_conntrack_allow_invalid: 1\n"),
        ],
    ),
    (
        "nodes/n/qemu-server/100.conf",
        &[
            None,
            Some("net0: virtio=02:00:00:00:00:01,firewall=1,bridge=vmbr0\n"),
            Some(
                "net0: virtio=02:00:00:00:00:01,firewall=1\nnet1: virtio=02:00:00:00:00:02,firewall=1\n",
            ),
            Some("net0: virtio=bad,firewall=1\n"),
        ],
    ),
    (
        "nodes/n/qemu-server/101.conf",
        &[
            None,
            Some("net0: virtio=02:00:00:00:00:03,firewall=1\n"),
            Some("net0: virtio=02:00:00:00:00:03\n"),
        ],
    ),
    (
        "nodes/n/lxc/102.conf",
        &[
            None,
            Some("net0: name=eth0,hwaddr=02:00:00:00:00:04,ip=10.0.0.7/24,firewall=1\n"),
        ],
    ),
    (
        "nodes/n/lxc/100.conf",
        &[None, None, Some("net0: name=eth0,firewall=1\n")],
    ),
    (
        "sdn/.running-config",
        &[
            None,
            Some("{"),
            Some(
                r#"{"vnets":{"ids":{"v1":{"zone":"z"}}},"subnets":{"ids":{"z-10.4.0.0-16":{"vnet":"v1"}}}}"#,
            ),
        ],
    ),
    (
        ".vmlist",
        &[
            None,
            None,
            Some(
                r#"{"ids":{"100":{"node":"n","type":"qemu"},"101":{"node":"m","type":"qemu"},"102":{"node":"n","type":"lxc"}}}"#,
            ),
        ],
    ),
    (
        "sdn/firewall/v1.fw",
        &[
            None,
            Some("[OPTIONS]\nenable: 1\n[RULES]\nFORWARD DROP -source +s1\n"),
        ],
    ),
    (
        "firewall/900.fw",
        &[
            None,
            Some("[RULES]\nIN ACCEPT -source ab\n"),
            Some("[RULES]\nGROUP web\n"),
        ],
    ),
];

const GUEST_PATHS: [&str; 3] = ["firewall/100.fw", "firewall/101.fw", "firewall/102.fw"];

/// A change of what there is to compile. Numbers choose among what there is, whatever they are.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Cluster { part: usize, text: usize },
    NoCluster,
    Guest { path: usize, text: usize },
    Other { path: usize, text: usize },
    Unreadable { path: usize },
    Facts { number: u8 },
}

fn edit() -> impl Strategy<Value = Edit> {
    let any = any::<usize>;
    prop_oneof![
        4 => (any(), any()).prop_map(|(part, text)| Edit::Cluster { part, text }),
        1 => Just(Edit::NoCluster),
        4 => (any(), any()).prop_map(|(path, text)| Edit::Guest { path, text }),
        4 => (any(), any()).prop_map(|(path, text)| Edit::Other { path, text }),
        1 => any().prop_map(|path| Edit::Unreadable { path }),
        1 => (0..3u8).prop_map(|number| Edit::Facts { number }),
    ]
}

fn pick<T>(list: &[T], number: usize) -> &T {
    &list[number % list.len()]
}

/// What is compiled.
#[derive(Clone, Default)]
struct Tree {
    sources: Sources,
    facts: HostFacts,
    cluster: [usize; 6],
}

impl Tree {
    fn new() -> Self {
        let mut tree = Self {
            sources: Sources {
                node: "n".into(),
                ..Sources::default()
            },
            ..Self::default()
        };
        for (path, texts) in OTHERS {
            tree.write(path, texts[texts.len().min(2) - 1]);
        }
        for path in GUEST_PATHS {
            tree.write(path, GUEST_FILES[4]);
        }
        tree.cluster = [1; 6];
        tree.write_cluster();
        tree
    }

    fn write(&mut self, path: &str, text: Option<&str>) {
        self.sources.unreadable.remove(path);
        let files = &mut self.sources.files;
        match text {
            // Another memory each time, as if it was read again.
            Some(text) => files.insert(path.into(), Bytes::copy_from_slice(text.as_bytes())),
            None => files.remove(path),
        };
    }

    fn write_cluster(&mut self) {
        let parts = CLUSTER_PARTS.iter().zip(self.cluster);
        let text: String = parts.map(|(part, text)| *pick(part, text)).collect();
        self.write(CLUSTER_FILE, Some(&text));
    }

    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Cluster { part, text } => {
                self.cluster[part % 6] = text;
                self.write_cluster();
            }
            Edit::NoCluster => self.write(CLUSTER_FILE, None),
            Edit::Guest { path, text } => {
                let path = *pick(&GUEST_PATHS, path);
                self.write(path, *pick(&GUEST_FILES, text));
            }
            Edit::Other { path, text } => {
                let (path, texts) = pick(&OTHERS, path);
                self.write(path, *pick(texts, text));
            }
            Edit::Unreadable { path } => {
                let path = match path % 3 {
                    0 => CLUSTER_FILE,
                    _ => *pick(&GUEST_PATHS, path),
                };
                self.write(path, None);
                self.sources.unreadable.insert(path.into(), "no".into());
            }
            Edit::Facts { number } => {
                let net = std::net::Ipv4Addr::new(10, number % 3, 0, 1).into();
                self.facts.names = [("n".to_owned(), vec![net])].into();
                self.facts.routes = vec![Route {
                    dest: ipnet::IpNet::new_assert(net, 16).trunc(),
                    connected: true,
                }];
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_remembered_changes_no_result(edits in vec(vec(edit(), 1..4), 1..12)) {
        let mut compiler = Compiler::default();
        let mut tree = Tree::new();
        for round in edits {
            let remembered = compiler.resolve(&tree.sources, &tree.facts, NOW);
            let anew = Compiler::default().resolve(&tree.sources, &tree.facts, NOW);
            prop_assert_eq!(&remembered.2, &anew.2);
            prop_assert_eq!(&remembered.0, &anew.0);
            prop_assert_eq!(&remembered.1, &anew.1);
            for edit in round {
                tree.apply(edit);
            }
        }
    }
}

/// The policies of the guests 100 to 102, before and after an edit.
fn ports_around(edits: &[Edit]) -> [Vec<Arc<crate::policy::PortPolicy>>; 2] {
    let mut compiler = Compiler::default();
    let mut tree = Tree::new();
    let before = compiler.resolve(&tree.sources, &tree.facts, NOW).1.ports;
    for edit in edits {
        tree.apply(*edit);
    }
    let after = compiler.resolve(&tree.sources, &tree.facts, NOW).1.ports;
    [before, after]
}

#[test]
fn guests_of_whom_nothing_changed_keep_their_policies() {
    let touch = |path| Edit::Guest { path, text: 4 };
    let alias = Edit::Cluster { part: 1, text: 2 };
    let (group, blacklist) = (
        Edit::Cluster { part: 4, text: 3 },
        Edit::Cluster { part: 3, text: 2 },
    );
    // What the guests' file of these tests mentions: a group, an alias and a set of the cluster.
    for (edits, same) in [
        (&[touch(0), touch(1), touch(2)][..], [true; 3]),
        (&[Edit::Guest { path: 1, text: 2 }], [true, false, true]),
        (&[Edit::Guest { path: 0, text: 3 }], [false, true, true]),
        (&[alias], [false; 3]),
        (&[group], [false; 3]),
        (&[blacklist], [false; 3]),
        // Another rule of the nodes, behind everything that guests use.
        (&[Edit::Cluster { part: 5, text: 2 }], [true; 3]),
        (&[Edit::Other { path: 8, text: 2 }], [true; 3]),
    ] {
        let [before, after] = ports_around(edits);
        assert_eq!((before.len(), after.len()), (3, 3), "{edits:?}");
        let kept = before.iter().zip(&after).map(|(a, b)| Arc::ptr_eq(a, b));
        assert!(kept.eq(same), "{edits:?}");
    }
}

#[test]
fn sets_that_did_not_change_are_the_same() {
    let [before, after] = ports_around(&[
        Edit::Guest { path: 0, text: 2 },
        Edit::Cluster { part: 1, text: 2 },
    ]);
    let blacklist = |port: &crate::policy::PortPolicy| {
        let mut rules = port.inbound.rules.iter();
        rules.find_map(|rule| rule.matches.source.clone())
    };
    let [before, after] = [&before, &after].map(|ports| blacklist(&ports[0]));
    let (Some(before), Some(after)) = (before, after) else {
        panic!("no blacklist");
    };
    assert!(Arc::ptr_eq(&before, &after));
}
