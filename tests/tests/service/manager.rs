//! What the service manager is told, over a real socket.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::{Netns, run};
use tapwall_tests::tree::{ConfigTree, temporary_directory};

/// More than the agent may take to start on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    lines: VecDeque<String>,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        let lines = VecDeque::new();
        Self { socket, lines }
    }

    /// The next line, if one comes within this time.
    fn next(&mut self, within: Duration) -> Option<String> {
        if self.lines.is_empty() {
            self.socket.set_read_timeout(Some(within)).unwrap();
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).ok()?;
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            self.lines.extend(text.lines().map(str::to_owned));
        }
        self.lines.pop_front()
    }

    /// Waits for a line that starts so; what came before it.
    #[track_caller]
    fn wait(&mut self, start: &str, agent: &Agent) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.next(left.max(Duration::from_millis(1)));
            let Some(line) = line else {
                panic!("no {start} after {before:?}; {}", agent.stderr());
            };
            if line.starts_with(start) {
                return before;
            }
            before.push(line);
        }
    }
}

#[test]
fn readiness_status_reloads_and_the_end_are_told() {
    let namespace = Netns::new("notify").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let place = temporary_directory("notify").unwrap();
    let path = place.path().join("notify");
    let mut manager = Manager::listen(&path);
    let mut agent = Agent::spawn_adjusted(&namespace, &tree, |command| {
        command.env("NOTIFY_SOCKET", &path);
    })
    .unwrap();
    let before = manager.wait("READY=1", &agent);
    assert_eq!(before, Vec::<String>::new());
    // Readiness means that the policy is in force.
    assert!(agent.record().unwrap().is_some_and(|record| record.enabled));
    manager.wait("STATUS=generation ", &agent);
    agent.signal(Signal::HUP).unwrap();
    let before = manager.wait("RELOADING=1", &agent);
    assert!(
        !before.iter().any(|line| line == "WATCHDOG=1"),
        "nobody asked for it: {before:?}"
    );
    manager.wait("MONOTONIC_USEC=", &agent);
    manager.wait("READY=1", &agent);
    agent.terminate().unwrap();
    manager.wait("STOPPING=1", &agent);
}

#[test]
fn the_watchdog_is_fed_by_the_loop_and_not_while_it_hangs() {
    let namespace = Netns::new("watchdog").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let place = temporary_directory("watchdog").unwrap();
    let path = place.path().join("notify");
    let mut manager = Manager::listen(&path);
    let agent = Agent::spawn_adjusted(&namespace, &tree, |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000");
    })
    .unwrap();
    for _ in 0..3 {
        manager.wait("WATCHDOG=1", &agent);
    }
    // A file that cannot be read to its end stands for a cluster file system that hangs.
    let pipe = tree.path().join("firewall/101.fw");
    run(Command::new("mkfifo").arg(&pipe)).unwrap();
    // Opening returns when the agent has opened the other end; it reads until this one is closed.
    let hold = OpenOptions::new().write(true).open(&pipe).unwrap();
    while manager.next(Duration::from_millis(100)).is_some() {}
    // Three ticks.
    let said = manager.next(Duration::from_secs(3));
    assert_eq!(said, None, "the loop hangs");
    std::fs::remove_file(&pipe).unwrap();
    drop(hold);
    manager.wait("WATCHDOG=1", &agent);
    drop(agent);
}
