//! The control socket.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use fw_agent::control::{client, socket};
use tapwall_tests::agent::{Agent, program};
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::{ConfigTree, NODE};

/// A raw request; the whole answer.
fn http(agent: &Agent, request: &str) -> String {
    let mut stream = UnixStream::connect(socket(agent.run_directory())).unwrap();
    let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_answers_what_it_knows_and_refuses_the_rest() {
    let namespace = Netns::new("control").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(
        100,
        "[OPTIONS]\nenable: 1\n\n[RULES]\nIN ACCEPT -p nonsense\n",
    )
    .unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    let metadata = std::fs::metadata(socket(agent.run_directory())).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let status = client::status(agent.run_directory()).unwrap();
    assert!(status.running && !status.pending, "{status:?}");
    assert_eq!(status.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert!(status.uptime.is_some_and(|seconds| seconds < 600));
    assert_eq!(Some(&status.record), agent.record().unwrap().as_ref());
    assert_eq!((status.record.pid, status.record.errors), (agent.pid(), 1));

    let answer = http(&agent, "GET /v1/diagnostics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let found: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(found[0]["file"], "firewall/100.fw");
    assert_eq!(
        (&found[0]["line"], &found[0]["column"]),
        (&5.into(), &14.into())
    );
    assert_eq!(found[0]["severity"], "error");

    for (request, expect) in [
        ("GET /", "404"),
        ("GET /v2/status", "404"),
        ("GET /v1/reload", "405"),
        ("POST /v1/status", "405"),
        ("GET /v1/trial", "200"),
        ("PUT /v1/trial", "405"),
        ("POST /v1/trial", "409"),
        ("DELETE /v1/trial", "409"),
        ("POST /v1/trial/confirm", "409"),
    ] {
        let answer = http(&agent, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expect} ")),
            "{request}: {answer}"
        );
    }
}

#[test]
fn what_is_on_trial_is_told_and_ended() {
    let namespace = Netns::new("trial").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    let trial = || {
        let answer = http(&agent, "GET /v1/trial");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    };
    assert!(trial().is_null());
    let candidate = tree.path().join("100.fw");
    std::fs::write(&candidate, "[OPTIONS]\nenable: 1\n").unwrap();
    let apply = ["apply", "--confirm", "600", candidate.to_str().unwrap()];
    assert!(agent.fwctl(&apply).unwrap().status.success());
    let found = trial();
    assert_eq!(found["files"], serde_json::json!(["firewall/100.fw"]));
    assert!(
        found["seconds_left"]
            .as_u64()
            .is_some_and(|left| left > 500 && left <= 600)
    );
    assert_eq!(found["unwritten"], serde_json::json!([]));
    let answer = http(&agent, "DELETE /v1/trial");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(trial().is_null());
}

#[test]
fn a_reload_reads_everything_before_it_answers() {
    let namespace = Netns::new("reload").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    let before = client::status(agent.run_directory()).unwrap();
    for enable in [0, 1, 0] {
        tree.write(
            "firewall/cluster.fw",
            &format!("[OPTIONS]\nenable: {enable}\n"),
        )
        .unwrap();
        let status = client::reload(agent.run_directory()).unwrap();
        assert_eq!(status.record.enabled, enable == 1);
        assert!(!status.pending);
        assert!(status.record.generation > before.record.generation);
    }
}

#[test]
fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let namespace = Netns::new("stale").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    // What a killed agent leaves: a socket that nobody listens at.
    let agent = Agent::spawn_adjusted(&namespace, &tree, |command| {
        let run = command
            .get_args()
            .skip_while(|argument| *argument != "--run-dir")
            .nth(1)
            .unwrap();
        drop(UnixListener::bind(socket(run.as_ref())).unwrap());
    })
    .unwrap();
    agent.wait_said("policy enforced").unwrap();
    assert!(client::status(agent.run_directory()).unwrap().running);

    let second = Command::new(program("fw-agent").unwrap())
        .arg("--root")
        .arg(tree.path())
        .args(["--node", NODE, "--pin-dir"])
        .arg(agent.pin_directory())
        .arg("--run-dir")
        .arg(agent.run_directory())
        .arg("--state-dir")
        .arg(agent.state_directory())
        .arg("--log-file")
        .arg(tree.path().join("log"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains("another agent holds the lock"), "{said}");
    let status = client::status(agent.run_directory()).unwrap();
    assert_eq!(status.record.pid, agent.pid());
}

#[test]
fn an_agent_that_ends_takes_its_socket_along() {
    let namespace = Netns::new("ended").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let mut agent = Agent::start(&namespace, &tree).unwrap();
    agent.terminate().unwrap();
    assert!(!socket(agent.run_directory()).exists());
}
