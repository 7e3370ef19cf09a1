//! `fwctl diff`.

use std::fs;

use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::tree::{ConfigTree, temporary_directory};

use crate::{done, fwctl, json};

const CLUSTER: &str = "[OPTIONS]\nenable: 1\n[IPSET friends]\n198.51.100.1\n198.51.100.2\n[group web]\nIN ACCEPT -p tcp -dport 80 -source +friends\n";

#[test]
fn a_candidate_is_compared_with_what_is_in_force() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write("firewall/cluster.fw", CLUSTER).unwrap();
    for vmid in [100, 101] {
        let guest = "[OPTIONS]\nenable: 1\n[RULES]\nGROUP web\n";
        tree.write_firewall(vmid, guest).unwrap();
    }
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let place = temporary_directory("candidate").unwrap();
    let candidate = |name: &str, text: &str| {
        let path = place.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    assert_eq!(done(&agent, &["diff"]), "no difference\n");
    let same = candidate("cluster.fw", &format!("# the same\n{CLUSTER}"));
    let said = done(&agent, &["diff", &same]);
    assert_eq!(said, "the files differ, but in nothing that is enforced\n");

    let other = CLUSTER
        .replace("198.51.100.1\n", "198.51.100.0/29\n203.0.113.7\n")
        .replace("-dport 80 ", "-dport 443 ");
    let other = candidate("cluster.fw", &other);
    let (said, code) = fwctl(&agent, &["diff", &other]);
    assert_eq!(code, Some(1), "{said}");
    insta::assert_snapshot!(said, @"
    sets and aliases
      firewall/cluster.fw:3: set friends gains 2 entries (198.51.100.0/29, 203.0.113.7), loses 1 entry (198.51.100.1); for 100/net0, 101/net0
    rules in, at 100/net0, 101/net0
      - firewall/cluster.fw:7: [group web] IN ACCEPT -p tcp -dport 80 -source +friends
      + firewall/cluster.fw:8: [group web] IN ACCEPT -p tcp -dport 443 -source +friends
    ports
      tcp 443 in, at 100/net0, 101/net0: closed -> open to some
      tcp 80 in, at 100/net0, 101/net0: open to some -> closed
    ");
    let (said, code) = fwctl(&agent, &["diff", "--json", &other]);
    assert_eq!(code, Some(1), "{said}");
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        found["rules"][0]["places"],
        serde_json::json!(["100/net0", "101/net0"])
    );
    assert_eq!(found["rules"][0]["after"]["line"], 8);
    assert_eq!(found["names"][0]["gained"][0], 2);

    // What is on trial is in force, and what an agent that has ended did last.
    done(&agent, &["apply", "--confirm", "600", &other]);
    assert_eq!(fwctl(&agent, &["diff", &other]).0, "no difference\n");
    let back = json_of(&agent, &["diff", "--json"]);
    assert_eq!(back["names"][0]["lost"][0], 2);
    done(&agent, &["revert"]);
    agent.terminate().unwrap();
    tree.write_firewall(101, "[OPTIONS]\nenable: 0\n").unwrap();
    let said = json_of(&agent, &["diff", "--json"]);
    assert_eq!(said["options"][0]["name"], "enable");
    assert_eq!(said["options"][0]["file"], "firewall/101.fw");
    let guest = candidate("101.fw", "[OPTIONS]\nenable: 0\n");
    let said = done(&agent, &["diff", "--from", &guest]);
    assert_eq!(said, "no difference\n");
    assert!(json(&agent, &["diff", "--json", "--from", &guest])["rules"].is_array());
}

/// What a verb printed that found a difference.
fn json_of(agent: &Agent, arguments: &[&str]) -> serde_json::Value {
    let (said, code) = fwctl(agent, arguments);
    assert_eq!(code, Some(1), "{arguments:?}: {said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}
