//! The packaged unit under a real systemd: process 1 of its own namespaces, on an overlay of this machine's root, in the demo node's network.
//!
//! Needs no virtual machine. Where the machine forbids the mounts that this takes, or has no systemd, the test says so and ends.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tapwall_tests::agent::program;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::{ConfigTree, temporary_directory};
use tempfile::TempDir;

use crate::packaging::{FIRST, first_of_all};

const LIMIT: Duration = Duration::from_secs(60);
const UNIT: &str = "tapwall.service";
const LOG: &str = "/var/log/pve-firewall.log";
/// Where the agent asks for short grace periods.
const GRACE: &str = "/sys/kernel/rcu_expedited";

/// A machine as far as systemd can tell; it ends when dropped.
struct Booted {
    outer: Child,
    first: Pid,
    group: Option<PathBuf>,
    _place: TempDir,
}

impl Booted {
    /// Boots; none if this machine does not let us, which it says.
    fn start(node: &DemoNode, tree: &ConfigTree) -> Option<Self> {
        if !Path::new("/lib/systemd/systemd").exists() {
            eprintln!("skipped: systemd is not installed");
            return None;
        }
        let place = temporary_directory("systemd").unwrap();
        let said = place.path().join("said");
        let work = place.path().join("work");
        fs::create_dir(&work).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let group = new_group();
        let out = fs::File::create(&said).unwrap();
        // The new process joins its control group before it makes that the root of a namespace.
        let join = "if [ -n \"$1\" ]; then echo $$ > \"$1/cgroup.procs\"; fi; shift; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", join, "sh"]);
        command.arg(group.as_deref().unwrap_or(Path::new("")));
        command.arg("nsenter");
        command.arg(format!("--net={}", node.host.namespace.path().display()));
        command.args([
            "--",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        command.args(["--cgroup", "--uts", "--ipc", "--", "sh"]);
        command.arg(here.join("tests/service/systemd/boot.sh"));
        command.arg(&work);
        command.args([program("fw-agent").unwrap(), program("fwctl").unwrap()]);
        command.arg(tree.path());
        command.arg(here.join("../packaging"));
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap());
        let mut outer = command.stdout(out).spawn().unwrap();
        let deadline = Instant::now() + LIMIT;
        let first = loop {
            let said = fs::read_to_string(&said).unwrap();
            if let Some(why) = said.lines().find_map(|line| line.strip_prefix("skip: ")) {
                eprintln!(
                    "skipped: this machine does not let us boot systemd in namespaces: {why}"
                );
                outer.wait().unwrap();
                remove_group(group);
                return None;
            }
            assert!(outer.try_wait().unwrap().is_none(), "it ended: {said}");
            assert!(Instant::now() < deadline, "it does not boot: {said}");
            if let Some(first) = systemd_below(outer.id()) {
                break first;
            }
            sleep(Duration::from_millis(10));
        };
        let booted = Self {
            outer,
            first,
            group,
            _place: place,
        };
        booted.until("systemd answers", || {
            booted
                .systemctl(&["is-active", "basic.target"])
                .status
                .success()
        });
        Some(booted)
    }

    /// Runs a program inside.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.as_raw_nonzero().to_string()]);
        command.args([
            "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--",
        ]);
        command.args(words).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn systemctl(&self, words: &[&str]) -> Output {
        self.run(&[&["systemctl"], words].concat())
    }

    /// Runs a program inside that must do what it is asked to; what it printed.
    #[track_caller]
    fn insist(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{words:?}: {}: {text}{error}\n{}",
            output.status,
            self.journal()
        );
        text
    }

    fn property(&self, name: &str) -> String {
        let property = format!("--property={name}");
        let text = self.insist(&["systemctl", "show", &property, "--value", UNIT]);
        text.trim().to_owned()
    }

    /// The agent's number inside; 0: there is none.
    fn agent(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }

    fn journal(&self) -> String {
        let output = self.run(&["journalctl", "--no-pager", "--unit", UNIT]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "not {what}; {}", self.journal());
            sleep(Duration::from_millis(20));
        }
    }

    /// A file inside.
    fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first.as_raw_nonzero()))
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // With process 1 the kernel ends all others of the namespace.
        if let Err(error) = kill_process(self.first, Signal::KILL) {
            eprintln!("ending systemd: {error}");
        }
        if let Err(error) = self.outer.wait() {
            eprintln!("waiting for systemd: {error}");
        }
        remove_group(self.group.take());
    }
}

/// A control group of its own, so that systemd finds no processes of others in it; none where there are no groups of version 2.
fn new_group() -> Option<PathBuf> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mount = mounts
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists())?;
    let group = mount.join(format!("tapwall-test-{}", std::process::id()));
    fs::create_dir(&group).ok().map(|()| group)
}

