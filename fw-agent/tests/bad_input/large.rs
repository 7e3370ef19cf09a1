//! Ten megabytes of one construct, lines of a million characters, and bytes that are not text.
//!
//! Work is counted by what comes out: at most one report per line, each of bounded length.

use super::{check, read, sources};

/// Bytes of a file; optimized builds take the whole ten megabytes, which cost minutes without optimization.
const SIZE: usize = if cfg!(debug_assertions) {
    1 << 20
} else {
    10 << 20
};

/// `line` as often as it fits.
fn filled(head: &str, line: &str) -> Vec<u8> {
    let count = (SIZE - head.len()) / line.len();
    [head.to_owned(), line.repeat(count)].concat().into_bytes()
}

#[test]
fn ten_megabytes_of_one_construct() {
    let guest = "firewall/100.fw";
    let cluster = "firewall/cluster.fw";
    for (path, head, line) in [
        (cluster, "[OPTIONS]\n", "enable: 1\n"),
        (cluster, "[OPTIONS]\n", "enable: x\n"),
        (cluster, "[ALIASES]\n", "aa 10.0.0.1\n"),
        (cluster, "[IPSET aa]\n", "10.0.0.1\n"),
        (cluster, "[IPSET aa]\n", "10.0.0.0/8/9\n"),
        (cluster, "", "[IPSET aa]\n"),
        (cluster, "", "[nothing]\n"),
        (cluster, "", "[\n"),
        (
            cluster,
            "[group gg]\n",
            "IN ACCEPT -p tcp -dport 1:2,3:4,ssh -source 10.0.0.0/8\n",
        ),
        (cluster, "[group gg]\n", "IN ACCEPT -source +mising\n"),
        (guest, "[RULES]\n", "IN HTPS(ACCEPT)\n"),
        (
            guest,
            "[OPTIONS]\nenable: 1\n[RULES]\n",
            "IN accept  -i  net0\r\n",
        ),
        (
            guest,
            "[OPTIONS]\nenable: 1\n[RULES]\n",
            "IN DROP -source 1.2.3.4-5.6.7.8\n",
        ),
        (guest, "", "\n"),
        (guest, "", "\0"),
        (guest, "", "\u{feff}"),
        (
            "nodes/n/qemu-server/100.conf",
            "",
            "net0: virtio=x,firewall=1\n",
        ),
        ("nodes/n/qemu-server/100.conf", "net0: ", "a=b,"),
        ("sdn/.running-config", "", "["),
        (".vmlist", "", "{\"ids\":"),
    ] {
        let bytes = filled(head, line);
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        let mut files = vec![(path, bytes)];
        if path != "nodes/n/qemu-server/100.conf" {
            let nic = b"net0: virtio=02:00:00:00:00:01,firewall=1".to_vec();
            files.push(("nodes/n/qemu-server/100.conf", nic));
        }
        let (_, _, found) = read(&sources(files));
        // Three remarks about one line at the most, and a handful about the whole.
        assert!(
            found.len() <= 3 * lines + 10,
            "{head:?} {line:?}: {} diagnostics for {lines} lines",
            found.len()
        );
        let longest = found.iter().map(|found| found.to_string().len()).max();
        assert!(longest.unwrap_or_default() <= 500, "{head:?} {line:?}");
    }
}

