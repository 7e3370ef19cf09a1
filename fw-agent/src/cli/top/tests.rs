//! Two looks at a made-up node, as they are shown on screens of several sizes, and what keys do.

use std::sync::Arc;
use std::time::Duration;

use fw_common::maps::{Counter, PortCounters, PortKey, RuleKey};
use fw_common::verdict::{Direction, Reason, Verdict};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::draw::draw;
use super::frame::Wish;
use super::panes::{Pane, short};
use super::sample::{Sample, Talk, Talker};
use super::screen::{After, Screen};
use super::text;
use crate::compile::{Compiled, compile};
use crate::config::Sources;
use crate::inventory::facts::HostFacts;
use crate::live::Names;
use crate::trial;

const SECOND: u64 = 1_000_000_000;
const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p tcp -dport 80 # web\nIN DROP -source 192.0.2.0/24 -p udp -dport 5000:6000 -log info\n";

const NIC: PortKey = port(100, 0);

const fn port(vmid: u32, net: u16) -> PortKey {
    PortKey {
        vmid,
        net,
        reserved: 0,
    }
}

/// The configuration of guest 100.
fn compiled() -> Compiled {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n"),
        ("firewall/100.fw", RULES),
        (
            "nodes/n1/qemu-server/100.conf",
            "net0: virtio=BC:24:11:00:01:00,bridge=vmbr0,firewall=1\n",
        ),
    ] {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let sources = Sources::read(root.path(), "n1");
    compile(&sources, &HostFacts::default(), 1_700_000_000)
}

/// The number of guest 100's rule for what comes in whose text begins so.
fn identity(compiled: &Compiled, text: &str) -> u32 {
    let policy = &compiled.policy.ports[0];
    let mut rules = policy.inbound.rules.iter();
    let place = rules.position(|rule| rule.origin.text.starts_with(text));
    let built = &compiled.image.ports[&policy.port];
    let index = built.policies[Direction::In as usize];
    compiled.image.policies[index].rules[place.unwrap()]
}

fn counter(packets: u64, at: u64) -> Counter {
    Counter {
        packets,
        bytes: 100 * packets,
        last: at,
    }
}

/// A look `seconds` after the start, by when that many packets had passed in each second.
fn sample(compiled: &Compiled, seconds: u64) -> Sample {
    let at = (100 + seconds) * SECOND;
    let mut sample = Sample {
        at,
        ..Sample::default()
    };
    sample.status.running = true;
    sample.status.record.enabled = true;
    sample.status.record.generation = 7;
    for (port, per_second, dropped) in [(NIC, 1000, 3), (port(101, 1), 20, 0), (port(0, 0), 5, 0)] {
        let mut counted = PortCounters::default();
        let [inward, outward] = &mut counted.0;
        inward[Verdict::Accept as usize] = counter(per_second * seconds, at);
        outward[Verdict::Accept as usize] = counter(2 * per_second * seconds, at);
        inward[Verdict::Drop as usize] = counter(dropped * seconds, at);
        sample.ports.insert(port, counted);
    }
    for (text, per_second) in [("IN ACCEPT", 2), ("IN DROP", 3)] {
        let key = RuleKey {
            vmid: 100,
            rule: identity(compiled, text),
            net: 0,
            direction: Direction::In as u8,
            reserved: 0,
        };
        sample.rules.insert(key, counter(per_second * seconds, at));
    }
    let unknown = RuleKey {
        vmid: 101,
        rule: 0xabc,
        net: 1,
        direction: Direction::Out as u8,
        reserved: 0,
    };
    sample.rules.insert(unknown, counter(1, 40 * SECOND));
    sample.reasons = vec![
        (Reason::Invalid, counter(0, 0)),
        (Reason::IpFilter, counter(4 * seconds, at)),
    ];
    sample.flows.room = [262_144, 65_536];
    for (is_own, address, settled, half_open, new) in [
        (true, "192.0.2.100", 1200, 3, 40),
        (false, "192.0.2.200", 1100, 0, 38),
        (false, "2001:db8:1:2:3:4:5:6", 100, 3, 2),
    ] {
        let talker = Talker {
            port: NIC,
            is_own,
            address: address.parse().unwrap(),
        };
        let talk = Talk {
            settled,
            half_open,
            new,
        };
        sample.flows.by_address.insert(talker, talk);
    }
    sample
}