fn remove_group(group: Option<PathBuf>) {
    let Some(group) = group else { return };
    let deadline = Instant::now() + Duration::from_secs(5);
    // A group goes when its processes are reaped, and after those inside it.
    while group.exists() && Instant::now() < deadline {
        let mut remove = Command::new("find");
        remove
            .arg(&group)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        if remove.stderr(Stdio::null()).status().is_err() {
            return;
        }
    }
}

/// The systemd that is a child of this process or of its children.
fn systemd_below(parent: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        let child = child.parse().ok()?;
        match name.trim() == "systemd" {
            true => Pid::from_raw(child),
            false => systemd_below(child.cast_unsigned()),
        }
    })
}

fn tcp(node: &DemoNode, port: u16) -> Answer {
    let outside = &node.outside;
    let to = node.vm.v4_port(port);
    connect(&outside.namespace, outside.v4(), to, TIMEOUT)
}

#[track_caller]
fn is_in_force(node: &DemoNode, open: u16, closed: u16) {
    assert_eq!(tcp(node, open), Answered, "{open}");
    assert_eq!(tcp(node, closed), Silent, "{closed}");
}

fn rules(port: u16) -> String {
    format!(
        "[OPTIONS]\nenable: 1\npolicy_in: DROP\nlog_level_in: info\n\n[RULES]\nIN ACCEPT -p tcp -dport {port}\n"
    )
}

#[test]
fn the_unit_works_under_a_real_systemd() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &rules(80)).unwrap();
    let servers = [80, 81].map(|port| TcpServer::start(&node.vm.namespace, node.vm.v4_port(port)));
    assert!(servers.iter().all(Result::is_ok));
    let Some(machine) = Booted::start(&node, &tree) else {
        return;
    };
    starts_ready_and_hardened(&machine, &node);
    speaks_to_the_journal_in_fields(&machine);
    reloads_and_restarts(&machine, &node, &tree);
    is_started_again_when_it_hangs(&machine, &node);
    rotates_its_log(&machine, &node);
    stops_for_good(&machine, &node);
    excludes_the_other_firewall(&machine, &node);
}

fn starts_ready_and_hardened(machine: &Booted, node: &DemoNode) {
    machine.insist(&["fwctl", "start"]);
    // It is up when the command returns, and then the policy is in force: nothing is waited for here.
    assert_eq!(machine.property("ActiveState"), "active");
    is_in_force(node, 80, 81);
    let status = machine.insist(&["fwctl", "status"]);
    assert!(status.starts_with("Status: enabled/running\n"), "{status}");
    assert!(machine.property("StatusText").starts_with("generation 1, "));
    let process = machine.file(&format!("/proc/{}/status", machine.agent()));
    let text = fs::read_to_string(process).unwrap();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    // CAP_NET_ADMIN, CAP_SYS_NICE, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h).
    let expect = format!("{:016x}", 1_u64 << 12 | 1 << 23 | 1 << 38 | 1 << 39);
    assert_eq!(
        (field("CapEff:"), field("CapBnd:")),
        (expect.clone(), expect)
    );
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:")),
        ("1".into(), "2".into())
    );
    assert_eq!(machine.property("MemoryMax"), (2_u64 << 30).to_string());
    let tasks = machine.file(&format!("/proc/{}/task", machine.agent()));
    let first = first_of_all(&tasks);
    assert!(first.iter().eq(FIRST), "{first:?}: {}", machine.journal());
    // Its own view of the file system: nothing but these may be written.
    let mounts = machine.file(&format!("/proc/{}/mountinfo", machine.agent()));
    let mounts = fs::read_to_string(mounts).unwrap();
    let options = |place: &str| {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        lines
            .rfind(|words| words[4] == place)
            .map(|words| words[5].to_owned())
    };
    for place in ["/", "/sys", "/proc/sys"] {
        assert!(
            options(place).unwrap().starts_with("ro"),
            "{place}: {mounts}"
        );
    }
    if machine.file(GRACE).exists() {
        assert!(options(GRACE).unwrap().starts_with("rw"), "{mounts}");
        assert!(!machine.journal().contains(GRACE), "{}", machine.journal());
    }
    for place in [
        "/sys/fs/bpf",
        "/var/log",
        "/run/tapwall",
        "/var/lib/tapwall",
    ] {
        assert!(
            options(place).unwrap().starts_with("rw"),
            "{place}: {mounts}"
        );
    }
}

