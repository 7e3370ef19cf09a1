//! `fwctl apply`, `confirm` and `revert`: nobody is locked out.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fw_agent::control::client;
use fw_agent::trial::store::Store;
use fw_agent::trial::{Edit, Stage};
use rustix::process::Signal;
use serde_json::{Value, json};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{self, Answered, Refused};
use tapwall_tests::probe::{Session, TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::{ConfigTree, NODE, temporary_directory};
use tempfile::TempDir;

use crate::{done, fwctl, json};

const OPEN: &str = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
const SHUT: &str = "[RULES]\nIN REJECT -p tcp -dport 22\n";
const HOST: &str = "nodes/demo/host.fw";

/// Time for what a test does before it is over.
fn seconds(seconds: u64) -> u64 {
    patience(Duration::from_secs(seconds)).as_secs()
}

/// A node whose host serves a port as SSH would, and somebody outside.
struct Bed {
    node: DemoNode,
    tree: ConfigTree,
    agent: Agent,
    candidates: TempDir,
    _server: TcpServer,
}

impl Bed {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With further options of the agent.
    fn with(options: &[&str]) -> Self {
        let node = DemoNode::new().unwrap();
        let tree = ConfigTree::with_demo_guests().unwrap();
        tree.write("firewall/cluster.fw", OPEN).unwrap();
        let agent = Agent::start_with(&node.host.namespace, &tree, options).unwrap();
        let server = TcpServer::start(&node.host.namespace, node.host.v4_port(22)).unwrap();
        Self {
            candidates: temporary_directory("candidate").unwrap(),
            _server: server,
            node,
            tree,
            agent,
        }
    }

    /// A connection from outside, as it would be now.
    fn answer(&self) -> Answer {
        let (from, to) = (&self.node.outside, self.node.host.v4_port(22));
        connect(&from.namespace, from.v4(), to, TIMEOUT)
    }

    /// A connection from outside that stays open.
    fn session(&self) -> Session {
        let (from, to) = (&self.node.outside, self.node.host.v4_port(22));
        Session::open(&from.namespace, from.v4(), to).unwrap()
    }

    /// A file with a candidate's text.
    fn candidate(&self, name: &str, text: &str) -> String {
        let path = self.candidates.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.tree.path().join(file)).ok()
    }

    fn trial(&self) -> Value {
        json(&self.agent, &["status", "--json"])["trial"].clone()
    }

    /// Waits until connections are answered like this; how long that took.
    fn wait(&self, wanted: &Answer) -> Duration {
        let began = Instant::now();
        while self.answer() != *wanted {
            assert!(
                began.elapsed() < patience(Duration::from_secs(40)),
                "no {wanted}; the agent said:\n{}",
                self.agent.stderr()
            );
        }
        began.elapsed()
    }

    /// Puts the candidate that shuts the port on trial.
    fn shut(&self, seconds: u64) {
        let candidate = self.candidate("host.fw", SHUT);
        let seconds = seconds.to_string();
        let apply = ["apply", "--force", "--confirm", &seconds, &candidate];
        let said = done(&self.agent, &apply);
        assert!(said.contains("on trial: nodes/demo/host.fw"), "{said}");
        assert_eq!(self.answer(), Refused);
        assert_eq!(self.text(HOST), None, "no file is changed");
    }

    fn store(&self) -> Store {
        Store::new(self.agent.state_directory(), self.tree.path(), NODE)
    }
}

