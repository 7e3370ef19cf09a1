//! Arbitrary bytes as any of the files: nothing panics, and equal input gives equal output.

use proptest::prelude::*;

use crate::config::{Sources, parse};
use crate::policy::{Matches, print, resolve};

/// Bytes that look like a configuration more often than chance would have it.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "[OPTIONS]\n",
        "[RULES]\n",
        "[ALIASES]\n",
        "[IPSET ",
        "[group ",
        "ipfilter-net0",
        "]\n",
        "\n",
        "\r\n",
        "#",
        "!",
        "|",
        "IN ",
        "OUT ",
        "GROUP ",
        "FORWARD ",
        "ACCEPT ",
        "DROP ",
        "(ACCEPT) ",
        "DNS",
        "Ping",
        "-p ",
        "tcp ",
        "icmp ",
        "-dport ",
        "-sport ",
        "22",
        ":",
        ",",
        "-source ",
        "-dest ",
        "+",
        "dc/",
        "guest/",
        "aa ",
        "10.0.0.0/8",
        "10.0.0.1-10.0.0.9",
        "::/0",
        "fd00::1",
        "-",
        "-i net0 ",
        "-i vmbr0 ",
        "-log info ",
        "enable: ",
        "1",
        "policy_in: ",
        "log_ratelimit: ",
        "=",
        "/",
        "net0: ",
        "virtio=",
        "totem {\n",
        "transport: udp\n",
        "nodelist {\n",
        "node {\n",
        "name: n\n",
        "ring0_addr: ",
        "}\n",
        "02:00:00:00:00:01",
        "firewall=1",
        "ip=",
        "\u{feff}",
        "ä",
        "\0",
        "99999999999999999999",
    ]);
    let pieces = prop_oneof![9 => words.prop_map(|word| word.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..6)];
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_input_panics_and_equal_input_gives_equal_output(cluster in text(), host in text(), guest in text(), vm in text(), ct in text(), corosync in text(), vnet in text(), now in any::<u64>()) {
        let mut sources = Sources { node: "n".into(), ..Sources::default() };
        for (path, bytes) in [("firewall/cluster.fw", cluster), ("nodes/n/host.fw", host), ("firewall/100.fw", guest.clone()), ("firewall/101.fw", guest), ("nodes/n/qemu-server/100.conf", vm), ("nodes/n/lxc/101.conf", ct), ("corosync.conf", corosync), ("sdn/firewall/v.fw", vnet.clone()), (".members", vnet)] {
            sources.files.insert(path.into(), bytes.into());
        }
        let (config, mut found) = parse(&sources);
        let (policy, more) = resolve(&config, &super::HostFacts::default(), now);
        found.extend(more);
        crate::diagnostic::render(&found, &sources, false);
        prop_assert_eq!(&parse(&sources).0, &config);
        prop_assert_eq!(&resolve(&config, &super::HostFacts::default(), now).0, &policy);
        prop_assert_eq!(print(&resolve(&config, &super::HostFacts::default(), now).0), print(&policy));
        let host = policy.host.as_ref();
        let (inbound, outbound) = host.map(|host| host.on("vmbr0")).unwrap_or_default();
        for list in [inbound, outbound] {
            let last = list.rules.last().map(|rule| rule.matches.clone());
            prop_assert_eq!(last, host.map(|_| Matches::default()));
        }
        for port in &policy.ports {
            for list in [&port.inbound, &port.outbound] {
                let last = list.rules.last().map(|rule| &rule.matches);
                prop_assert_eq!(last, Some(&Matches::default()));
            }
            prop_assert!(!port.macfilter || port.mac.is_some());
        }
    }
}
