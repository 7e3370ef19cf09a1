//! Devices that send from the moment they exist, while rules are edited all the time: what passes before they are closed.
//!
//! Each device is a tap that a thread floods with numbered frames that bear the time they were sent at. Whatever of them arrives outside, or at the
//! device from outside, passed: the configuration knows none of these guests.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fw_agent::datapath::AttachMode;
use fw_agent::record::Record;
use fw_common::maps::ABI;
use rustix::process::Signal;
use tapwall_tests::agent::attach_mode;
use tapwall_tests::netns::Netns;
use tapwall_tests::patience::repetitions;
use tapwall_tests::probe::{Capture, send_frame};
use tapwall_tests::tap::{Offloads, Tap};

use crate::bed::{Bed, firewall};

const DEVICES: u32 = 200;
const LIMIT: Duration = Duration::from_secs(20);
/// Frames that are sent after a device was closed, before it goes.
const AFTERWARDS: u64 = 50;
/// What frames say besides (an experimental EtherType first).
const OUT: &[u8] = b"\x88\xb5newcomer";
const IN: &[u8] = b"\x88\xb5to the newcomer";
const END: &[u8] = b"\x88\xb5that was all";

/// A broadcast frame with these words and this time.
fn frame(words: &[u8], at: Duration) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x02, 0, 0, 0, 0x77, 0x77]);
    frame.extend(words);
    frame.extend((at.as_nanos() as u64).to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// When a frame with these words was sent.
fn sent(frame: &[u8], words: &[u8]) -> Option<Duration> {
    let time = frame.get(12..)?.strip_prefix(words)?.first_chunk()?;
    Some(Duration::from_nanos(u64::from_be_bytes(*time)))
}

/// How a device is made ready.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// By commands of a script that begins when the device is there, as the start of a guest does.
    Script,
    /// By a program that waits for nothing but the kernel.
    AtOnce,
}

/// A guest's machine that sends as fast as it can, and listens.
#[derive(Default)]
struct Machine {
    tap: Mutex<Option<Arc<Tap>>>,
    written: AtomicU64,
    heard: Mutex<Vec<Duration>>,
    stop: AtomicBool,
}

impl Machine {
    fn run(&self, clock: Instant) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(tap) = self.tap.lock().unwrap().clone() else {
                thread::yield_now();
                continue;
            };
            if tap.send(&frame(OUT, clock.elapsed())).is_ok() {
                self.written.fetch_add(1, Ordering::Relaxed);
            }
            if let Ok(Some(frame)) = tap.receive()
                && let Some(at) = sent(&frame, IN)
            {
                self.heard.lock().unwrap().push(at);
            }
        }
    }
}

/// What passed before one device was closed.
struct Passed {
    /// From the guest and to it.
    frames: [usize; 2],
    window: Duration,
}

struct Lab<'b> {
    bed: &'b Bed,
    clock: Instant,
    machine: Machine,
    stop: AtomicBool,
}

/// An `ip` that carries out a line at once when it gets it.
struct Ip {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Ip {
    fn start(namespace: &Netns) -> Self {
        let mut command = Command::new("ip");
        command.args(["-oneline", "-n", namespace.name(), "-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Self {
            orders: process.stdin.take().unwrap(),
            process,
            answers,
        }
    }

    fn order(&mut self, lines: &str) {
        self.orders.write_all(lines.as_bytes()).unwrap();
    }

    /// Waits until everything is carried out that was ordered.
    fn settle(&mut self) {
        self.order("link show dev lo\n");
        self.answers.next().unwrap().unwrap();
    }

    fn end(mut self) {
        drop(self.orders);
        assert!(self.process.wait().unwrap().success());
    }
}

impl Lab<'_> {
    /// Makes one device after the other; says what passed.
    fn run(&self, way: Way) -> Vec<Passed> {
        thread::scope(|scope| {
            scope.spawn(|| self.machine.run(self.clock));
            scope.spawn(|| self.edit());
            scope.spawn(|| self.flood_from_outside());
            let passed = thread::scope(|inner| inner.spawn(|| self.devices(way)).join());
            self.stop.store(true, Ordering::Relaxed);
            self.machine.stop.store(true, Ordering::Relaxed);
            passed.unwrap()
        })
    }

    fn edit(&self) {
        for edit in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let rule = format!("IN ACCEPT -p tcp -dport {}\n", 10_000 + edit % 1000);
            let text = firewall("DROP", &rule.repeat(1 + edit % 300));
            self.bed.tree.write_firewall(100, &text).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn flood_from_outside(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let frame = frame(IN, self.clock.elapsed());
            send_frame(&self.bed.node.outside.namespace, "eth0", &frame).unwrap();
            thread::sleep(Duration::from_micros(500));
        }
    }

    fn devices(&self, way: Way) -> Vec<Passed> {
        let host = &self.bed.node.host.namespace;
        let mut ip = Ip::start(host);
        let passed = host.run(|| {
            let devices = 0..repetitions(DEVICES);
            Ok(devices
                .map(|number| self.device(&format!("tap{}i0", 1000 + number), way, &mut ip))
                .collect())
        });
        ip.end();
        passed.unwrap()
    }

