//! Bans over the control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::STRANGER_V4;
use tapwall_tests::patience::patience;

use super::{SOON, bed, is_answered, is_banned, servers};
use crate::json;

/// One request over the control socket: the status, and the body as JSON.
fn ask(agent: &Agent, method: &str, body: &str) -> (u16, Value) {
    let socket = agent.run_directory().join("control.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience(SOON))).unwrap();
    write!(
        stream,
        "{method} /v1/bans HTTP/1.1\r\nHost: tapwall\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")),
    )
}

#[test]
fn bans_over_the_control_socket() {
    let (node, _tree, agent) = bed();
    let _servers = servers(&node);
    let wanted = r#"{"addresses":["192.0.2.201"],"for":3600,"by":"monitor","reason":"flood"}"#;
    let (status, said) = ask(&agent, "POST", wanted);
    assert_eq!((status, &said["enforced"]), (200, &true.into()), "{said}");
    is_banned(&node, STRANGER_V4);
    let (status, listed) = ask(&agent, "GET", "");
    assert_eq!(
        (status, &listed["bans"][0]["reason"]),
        (200, &"flood".into())
    );
    assert_eq!(listed["bans"], json(&agent, &["bans", "--json"])["bans"]);
    for (method, body, expect, part) in [
        (
            "POST",
            r#"{"addresses":["192.0.2.200"],"for":"forever","by":"x"}"#,
            409,
            "management set",
        ),
        (
            "POST",
            r#"{"addresses":["nobody"],"for":"boot","by":"x"}"#,
            400,
            "nobody",
        ),
        (
            "POST",
            r#"{"addresses":["192.0.2.9"],"for":"ever","by":"x"}"#,
            400,
            "number of seconds",
        ),
        (
            "POST",
            r#"{"addresses":["192.0.2.9"],"for":1,"by":" "}"#,
            400,
            "empty",
        ),
        (
            "POST",
            r#"{"addresses":["192.0.2.9"],"for":1,"by":"x","fro":1}"#,
            400,
            "fro",
        ),
        ("POST", "nonsense", 400, "error"),
        ("DELETE", "{}", 400, "say whose"),
        ("DELETE", r#"{"all":true,"by":"monitor"}"#, 400, "say whose"),
        ("PUT", "{}", 405, "method"),
    ] {
        let (status, said) = ask(&agent, method, body);
        assert_eq!(status, expect, "{body}: {said}");
        assert!(said.to_string().contains(part), "{body}: {said}");
    }
    let (status, said) = ask(&agent, "DELETE", r#"{"by":"monitor"}"#);
    assert_eq!((status, &said["lifted"]), (200, &json!(["192.0.2.201"])));
    is_answered(&node, STRANGER_V4);
}
