//! The files that are installed beside the programs.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use libc::{SCHED_OTHER, SCHED_RR};
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::run;
use tapwall_tests::node::{DemoNode, TAP};
use tapwall_tests::tree::{ConfigTree, temporary_directory};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(name)
}

/// Values of a key of the unit, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let lines = lines.filter(|(name, _)| *name == key);
    let words = lines.flat_map(|(_, value)| value.split_whitespace());
    words.map(str::to_owned).collect()
}

/// The threads that close new devices, by name, that run before all others: by `SCHED_RR`, with the least priority. `tasks`: the process's `/proc/PID/task`.
pub(crate) fn first_of_all(tasks: &Path) -> BTreeSet<String> {
    /// Fields 40 and 41 of proc_pid_stat(5), counted from the one behind the name: priority and policy.
    const PRIORITY_AND_POLICY: [usize; 2] = [37, 38];
    let mut found = BTreeSet::new();
    for task in fs::read_dir(tasks).unwrap() {
        // A thread that has ended meanwhile.
        let Ok(text) = fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (name, fields) = text.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = fields.split(' ').collect();
        let (_, name) = name.split_once(" (").unwrap();
        match PRIORITY_AND_POLICY.map(|at| fields[at].parse::<i32>().unwrap()) {
            [0, SCHED_OTHER] => {}
            [1, SCHED_RR] => drop(found.insert(name.to_owned())),
            other => panic!("{name}: {other:?}"),
        }
    }
    found
}

/// The threads that are to do so.
pub(crate) const FIRST: [&str; 3] = ["door egress", "door ingress", "doorkeeper"];

#[test]
fn the_unit_keeps_the_agent_alive_and_small() {
    let unit = fs::read_to_string(packaging("tapwall.service")).unwrap();
    for (key, expect) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("RuntimeDirectoryPreserve", "yes"),
    ] {
        assert_eq!(values(&unit, key), [expect], "{key}");
    }
    assert!(values(&unit, "Before").contains(&"network-pre.target".to_owned()));
    for other in ["pve-firewall.service", "proxmox-firewall.service"] {
        assert!(values(&unit, "Conflicts").contains(&other.to_owned()));
    }
}

/// An agent with the capabilities of the unit and no others attaches to a guest, and a second one adopts what it finds.
#[test]
fn the_units_capabilities_are_enough() {
    let unit = fs::read_to_string(packaging("tapwall.service")).unwrap();
    let allowed: Vec<String> = values(&unit, "CapabilityBoundingSet")
        .iter()
        .map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase())
        .collect();
    let bounding = format!("--bounding-set=-all,+{}", allowed.join(",+"));
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let limit = |command: &mut Command| {
        // nsenter itself needs more; what comes after its `--` is the agent.
        let mut arguments: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
        let at = arguments
            .iter()
            .position(|argument| argument == "--")
            .unwrap()
            + 1;
        let wrapper = ["setpriv", &bounding, "--no-new-privs", "--"];
        arguments.splice(at..at, wrapper.map(Into::into));
        let mut wrapped = Command::new(command.get_program());
        wrapped.args(arguments);
        wrapped.stdin(Stdio::null()).stdout(Stdio::null());
        wrapped.stderr(Stdio::piped());
        *command = wrapped;
    };
    let mut agent = Agent::spawn_adjusted(&node.host.namespace, &tree, limit).unwrap();
    // Longer than the programs take to load on a busy machine.
    let start = Duration::from_secs(60);
    agent.wait_for(start, "its first record", |_| true).unwrap();
    let before = agent.wait_attached(TAP, None).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let held = status.lines().find(|line| line.starts_with("CapEff:"));
    let held = u64::from_str_radix(held.unwrap()[7..].trim(), 16).unwrap();
    assert_eq!(held.count_ones() as usize, allowed.len(), "{held:x}");
    let tasks = PathBuf::from(format!("/proc/{}/task", agent.pid()));
    assert!(first_of_all(&tasks).iter().eq(FIRST), "{}", agent.stderr());
    agent = agent.respawn_adjusted(&node.host.namespace, limit).unwrap();
    agent.wait_for(start, "its first record", |_| true).unwrap();
    let after = agent.wait_attached(TAP, None).unwrap();
    assert_ne!(before.pid, after.pid);
    assert_eq!((before.degraded, after.degraded), (vec![], vec![]));
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    const UNIT: &str = "tapwall.service";
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        return;
    }
    let place = temporary_directory("unit").unwrap();
    let unit = fs::read_to_string(packaging("tapwall.service")).unwrap();
    // The program is not installed here.
    let unit = unit.replace("ExecStart=/usr/sbin/fw-agent", "ExecStart=/bin/true");
    let unit = unit.replace("ExecReload=/usr/sbin/fwctl", "ExecReload=/bin/true");
    let unit = unit.replace("Documentation=", "# Documentation=");
    let verify = |name: &str, text: &str| {
        let path = place.path().join(name);
        fs::write(&path, text).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(&path);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(verify(UNIT, &unit), "");
    let bouncer = fs::read_to_string(packaging("tapwall-crowdsec.service")).unwrap();
    let bouncer = bouncer.replace("ExecStart=/usr/sbin/fwctl", "ExecStart=/bin/true");
    let bouncer = bouncer.replace("Documentation=", "# Documentation=");
    assert_eq!(verify("tapwall-crowdsec.service", &bouncer), "");
    let wrong = unit.replace("NoNewPrivileges", "NoNewPrivilege");
    assert!(
        verify(UNIT, &wrong).contains("NoNewPrivilege"),
        "it would be noticed"
    );
}

#[test]
fn logrotate_understands_the_rotation() {
    if Command::new("logrotate").arg("--version").output().is_err() {
        return;
    }
    let place = temporary_directory("rotate").unwrap();
    let copy = place.path().join("tapwall");
    // It refuses files that others may write.
    fs::copy(packaging("logrotate"), &copy).unwrap();
    run(Command::new("chmod").arg("644").arg(&copy)).unwrap();
    run(Command::new("logrotate").arg("--debug").arg(&copy)).unwrap();
}