    fn device(&self, device: &str, way: Way, ip: &mut Ip) -> Passed {
        let (host, outside) = (
            &self.bed.node.host.namespace,
            &self.bed.node.outside.namespace,
        );
        let capture = Capture::start(outside, "eth0").unwrap();
        self.machine.heard.lock().unwrap().clear();
        let (closed, frames) = thread::scope(|scope| {
            // Read as they come: they are more than a socket keeps.
            let frames = scope.spawn(|| capture.until(END, LIMIT).unwrap());
            let closed = self.life(device, way, ip);
            send_frame(host, "eno1", &frame(END, Duration::ZERO)).unwrap();
            (closed, frames.join().unwrap())
        });
        let mut times: Vec<Duration> = frames.iter().filter_map(|frame| sent(frame, OUT)).collect();
        let from = times.len();
        times.extend(self.machine.heard.lock().unwrap().iter());
        let frames = [from, times.len() - from];
        times.sort();
        let after = times.iter().filter(|at| **at > closed).count();
        assert_eq!(after, 0, "frames of {device} passed after it was closed");
        let window = match (times.first(), times.last()) {
            (Some(first), Some(last)) => *last - *first,
            (_, _) => Duration::ZERO,
        };
        Passed { frames, window }
    }

    /// A device's way from its making to its end; says when it was closed.
    fn life(&self, device: &str, way: Way, ip: &mut Ip) -> Duration {
        let host = &self.bed.node.host.namespace;
        let lines = format!("link set {device} up\nlink set {device} master vmbr0\n");
        // Here it is made, and sends.
        let tap = Arc::new(Tap::here(device, Offloads::None).unwrap());
        *self.machine.tap.lock().unwrap() = Some(Arc::clone(&tap));
        match way {
            Way::AtOnce => ip.order(&lines),
            Way::Script => host.ip(&lines).unwrap(),
        }
        let closed = self.closed(device);
        ip.settle();
        let written = self.machine.written.load(Ordering::Relaxed);
        let deadline = Instant::now() + LIMIT;
        while self.machine.written.load(Ordering::Relaxed) < written + AFTERWARDS {
            assert!(Instant::now() < deadline, "{device} sends nothing");
            thread::yield_now();
        }
        *self.machine.tap.lock().unwrap() = None;
        drop(tap);
        // The machine may have it in its hands for a moment longer.
        while host.ifindex(device).is_ok() {
            thread::yield_now();
        }
        closed
    }

    /// When both programs were on a device.
    fn closed(&self, device: &str) -> Duration {
        let links = self.bed.agent.pin_directory().join(format!("v{ABI}/links"));
        let host = &self.bed.node.host.namespace;
        let is_on = |hook: &str| match attach_mode() {
            AttachMode::Tcx => links.join(format!("{device}-{hook}")).exists(),
            // The pin of a filter is made before it.
            AttachMode::Clsact => {
                let mut tc = host.command("tc");
                let shown = tc.args(["filter", "show", "dev", device, hook]).output();
                String::from_utf8_lossy(&shown.unwrap().stdout).contains("tapwall")
            }
        };
        let deadline = Instant::now() + LIMIT;
        while !["ingress", "egress"].into_iter().all(is_on) {
            let said = || self.bed.agent.stderr();
            assert!(Instant::now() < deadline, "{device}: {}", said());
            thread::yield_now();
        }
        self.clock.elapsed()
    }
}

/// Says what passed, and how much of it came from guests and went to them.
fn report(what: &str, passed: &[Passed]) -> [usize; 2] {
    let all = [0, 1].map(|way| passed.iter().map(|passed| passed.frames[way]).sum());
    let open = passed.iter().filter(|passed| passed.frames != [0, 0]);
    let mut windows: Vec<Duration> = open.map(|passed| passed.window).collect();
    windows.sort();
    println!(
        "{what}: {} of {} devices let frames pass, {all:?} in all, from guests and to them; from the first to the last frame: median {:?}, longest {:?}",
        windows.len(),
        passed.len(),
        windows.get(windows.len() / 2).copied().unwrap_or_default(),
        windows.last().copied().unwrap_or_default(),
    );
    all
}

fn lab(way: Way) -> Vec<Passed> {
    let bed = Bed::new("").unwrap();
    let lab = Lab {
        bed: &bed,
        clock: Instant::now(),
        machine: Machine::default(),
        stop: AtomicBool::new(false),
    };
    lab.run(way)
}

#[test]
fn a_device_that_a_script_makes_ready_lets_nothing_pass() {
    let passed = lab(Way::Script);
    assert_eq!(report("by a script", &passed), [0, 0]);
}

#[test]
fn a_device_that_is_made_ready_at_once_lets_nothing_pass_once_it_is_closed() {
    let passed = lab(Way::AtOnce);
    report("at once", &passed);
    assert_eq!(passed.len(), repetitions(DEVICES) as usize);
}

#[test]
fn a_device_whose_message_is_lost_is_closed_all_the_same() {
    let bed = Bed::new("").unwrap();
    let host = &bed.node.host.namespace;
    host.ip("link add spare0 type veth peer name spare1")
        .unwrap();
    // More is said than the agent's sockets keep while it cannot read.
    bed.agent.signal(Signal::STOP).unwrap();
    let change = "link set spare0 mtu 1400\nlink set spare0 mtu 1500\n";
    host.ip(&change.repeat(4000)).unwrap();
    let _tap = Tap::new(host, "tap1000i0", Offloads::None).unwrap();
    bed.agent.signal(Signal::CONT).unwrap();
    bed.agent.wait_said("listing all devices").unwrap();
    let is_closed = |record: &Record| {
        let mut closed = record.closed.iter();
        closed.any(|port| port.device == "tap1000i0" && port.attached)
    };
    bed.agent
        .wait_for(LIMIT, "the device closed", is_closed)
        .unwrap();
}
