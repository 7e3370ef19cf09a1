//! Two configurations each, and what is said about them.

use super::*;
use crate::compile::Compiler;
use crate::inventory::facts::HostFacts;

const NOW: u64 = 1_700_000_000;

/// A node with guests of one NIC each, from 100 on, and these files.
fn sources(guests: u32, files: &[(&str, &str)]) -> Sources {
    let mut sources = Sources {
        node: "n".into(),
        ..Sources::default()
    };
    for vmid in 100..100 + guests {
        let path = format!("nodes/n/qemu-server/{vmid}.conf");
        let text = format!(
            "net0: virtio=02:00:00:00:00:{:02x},firewall=1\n",
            vmid - 100
        );
        sources.files.insert(path, text.into());
    }
    for (path, text) in files {
        let text = text.as_bytes().to_vec();
        sources.files.insert((*path).to_owned(), text.into());
    }
    sources
}

fn compared(before: &Sources, after: &Sources) -> Difference {
    let facts = HostFacts::default();
    let [old, new] =
        [before, after].map(|sources| Compiler::default().resolve(sources, &facts, NOW));
    diff(
        View {
            sources: before,
            config: &old.0,
            policy: &old.1,
        },
        View {
            sources: after,
            config: &new.0,
            policy: &new.1,
        },
    )
}

/// The difference between two texts of one guest's file.
fn guest(before: &str, after: &str) -> String {
    let cluster = ("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n");
    let [before, after] =
        [before, after].map(|text| sources(1, &[cluster, ("firewall/100.fw", text)]));
    compared(&before, &after).to_string()
}

/// The difference between two texts of the cluster's file, with 12 guests that all have the group `web`.
fn cluster(before: &str, after: &str) -> String {
    let mut files: Vec<(String, &str)> = Vec::new();
    for vmid in 100..112 {
        let text = "[OPTIONS]\nenable: 1\n[RULES]\nGROUP web\n";
        files.push((format!("firewall/{vmid}.fw"), text));
    }
    let of = |text| {
        let files = files.iter().map(|(path, text)| (path.as_str(), *text));
        let all: Vec<_> = files.chain([("firewall/cluster.fw", text)]).collect();
        sources(12, &all)
    };
    compared(&of(before), &of(after)).to_string()
}

const RULES: &str = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 22\nIN ACCEPT -p tcp -dport 80\nIN DROP -source 192.0.2.7\nOUT REJECT -p udp -dport 53\n";

#[test]
fn what_is_the_same_has_no_difference() {
    let shifted = RULES.replace("[RULES]", "# a comment\n\n[RULES]");
    let spaced = RULES.replace("-p tcp -dport 22", "-p tcp  -dport 22  # ssh");
    for other in [RULES, &shifted, &spaced] {
        assert_eq!(guest(RULES, other), "", "{other}");
    }
}