fn speaks_to_the_journal_in_fields(machine: &Booted) {
    let json = machine.insist(&["journalctl", "--no-pager", "--unit", UNIT, "--output=json"]);
    let lines = json
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let enforced: Vec<Value> = lines
        .filter(|line| line["MESSAGE"] == "policy enforced")
        .collect();
    assert!(!enforced.is_empty(), "{json}");
    for line in enforced {
        assert_eq!(line["_TRANSPORT"], "journal", "{line}");
        assert_eq!(line["SYSLOG_IDENTIFIER"], "tapwall", "{line}");
        assert_eq!(line["PRIORITY"], "6", "{line}");
        assert!(
            line["F_PORTS"].is_string() && line["F_ACTIONS"].is_string(),
            "{line}"
        );
        assert_eq!(
            line["TARGET"].as_str().unwrap().split("::").next(),
            Some("fw_agent")
        );
    }
}

fn reloads_and_restarts(machine: &Booted, node: &DemoNode, tree: &ConfigTree) {
    let before = machine.agent();
    // A reload is over when the command returns.
    tree.write_firewall(100, &rules(81)).unwrap();
    machine.insist(&["systemctl", "reload", UNIT]);
    is_in_force(node, 81, 80);
    tree.write_firewall(100, &rules(80)).unwrap();
    machine.insist(&["fwctl", "restart"]);
    is_in_force(node, 80, 81);
    assert_eq!(machine.agent(), before);
    machine.insist(&["systemctl", "restart", UNIT]);
    assert_ne!(machine.agent(), before);
    is_in_force(node, 80, 81);
}

fn is_started_again_when_it_hangs(machine: &Booted, node: &DemoNode) {
    let before = machine.agent();
    machine.insist(&["kill", "-STOP", &before.to_string()]);
    is_in_force(node, 80, 81);
    machine.until(
        "started again",
        || !matches!(machine.agent(), now if now == 0 || now == before),
    );
    is_in_force(node, 80, 81);
    machine.until("up", || machine.property("ActiveState") == "active");
    assert!(machine.property("NRestarts").parse::<u32>().unwrap() > 0);
    is_in_force(node, 80, 81);
}

fn rotates_its_log(machine: &Booted, node: &DemoNode) {
    if machine.run(&["logrotate", "--version"]).status.code() == Some(127) {
        eprintln!("skipped: logrotate is not installed");
        return;
    }
    let log = machine.file(LOG);
    let agent = machine.agent();
    let has =
        |file: &Path, words: &str| fs::read_to_string(file).is_ok_and(|text| text.contains(words));
    // What was refused until now is in it.
    machine.until("the log begun", || has(&log, " DPT=81 "));
    machine.insist(&["logrotate", "--force", "/etc/logrotate.d/tapwall"]);
    assert!(has(&machine.file(&format!("{LOG}.1")), " DPT=81 "));
    machine.until("the logs opened anew", || {
        machine.journal().contains("SIGHUP")
    });
    assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    assert_eq!(tcp(node, 81), Silent);
    machine.until("the new log begun", || has(&log, " DPT=81 "));
    assert_eq!(machine.agent(), agent);
    assert_eq!(
        fs::metadata(&log).unwrap().permissions().mode() & 0o7777,
        0o640
    );
}

fn stops_for_good(machine: &Booted, node: &DemoNode) {
    machine.insist(&["systemctl", "stop", UNIT]);
    is_in_force(node, 80, 81);
    machine.insist(&["systemctl", "start", UNIT]);
    // At a moment when systemd is about to start the agent again.
    let agent = machine.agent().to_string();
    machine.insist(&["kill", "-KILL", &agent]);
    machine.until("noticed", || machine.property("MainPID") != agent);
    machine.insist(&["fwctl", "stop"]);
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!((tcp(node, 80), tcp(node, 81)), (Answered, Answered));
    assert!(
        !machine.file("/sys/fs/bpf/tapwall").exists(),
        "nothing is left"
    );
    let status = machine.run(&["fwctl", "status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.starts_with("Status: enabled/stopped"), "{text}");
}

fn excludes_the_other_firewall(machine: &Booted, node: &DemoNode) {
    machine.insist(&["systemctl", "start", UNIT]);
    machine.insist(&["systemctl", "start", "pve-firewall.service"]);
    // Nothing orders the two: it may still be stopping.
    machine.until("stopped", || machine.property("ActiveState") == "inactive");
    machine.insist(&["systemctl", "start", UNIT]);
    let other = machine.systemctl(&["is-active", "pve-firewall.service"]);
    assert_eq!(String::from_utf8_lossy(&other.stdout).trim(), "inactive");
    is_in_force(node, 80, 81);
    machine.insist(&["fwctl", "stop"]);
}
