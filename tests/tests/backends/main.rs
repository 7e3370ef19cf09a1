//! Programs that decide whom to ban, the real ones, and Tapwall that enforces it: seen by traffic. Needs root.
//!
//! Each runs in the node's namespace with files of its own. They find `fwctl` by its name in a directory that stands first in their path.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod crowdsec;
mod fail2ban;
mod sshguard;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::run;
use tapwall_tests::node::{DemoNode, Station};
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{UdpServer, exchange};
use tapwall_tests::tree::{ConfigTree, temporary_directory};
use tempfile::TempDir;

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(30);

/// A node that lets everybody in, and a directory for the program's files.
struct Bed {
    /// The program goes first, then the agent.
    place: TempDir,
    agent: Agent,
    _servers: Vec<UdpServer>,
    _tree: ConfigTree,
    node: DemoNode,
}

impl Bed {
    fn new() -> Self {
        let node = DemoNode::new().unwrap();
        let tree = ConfigTree::with_demo_guests().unwrap();
        let cluster = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n[IPSET management]\n192.0.2.200\n";
        tree.write("firewall/cluster.fw", cluster).unwrap();
        for vmid in [100, 101] {
            let guest = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
            tree.write_firewall(vmid, guest).unwrap();
        }
        let agent = Agent::start(&node.host.namespace, &tree).unwrap();
        let place = temporary_directory("backend").unwrap();
        agent.write_fwctl(place.path()).unwrap();
        let ends = [&node.host, &node.vm].into_iter();
        let ends = ends.flat_map(|at| [(at, at.v4_port(7)), (at, at.v6_port(7))]);
        let servers = ends.map(|(at, to)| UdpServer::start(&at.namespace, to).unwrap());
        Self {
            _servers: servers.collect(),
            place,
            agent,
            _tree: tree,
            node,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// A program in the node's namespace that finds `fwctl`.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.node.host.namespace.command(program.as_ref());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env(
                "PATH",
                format!("{}:{path}:/usr/sbin", self.place.path().display()),
            )
            .stdin(Stdio::null());
        command
    }

    /// Runs one to its end.
    fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> String {
        run(self.command(program).args(arguments)).unwrap()
    }

    /// What a source gets from the host and from a guest.
    fn answers(&self, source: IpAddr) -> [bool; 2] {
        [&self.node.host, &self.node.vm].map(|at: &Station| {
            let to = SocketAddr::new(at.address_like(source), 7);
            let from = &self.node.outside.namespace;
            let seen = exchange(from, source, to, b"backend", Duration::from_millis(200));
            assert!(seen == Answered || seen == Silent, "{seen}");
            seen == Answered
        })
    }

    /// Waits until all of a source's packets die, or pass.
    #[track_caller]
    fn becomes(&self, source: IpAddr, banned: bool, words: &dyn Fn() -> String) {
        let deadline = Instant::now() + patience(SOON);
        while self.answers(source) != [!banned; 2] {
            assert!(
                Instant::now() < deadline,
                "{source} does not become {}:\n{}\n{}",
                if banned { "banned" } else { "free" },
                words(),
                self.agent.stderr()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn bans(&self) -> Vec<Value> {
        let output = self.agent.fwctl(&["bans", "--json"]).unwrap();
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        listed["bans"].as_array().unwrap().clone()
    }
}

/// A program that runs beside the test, with all of its children; they end with it.
struct Running {
    child: Child,
    words: PathBuf,
}

impl Running {
    fn start(command: &mut Command, words: PathBuf) -> Self {
        let file = fs::File::create(&words).unwrap();
        let child = command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            // What it ends, it ends by its group, of which this process must be none.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, words }
    }

    fn words(&self) -> String {
        fs::read_to_string(&self.words).unwrap_or_default()
    }

    /// Asks the program to end, as systemd does: the whole group.
    fn end(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let deadline = Instant::now() + patience(SOON);
        if let Some(group) = group {
            kill_process_group(group, Signal::TERM).unwrap_or_default();
            while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                if Instant::now() > deadline {
                    kill_process_group(group, Signal::KILL).unwrap_or_default();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // Children that outlived it.
            kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
    }
}

/// A line of sshd's about a failed login, as syslog has it now.
fn failed_login(source: IpAddr, number: usize) -> String {
    let now = run(Command::new("date").arg("+%b %e %H:%M:%S")).unwrap();
    let port = 50_000 + number;
    format!(
        "{} node sshd[1234]: Failed password for invalid user admin from {source} port {port} ssh2\n",
        now.trim_end()
    )
}

/// Adds failed logins to a log, one by one.
fn attack(log: &Path, source: IpAddr, count: usize) {
    use std::io::Write;
    let mut file = fs::File::options().append(true).open(log).unwrap();
    for number in 0..count {
        file.write_all(failed_login(source, number).as_bytes())
            .unwrap();
    }
}