#[test]
fn who_would_be_cut_off_is_named_and_with_force_it_goes_back_in_time() {
    let bed = Bed::new();
    let mut session = bed.session();
    session.transfer(1000).unwrap();
    let candidate = bed.candidate("host.fw", SHUT);
    let time = seconds(5).to_string();
    let apply = ["apply", "--confirm", &time, &candidate];
    let (said, code) = fwctl(&bed.agent, &apply);
    assert_eq!(code, Some(2), "{said}");
    let named = said
        .lines()
        .find(|line| line.contains("SSH: tcp 192.0.2.200:"));
    let named = named.unwrap_or_else(|| panic!("{said}"));
    assert!(
        named.ends_with("-> 192.0.2.1:22 at vmbr0: goes on, but could not be opened again: REJECT (rule), by nodes/demo/host.fw:2: IN REJECT -p tcp -dport 22"),
        "{named}"
    );
    assert!(said.contains("refused; nothing is changed"), "{said}");
    assert_eq!((bed.answer(), bed.trial()), (Answered, Value::Null));

    let began = Instant::now();
    bed.shut(seconds(5));
    session.transfer(1000).unwrap();
    let left = bed.trial()["seconds_left"].as_u64().unwrap();
    assert!((1..=seconds(5)).contains(&left), "{left}");
    let shown = done(&bed.agent, &["status"]);
    assert!(shown.contains("s unless `fwctl confirm` comes"), "{shown}");
    assert!(!shown.contains("pending changes"), "{shown}");
    let (said, code) = fwctl(&bed.agent, &apply);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("on trial") && said.contains("`fwctl revert` first"),
        "{said}"
    );

    bed.wait(&Answered);
    let took = began.elapsed();
    let least = Duration::from_secs(seconds(5)) - Duration::from_millis(500);
    assert!(took > least, "too early: {took:?}");
    bed.agent.wait_said("it was not confirmed in time").unwrap();
    session.transfer(1000).unwrap();
    assert_eq!((bed.trial(), bed.text(HOST)), (Value::Null, None));
    let (said, code) = fwctl(&bed.agent, &["confirm"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nothing is on trial"), "{said}");
}

#[test]
fn flows_of_the_host_go_on_even_if_those_of_guests_are_judged_again() {
    let bed = Bed::with(&["--reevaluate"]);
    let mut session = bed.session();
    session.transfer(1000).unwrap();
    let candidate = bed.candidate("host.fw", SHUT);
    let (said, code) = fwctl(&bed.agent, &["apply", "--confirm", "60", &candidate]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(" at vmbr0: goes on, but could not"), "{said}");
    bed.shut(600);
    session.transfer(1000).unwrap();
}

#[test]
fn what_is_confirmed_stays_until_it_is_reverted() {
    let bed = Bed::new();
    bed.shut(seconds(4));
    let said = done(&bed.agent, &["confirm"]);
    assert_eq!(said, "confirmed: nodes/demo/host.fw\n");
    assert_eq!(bed.text(HOST).as_deref(), Some(SHUT));
    assert_eq!(bed.trial(), Value::Null);
    std::thread::sleep(Duration::from_secs(seconds(5)));
    assert_eq!(bed.answer(), Refused, "its time is over, and it stays");

    let said = done(&bed.agent, &["revert", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said, json!({"done": "reverted", "files": [HOST]}));
    assert_eq!((bed.answer(), bed.text(HOST)), (Answered, None));
    let (said, code) = fwctl(&bed.agent, &["revert"]);
    assert_eq!(code, Some(2), "it does not come again: {said}");
    assert!(said.contains("nothing to go back to"), "{said}");

    bed.shut(60);
    done(&bed.agent, &["revert"]);
    assert_eq!(bed.answer(), Answered, "at once");
}

#[test]
fn without_a_time_it_is_applied_for_good_with_a_way_back() {
    let bed = Bed::new();
    let directory = bed.candidates.path().join("tree");
    for (file, text) in [
        ("firewall/cluster.fw", OPEN),
        ("firewall/100.fw", "[OPTIONS]\nenable: 1\n"),
        (HOST, SHUT),
    ] {
        let path = directory.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let directory = directory.to_str().unwrap();
    let dry = ["apply", "--force", "--dry-run", directory];
    let (said, code) = fwctl(&bed.agent, &dry);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing is applied"), "{said}");
    assert_eq!(bed.answer(), Answered);
    let said = json(&bed.agent, &["apply", "--force", "--json", directory]);
    assert_eq!(said["done"], "applied");
    assert_eq!(
        said["files"],
        json!(["firewall/100.fw", HOST]),
        "what differs"
    );
    assert_eq!(bed.answer(), Refused);
    assert_eq!(bed.text(HOST).as_deref(), Some(SHUT));
    let again = done(&bed.agent, &["apply", directory]);
    assert!(again.contains("nothing to apply"), "{again}");
    done(&bed.agent, &["revert"]);
    assert_eq!(bed.answer(), Answered);
    assert_eq!((bed.text(HOST), bed.text("firewall/100.fw")), (None, None));

    let record = bed.agent.record().unwrap().unwrap();
    assert_eq!(
        record.degraded, [""; 0],
        "a file that is meant to be gone is gone"
    );

    // All nodes' file.
    let all = format!("{OPEN}[RULES]\nIN DROP -p tcp -dport 23\n");
    let all = bed.candidate("cluster.fw", &all);
    let said = done(&bed.agent, &["apply", "--confirm", "60", &all]);
    assert!(said.contains("this one alone tries it"), "{said}");
    let said = done(&bed.agent, &["confirm"]);
    assert_eq!(said, "confirmed: firewall/cluster.fw\n");
}

#[test]
fn an_agent_that_is_killed_goes_back_all_the_same() {
    let mut bed = Bed::new();
    bed.shut(seconds(15));
    bed.agent.kill_and_start().unwrap();
    bed.agent.wait_said("on trial: nodes/demo/host.fw").unwrap();
    bed.agent
        .wait_for(Duration::from_secs(10), "a record", |_| true)
        .unwrap();
    assert_eq!(bed.answer(), Refused, "there is time left");
    bed.wait(&Answered);
    assert_eq!(bed.trial(), Value::Null);

    // Its time passes while no agent is there to go back.
    bed.shut(seconds(4));
    bed.agent.signal(Signal::KILL).unwrap();
    std::thread::sleep(Duration::from_secs(seconds(5)));
    assert_eq!(bed.answer(), Refused, "the kernel still has it");
    bed.agent.kill_and_start().unwrap();
    bed.agent.wait_said("was not confirmed in time").unwrap();
    bed.agent
        .wait_for(Duration::from_secs(10), "a record", |_| true)
        .unwrap();
    assert_eq!(bed.answer(), Answered);
    assert_eq!(bed.store().trial().unwrap(), None);
    let said = bed.agent.stderr();
    assert!(!said.contains("on trial: "), "not for a moment: {said}");
}

#[test]
fn a_trial_ends_with_its_boot_and_with_an_agent_that_is_stopped() {
    let mut bed = Bed::new();
    bed.shut(600);
    bed.agent.signal(Signal::KILL).unwrap();
    let mut trial = bed.store().trial().unwrap().unwrap();
    trial.deadline.boot = "another".to_owned();
    bed.store().keep(&trial).unwrap();
    bed.agent.kill_and_start().unwrap();
    bed.agent.wait_said("before this boot").unwrap();
    bed.agent
        .wait_for(Duration::from_secs(10), "a record", |_| true)
        .unwrap();
    assert_eq!(bed.answer(), Answered);

    bed.shut(600);
    bed.agent.terminate().unwrap();
    assert_eq!(bed.answer(), Answered, "nobody would be there to go back");
    assert_eq!(bed.store().trial().unwrap(), None);
}

#[test]
fn what_was_never_read_is_not_enforced_by_going_back() {
    let mut bed = Bed::new();
    bed.shut(seconds(12));
    bed.agent.signal(Signal::KILL).unwrap();
    // Neither the tree nor the last good configuration: the agent knows nothing but the trial.
    fs::remove_file(bed.agent.state_directory().join("last-good")).unwrap();
    let [nodes, away] = ["nodes", "away"].map(|name| bed.tree.path().join(name));
    fs::rename(&nodes, &away).unwrap();
    bed.agent.kill_and_start().unwrap();
    bed.agent
        .wait_said("no files were read since the agent began")
        .unwrap();
    assert_eq!(bed.answer(), Refused, "the node is not opened");
    fs::rename(&away, &nodes).unwrap();
    bed.wait(&Answered);
}

#[test]
fn who_began_it_may_die_at_any_step() {
    let mut bed = Bed::new();
    let edit = Edit {
        before: None,
        after: Some(SHUT.into()),
    };
    let stage = |seconds: u64| Stage {
        files: [(HOST.to_owned(), edit.clone())].into(),
        seconds,
    };
    // Staged, and no more.
    bed.store().stage(&stage(seconds(4))).unwrap();
    assert_eq!(bed.answer(), Answered);
    // Begun, and no more.
    client::begin_trial(bed.agent.run_directory()).unwrap();
    assert_eq!(bed.answer(), Refused);
    bed.wait(&Answered);
    // Confirmed, and not written: also over the agent's end and another boot.
    bed.store().stage(&stage(600)).unwrap();
    client::begin_trial(bed.agent.run_directory()).unwrap();
    client::confirm_trial(bed.agent.run_directory()).unwrap();
    bed.agent.signal(Signal::KILL).unwrap();
    let mut trial = bed.store().trial().unwrap().unwrap();
    trial.deadline.boot = "another".to_owned();
    bed.store().keep(&trial).unwrap();
    bed.agent.kill_and_start().unwrap();
    bed.agent.wait_said("confirmed but not written").unwrap();
    bed.agent
        .wait_for(Duration::from_secs(10), "a record", |_| true)
        .unwrap();
    assert_eq!((bed.answer(), bed.text(HOST)), (Refused, None));
    assert_eq!(bed.trial()["unwritten"], json!([HOST]));
    done(&bed.agent, &["confirm"]);
    assert_eq!(bed.text(HOST).as_deref(), Some(SHUT));
    assert_eq!((bed.answer(), bed.trial()), (Refused, Value::Null));
    done(&bed.agent, &["revert"]);
    assert_eq!(bed.answer(), Answered);
}

#[test]
fn what_somebody_else_writes_meanwhile_is_never_lost() {
    let bed = Bed::new();
    let theirs = "[RULES]\nIN ACCEPT -p tcp -dport 22 # theirs\n";
    bed.shut(600);
    bed.tree.write(HOST, theirs).unwrap();
    // Something else is in force as soon as it is written.
    let guest = "[OPTIONS]\nenable: 1\n";
    bed.agent
        .after(|| bed.tree.write_firewall(100, guest))
        .unwrap();
    assert_eq!(bed.answer(), Refused, "the candidate is what is tried");
    assert_eq!(bed.trial()["changed_meanwhile"], json!([HOST]));
    let (said, code) = fwctl(&bed.agent, &["confirm"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("somebody else has changed nodes/demo/host.fw"),
        "{said}"
    );
    assert_eq!(bed.text(HOST).as_deref(), Some(theirs));
    assert!(
        bed.trial()["seconds_left"].is_u64(),
        "it still ends by itself"
    );
    done(&bed.agent, &["revert"]);
    assert_eq!(
        (bed.answer(), bed.text(HOST).as_deref()),
        (Answered, Some(theirs))
    );

    // Written over with --force, it can be brought back.
    let candidate = bed.candidate("host.fw", SHUT);
    done(
        &bed.agent,
        &["apply", "--force", "--confirm", "600", &candidate],
    );
    let later = "[RULES]\nIN ACCEPT -p tcp -dport 22 # later\n";
    bed.tree.write(HOST, later).unwrap();
    done(&bed.agent, &["confirm", "--force"]);
    assert_eq!(
        (bed.answer(), bed.text(HOST).as_deref()),
        (Refused, Some(SHUT))
    );
    // And what they write after that is not written over by going back.
    let last = "[RULES]\nIN REJECT -p tcp -dport 22 # last\n";
    bed.tree.write(HOST, last).unwrap();
    let (said, code) = fwctl(&bed.agent, &["revert"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("somebody else has changed nodes/demo/host.fw"),
        "{said}"
    );
    assert_eq!(bed.text(HOST).as_deref(), Some(last));
    done(&bed.agent, &["revert", "--force"]);
    assert_eq!(
        (bed.answer(), bed.text(HOST).as_deref()),
        (Answered, Some(later))
    );
    done(&bed.agent, &["revert"]);
    assert_eq!(bed.text(HOST).as_deref(), Some(last));
}

#[test]
fn what_is_wrong_or_nobody_could_take_back_is_refused() {
    let mut bed = Bed::new();
    let wrong = bed.candidate("100.fw", "[OPTIONS]\nenable: 1\n[RULES]\nIN NONSENSE\n");
    let (said, code) = fwctl(&bed.agent, &["apply", &wrong]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("firewall/100.fw:4"), "{said}");
    assert_eq!(
        (bed.trial(), bed.text("firewall/100.fw")),
        (Value::Null, None)
    );
    let (said, code) = fwctl(&bed.agent, &["apply", "--force", "--confirm", "60", &wrong]);
    assert_eq!(code, Some(1), "not every line is enforced: {said}");
    done(&bed.agent, &["revert"]);

    bed.agent.terminate().unwrap();
    let right = bed.candidate("100.fw", "[OPTIONS]\nenable: 1\n");
    let (said, code) = fwctl(&bed.agent, &["apply", "--confirm", "60", &right]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no agent runs that could go back"), "{said}");
    done(&bed.agent, &["apply", &right]);
    assert!(bed.text("firewall/100.fw").is_some());
    done(&bed.agent, &["revert"]);
    assert_eq!(bed.text("firewall/100.fw"), None);

    for (candidate, expect) in [
        (
            PathBuf::from("/nowhere/100.fw"),
            "cannot read /nowhere/100.fw",
        ),
        (bed.candidates.path().join("x.fw"), "whose file is"),
        (bed.tree.path().join("firewall"), "has no firewall file"),
    ] {
        let (said, code) = fwctl(&bed.agent, &["apply", candidate.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expect), "{said}");
    }
}
