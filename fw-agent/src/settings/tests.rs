use std::collections::BTreeSet;

use super::*;

const SAMPLE: &str = include_str!("../../../packaging/agent.toml");

/// The sample with every key that it shows taken out of its comment.
fn uncommented() -> String {
    let key = |line: &str| {
        let (name, value) = line.split_once(" = ")?;
        let is_key = !value.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
        is_key.then(|| line.to_owned())
    };
    let lines = SAMPLE.lines().map(|line| {
        let text = line.strip_prefix("# ").and_then(key);
        text.unwrap_or_else(|| line.to_owned()) + "\n"
    });
    lines.collect()
}

#[test]
fn the_sample_shows_every_key_and_its_default() {
    assert_eq!(
        Settings::parse("x", SAMPLE),
        (Settings::default(), Vec::new())
    );
    let text = uncommented();
    let table: toml::Table = text.parse().unwrap();
    let mut shown = BTreeSet::new();
    for (name, value) in &table {
        match value.as_table() {
            Some(section) => shown.extend(section.keys().map(|key| format!("{name}.{key}"))),
            None => {
                shown.insert(name.clone());
            }
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(shown, known);
    let sections: BTreeSet<&str> = KEYS
        .iter()
        .filter_map(|key| Some(key.path.split_once('.')?.0))
        .collect();
    assert_eq!(sections, BTreeSet::from(SECTIONS));
    // All but these three, which have no value by default, are shown with it.
    let expect = Settings {
        node: Some("pve1".into()),
        log_json: Some("/var/log/tapwall.json".into()),
        metrics_address: Some(([127, 0, 0, 1], 9099).into()),
        ..Settings::default()
    };
    assert_eq!(Settings::parse("x", &text), (expect, Vec::new()));
}

#[test]
fn every_key_is_taken_over() {
    let text = r#"
node = "n"
reevaluate = true
[paths]
root = "/a"
pins = "/b"
run = "/c"
state = "/d"
[interfaces]
include = ["eno*"]
exclude = ["eno2"]
[log]
file = "/e"
json = "/f"
[metrics]
address = "[::1]:9"
rules = 5
"#;
    let expect = Settings {
        root: "/a".into(),
        node: Some("n".into()),
        pin_directory: "/b".into(),
        run_directory: "/c".into(),
        state_directory: "/d".into(),
        interfaces: Interfaces {
            include: vec!["eno*".into()],
            exclude: vec!["eno2".into()],
        },
        log_file: "/e".into(),
        log_json: Some("/f".into()),
        reevaluate: true,
        metrics_address: Some((std::net::Ipv6Addr::LOCALHOST, 9).into()),
        metrics_rules: 5,
    };
    assert_eq!(Settings::parse("x", text), (expect, Vec::new()));
}

/// Every text has one mistake, and a key after it that must be taken over all the same.
#[test]
fn a_mistake_is_reported_with_its_place_and_costs_its_key_only() {
    let cases = [
        (
            "nodes = \"a\"\nreevaluate = true\n",
            "x:1:1: warning: no setting is called `nodes`; it is ignored",
        ),
        (
            "reevaluate = true\n[log]\nfile = \"/e\"\n  jsno = \"/f\"\n",
            "x:4:3: warning: no setting is called `log.jsno`; it is ignored",
        ),
        (
            "reevaluate = true\n[numbers]\naddress = 1\n",
            "x:2:2: warning: no setting is called `numbers`; it is ignored",
        ),
        (
            "reevaluate = true\nmetrics = { address = \"localhost\" }\n",
            "x:2:23: error: `metrics.address`: invalid socket address syntax; the default is used instead",
        ),
        (
            "node = 7\nreevaluate = true\n",
            "x:1:8: error: `node`: invalid type: integer `7`, expected a string; the default is used instead",
        ),
        (
            "node = \"a/b\"\nreevaluate = true\n",
            "x:1:8: error: `node`: not the name of a node; the default is used instead",
        ),
        (
            "reevaluate = true\n[paths]\nroot = \"etc\"\n",
            "x:3:8: error: `paths.root`: not an absolute path; the default is used instead",
        ),
        (
            "reevaluate = true\npaths = 3\n",
            "x:2:1: warning: no setting is called `paths`; it is ignored",
        ),
        (
            "reevaluate = true\n[interfaces]\ninclude = [\"a\", 3]\n",
            "x:3:17: error: `interfaces.include`: invalid type: integer `3`, expected a string; the default is used instead",
        ),
    ];
    for (text, expect) in cases {
        let (settings, found) = Settings::parse("x", text);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(said, [expect], "{text}");
        assert!(settings.reevaluate, "{text}");
        assert_eq!(settings.node, None, "{text}");
        assert_eq!(settings.interfaces, Interfaces::default(), "{text}");
    }
    let (_, found) = Settings::parse("x", "reevalute = true");
    assert_eq!(found[0].hint.as_deref(), Some("did you mean `reevaluate`?"));
}

#[test]
fn what_is_no_toml_is_left_out() {
    for text in [
        "node = \nreevaluate = true\n",
        "reevaluate = true\n[paths\nroot = \"/x\n",
        "= = =\nreevaluate = true\n",
        "reevaluate = true\nreevaluate = true\n",
    ] {
        let (settings, found) = Settings::parse("x", text);
        let is_placed = |found: &Diagnostic| found.severity == Severity::Error && found.line > 0;
        assert!(found.iter().any(is_placed), "{text}: {found:?}");
        assert!(settings.reevaluate, "{text}: {found:?}");
    }
}

#[test]
fn only_a_named_file_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    assert!(Settings::read(Some(&path)).is_err());
    std::fs::write(&path, "reevaluate = true\n").unwrap();
    let (settings, found) = Settings::read(Some(&path)).unwrap();
    assert!(settings.reevaluate && found.is_empty());
}
