//! The BPF file system is unmounted under the running agent, and mounted again.
//!
//! In a mount namespace of its own, so that what is unmounted is really gone: the kernel lets go of everything that only a pin has held.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fw_agent::record::Record;
use fw_common::maps::ABI;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::run;
use tapwall_tests::node::{DemoNode, VETH};
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{UdpServer, exchange};
use tapwall_tests::tree::ConfigTree;
use tapwall_tests::vigil::{Asking, Flow, Knocking};

use crate::policies::{ACCEPTED, ESTABLISHED, FORBIDDEN, policy};

const LIMIT: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(2);
const BPF: &str = "/sys/fs/bpf";

/// A mount namespace with a BPF file system that nobody else has; it goes with this.
struct Mounts(Child);

impl Mounts {
    fn new() -> Self {
        // Nothing is below it.
        let script = format!(
            "while umount {BPF} 2>/dev/null; do :; done; mount -t bpf bpf {BPF} && echo ready && exec sleep 600"
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answer = String::new();
        let mut said = BufReader::new(holder.stdout.take().unwrap());
        said.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ready\n");
        Self(holder)
    }

    fn run(&self, arguments: &[&str]) {
        let place = format!("--mount=/proc/{}/ns/mnt", self.0.id());
        run(Command::new("nsenter").arg(place).args(arguments)).unwrap();
    }

    /// Has a program run in it.
    fn adjust(&self, command: &mut Command) {
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.0.id())).unwrap();
        let enter = move || {
            let kind = Some(LinkNameSpaceType::Mount);
            Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
        };
        // SAFETY: setns(2) may be called between fork and exec.
        unsafe { command.pre_exec(enter) };
    }

    /// Names of what an agent has pinned there.
    fn pinned(&self, agent: &Agent) -> Vec<String> {
        let own = agent.pin_directory().strip_prefix("/").unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", self.0.id())).join(own);
        let mut names = Vec::new();
        for kind in ["maps", "links"] {
            let Ok(entries) = fs::read_dir(root.join(format!("v{ABI}/{kind}"))) else {
                continue;
            };
            names.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        names.sort();
        names
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Both must have gone on, and nothing have failed.
#[track_caller]
fn goes_on(asking: &[&Asking], knocking: &[&Knocking], agent: &Agent, when: &str) {
    let sent = |before: &[u64]| {
        let asked = asking.iter().map(|asking| asking.tally().sent);
        let knocked = knocking.iter().map(|knocking| knocking.tally().sent);
        let now: Vec<u64> = asked.chain(knocked).collect();
        let enough = now
            .iter()
            .zip(before)
            .all(|(now, before)| *now > before + 20);
        (enough, now)
    };
    let (_, before) = sent(&[]);
    let deadline = Instant::now() + LIMIT;
    while !sent(&before).0 {
        assert!(Instant::now() < deadline, "{when}: {}", agent.stderr());
        std::thread::yield_now();
    }
    for asking in asking {
        assert_eq!(asking.tally().lost, 0, "{when}: {}", agent.stderr());
    }
    for knocking in knocking {
        assert_eq!(knocking.tally().arrived, 0, "{when}: {}", agent.stderr());
    }
}

fn unmounted_and_mounted_again(options: &[&str]) {
    let node = DemoNode::new().unwrap();
    node.unplug_container().unwrap();
    let mounts = Mounts::new();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let address = node.outside.v4().to_string();
    for vmid in [100, 101] {
        tree.write_firewall(vmid, &policy(0, &address)).unwrap();
    }
    let adjust = |command: &mut Command| {
        command.args(options);
        mounts.adjust(command);
    };
    let agent = Agent::spawn_adjusted(&node.host.namespace, &tree, adjust).unwrap();
    agent.wait_for(LIMIT, "its first record", |_| true).unwrap();
    let asking = |to, port, flow| Asking::start(&node.outside, to, port, flow, PACE).unwrap();
    let knock = |to| Knocking::start(&node.outside, to, FORBIDDEN, PACE).unwrap();
    let (new, knocking) = (asking(&node.vm, ACCEPTED, Flow::New), knock(&node.vm));
    // The rules let it begin, and not again.
    let same = asking(&node.vm, ESTABLISHED, Flow::Same);
    goes_on(&[&new, &same], &[&knocking], &agent, "before");
    let range = format!("{ACCEPTED}:{ESTABLISHED}");
    let narrow = policy(0, &address).replace(&range, &ACCEPTED.to_string());
    agent.after(|| tree.write_firewall(100, &narrow)).unwrap();
    let again = |when: &str| {
        let (from, to) = (&node.outside, node.vm.v4_port(ESTABLISHED));
        let timeout = Duration::from_millis(150);
        let seen = exchange(&from.namespace, from.v4(), to, b"again", timeout);
        assert_eq!(seen, Silent, "{when}");
    };
    again("before");
    let pinned = mounts.pinned(&agent);
    assert!(pinned.iter().any(|name| name.starts_with("tap100i0-")));

    mounts.run(&["umount", BPF]);
    assert_eq!(mounts.pinned(&agent), Vec::<String>::new());
    let says = |record: &Record| {
        let mut degraded = record.degraded.iter();
        degraded.any(|text| text.contains("mount -t bpf bpf /sys/fs/bpf"))
    };
    agent.wait_for(LIMIT, "what it needs", says).unwrap();
    goes_on(&[&new, &same], &[&knocking], &agent, "unmounted");
    again("unmounted");
    // A device that comes meanwhile, and an edit.
    node.plug_container().unwrap();
    agent.wait_attached(VETH, None).unwrap();
    let guest = &node.container;
    let (there, enforced) = (asking(guest, ACCEPTED, Flow::New), knock(guest));
    let running = [&new, &same, &there];
    goes_on(&running, &[&knocking, &enforced], &agent, "a new device");
    let port = FORBIDDEN + 10;
    let opened = format!("{narrow}IN ACCEPT -p udp -dport {port}\n");
    agent.after(|| tree.write_firewall(100, &opened)).unwrap();
    let _server = UdpServer::start(&node.vm.namespace, node.vm.v4_port(port)).unwrap();
    let from = &node.outside;
    // Its record may be that of another round.
    let deadline = Instant::now() + LIMIT;
    let edited = || -> Answer {
        let (to, timeout) = (node.vm.v4_port(port), Duration::from_millis(300));
        exchange(&from.namespace, from.v4(), to, b"edit", timeout)
    };
    while edited() != Answered {
        assert!(Instant::now() < deadline, "{}", agent.stderr());
    }

    mounts.run(&["mount", "-t", "bpf", "bpf", BPF]);
    let well = |record: &Record| record.degraded.is_empty();
    agent.wait_for(LIMIT, "nothing degraded", well).unwrap();
    let mut expect = pinned;
    let news = mounts.pinned(&agent);
    expect.extend(news.iter().filter(|name| name.starts_with(VETH)).cloned());
    expect.sort();
    assert_eq!(news, expect);
    assert!(news.iter().any(|name| name.starts_with(VETH)));
    goes_on(&running, &[&knocking, &enforced], &agent, "mounted again");

    let agent = agent
        .respawn_adjusted(&node.host.namespace, adjust)
        .unwrap();
    agent
        .wait_for(LIMIT, "the next agent's record", |_| true)
        .unwrap();
    goes_on(&running, &[&knocking, &enforced], &agent, "the next agent");
    again("the next agent");
    assert_eq!(mounts.pinned(&agent), expect);
}

#[test]
fn links_outlive_the_file_system_that_they_were_pinned_in() {
    unmounted_and_mounted_again(&[]);
}

#[test]
fn filters_and_their_marks_outlive_the_file_system() {
    unmounted_and_mounted_again(&["--clsact"]);
}
