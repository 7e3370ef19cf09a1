//! What outlives the agent, the maps, the machine.

use serde_json::Value;
use tapwall_tests::node::{STRANGER_V4, STRANGER_V6};

use super::{bed, is_answered, is_banned, servers};
use crate::{done, fwctl, json};

#[test]
fn bans_outlive_the_agent_and_the_map() {
    let (node, _tree, mut agent) = bed();
    let _servers = servers(&node);
    done(
        &agent,
        &["ban", "192.0.2.201", "--for", "1h", "--reason", "kept"],
    );
    agent.terminate().unwrap();
    is_banned(&node, STRANGER_V4);
    // Nobody is asked.
    done(&agent, &["ban", "2001:db8:1::201", "--for", "forever"]);
    done(&agent, &["ban", "203.0.113.7", "--for", "boot"]);
    is_banned(&node, STRANGER_V6);
    let mut agent = agent.restart(&node.host.namespace).unwrap();
    is_banned(&node, STRANGER_V4);

    agent.terminate().unwrap();
    done(&agent, &["stop"]);
    is_answered(&node, STRANGER_V4);
    let (text, code) = fwctl(&agent, &["ban", "203.0.113.8"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("the firewall is not loaded: bans are noted"),
        "{text}"
    );
    done(&agent, &["unban", "203.0.113.7"]);
    let agent = agent.restart(&node.host.namespace).unwrap();
    for source in [STRANGER_V4, STRANGER_V6] {
        is_banned(&node, source);
    }
    agent
        .wait_said("bans from before are in force again")
        .unwrap();
    let listed = json(&agent, &["bans", "--json"]);
    let bans = listed["bans"].as_array().unwrap().iter();
    let addresses: Vec<&str> = bans.map(|ban| ban["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["192.0.2.201", "203.0.113.8", "2001:db8:1::201"]);
    assert_eq!(listed["bans"][0]["reason"], "kept");
}

#[test]
fn after_a_boot_those_are_banned_whose_time_is_not_over() {
    let (node, _tree, mut agent) = bed();
    let _servers = servers(&node);
    agent.terminate().unwrap();
    done(&agent, &["stop"]);
    let line = |net: &str, made: u64, lasts: &str| {
        format!(
            "{{\"banned\":{{\"net\":\"{net}\",\"by\":\"fwctl\",\"reason\":\"\",\"made\":{made},\"lasts\":{lasts}}}}}\n"
        )
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    let hour = 3_600_000;
    // As the machine left it when it went down a day ago.
    let made = now - 24 * hour;
    let text = [
        "{\"loaded\":{\"boot\":\"another\",\"map\":1}}\n".to_owned(),
        line("192.0.2.201/32", made, "\"forever\""),
        line(
            "203.0.113.1/32",
            made,
            &format!("{{\"until\":{}}}", now - hour),
        ),
        line(
            "203.0.113.2/32",
            made,
            &format!("{{\"until\":{}}}", now + hour),
        ),
        line("203.0.113.3/32", made, "\"boot\""),
        // A clock that ran ahead.
        line(
            "203.0.113.4/32",
            now + 500 * hour,
            &format!("{{\"until\":{}}}", now + 502 * hour),
        ),
    ];
    std::fs::write(agent.state_directory().join("bans.jsonl"), text.concat()).unwrap();
    let agent = agent.restart(&node.host.namespace).unwrap();
    is_banned(&node, STRANGER_V4);
    let listed = json(&agent, &["bans", "--json"]);
    let bans = listed["bans"].as_array().unwrap().iter();
    let left = |ban: &Value| {
        ban["remaining_seconds"]
            .as_u64()
            .map(|left| left.div_ceil(900))
    };
    let bans: Vec<_> = bans
        .map(|ban| (ban["address"].as_str().unwrap(), left(ban)))
        .collect();
    // In quarters of an hour.
    assert_eq!(
        bans,
        [
            ("192.0.2.201", None),
            ("203.0.113.2", Some(4)),
            ("203.0.113.4", Some(8))
        ]
    );
}
