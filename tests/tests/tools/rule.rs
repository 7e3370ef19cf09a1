//! `fwctl rule` and `fwctl save`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{Refused, Silent};
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::ConfigTree;

use crate::{done, fwctl, json};

const RULES: &str =
    "# keep\n[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n\n[RULES]\n# first\nIN  ACCEPT -p tcp -dport 22   # ssh\n\n|IN DROP -p tcp\n";

#[test]
fn an_edit_changes_one_line_and_is_enforced() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let path = tree.path().join("firewall/100.fw");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let ask = || {
        let (from, to) = (&node.outside, node.vm.v4_port(5000));
        let timeout = Duration::from_millis(200);
        exchange(&from.namespace, from.v4(), to, b"?", timeout)
    };
    assert_eq!(ask(), Refused, "nobody listens, and nothing is in the way");
    let words = ["IN", "DROP", "-p", "udp", "-dport", "5000"];
    let record = agent.after(|| {
        let add = ["rule", "add", "--comment", "by hand", "100"];
        let said = done(&agent, &[&add[..], &words].concat());
        assert!(said.starts_with("added: firewall/100.fw:11: IN DROP"), "{said}");
        Ok(())
    });
    record.unwrap();
    assert_eq!(ask(), Silent);
    let expect = format!("{RULES}IN DROP -p udp -dport 5000 # by hand\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), expect);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

    let check = |words: &[&str]| fwctl(&agent, &[&["rule", "check", "100"], words].concat()).1;
    assert_eq!(check(&["in", "drop", "-dport", "5000", "-proto", "udp"]), Some(0));
    assert_eq!(check(&["IN", "DROP", "-p", "tcp"]), Some(1), "it is disabled");
    assert_eq!(check(&["IN", "DROP", "-p", "udp"]), Some(1));
    assert_eq!(check(&["IN", "NONSENSE"]), Some(2));

    agent
        .after(|| {
            done(&agent, &["rule", "replace", "100", "1", "IN", "SSH(ACCEPT)"]);
            done(&agent, &[&["rule", "del", "100"], &words[..]].concat());
            Ok(())
        })
        .unwrap();
    let expect = RULES.replace("IN  ACCEPT -p tcp -dport 22  ", "IN SSH(ACCEPT)");
    assert_eq!(fs::read_to_string(&path).unwrap(), expect);
    let listed = json(&agent, &["rule", "list", "100", "--json"]);
    assert_eq!(listed["rules"][0]["text"], "IN SSH(ACCEPT) # ssh");
    assert_eq!(listed["rules"][1]["line"], 10);
}

#[test]
fn what_would_newly_be_wrong_is_refused_and_nothing_is_written() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let before = "[OPTIONS]\nenable: 1\nfrobnicate: 1\n[RULES]\nIN DROP\n";
    tree.write_firewall(100, before).unwrap();
    let path = tree.path().join("firewall/100.fw");
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    for (arguments, expect) in [
        (&["rule", "add", "100", "IN", "ACCEPT", "-source", "+missing"][..], "missing"),
        (&["rule", "add", "100", "IN", "ACCEPT", "-p", "tcp"], "fw:6"),
        (&["rule", "insert", "100", "3", "IN", "ACCEPT"], "there is no rule 3: the list has 1"),
        (&["rule", "add", "100", "FORWARD", "ACCEPT"], "use IN or OUT"),
        (&["rule", "add", "100/net0", "IN", "ACCEPT"], "-i netN"),
        (&["rule", "add", "group/none", "IN", "ACCEPT"], "no security group \"none\""),
        (&["rule", "add", "555", "IN", "ACCEPT"], "there is no guest 555"),
        (&["rule", "del", "100", "IN", "REJECT"], "there is no rule"),
    ] {
        let (text, code) = fwctl(&agent, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expect), "{arguments:?}: {text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "{arguments:?}");
    }
    // What was wrong before is no reason.
    let dry = ["rule", "insert", "--dry-run", "100", "1", "IN", "SSH(ACCEPT)"];
    let said = done(&agent, &dry);
    assert!(said.starts_with("would be inserted: firewall/100.fw:5:"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    let forced = ["rule", "add", "--force", "--json", "100", "IN", "ACCEPT", "-p", "tcp"];
    let (text, code) = fwctl(&agent, &forced);
    assert_eq!(code, Some(1), "{text}");
    let after = format!("{before}IN ACCEPT -p tcp\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), after);
    let left = fs::read_dir(tree.path().join("firewall")).unwrap();
    assert_eq!(left.count(), 2, "nothing is left beside the files");
}

#[test]
fn many_edits_at_once_lose_none() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, "[OPTIONS]\nenable: 1\n").unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    std::thread::scope(|scope| {
        for port in 7000..7008 {
            let agent = &agent;
            scope.spawn(move || {
                let port = port.to_string();
                let rule = ["IN", "DROP", "-p", "udp", "-dport", &port];
                done(agent, &[&["rule", "add", "100"], &rule[..]].concat())
            });
        }
    });
    let listed = json(&agent, &["rule", "list", "100", "--json"]);
    assert_eq!(listed["rules"].as_array().unwrap().len(), 8, "{listed}");
}

#[test]
fn what_is_saved_can_be_used_again() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &format!("{RULES}IN nonsense\n")).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let (before, code) = fwctl(&agent, &["rules", "--json"]);
    assert_eq!(code, Some(1), "a line is not enforced");
    let before = before.split_inclusive("\n}\n").next().unwrap();
    let before: serde_json::Value = serde_json::from_str(before).unwrap();
    let one = done(&agent, &["save", "100"]);
    assert_eq!(
        one,
        "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n\n[RULES]\nIN  ACCEPT -p tcp -dport 22   # ssh\n"
    );
    let place = tapwall_tests::tree::temporary_directory("save").unwrap();
    done(&agent, &["save", "--to", place.path().to_str().unwrap()]);
    for file in ["firewall/cluster.fw", "firewall/100.fw"] {
        let text = fs::read_to_string(place.path().join(file)).unwrap();
        agent.after(|| tree.write(file, &format!("# saved\n{text}"))).unwrap();
    }
    let after = json(&agent, &["rules", "--json"]);
    let texts = |listing: &serde_json::Value| -> Vec<String> {
        let rows = listing["rules"].as_array().unwrap().iter();
        rows.map(|row| format!("{} {} {}", row["number"], row["matches"], row["text"]))
            .collect()
    };
    assert_eq!(texts(&before), texts(&after));
}
