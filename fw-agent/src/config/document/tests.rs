//! Sections of a file and what is reported about them.

use super::*;
use crate::config::options::ClusterOptions;

fn parse(kind: Kind, text: &[u8]) -> (Document<ClusterOptions>, Vec<String>) {
    let mut found = Vec::new();
    let document = Document::parse(text, kind, &mut Reporter::new("f".into(), &mut found));
    (document, found.iter().map(ToString::to_string).collect())
}

fn check(kind: Kind, text: &str, expect: &[&str]) -> Document<ClusterOptions> {
    let (document, found) = parse(kind, text.as_bytes());
    assert_eq!(found, expect, "{text}");
    document
}

fn set(document: &Document<ClusterOptions>, name: &str) -> String {
    let entry = |entry: &Entry| {
        let not = if entry.nomatch { "!" } else { "" };
        match &entry.member {
            Member::Net(net) => format!("{not}{net}"),
            Member::Alias(name) => format!("{not}{}", name.name),
        }
    };
    document.sets[name]
        .entries
        .iter()
        .map(entry)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn line_ends_marks_and_comments_do_not_matter() {
    let text = "\u{feff}[Options] # a\r\nenable: 1\r\n [RULES]\t#\r\nIN ACCEPT#x\r\n[aliases]\r\nMy-Net \t 10.0.0.1/8 # c\r\n[ipset  Foo]#x\r\n! 10.0.0.1 \r\n[GROUP g1] # [RULES]\r\nOUT DROP";
    let read = "pve-firewall ignores this section, Tapwall reads it";
    let ignored = "pve-firewall ignores this line, Tapwall enforces it";
    let document = check(
        Kind::Cluster,
        text,
        &[
            &format!("f:1:1: warning: the lines of this file end with CR LF; {read}"),
            &format!("f:1:1: warning: a comment or a blank stands in this header; {read}"),
            &format!("f:3:2: warning: a comment or a blank stands in this header; {read}"),
            &format!(
                "f:6:10: warning: more than one blank stands between name and address; {ignored}"
            ),
        ],
    );
    assert_eq!(document.options.enable.value, 1);
    assert_eq!(document.rules[0].text.as_ref(), "IN ACCEPT");
    assert_eq!(document.aliases["my-net"].net.to_string(), "10.0.0.0/8");
    assert_eq!(set(&document, "foo"), "!10.0.0.1/32");
    assert_eq!(document.groups["g1"].rules[0].line, 10);
}

#[test]
fn unknown_sections_take_their_lines_with_them() {
    let ignored = "the lines up to the next section are ignored";
    for (kind, header, expect) in [
        (
            Kind::Cluster,
            "[FOO]",
            format!("f:2:1: error: `[FOO]` is not a section; {ignored}"),
        ),
        (
            Kind::Cluster,
            "[IPSET]",
            format!("f:2:1: error: `[IPSET]` is not a section; {ignored}"),
        ),
        (
            Kind::Cluster,
            "[RULES",
            format!("f:2:1: error: `[RULES` is not a section; {ignored}"),
        ),
        (
            Kind::Cluster,
            "[group a b]",
            format!("f:2:1: error: `[group a b]` is not a section; {ignored}"),
        ),
        (
            Kind::Cluster,
            "[group 1a]",
            format!("f:2:8: error: `1a` is not a valid name; {ignored}"),
        ),
        (
            Kind::Cluster,
            "[group abcdefghijklmnopqrs]",
            format!("f:2:8: error: `abcdefghijklmnopqrs` is not a valid name; {ignored}"),
        ),
        (
            Kind::Guest,
            "[group web]",
            format!("f:2:1: error: `[group web]` is not a section of this kind of file; {ignored}"),
        ),
        (
            Kind::Host,
            "[ALIASES]",
            format!("f:2:1: error: `[ALIASES]` is not a section of this kind of file; {ignored}"),
        ),
    ] {
        let document = check(
            kind,
            &format!("[RULES]\n{header}\nIN ACCEPT\nnonsense\n[RULES]\nIN DROP"),
            &[&expect],
        );
        assert_eq!(document.rules.len(), 1, "{header}");
    }
}

#[test]
fn repeated_sections() {
    let text = "[RULES]\nIN DROP\n[OPTIONS]\nenable: 0\n[RULES]\nIN ACCEPT\n[OPTIONS]\nenable: 1\n[IPSET aa]\n10.0.0.1\n[ipset AA]\n10.0.0.2\n10.0.0.1\n[group gg]\nIN DROP\n[group gg]";
    let replaced = "only the later section is used";
    let document = check(
        Kind::Cluster,
        text,
        &[
            "f:8:1: warning: `enable` is set in line 4 already; the later value is used",
            &format!("f:11:1: warning: this section replaces the one of line 9; {replaced}"),
            &format!("f:16:1: warning: this section replaces the one of line 14; {replaced}"),
        ],
    );
    assert_eq!(
        (document.rules.len(), document.options.enable.value),
        (2, 1)
    );
    assert_eq!(set(&document, "aa"), "10.0.0.2/32 10.0.0.1/32");
    assert!(document.groups["gg"].rules.is_empty());
}

#[test]
fn bad_lines_touch_no_other() {
    let document = check(
        Kind::Cluster,
        "before\n[OPTIONS]\nenable: 1 # x\nenable : 1\nnonsense\nEbtables:0\npolicy_in: maybe\n[RULES]\nIN FOO\nIN DROP\n[ALIASES]\nx 10.0.0.1\nab 10.0.0.1/33\nab two words\nab 10.0.0.1\nAB fd00::1",
        &[
            "f:1:1: error: the line stands before any section; the line is ignored",
            "f:3:9: error: `1 # x` is not a number; the line is ignored",
            "f:4:1: error: there is a blank before the colon; the line is ignored",
            "f:5:1: error: an option has the form `name: value`; the line is ignored",
            "f:7:12: error: `maybe` is not ACCEPT, DROP or REJECT; the line is ignored",
            "f:9:4: error: `FOO` is not an action; the rule is not enforced",
            "f:12:1: error: `x` is not a valid name; the alias is not defined",
            "f:13:4: error: `10.0.0.1/33` has a prefix that is too long; the alias is not defined",
            "f:14:1: error: an alias has the form `name address`; the alias is not defined",
            "f:16:1: warning: alias `ab` is defined in line 15 already; the later definition is used",
        ],
    );
    assert!(!document.options.ebtables.value);
    assert_eq!(document.rules.len(), 1);
    assert_eq!(document.aliases["ab"].net.to_string(), "fd00::1/128");
}

#[test]
fn entries_of_sets() {
    let skipped = "the entry is not in the set";
    let document = check(
        Kind::Guest,
        "[IPSET s1]\n10.0.0.1/24\n!10.0.0.7/24\n10.0.0.1\n!10.0.0.1/32\nfd00::32/128\nfd00::32\ndc/Foo\nDC/foo\nguest/foo\n10.0.0.0-10.0.0.2\n0.0.0.0/0\n10.0.0.1 10.0.0.2\n!\n10.0.0.256\n+other\n2001:db8::/32\n[IPSET s2]\n10.0.0.1",
        &[
            &format!("f:5:2: error: `10.0.0.1/32` is listed in this set already; {skipped}"),
            &format!("f:7:1: error: `fd00::32` is listed in this set already; {skipped}"),
            &format!("f:9:1: error: `DC/foo` is listed in this set already; {skipped}"),
            "f:11:1: warning: a range stands in a set; pve-firewall ignores this line, Tapwall enforces it",
            &format!("f:12:1: error: a set cannot hold every address; {skipped}"),
            &format!("f:13:1: error: a line of a set holds one address; {skipped}"),
            &format!("f:14:1: error: an address is missing; {skipped}"),
            &format!("f:15:1: error: `10.0.0.256` is not an address; {skipped}"),
            &format!("f:16:1: error: `+other` is not an address; {skipped}"),
        ],
    );
    assert_eq!(
        set(&document, "s1"),
        "10.0.0.0/24 !10.0.0.0/24 10.0.0.1/32 fd00::32/128 foo foo 10.0.0.0/31 10.0.0.2/32 2001:db8::/32"
    );
    assert_eq!(set(&document, "s2"), "10.0.0.1/32");
}

#[test]
fn bytes_that_are_not_text() {
    let (document, found) = parse(
        Kind::Cluster,
        b"[RULES]\nIN ACCEPT # caf\xe9\nIN\0 ACCEPT\nIN ACCEPT -p t\xffp\n",
    );
    assert_eq!(document.rules.len(), 1);
    assert_eq!(
        found,
        [
            "f:2:16: warning: the file is not valid UTF-8; the invalid bytes are read as U+FFFD",
            "f:3:1: error: `IN\\u{0}` is not a direction; the rule is not enforced",
            "f:4:14: error: `t\u{fffd}p` is not a known protocol; the rule is not enforced",
        ]
    );
}

#[test]
fn a_long_set_that_was_read_before_means_the_same() {
    let entry = |number: usize| format!("10.{}.{}.1\n", number / 250, number % 250);
    let long: String = (0..8000).map(entry).collect();
    let after = "[IPSET small]\n10.0.0.1\n10.0.0.1\n[RULES]\nIN NOTHING\n";
    let text = |before: &str, middle: &str, end: &str| {
        let (first, second) = long.split_at(long.len() / 2);
        let line = second.find('\n').unwrap() + 1;
        let (between, second) = second.split_at(line);
        format!("{before}[IPSET big]\n{first}{between}{middle}{second}{end}{after}")
    };
    let texts = [
        text("", "", ""),
        text("", "fd00::1\n", ""),
        text(
            "[OPTIONS]\nenable: 1\n",
            "fd00::1\n10.0.0.300\n",
            "10.1.1.1\n",
        ),
        text(
            "# one more line\n",
            "fd00::2\r\n\n",
            "wrong too\n10.99.0.1-10.99.0.2\n",
        ),
        text("", "alias1\n", ""),
        text("", "", " \t[OPTIONS]\nenable: 1\n"),
    ];
    let read = |text: &str, last: Option<&Document<ClusterOptions>>| {
        let mut found = Vec::new();
        let mut reporter = Reporter::new("f".into(), &mut found);
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let document = Document::parse_again(&bytes, Kind::Cluster, last, &mut reporter);
        (document, found)
    };
    for last in &texts {
        let (last, _) = read(last, None);
        for now in &texts {
            let (again, found) = read(now, Some(&last));
            let (anew, expect) = read(now, None);
            assert_eq!(found, expect);
            assert!(again == anew);
        }
    }
    let (document, found) = read(&texts[2], None);
    assert_eq!(
        document.sets["big"]
            .long
            .as_ref()
            .unwrap()
            .set
            .entries
            .len(),
        8001
    );
    let lines: Vec<_> = found.iter().map(|found| found.line).collect();
    let last = |text: &str| {
        1 + texts[2]
            .lines()
            .collect::<Vec<_>>()
            .iter()
            .rposition(|line| *line == text)
            .unwrap() as u32
    };
    assert_eq!(
        lines,
        ["10.0.0.300", "10.1.1.1", "10.0.0.1", "IN NOTHING"].map(last)
    );
    let (document, _) = read(&texts[4], None);
    assert!(document.sets["big"].long.is_none());
    assert_eq!(document.sets["big"].entries.len(), 8001);
}
