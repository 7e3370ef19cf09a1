//! `fwctl check` on trees with one of each mistake: what the administrator sees, and the exit codes.
//!
//! Each file of a tree has one mistake per line or section; the snapshot must show one diagnostic for each.

use std::path::Path;
use std::process::Command;

const ON: (&str, &str) = (
    "firewall/cluster.fw",
    "[OPTIONS]\nenable: 1\n[ALIASES]\nlocal_network 192.0.2.0/24\n",
);
const NIC: &str = "net0: virtio=02:00:00:00:00:01,bridge=vmbr0,firewall=1\n";

/// Output and exit code of `fwctl check` on a tree with these files.
fn check(files: &[(&str, &str)], arguments: &[&str]) -> (String, Option<i32>) {
    let root = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in files {
        let path = root.path().join(path);
        let directory = path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(directory).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_fwctl"))
        .args(["--node", "n", "--root"])
        .arg(root.path())
        .arg("check")
        .args(arguments)
        .output()
        .expect("fwctl runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (
        String::from_utf8(output.stdout).expect("text"),
        output.status.code(),
    )
}

fn shown(files: &[(&str, &str)]) -> String {
    check(files, &[]).0
}

#[test]
fn mistakes_in_sections_and_options() {
    let cluster = "before any section
[OPTIONS]
enable: 1 # on
enabel: 1
enable = 1
policy_in: DENY
log_ratelimit: rate=many
enable: 1
enable: 1
ebtables: yes
[FOO]
policy_in: ACCEPT
[IPSET 1st]
10.0.0.1
[ALIASES]
local_network 192.0.2.0/24
";
    insta::assert_snapshot!(shown(&[("firewall/cluster.fw", cluster)]));
}

#[test]
fn mistakes_in_names_and_sets() {
    let cluster = "[OPTIONS]
enable: 1
[ALIASES]
x 10.0.0.1
web 10.0.0.256
net 10.0.0.0/33
web 10.0.0.1
web 10.0.0.2
[IPSET servers]
10.0.0.300
10.0.0.1
!10.0.0.1/32
0.0.0.0/0
+others
wbe
10.0.0.2 10.0.0.3
[RULES]
IN ACCEPT -source web -dest +servers -p tcp
[IPSET twice]
[IPSET twice]
10.0.0.9
[RULES]
IN ACCEPT -p udp -source +twice
[ALIASES]
local_network 192.0.2.0/24
";
    insta::assert_snapshot!(shown(&[("firewall/cluster.fw", cluster)]));
}

#[test]
fn mistakes_in_rules() {
    let guest = "[OPTIONS]
enable: 1
[RULES]
INN ACCEPT
IN DENY
IN SHS(ACCEPT)
IN ACCEPT -dport 22
IN ACCEPT -p tpc -dport 22
IN ACCEPT -p tcp -dport htps
IN ACCEPT -p tcp -dport 80-90
IN ACCEPT -p tcp -dport 90:80
IN ACCEPT -p tcp -icmp-type 8
IN ACCEPT -p icmp -icmp-type echo-reqest
IN ACCEPT -source 10.0.0.1,fd00::1
IN ACCEPT -source 10.0.0.1 -dest fd00::1
IN ACCEPT -source 10.0.0.9-10.0.0.1
IN ACCEPT -source +missing
IN ACCEPT -source cluster_network
GROUP missing
IN ACCEPT -i eth0
IN ACCEPT -i net7
IN ACCEPT -sourec 10.0.0.1
IN ACCEPT -source
IN SSH(ACCEPT) -p tcp -dport 2222
IN ACCEPT -log loud
FORWARD ACCEPT
SSH(ACCEPT)
";
    insta::assert_snapshot!(shown(&[
        ON,
        ("firewall/100.fw", guest),
        ("nodes/n/qemu-server/100.conf", NIC)
    ]));
}

#[test]
fn lines_that_the_reference_ignores() {
    let guest = "[OPTIONS]
enable: true
[RULES] # mine
IN accept -p udp -dport 1
IN ACCEPT -p  udp -dport 2
IN ACCEPT --iface net0 -p udp -dport 3
IN ACCEPT -source +Mine -p udp -dport 4
IN ACCEPT -source 10.0.0.5/24 -p udp -dport 5
IN ACCEPT -source 10.0.0.1,10.0.0.3-10.0.0.9 -p udp -dport 6
IN ACCEPT -p icmp -icmp-type 8
IN ACCEPT -p tcp -dport 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16
IN PBS(ACCEPT)
IN ACCEPT -p udp -dport 0
[IPSET mine]
10.0.0.1-10.0.0.4
[ALIASES]
host  10.0.0.1
[RULES]
OUT DROP -dest host
";
    insta::assert_snapshot!(shown(&[
        ON,
        ("firewall/100.fw", guest),
        ("nodes/n/qemu-server/100.conf", NIC)
    ]));
}

#[test]
fn rules_that_were_hardly_meant() {
    let cluster = "[OPTIONS]
enable: 1
[ALIASES]
spare 10.0.0.1
[IPSET management]
192.0.2.0/24
[IPSET four]
10.0.0.0/8
[IPSET none]
[RULES]
IN DROP -p tcp -dport 1:1023
[group spare]
IN DROP
[ALIASES]
local_network 192.0.2.0/24
";
    let guest = "[OPTIONS]
enable: 1
ipfilter: 1
[RULES]
IN ACCEPT -source 10.0.0.0/8
IN DROP -source 10.1.2.0/24 -p tcp
IN ACCEPT -source 10.0.0.0/8
IN ACCEPT -source +none
IN ACCEPT -source +four -p icmpv6
";
    let nics = format!("{NIC}net1: virtio=02:00:00:00:00:02,bridge=vmbr0\n");
    insta::assert_snapshot!(shown(&[
        ("firewall/cluster.fw", cluster),
        ("firewall/100.fw", guest),
        ("nodes/n/qemu-server/100.conf", &nics)
    ]));
}

#[test]
fn mistakes_outside_the_firewall_files() {
    insta::assert_snapshot!(shown(&[
        (
            "firewall/100.fw",
            "[OPTIONS]\nenable: 1\n[RULES]\nIN DROP -source +sdn/nowhere\n"
        ),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=maybe\nnet1: virtoi=02:00:00:00:00:02,firewall=1\nnet2: virtio,firewall=1\nnet3: virtio=02:00:00:00:00:03,firewall=1,tag=5000\n"
        ),
        (
            "nodes/n/lxc/101.conf",
            "net0: name=eth0,hwaddr=02:00:00:00:01:00,ip=10.0.0/24,firewall=1\n"
        ),
        (
            "sdn/firewall/v1.fw",
            "[OPTIONS]\nenable: 1\n[RULES]\nIN DROP\nFORWARD DROP\n"
        ),
        ("sdn/.running-config", "{\"vnets\": }\n"),
        (
            "nodes/n/host.fw",
            "[OPTIONS]\nnf_conntrack_max: 5\nprotection_synflood: 1\n[IPSET aa]\n"
        ),
    ]));
}

#[test]
fn exit_codes() {
    let error = [ON, ("nodes/n/host.fw", "[RULES]\nIN\n")];
    let warning = [(
        "firewall/cluster.fw",
        "[OPTIONS]\nenable: 1\npolicy_forward: DROP\n",
    )];
    for (files, arguments, expect) in [
        (&[ON][..], &[][..], 0),
        (&[ON], &["--strict"], 0),
        (&warning, &[], 0),
        (&warning, &["--strict"], 1),
        (&warning, &["--json"], 0),
        (&warning, &["--json", "--strict"], 1),
        (&error, &[], 1),
        (&error, &["--json"], 1),
    ] {
        let (_, code) = check(files, arguments);
        assert_eq!(code, Some(expect), "{files:?} {arguments:?}");
    }
}

#[test]
fn machines_get_json() {
    let (text, _) = check(
        &[ON, ("nodes/n/host.fw", "[RULES]\n IN DENY\n")],
        &["--json"],
    );
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "file": "nodes/n/host.fw",
            "line": 2,
            "column": 5,
            "length": 4,
            "severity": "error",
            "message": "`DENY` is not an action",
            "effect": "the rule is not enforced",
            "hint": "use DROP",
        }])
    );
}
