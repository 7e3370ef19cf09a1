//! The host's interfaces, addresses and routes.

use std::time::Duration;

use tapwall_tests::agent::Agent;
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::{ConfigTree, NODE};

const LIMIT: Duration = Duration::from_secs(10);

/// The node's address has a network (and `local_network` a value) if a route says so; until then that is a warning.
#[test]
fn a_route_or_an_address_that_comes_or_goes_is_seen_without_a_change_of_files_or_devices() {
    let namespace = Netns::new("routes").unwrap();
    namespace
        .ip("link add eno1 type veth peer name eno2\nlink set eno1 up\nlink set eno2 up\naddr add 10.9.0.1/24 dev eno1")
        .unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let members =
        format!("{{\"nodename\":\"{NODE}\",\"nodelist\":{{\"{NODE}\":{{\"ip\":\"192.0.2.1\"}}}}}}");
    tree.write(".members", &members).unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    let settled = |warnings| {
        let what = format!("{warnings} warnings");
        agent.wait_for(LIMIT, &what, |record| record.warnings == warnings)
    };
    settled(1).unwrap();
    for (change, warnings) in [
        ("route add 192.0.2.0/24 dev eno1", 0),
        ("route del 192.0.2.0/24 dev eno1", 1),
        ("addr add 192.0.2.1/24 dev eno1", 0),
        ("addr del 192.0.2.1/24 dev eno1", 1),
    ] {
        namespace.ip(change).unwrap();
        let seen = settled(warnings);
        assert!(seen.is_ok(), "{change}: {seen:?}");
    }
}

#[test]
fn interfaces_that_the_settings_exclude_are_not_the_hosts() {
    let namespace = Netns::new("exclude").unwrap();
    namespace
        .ip("link add eno1 type veth peer name eno2\nlink add wg0 type veth peer name wg1")
        .unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let settings = tree.path().join("agent.toml");
    tree.write(
        "agent.toml",
        "[interfaces]\ninclude = [\"eno*\", \"wg0\"]\nexclude = [\"*2\"]\nexlude = []\n",
    )
    .unwrap();
    let agent = Agent::spawn_adjusted(&namespace, &tree, |command| {
        command.arg("--config").arg(&settings);
    })
    .unwrap();
    let record = agent
        .wait_for(LIMIT, "the host's interfaces", |record| record.enabled)
        .unwrap();
    let names: Vec<&str> = record.host.iter().map(|own| own.device.as_str()).collect();
    assert_eq!(names, ["eno1", "wg0"]);
    assert!(record.host.iter().all(|own| own.attached), "{record:?}");
    let said = agent.stderr();
    assert!(
        said.contains("agent.toml:4:1: warning: no setting is called `interfaces.exlude`"),
        "{said}"
    );
}
