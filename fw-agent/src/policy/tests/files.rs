//! Files beside the firewall's own: the list of guests, SDN, VNets.

use super::*;

#[test]
fn only_guests_that_the_list_has_on_this_node_count() {
    let nic = "net0: virtio=02:00:00:00:00:01,firewall=1";
    let files = |list: &str| {
        [
            (".vmlist".to_owned(), list.to_owned()),
            ("nodes/n/qemu-server/100.conf".to_owned(), nic.to_owned()),
            ("nodes/n/qemu-server/101.conf".to_owned(), nic.to_owned()),
        ]
    };
    let check = |list: &str, expect: &[u32], reports: &[&str]| {
        let files = files(list);
        let files = files
            .each_ref()
            .map(|(path, text)| (path.as_str(), text.as_str()));
        let (policy, found) = resolved(&files);
        let guests: Vec<_> = policy.ports.iter().map(|port| port.port.vmid).collect();
        assert_eq!(guests, expect, "{list}");
        assert_eq!(found, reports, "{list}");
    };
    let not_ours = |vmid: u32, why: &str| {
        format!(
            "nodes/n/qemu-server/{vmid}.conf: warning: .vmlist has {why}; the guest is not this node's"
        )
    };
    check(
        r#"{"version":1,"ids":{"100":{"node":"n","type":"qemu","version":2},"101":{"node":"m","type":"qemu"}}}"#,
        &[100],
        &[&not_ours(101, "guest 101 on node `m`")],
    );
    check(
        r#"{"version":1,"ids":{"100":{"node":"n","type":"lxc"}}}"#,
        &[],
        &[
            &not_ours(100, "guest 100 as `lxc`"),
            &not_ours(101, "no guest 101"),
        ],
    );
    check("", &[100, 101], &[]);
    check(
        "{",
        &[100, 101],
        &[
            ".vmlist:1:1: error: the file is not JSON: EOF while parsing an object at line 1 column 1; the file counts as empty",
        ],
    );
}

#[test]
fn sets_of_sdn_are_found_last() {
    let (policy, found) = resolved(&[
        (
            "firewall/100.fw",
            "[OPTIONS]\nenable: 1\n[IPSET v1-gateway]\n10.9.9.9\n[RULES]\nIN ACCEPT -source +sdn/v1-no-gateway\nIN ACCEPT -source +v1-all\nIN DROP -source +v1-gateway\nIN DROP -source +sdn/v1-gateway -dest +SDN/guest-ipam-100\n",
        ),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
        (
            "sdn/.running-config",
            r#"{"vnets":{"ids":{"v1":{"zone":"z1"}}},"subnets":{"ids":{"z1-10.0.0.0-24":{"vnet":"v1","gateway":"10.0.0.1"}}}}"#,
        ),
        (
            "sdn/pve-ipam-state.json",
            r#"{"zones":{"z1":{"subnets":{"10.0.0.0/24":{"ips":{"10.0.0.5":{"vmid":"100"}}}}}}}"#,
        ),
    ]);
    assert_eq!(found, [""; 0]);
    assert_eq!(
        written(&policy.ports[0].inbound),
        [
            "ACCEPT source={10.0.0.0/24,!10.0.0.1}",
            "ACCEPT source={10.0.0.0/24}",
            "DROP source={10.9.9.9}",
            "DROP source={10.0.0.1} dest={10.0.0.5}",
        ]
    );
}

#[test]
fn rules_of_vnets_are_read_but_not_enforced() {
    let (_, found) = resolved(&[
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nenable: 1\n[group gg]\nIN DROP",
        ),
        (
            "sdn/firewall/v1.fw",
            "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nFORWARD DROP\nGROUP gg\nGROUP no\nFORWARD DROP -source +no\nIN DROP\n[ALIASES]\nab 10.0.0.1",
        ),
    ]);
    let skipped = "the rule is not enforced";
    assert_eq!(
        found,
        [
            "sdn/firewall/v1.fw:3:1: error: `policy_in` is not an option of this file; the line is ignored",
            &format!("sdn/firewall/v1.fw:9:1: error: a VNet has only FORWARD rules; {skipped}"),
            "sdn/firewall/v1.fw:10:1: error: `[ALIASES]` is not a section of this kind of file; the lines up to the next section are ignored",
            &format!("sdn/firewall/v1.fw:7:7: error: there is no security group `no`; {skipped}"),
            &format!("sdn/firewall/v1.fw:8:22: error: there is no set `no`; {skipped}"),
            "sdn/firewall/v1.fw:2: warning: the firewall of VNets is not enforced yet; its rules are only printed, by `fwctl compile`",
        ]
    );
}
