//! One configuration with something of everything, as `fwctl compile` prints it.

use super::sources;
use crate::compile::compile;
use crate::inventory::facts::{HostFacts, Route};
use crate::policy::print;

#[test]
fn a_rich_node() {
    let sources = sources(&[
        (
            ".members",
            r#"{"nodename":"n","nodelist":{"n":{"ip":"192.0.2.1"},"m":{"ip":"192.0.2.2"}}}"#,
        ),
        (
            "corosync.conf",
            "totem {\n  transport: udp\n}\nnodelist {\n  node {\n    name: n\n    ring0_addr: 192.0.2.1\n    ring1_addr: fd00:1::1\n  }\n  node {\n    name: m\n    ring0_addr: m\n    ring1_addr: fd00:1::2\n  }\n  node {\n    name: o\n    ring0_addr: o.example\n  }\n}\n",
        ),
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nenable: 1\npolicy_out: REJECT\npolicy_forward: DROP\n[IPSET blacklist]\n198.51.100.0/24\n[IPSET management]\n203.0.113.0/24\n!203.0.113.7\n[group web]\nIN HTTPS(ACCEPT) -log info # public\nFORWARD DROP -p udp\n[RULES]\nGROUP web -i vmbr1\nFORWARD ACCEPT -source +dc/management\nOUT DNS(ACCEPT)\n",
        ),
        (
            "nodes/n/host.fw",
            "[OPTIONS]\ntcpflags: 1\nsmurf_log_level: info\nlog_level_in: err\n[RULES]\nIN SSH(ACCEPT) -i uplink\nGROUP web\n|IN DROP\n",
        ),
        (
            "sdn/firewall/blue.fw",
            "[OPTIONS]\nenable: 1\npolicy_forward: DROP\n[RULES]\nFORWARD HTTP(ACCEPT)\nGROUP web\n",
        ),
        (
            "sdn/firewall/red.fw",
            "[RULES]\nIN DROP\nFORWARD DROP -i vmbr0\n",
        ),
        (
            "firewall/200.fw",
            "[OPTIONS]\nenable: 1\npolicy_in: REJECT\npolicy_out: DROP\nlog_level_in: warning\n[IPSET ipfilter-net0]\n10.0.0.0/24\n!10.0.0.1\n[RULES]\nGROUP web\nIN SSH(ACCEPT) -i net1\n|IN DROP\nIN ACCEPT -p icmp -icmp-type echo-request -source 10.0.0.0/8 -log nolog\nOUT DNS(ACCEPT) -dest 10.0.0.53\n",
        ),
        (
            "nodes/n/lxc/200.conf",
            "net0: name=eth0,hwaddr=BC:24:11:00:00:C8,ip=10.1.0.5/24,ip6=fd00::5/64,firewall=1,bridge=vmbr0\nnet1: name=eth1,hwaddr=BC:24:11:00:01:C8,firewall=1\n",
        ),
    ]);
    let facts = HostFacts {
        routes: vec![Route {
            dest: "192.0.2.0/24".parse().unwrap(),
            connected: true,
        }],
        altnames: [("uplink".to_owned(), "eno1".to_owned())].into(),
        ..HostFacts::default()
    };
    let compiled = compile(&sources, &facts, super::NOW);
    let found: Vec<String> = compiled
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!("a_rich_node", print(&compiled.policy));
    insta::assert_snapshot!("a_rich_node_diagnostics", found.join("\n"));
    let image = compiled.image.host.unwrap();
    let named: Vec<&str> = image.interfaces.keys().map(|name| &**name).collect();
    assert_eq!(named, ["eno1", "lo", "vmbr1"]);
}
