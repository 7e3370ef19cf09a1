//! A ban holds from the moment it is made, in connections that run too.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tapwall_tests::node::STRANGER_V4;
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::Answered;
use tapwall_tests::probe::{UdpServer, exchange};

use super::{SOON, bed, connection, places};
use crate::done;

#[test]
fn nothing_of_a_source_arrives_once_the_ban_is_made() {
    let (node, _tree, agent) = bed();
    let to = node.vm.v4_port(7);
    let server = UdpServer::start(&node.vm.namespace, to).unwrap();
    let socket = node
        .outside
        .namespace
        .run(|| Ok(UdpSocket::bind((STRANGER_V4, 0))?))
        .unwrap();
    socket.connect(to).unwrap();
    let payload = |number: u32| format!("number {number}").into_bytes();
    let mut sent: Vec<Instant> = Vec::new();
    let mut send = || {
        socket
            .send(&payload(u32::try_from(sent.len()).unwrap()))
            .unwrap();
        sent.push(Instant::now());
    };
    send();
    assert!(server.receives(&payload(0), patience(SOON)));
    let mut command = agent.fwctl_command().unwrap();
    command.args(["ban", "192.0.2.201"]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = loop {
        send();
        std::thread::sleep(Duration::from_millis(1));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    let over = Instant::now();
    assert!(status.success());
    for _ in 0..300 {
        send();
        std::thread::sleep(Duration::from_millis(1));
    }
    // What is not banned arrives behind it.
    let other = exchange(
        &node.outside.namespace,
        node.outside.v4(),
        to,
        b"other",
        patience(SOON),
    );
    assert_eq!(other, Answered);
    let arrived =
        |number: usize| server.receives(&payload(u32::try_from(number).unwrap()), Duration::ZERO);
    let before = sent.iter().filter(|time| **time < over).count();
    let late: Vec<usize> = (before..sent.len())
        .filter(|number| arrived(*number))
        .collect();
    assert_eq!(
        late,
        [0; 0],
        "of {} sent after the ban",
        sent.len() - before
    );
    let last = (0..before).rev().find(|number| arrived(*number)).unwrap();
    assert!(last + 1 < sent.len());
    eprintln!(
        "the last of {before} datagrams before the command's end that arrived was sent {:?} before it",
        over - sent[last]
    );
}

/// Whether what one end says reaches the other in time.
fn reaches((near, far): &mut (TcpStream, TcpStream), timeout: Duration) -> bool {
    near.write_all(b"?").unwrap();
    far.set_read_timeout(Some(timeout)).unwrap();
    far.read_exact(&mut [0]).is_ok()
}

#[test]
fn connections_that_run_are_cut() {
    let (node, _tree, agent) = bed();
    for place in places(&node) {
        let mut banned = connection(&node, place, STRANGER_V4);
        let mut other = connection(&node, place, node.outside.v4());
        assert!(reaches(&mut banned, patience(SOON)));
        done(&agent, &["ban", "192.0.2.201", "--automatic"]);
        assert!(!reaches(&mut banned, Duration::from_millis(500)));
        assert!(reaches(&mut other, patience(SOON)));
        done(&agent, &["unban", "192.0.2.201"]);
        // What was sent meanwhile is sent again.
        assert!(reaches(&mut banned, patience(SOON)), "it goes on");
    }
}
