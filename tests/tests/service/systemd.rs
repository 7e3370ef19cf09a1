//! The packaged unit under a real systemd: process 1 of its own namespaces, on an overlay of this machine's root, in the demo node's network.
//!
//! Needs no virtual machine. Where the machine forbids the mounts that this takes, or has no systemd, the test says so and ends.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tapwall_tests::agent::program;
use tapwall_tests::booted::Booted;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::{ConfigTree, temporary_directory};
use tempfile::TempDir;

use crate::packaging::{FIRST, first_of_all};

const UNIT: &str = "tapwall.service";
const LOG: &str = "/var/log/tapwall.log";
/// Where the agent asks for short grace periods.
const GRACE: &str = "/sys/kernel/rcu_expedited";

/// What lies over the machine's root: the programs, and what is packaged with them.
fn over() -> TempDir {
    let over = temporary_directory("over").unwrap();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let put = |file: &str, text: &str| {
        let path = over.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    };
    let packaged = |file| fs::read_to_string(packaging.join(file)).unwrap();
    put(
        "etc/systemd/system/tapwall.service",
        &packaged("tapwall.service"),
    );
    put("etc/logrotate.d/tapwall", &packaged("logrotate"));
    let settings = packaged("agent.toml");
    let own_log = format!("[log]\nfile = \"{LOG}\"");
    let settings = settings.replace("[log]", &own_log);
    put(
        "etc/tapwall/agent.toml",
        &format!("node = \"demo\"\n{settings}"),
    );
    // A firewall of the same node, as far as systemd can tell.
    let other = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n";
    put("etc/systemd/system/pve-firewall.service", other);
    // The watchdog of the unit, but not its half a minute.
    let watchdog = "etc/systemd/system/tapwall.service.d/watchdog.conf";
    put(watchdog, "[Service]\nWatchdogSec=3\n");
    fs::create_dir_all(over.path().join("usr/sbin")).unwrap();
    for name in ["fw-agent", "fwctl"] {
        let link = over.path().join("usr/sbin").join(name);
        symlink(program(name).unwrap(), link).unwrap();
    }
    over
}

/// A machine that must do what it is asked to.
struct Machine(Booted);

impl Machine {
    fn run(&self, words: &[&str]) -> Output {
        self.0.run(words).unwrap()
    }

    fn systemctl(&self, words: &[&str]) -> Output {
        self.run(&[&["systemctl"], words].concat())
    }

    /// What a program prints inside.
    #[track_caller]
    fn insist(&self, words: &[&str]) -> String {
        self.0.insist(words).unwrap()
    }

    #[track_caller]
    fn property(&self, name: &str) -> String {
        self.0.property(UNIT, name).unwrap()
    }

    /// The agent's number inside; 0: there is none.
    fn agent(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }

    fn journal(&self) -> String {
        self.0.journal()
    }

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.0.until(what, || Ok(holds())).unwrap();
    }

    fn file(&self, path: &str) -> PathBuf {
        self.0.file(path)
    }
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
    let over = over();
    let booted = Booted::start(&node.host.namespace, over.path(), Some(tree.path()));
    let Some(machine) = booted.unwrap().map(Machine) else {
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

fn starts_ready_and_hardened(machine: &Machine, node: &DemoNode) {
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

fn speaks_to_the_journal_in_fields(machine: &Machine) {
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

fn reloads_and_restarts(machine: &Machine, node: &DemoNode, tree: &ConfigTree) {
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

fn is_started_again_when_it_hangs(machine: &Machine, node: &DemoNode) {
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

fn rotates_its_log(machine: &Machine, node: &DemoNode) {
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

fn stops_for_good(machine: &Machine, node: &DemoNode) {
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

fn excludes_the_other_firewall(machine: &Machine, node: &DemoNode) {
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