/// A screen after two looks, two seconds apart.
fn screen() -> Screen {
    let compiled = compiled();
    let names = Arc::new(Names::new(&compiled, std::collections::BTreeMap::new()));
    let interval = Duration::from_secs(2);
    let mut screen = Screen::new("n1".to_owned(), interval, Pane::Guests, Wish::default());
    for seconds in [10, 12] {
        let time = format!("2026-01-02T14:03:{seconds}+01:00");
        let sample = sample(&compiled, seconds);
        screen.look(sample, Arc::clone(&names), Vec::new(), time);
    }
    screen
}

fn shown(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|canvas| draw(screen, canvas)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width)).map(|row| {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        format!("|{line}|")
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn press(screen: &mut Screen, keys: &str) -> After {
    let mut after = After::Draw;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            '>' => KeyCode::Right,
            key => KeyCode::Char(key),
        };
        after = screen.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    after
}

fn packet() -> serde_json::Value {
    json!({
        "time": "2026-01-02T14:03:11.123456+01:00", "guest": 100, "nic": 0, "device": "tap100i0", "direction": "in",
        "verdict": "drop", "reason": "policy", "rule": {"file": "firewall/100.fw", "line": 3, "text": "policy_in: DROP"},
        "source": "192.0.2.200", "dest": "192.0.2.100", "protocol": 17, "protocol_name": "udp", "sport": 40000, "dport": 81
    })
}

#[test]
fn guests_come_by_traffic() {
    insta::assert_snapshot!(shown(&mut screen(), 80, 24));
}

#[test]
fn talkers_come_by_flows() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, "2"), After::Draw);
    insta::assert_snapshot!(shown(&mut screen, 80, 12));
}

#[test]
fn rules_come_by_hits_with_their_lines() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, "\t\t"), After::Draw);
    insta::assert_snapshot!(shown(&mut screen, 120, 40));
}

#[test]
fn drops_are_live_or_say_why_not() {
    let mut screen = screen();
    screen.live.push(NIC, packet());
    screen.renew(false);
    assert_eq!(press(&mut screen, "4"), After::Draw);
    insta::assert_snapshot!("live", shown(&mut screen, 80, 8));
    assert_eq!(press(&mut screen, ">>>>>"), After::Draw);
    insta::assert_snapshot!("live_shifted", shown(&mut screen, 80, 8));
    screen.live.refused = Some("this machine does not allow tracing programs (Permission denied); logged packets are shown by `fwctl log -f`".to_owned());
    screen.renew(false);
    assert_eq!(
        press(&mut screen, "14"),
        After::Draw,
        "all at the left again"
    );
    insta::assert_snapshot!("not_live", shown(&mut screen, 80, 10));
}

#[test]
fn what_is_wrong_is_above_the_lists() {
    let mut screen = screen();
    let mut look = sample(&compiled(), 14);
    look.status.running = false;
    look.status.pending = true;
    look.status.record.enabled = false;
    look.status.record.degraded = (100..106).map(|vmid| format!("{vmid}: closed")).collect();
    look.remarks = vec!["no answer in time".to_owned()];
    look.status.trial = Some(trial::Status {
        seconds_left: Some(42),
        files: vec!["firewall/100.fw".to_owned()],
        ..trial::Status::default()
    });
    screen.look(look, Arc::default(), Vec::new(), String::new());
    insta::assert_snapshot!(shown(&mut screen, 80, 12));
}

#[test]
fn small_screens_show_less_and_never_fail() {
    let mut screen = screen();
    insta::assert_snapshot!(shown(&mut screen, 40, 9));
    assert_eq!(press(&mut screen, "?"), After::Draw);
    for pane in "1234".chars() {
        assert_eq!(press(&mut screen, &pane.to_string()), After::Draw);
        for (width, height) in [(1, 1), (3, 2), (29, 6), (30, 6), (31, 7), (200, 3), (80, 4)] {
            let text = shown(&mut screen, width, height);
            assert_eq!(text.lines().count(), usize::from(height));
        }
    }
}

#[test]
fn before_the_first_look_it_says_what_it_waits_for() {
    let mut screen = Screen::new(
        "n1".to_owned(),
        Duration::from_secs(2),
        Pane::Guests,
        Wish::default(),
    );
    assert!(shown(&mut screen, 80, 24).contains("looking ..."));
    screen.fail("cannot look: no maps".to_owned());
    assert!(shown(&mut screen, 80, 24).contains("cannot look: no maps"));
    assert_eq!(press(&mut screen, "q"), After::Quit);
}

