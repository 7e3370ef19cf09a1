//! Other firewalls on the same node.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tapwall_tests::agent::program;
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::{ConfigTree, NODE, temporary_directory};

/// A process that is killed when dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_agent_refuses_to_start_beside_another_firewall_unless_forced() {
    let namespace = Netns::new("company").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let place = temporary_directory("company").unwrap();
    let run = place.path().join("tapwall");
    let pins = format!("/sys/fs/bpf/tapwall-test-{}-company", std::process::id());
    let sleeper = place.path().join("pve-firewall");
    symlink("/bin/sleep", &sleeper).unwrap();
    let other = Other(Command::new(&sleeper).arg("60").spawn().unwrap());
    fs::write(
        place.path().join("pve-firewall.pid"),
        other.0.id().to_string(),
    )
    .unwrap();
    let agent = || {
        let mut command = namespace.command(program("fw-agent").unwrap());
        command
            .arg("--root")
            .arg(tree.path())
            .args(["--node", NODE, "--pin-dir", &pins, "--run-dir"])
            .arg(&run)
            .arg("--state-dir")
            .arg(place.path().join("state"))
            .arg("--log-file")
            .arg(place.path().join("log"));
        command
    };
    let refused = agent().output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    let expect = format!("pve-firewall is running (process {})", other.0.id());
    assert!(said.contains(&expect), "{said}");
    assert!(!fs::exists(&pins).unwrap(), "nothing was touched");

    let mut forced = agent()
        .arg("--force")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !run.join("record.json").exists() {
        assert!(forced.try_wait().unwrap().is_none() && Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = Pid::from_raw(i32::try_from(forced.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(forced.wait().unwrap().success());
    let stop = namespace
        .command(program("fwctl").unwrap())
        .args(["--pin-dir", &pins, "--run-dir"])
        .arg(&run)
        .arg("stop")
        .status()
        .unwrap();
    assert!(stop.success());
    assert!(!fs::exists(&pins).unwrap(), "nothing is left");
}
