//! Arbitrary bytes, and bad lines between good ones.

use proptest::prelude::*;

use super::{FILES, check, read, sources};
use fw_agent::policy::NodePolicy;
use fw_common::verdict::Reason;

/// Pieces of configuration and bytes that are none.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "[OPTIONS]\n",
        "[RULES]\r\n",
        "[ALIASES] # x\n",
        "[IPSET a1]\n",
        "[group g1]\n",
        "[nope]\n",
        "]",
        "\n",
        "#",
        "!",
        "|",
        "IN ",
        "OUT ",
        "GROUP g1 ",
        "FORWARD ",
        "ACCEPT ",
        "drop ",
        "SSH(ACCEPT) ",
        "-p tcp ",
        "-dport ",
        "22,80:90 ",
        "-source ",
        "+a1 ",
        "+sdn/v1-all ",
        "dc/aa ",
        "aa ",
        "10.0.0.0/8 ",
        "10.0.0.1-10.0.0.9",
        ",",
        "::/0 ",
        "-i net0 ",
        "-log info ",
        "enable: 1\n",
        "policy_in: ",
        "log_ratelimit: ",
        "ipfilter: 1\n",
        "net0: virtio=02:00:00:00:00:01,firewall=1\n",
        "{",
        "}",
        "\"vnets\":",
        "\"ids\":",
        "\u{feff}",
        "\0",
        "ä",
        "99999999999999999999",
    ]);
    prop_oneof![
        8 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..50).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The work is counted, not timed: each line is reported a bounded number of times, and each report has a bounded length.
    #[test]
    fn arbitrary_files_are_checked_in_linear_work(files in prop::collection::vec(bytes(), FILES.len())) {
        let lines: usize = files.iter().map(|file| file.split(|byte| *byte == b'\n').count()).sum();
        let size: usize = files.iter().map(Vec::len).sum();
        let sources = sources(FILES.into_iter().zip(files));
        let (found, text) = check(&sources);
        prop_assert!(found.len() <= 12 * lines + 10 * FILES.len(), "{} diagnostics for {lines} lines", found.len());
        // A report shows at most the line it is about, twice (excerpt and underline).
        prop_assert!(text.len() <= found.len() * 6_000, "{} bytes for {size}", text.len());
        prop_assert_eq!(check(&sources).0, found);
    }
}

/// A valid file per scope, as blocks of which the first line is a header; lines of junk go between the others.
const CLUSTER: &[&str] = &[
    "[OPTIONS]",
    "enable: 1",
    "policy_in: DROP",
    "[ALIASES]",
    "aa 10.0.0.1",
    "net 192.0.2.0/24",
    "[IPSET s1]",
    "10.1.0.0/16",
    "!10.1.2.0/24",
    "aa",
    "[RULES]",
    "IN ACCEPT -source +s1",
    "GROUP g1",
    "[group g1]",
    "IN SSH(ACCEPT) -source net",
    "OUT DROP -dest +s1",
];
const GUEST: &[&str] = &[
    "[OPTIONS]",
    "enable: 1",
    "policy_out: REJECT",
    "[IPSET mine]",
    "aa",
    "fd00::/64",
    "[RULES]",
    "IN HTTP(ACCEPT) -source +mine -log info",
    "GROUP g1",
    "OUT ACCEPT -p udp -dport 53",
    "|IN DROP",
];

/// A line that means nothing anywhere.
fn junk_line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("IN".to_owned()),
        Just("nonsense".to_owned()),
        Just("IN ACCEPT -dport 22".to_owned()),
        Just("IN ACCEPT -source +missing".to_owned()),
        Just("enable: maybe".to_owned()),
        Just("10.0.0.0/99".to_owned()),
        Just("aa aa".to_owned()),
        Just("zz zz zz zz".to_owned()),
        Just("GROUP".to_owned()),
        Just("# [RULES]".to_owned()),
        Just("0.0.0.0/0".to_owned()),
        Just("\0\u{1}\u{7f}".to_owned()),
        "[^\\[\r\n]{0,30}".prop_map(|text| format!("? {text}")),
        "[-,:/+0-9a-z]{100,400}".prop_map(|text| format!("= {text}")),
    ]
}

fn with_junk(lines: &[&str], junk: &[(usize, String)]) -> Vec<u8> {
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        out.push_str(line);
        out.push('\n');
        let here = junk.iter().filter(|(at, _)| at % lines.len() == index);
        for (_, text) in here {
            out.push_str(text);
            out.push('\n');
        }
    }
    out.into_bytes()
}

/// What the rules do, without the numbers of their lines.
fn meaning(policy: &NodePolicy) -> Vec<String> {
    let ports = policy.ports.iter();
    let lists = ports.flat_map(|port| [&port.inbound, &port.outbound]);
    let rules = lists.flat_map(|list| &list.rules);
    rules
        .map(|rule| {
            let is_written = rule.reason == Reason::Rule;
            let text = if is_written { &*rule.origin.text } else { "" };
            format!(
                "{:?} {:?} {:?} {text}",
                rule.verdict, rule.log, rule.matches
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bad_line_changes_what_no_other_means(
        cluster in prop::collection::vec((any::<usize>(), junk_line()), 0..8),
        guest in prop::collection::vec((any::<usize>(), junk_line()), 0..8),
    ) {
        let files = |cluster: &[_], guest: &[_]| sources([
            ("firewall/cluster.fw", with_junk(CLUSTER, cluster)),
            ("firewall/100.fw", with_junk(GUEST, guest)),
            ("nodes/n/qemu-server/100.conf", b"net0: virtio=02:00:00:00:00:01,firewall=1\n".to_vec()),
        ]);
        let (good, policy, found) = read(&files(&[], &[]));
        prop_assert_eq!(found, []);
        let (bad, with_junk, _) = read(&files(&cluster, &guest));
        prop_assert_eq!(meaning(&policy), meaning(&with_junk));
        prop_assert_eq!(policy.enabled, with_junk.enabled);
        prop_assert_eq!(good.cluster.options.policy_in.value, bad.cluster.options.policy_in.value);
        let texts = |config: &fw_agent::config::Config| config.cluster.rules.iter().map(|rule| rule.text.clone()).filter(|text| !text.contains("missing")).collect::<Vec<_>>();
        prop_assert_eq!(texts(&good), texts(&bad));
    }
}