#[test]
fn one_guest_is_shown_if_there_is_one_of_that_name() {
    let mut screen = screen();
    for (keys, expect) in [
        ("/101\n", "only 101"),
        (
            "/999\n",
            "no 999 is under policy on this node: there are 101/net1, 100/net0, host",
        ),
        ("/so\n", "expected `host`, a guest such as `100`"),
    ] {
        assert_eq!(press(&mut screen, keys), After::Draw);
        let text = shown(&mut screen, 80, 24);
        assert!(text.contains(expect), "{text}");
        assert!(!text.contains("100/net0 "), "{text}");
        assert!(text.contains("101/net1 "), "{text}");
    }
    assert_eq!(press(&mut screen, "/typed"), After::Draw);
    assert!(shown(&mut screen, 80, 24).contains("all): typed_"));
    assert_eq!(press(&mut screen, "\x1b\x1b"), After::Draw, "all again");
    assert!(shown(&mut screen, 80, 24).contains("100/net0"));
    assert_eq!(press(&mut screen, "\x1b"), After::Quit);
}

#[test]
fn a_list_is_sorted_by_what_it_has() {
    let mut screen = screen();
    let first = |screen: &mut Screen| {
        let text = shown(screen, 80, 24);
        let row = text.lines().nth(4).unwrap().trim_matches(['|', ' ']);
        row.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(first(&mut screen), "100/net0");
    assert_eq!(press(&mut screen, "sss"), After::Draw);
    assert_eq!(first(&mut screen), "host", "by name");
    assert!(shown(&mut screen, 80, 24).contains("by name"));
    assert_eq!(press(&mut screen, "s"), After::Draw);
    assert_eq!(first(&mut screen), "100/net0");
    assert_eq!(press(&mut screen, "3s"), After::Draw);
    assert!(shown(&mut screen, 80, 24).contains("by packets"));
}

#[test]
fn while_it_is_paused_nothing_moves() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, "p"), After::Draw);
    let before = shown(&mut screen, 80, 24);
    assert!(before.contains("PAUSED"), "{before}");
    let time = "2026-01-02T14:03:30+01:00".to_owned();
    screen.look(sample(&compiled(), 30), Arc::default(), Vec::new(), time);
    assert_eq!(shown(&mut screen, 80, 24), before);
    assert_eq!(press(&mut screen, "p"), After::Draw);
    assert!(shown(&mut screen, 80, 24).contains("14:03:30"));
}

#[test]
fn frames_are_text_and_json_too() {
    let mut screen = screen();
    screen.live.push(NIC, packet());
    screen.renew(false);
    let frame = screen.frame.clone().unwrap();
    let mut out = Vec::new();
    text::print(&mut out, &screen, &frame, None, 2).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
    let said = serde_json::to_value(text::shortened(&frame, 1)).unwrap();
    assert_eq!(said["generation"], 7);
    assert_eq!(said["interval_seconds"], 2.0);
    let guest = &said["guests"][0];
    assert_eq!((&guest["guest"], &guest["nic"]), (&100.into(), &0.into()));
    assert_eq!(guest["in_bits_per_second"], 800_000.0);
    assert_eq!(guest["drops_per_second"], 3.0);
    assert_eq!(said["rules"][0]["line"], 6);
    assert_eq!(said["drops"]["packets"][0]["dport"], 81);
    assert_eq!(said["guests"].as_array().unwrap().len(), 1);
}

#[test]
fn counters_that_began_again_have_no_rate() {
    let compiled = compiled();
    let mut screen = screen();
    let mut look = sample(&compiled, 14);
    look.ports.insert(NIC, PortCounters::default());
    screen.look(look, Arc::default(), Vec::new(), String::new());
    let frame = screen.frame.as_ref().unwrap();
    let row = frame.guests.iter().find(|row| row.guest == Some(100));
    assert_eq!(row.unwrap().in_bits_per_second, Some(0.0));
}

#[test]
fn numbers_take_five_places() {
    for (number, expect) in [
        (0.0, "0"),
        (0.5, "0.5"),
        (3.0, "3"),
        (9.96, "10"),
        (999.0, "999"),
        (999.6, "1.0k"),
        (12_345.0, "12k"),
        (35e6, "35M"),
        (1.5e12, "1.5T"),
        (9e16, "90000T"),
    ] {
        assert_eq!(short(number), expect);
    }
}