#[test]
fn rules_come_and_go_change_and_move() {
    let after = "[OPTIONS]\nenable: 1\n[RULES]\nIN DROP -source 192.0.2.7\nIN ACCEPT -p tcp -dport 22\nIN ACCEPT -p tcp -dport 8080:8090\nIN ACCEPT -p tcp -dport 443 -source 198.51.100.0/24\n";
    insta::assert_snapshot!(guest(RULES, after), @"
    rules in, at 100/net0
      - firewall/100.fw:5: IN ACCEPT -p tcp -dport 80
      + firewall/100.fw:6: IN ACCEPT -p tcp -dport 8080:8090
      ~ firewall/100.fw:4: IN DROP -source 192.0.2.7 moved (was line 6)
      + firewall/100.fw:7: IN ACCEPT -p tcp -dport 443 -source 198.51.100.0/24
    rules out, at 100/net0
      - firewall/100.fw:7: OUT REJECT -p udp -dport 53
    ports
      tcp 443 in, at 100/net0: closed -> open to some
      tcp 8080-8090 in, at 100/net0: closed -> open to everybody
      tcp 80 in, at 100/net0: open to everybody -> closed
      udp 53 out, at 100/net0: closed -> open to everybody
    ");
}

#[test]
fn options_are_told_with_what_follows_from_them() {
    let after = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\nlog_level_out: info\nmacfilter: 0\n[RULES]\nIN ACCEPT -p tcp -dport 22\nIN ACCEPT -p tcp -dport 80\nIN DROP -source 192.0.2.7\nOUT REJECT -p udp -dport 53\n";
    insta::assert_snapshot!(guest(RULES, after), @"
    options
      firewall/100.fw:5: macfilter: default -> 0
      firewall/100.fw:3: policy_in: default -> ACCEPT
      firewall/100.fw:4: log_level_out: default -> info
    NICs
      100/net0: MAC filter: on -> off
      100/net0: MAC filter for what is not IP: on -> off
    rules in, at 100/net0
      - policy_in: DROP
      + policy_in: ACCEPT
      - standard: SMB, TCP without connection, UPnP, broadcast or multicast, critical ICMP, invalid, late DNS reply
    ports
      tcp 0-21, 23-79, 81-65535 in, at 100/net0: closed -> open to everybody
      udp 0-67, 69-545, 547-65535 in, at 100/net0: closed -> open to everybody
      udp 68, 546 in, at 100/net0: open to some -> open to everybody
    ");
}

const SHARED: &str = "[OPTIONS]\nenable: 1\n[ALIASES]\noffice 192.0.2.0/24\n[IPSET friends]\n198.51.100.1\n198.51.100.2\noffice\n[group web]\nIN ACCEPT -p tcp -dport 80\nIN ACCEPT -p tcp -dport 22 -source +friends\n";

#[test]
fn a_group_s_change_is_told_once_with_its_places() {
    let after = SHARED.replace("-dport 80", "-dport 80,443");
    insta::assert_snapshot!(cluster(SHARED, &after), @"
    rules in, at 12 NICs of 12 guests: 100/net0, 101/net0, 102/net0 and 9 more
      - firewall/cluster.fw:10: [group web] IN ACCEPT -p tcp -dport 80
      + firewall/cluster.fw:10: [group web] IN ACCEPT -p tcp -dport 80,443
    ports
      tcp 443 in, at 12 NICs of 12 guests: 100/net0, 101/net0, 102/net0 and 9 more: closed -> open to everybody
    ");
}

#[test]
fn sets_and_aliases_are_told_with_counts_and_where_they_matter() {
    let after = SHARED
        .replace(
            "198.51.100.1\n",
            "198.51.100.3\n198.51.100.4\n198.51.100.5\n203.0.113.0/24\n",
        )
        .replace("192.0.2.0/24", "192.0.2.0/25")
        .replace("[group", "[IPSET unused]\n203.0.113.9\n[group");
    insta::assert_snapshot!(cluster(SHARED, &after), @"
    sets and aliases
      firewall/cluster.fw:4: alias office gains 1 entry (192.0.2.0/25), loses 1 entry (192.0.2.0/24); for 12 NICs of 12 guests: 100/net0, 101/net0, 102/net0 and 9 more
      firewall/cluster.fw:5: set friends gains 4 entries (198.51.100.3, 198.51.100.4, 198.51.100.5, …), loses 1 entry (198.51.100.1); for 12 NICs of 12 guests: 100/net0, 101/net0, 102/net0 and 9 more
      firewall/cluster.fw:12: set unused is new, with 1 entry; no rule mentions it
    ");
}

#[test]
fn a_long_set_is_told_by_its_difference() {
    let lines = |from: u32, to: u32| -> String {
        let address = |number: u32| std::net::Ipv4Addr::from(0x0a00_0000 + number);
        (from..to)
            .map(|number| format!("{}\n", address(number)))
            .collect()
    };
    let with =
        |entries: String| SHARED.replace("[group", &format!("[IPSET blacklist]\n{entries}[group"));
    let (before, after) = (with(lines(0, 9000)), with(lines(10, 9002)));
    assert!(before.len() > 65_536, "it is a long one");
    insta::assert_snapshot!(cluster(&before, &after), @"
    sets and aliases
      firewall/cluster.fw:9: set blacklist gains 2 entries (10.0.35.40, 10.0.35.41), loses 10 entries (10.0.0.0, 10.0.0.1, 10.0.0.2, …); for host, 12 NICs of 12 guests: 100/net0, 101/net0, 102/net0 and 9 more
    ");
}

#[test]
fn what_is_turned_off_is_said_first() {
    let off = SHARED.replace("enable: 1", "enable: 0");
    insta::assert_snapshot!(cluster(SHARED, &off), @"
    THE FIREWALL GOES OFF: nothing will be filtered
    options
      firewall/cluster.fw:2: enable: 1 -> 0
    ");
    let cluster = ("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n");
    let host = ("nodes/n/host.fw", "[OPTIONS]\nenable: 0\n");
    let [one, two] = [sources(1, &[cluster, host]), sources(2, &[cluster])];
    insta::assert_snapshot!(compared(&one, &two), @"
    comes under the firewall: host, 101/net0
    options
      nodes/n/host.fw: enable: 0 -> default
    ");
    insta::assert_snapshot!(compared(&two, &one), @"
    is not filtered any more: host, 101/net0
    options
      nodes/n/host.fw:2: enable: default -> 0
    ");
}

#[test]
fn every_difference_of_policies_is_told() {
    // Something that no file of the firewall says: the guest's hardware address, and one of corosync's peers.
    let cluster = ("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n");
    let peers = "totem {\n}\nnodelist {\n  node {\n    name: n\n    ring0_addr: 192.0.2.1\n  }\n  node {\n    name: o\n    ring0_addr: 192.0.2.2\n  }\n}\n";
    let before = sources(1, &[cluster]);
    let mut after = sources(1, &[cluster, ("corosync.conf", peers)]);
    let text = "net0: virtio=02:00:00:00:00:99,firewall=1\n";
    after
        .files
        .insert("nodes/n/qemu-server/100.conf".into(), text.into());
    insta::assert_snapshot!(compared(&before, &after), @"
    NICs
      100/net0: hardware address: 02:00:00:00:00:00 -> 02:00:00:00:00:99
    rules in, at host
      + standard: corosync o link 0
    rules out, at host
      + standard: corosync o link 0
    ");
}

#[test]
fn two_lists_with_little_in_common_are_compared_soon() {
    let list = |step: u32| -> String {
        let rule =
            |number: u32| format!("IN ACCEPT -p tcp -dport {}\n", 1 + number * step % 60_000);
        let rules: String = (0..12_000).map(rule).collect();
        format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}")
    };
    let began = std::time::Instant::now();
    assert!(guest(&list(1), &list(7)).contains("moved"));
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
}
