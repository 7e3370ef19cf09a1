//! Rules between the administrator and the node.

use super::linted;

#[test]
fn rules_that_lock_the_administrator_out() {
    let check = |host: &str, cluster: &str, expect: &[&str]| {
        let host = format!("[RULES]\n{host}");
        let cluster = format!("[OPTIONS]\nenable: 1\n[RULES]\n{cluster}");
        let found = linted(&[
            ("nodes/n/host.fw", &host),
            ("firewall/cluster.fw", &cluster),
        ]);
        let found: Vec<_> = found.iter().filter(|text| text.contains("cuts")).collect();
        assert_eq!(found, expect, "{host} {cluster}");
    };
    let cut = |place: &str, what: &str, whom: &str| {
        format!(
            "{place}: warning: this rule cuts {what} off from {whom} of the management set; who administers the node from there is locked out"
        )
    };
    let ssh = "SSH (port 22)";
    let both = "SSH (port 22) and the web interface (port 8006)";
    check("", "", &[]);
    check(
        "",
        "IN DROP",
        &[&cut("firewall/cluster.fw:4:1", both, "192.0.2.0/24")],
    );
    check(
        "IN REJECT -p tcp -dport 1:1000",
        "",
        &[&cut("nodes/n/host.fw:2:1", ssh, "192.0.2.0/24")],
    );
    check("IN ACCEPT -source +management", "IN DROP", &[]);
    check(
        "IN SSH(ACCEPT)",
        "IN DROP",
        &[&cut(
            "firewall/cluster.fw:4:1",
            "the web interface (port 8006)",
            "192.0.2.0/24",
        )],
    );
    check(
        "IN ACCEPT -source 192.0.2.0/25",
        "IN DROP -source 192.0.2.0/24",
        &[&cut("firewall/cluster.fw:4:1", both, "192.0.2.128/25")],
    );
    check("IN DROP -source 203.0.113.0/24", "", &[]);
    check("IN DROP -p udp", "OUT DROP", &[]);
    check(
        "",
        "IN ACCEPT\n[IPSET blacklist]\n192.0.2.7\n",
        &[
            "firewall/cluster.fw:5:1: warning: the blacklist cuts SSH (port 22) and the web interface (port 8006) off from 192.0.2.7/32 of the management set; who administers the node from there is locked out",
        ],
    );
    check("|IN DROP", "IN ACCEPT -i vmbr0\nIN DROP", &[]);
    check("IN DROP\n[OPTIONS]\nenable: 0", "", &[]);
    check(
        "",
        "GROUP gg\n[group gg]\nIN DROP",
        &[&cut("firewall/cluster.fw:6:1", both, "192.0.2.0/24")],
    );
    check(
        "",
        "IN DROP -dest 10.0.0.1 -p tcp\n[IPSET management]\nfd00::/64\n",
        &[&cut("firewall/cluster.fw:4:1", both, "192.0.2.0/24")],
    );
    check(
        "",
        "IN DROP -source fd00::/8\n[IPSET management]\nfd00::/64\n",
        &[&cut("firewall/cluster.fw:4:1", both, "fd00::/64")],
    );
}