#[test]
fn lines_of_a_million_characters() {
    const MANY: usize = 1_000_000;
    for (path, head, piece) in [
        ("firewall/cluster.fw", "[OPTIONS]\npolicy_in: ", "x"),
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nlog_ratelimit: ",
            "enable=1,",
        ),
        ("firewall/cluster.fw", "[IPSET ", "a"),
        ("firewall/cluster.fw", "[IPSET aa]\n", "1"),
        ("firewall/cluster.fw", "[ALIASES]\n", "a "),
        ("firewall/cluster.fw", "[ALIASES]\n", "ä"),
        (
            "firewall/100.fw",
            "[RULES]\nIN ACCEPT -source ",
            "10.0.0.1,",
        ),
        ("firewall/100.fw", "[RULES]\nIN ACCEPT -p tcp -dport ", "1,"),
        ("firewall/100.fw", "[RULES]\nIN ACCEPT ", "-i "),
        ("firewall/100.fw", "[RULES]\nIN ACCEPT ", "-p tcp "),
        ("firewall/100.fw", "[RULES]\nIN ACCEPT -p ", "t"),
        ("firewall/100.fw", "[RULES]\n", "IN "),
        ("firewall/100.fw", "[RULES]\nIN ", "("),
        ("firewall/100.fw", "[OPTIONS]\nlayer2_protocols: ", "ARP,"),
        ("nodes/n/qemu-server/100.conf", "net0: ", "virtio,"),
        ("nodes/n/qemu-server/100.conf", "net0: trunks=", "1;"),
    ] {
        let text = format!("{head}{}\n", piece.repeat(MANY));
        let sources = sources([(path, text.into_bytes())]);
        let (found, shown) = check(&sources);
        assert!(found.len() <= 10, "{head:?} {piece:?}: {}", found.len());
        assert!(
            shown.len() <= 2_000 * (found.len() + 1),
            "{head:?} {piece:?}"
        );
    }
}

#[test]
fn bytes_that_are_not_text() {
    let good = "[OPTIONS]\nenable: 1\n[RULES]\nIN SSH(ACCEPT)\n";
    let nic = "net0: virtio=02:00:00:00:00:01,firewall=1\n";
    let policy = |guest: Vec<u8>, config: Vec<u8>| {
        let (_, policy, found) = read(&sources([
            ("firewall/cluster.fw", b"[OPTIONS]\nenable: 1\n".to_vec()),
            ("firewall/100.fw", guest),
            ("nodes/n/qemu-server/100.conf", config),
        ]));
        let rules = policy.ports.first().map(|port| {
            let rules = [&port.inbound.rules[..], &port.outbound.rules].concat();
            rules
                .into_iter()
                .map(|rule| (rule.matches, rule.verdict))
                .collect::<Vec<_>>()
        });
        (rules, found.len())
    };
    let (plain, none) = policy(good.into(), nic.into());
    assert_eq!(none, 0);
    let crlf = good.replace('\n', "\r\n");
    let marked = format!("\u{feff}{good}");
    let invalid = [good.as_bytes(), b"# \xff\xfe\n"].concat();
    let nul = [good.as_bytes(), b"\0\n\0\0IN DROP\n"].concat();
    for (name, guest, reports) in [
        ("CR LF", crlf.into_bytes(), 1),
        ("byte order mark", marked.into_bytes(), 0),
        ("invalid UTF-8", invalid, 1),
        ("NUL", nul, 2),
    ] {
        let (rules, found) = policy(guest, nic.into());
        assert_eq!(rules, plain, "{name}");
        assert_eq!(found, reports, "{name}");
    }
    let (rules, _) = policy(good.into(), nic.replace('\n', "\r\n").into_bytes());
    assert_eq!(rules, plain);
}

#[test]
fn references_that_lead_nowhere_or_back() {
    let cluster = "[ALIASES]\naa aa\nbb cc\n[IPSET s1]\ns1\n+s1\n+s2\naa\n[IPSET s2]\n+s1\n[group g1]\nGROUP g1\nGROUP g2\nIN ACCEPT -source +s1\n[group g2]\nGROUP g1\n[RULES]\nGROUP g1\nGROUP g3\n";
    let sources = sources([("firewall/cluster.fw", cluster.as_bytes().to_vec())]);
    let (found, _) = check(&sources);
    let lines: Vec<u32> = found
        .iter()
        .filter(|found| found.severity == fw_agent::diagnostic::Severity::Error)
        .map(|found| found.line)
        .collect();
    assert_eq!(lines, [2, 3, 6, 7, 10, 12, 13, 16, 5, 8, 19]);
}
