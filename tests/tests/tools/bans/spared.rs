//! Who is not banned.

use std::time::Duration;

use serde_json::json;
use tapwall_tests::node::STRANGER_V4;
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::{UdpServer, exchange};

use super::{CLUSTER, bed, connection};
use crate::{done, fwctl, json};

#[test]
fn who_administers_the_node_is_not_banned_unless_forced() {
    let (node, tree, agent) = bed();
    // Of which the node's own network would be a part.
    let elsewhere = format!("{CLUSTER}[ALIASES]\nlocal_network 10.9.0.0/16\n");
    tree.write("firewall/cluster.fw", &elsewhere).unwrap();
    tree.write(
        ".members",
        r#"{"nodelist":{"demo":{"ip":"192.0.2.1"},"other":{"ip":"203.0.113.9"}}}"#,
    )
    .unwrap();
    node.host
        .namespace
        .ip("route add 10.0.0.0/8 via 192.0.2.254")
        .unwrap();
    let _connected = connection(&node, &node.host, STRANGER_V4);
    let refused = |arguments: &[&str]| {
        let mut command = agent.fwctl_command().unwrap();
        command
            .arg("ban")
            .args(arguments)
            .env("SSH_CONNECTION", "198.51.100.7 50000 192.0.2.1 22");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(output.stdout, b"");
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines()
            .filter(|line| !line.contains("--force"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let every = [
        "192.0.2.1",
        "192.0.2.200",
        "192.0.2.201",
        "192.0.2.254",
        "203.0.113.9",
        "198.51.100.7",
        "127.0.0.1",
        "::1",
        "fe80::1",
        "2001:db8:1::1",
    ];
    insta::assert_snapshot!(refused(&every), @r"
    fwctl: 192.0.2.1 is not banned: it would hit 192.0.2.1 (an address of this node)
    fwctl: 192.0.2.200 is not banned: it would hit 192.0.2.200 (of the management set)
    fwctl: 192.0.2.201 is not banned: it would hit 192.0.2.201 (connected to SSH or the web interface)
    fwctl: 192.0.2.254 is not banned: it would hit 192.0.2.254 (a gateway of this node)
    fwctl: 203.0.113.9 is not banned: it would hit 203.0.113.9 (node other of the cluster)
    fwctl: 198.51.100.7 is not banned: it would hit 198.51.100.7 (the other end of this session)
    fwctl: 127.0.0.1 is not banned: it would hit 127.0.0.0/8 (this machine itself)
    fwctl: ::1 is not banned: it would hit ::1 (this machine itself)
    fwctl: fe80::1 is not banned: it would hit fe80::/10 (link-local: neighbours and routers are found by it)
    fwctl: 2001:db8:1::1 is not banned: it would hit 2001:db8:1::1 (an address of this node)
    ");
    insta::assert_snapshot!(refused(&["192.0.2.192/26"]), @"fwctl: 192.0.2.192/26 is not banned: it would hit 192.0.2.254 (a gateway of this node), 192.0.2.200 (of the management set), 192.0.2.201 (connected to SSH or the web interface)");
    // IPv4 as IPv6 writes it is no way around.
    let text = refused(&["::ffff:0:0/96"]);
    assert!(
        text.contains("0.0.0.0/0 is not banned") && text.contains(" more"),
        "{text}"
    );
    assert_eq!(json(&agent, &["bans", "--json"])["bans"], json!([]));

    // Who attacks is connected, too.
    done(&agent, &["ban", "192.0.2.201", "--automatic"]);
    let (text, code) = fwctl(&agent, &["ban", "192.0.2.200", "--automatic"]);
    assert_eq!(code, Some(1), "{text}");
    done(&agent, &["ban", "192.0.2.200", "--force"]);
    let answer = |source| {
        let to = node.host.v4_port(7);
        exchange(
            &node.outside.namespace,
            source,
            to,
            b"?",
            Duration::from_millis(100),
        )
    };
    let _server = UdpServer::start(&node.host.namespace, node.host.v4_port(7)).unwrap();
    assert_eq!(
        [answer(STRANGER_V4), answer(node.outside.v4())],
        [Silent, Silent]
    );
}
