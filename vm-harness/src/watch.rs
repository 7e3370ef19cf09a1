//! One boot of a machine, listened to until it is done or dead.
//!
//! In: a machine. Out: its events as they come, and how it ended. It is killed when its kernel panics, when it does not reach the runner in time, and
//! when the runner is silent for longer than [`SILENCE`]; what the console showed last is part of the result. The whole console goes to a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::protocol::{Event, PULSE};
use crate::suites;

/// How long a machine may take for what it does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until its runner speaks for the first time.
    pub boot: Duration,
    /// From one event to the next: the runner says that it is alive every [`PULSE`], on a busy machine later.
    pub silence: Duration,
    /// From one event to the next that is more than a sign of life.
    pub progress: Duration,
    /// From `Done` until it is off.
    pub power_off: Duration,
    /// From its last words until it is off: what it still prints is wanted.
    pub death: Duration,
}

impl Limits {
    /// Those of a machine that may take this long to boot.
    pub const fn booting(boot: Duration) -> Self {
        Self {
            boot,
            silence: Duration::from_secs(18 * PULSE.as_secs()),
            // The runner itself ends a test that takes too long; it may fail to.
            progress: Duration::from_secs(suites::LIMIT + 120),
            power_off: Duration::from_secs(20),
            death: Duration::from_secs(3),
        }
    }

    /// What to say of a machine that is past one of them.
    fn exceeded(&self, booted: bool, stuck: bool) -> String {
        let (what, limit) = match (booted, stuck) {
            (false, _) => ("it said nothing within", self.boot),
            (true, false) => ("it said nothing more for", self.silence),
            (true, true) => ("it is alive and got nowhere for", self.progress),
        };
        format!("{what} {} s", limit.as_secs_f32())
    }
}

/// Lines of the console that are kept for the result.
const KEPT: usize = 40;

/// What the kernel prints when it gives up, or is about to.
const DEADLY: [&str; 2] = ["Kernel panic - not syncing", "end Kernel panic"];

/// What it prints when something is wrong in it, though it goes on.
const WRONG: [&str; 5] = [
    "WARNING: CPU",
    "BUG: ",
    "Oops: ",
    "general protection fault",
    "soft lockup",
];

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It said that it was done.
    Done,
    /// It never got to the runner.
    NotBooted(String),
    /// It was alive and is no more.
    Died(String),
}

/// What became of one boot.
pub struct Watched {
    /// How it ended.
    pub end: End,
    /// The last lines of the console.
    pub console: Vec<String>,
    /// Lines that say that something in the kernel is wrong.
    pub wrong: Vec<String>,
}

enum Heard {
    Event(Event),
    Console(String),
    /// No more of it.
    End,
}

/// Boots and listens. `start` is given the path of a socket, to which the machine's second serial port has to connect.
pub fn watch(
    start: impl FnOnce(&Path) -> Command,
    limits: Limits,
    log: &Path,
    mut told: impl FnMut(&Event),
) -> Result<Watched> {
    let place = tempfile::Builder::new()
        .prefix("tapwall-vm-")
        .tempdir()
        .context("making a directory for a socket")?;
    let path = place.path().join("port");
    let listener = UnixListener::bind(&path).context("listening for the machine")?;
    let mut command = start(&path);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let watched = listen(&mut child, listener, limits, log, &mut told);
    // It is over, however it went.
    if child
        .try_wait()
        .context("asking for the machine")?
        .is_none()
    {
        child.kill().context("killing the machine")?;
    }
    child.wait().context("waiting for the machine")?;
    watched
}

fn listen(
    child: &mut Child,
    listener: UnixListener,
    limits: Limits,
    log: &Path,
    told: &mut dyn FnMut(&Event),
) -> Result<Watched> {
    let (sender, heard) = channel();
    for stream in [
        child
            .stdout
            .take()
            .map(|out| Box::new(out) as Box<dyn Read + Send>),
        child
            .stderr
            .take()
            .map(|err| Box::new(err) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    {
        let sender = sender.clone();
        thread::spawn(move || console(stream, &sender));
    }
    thread::spawn(move || events(&listener, &sender));
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    Listening {
        log: file,
        last: VecDeque::new(),
        wrong: Vec::new(),
        booted: false,
    }
    .until_the_end(&heard, limits, told)
}

fn console(stream: Box<dyn Read + Send>, sender: &Sender<Heard>) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    while reader
        .read_until(b'\n', &mut bytes)
        .is_ok_and(|count| count > 0)
    {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        if sender.send(Heard::Console(line)).is_err() {
            return;
        }
    }
    // Nobody listens any more, which is no news.
    sender.send(Heard::End).unwrap_or_default();
}

fn events(listener: &UnixListener, sender: &Sender<Heard>) {
    let Ok((stream, _)) = listener.accept() else {
        return;
    };
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let heard = match serde_json::from_str(line.trim()) {
            Ok(event) => Heard::Event(event),
            Err(_) if line.trim().is_empty() => continue,
            Err(error) => Heard::Console(format!("not an event ({error}): {line}")),
        };
        if sender.send(heard).is_err() {
            return;
        }
    }
}

struct Listening {
    log: File,
    last: VecDeque<String>,
    wrong: Vec<String>,
    booted: bool,
}

impl Listening {
    fn until_the_end(
        mut self,
        heard: &Receiver<Heard>,
        limits: Limits,
        told: &mut dyn FnMut(&Event),
    ) -> Result<Watched> {
        let begun = Instant::now();
        let (mut deadline, mut stuck) = (begun + limits.boot, begun + limits.boot);
        // Why it will be off by the deadline, whatever else it says.
        let mut dying: Option<String> = None;
        let mut done = false;
        let why = loop {
            let left = deadline
                .min(stuck)
                .saturating_duration_since(Instant::now());
            match heard.recv_timeout(left) {
                Ok(Heard::Event(event)) => {
                    self.booted |= matches!(event, Event::Booted { .. });
                    done |= event == Event::Done;
                    told(&event);
                    if dying.is_some() {
                        continue;
                    }
                    let now = Instant::now();
                    if event != Event::Alive {
                        stuck = now + limits.progress;
                    }
                    deadline = now
                        + if done {
                            limits.power_off
                        } else {
                            limits.silence
                        };
                }
                Ok(Heard::Console(line)) => {
                    if dying.is_none() && DEADLY.iter().any(|words| line.contains(words)) {
                        dying = Some(line.clone());
                        // With `panic=-1` QEMU then ends by itself.
                        deadline = Instant::now() + limits.death;
                    }
                    self.keep(line)?;
                }
                Ok(Heard::End) => {
                    // What it told before may still be on its way.
                    dying.get_or_insert_with(|| "the machine went off".to_owned());
                    deadline = deadline.min(Instant::now() + limits.death);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break dying.unwrap_or_else(|| "the machine went off".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {
                    break dying.unwrap_or_else(|| limits.exceeded(self.booted, stuck < deadline));
                }
            }
        };
        let end = match (done, self.booted) {
            (true, _) => End::Done,
            (false, true) => End::Died(why),
            (false, false) => End::NotBooted(why),
        };
        Ok(Watched {
            end,
            console: self.last.into(),
            wrong: self.wrong,
        })
    }

    fn keep(&mut self, line: String) -> Result<()> {
        writeln!(self.log, "{line}").context("writing the console's file")?;
        if WRONG.iter().any(|words| line.contains(words)) {
            self.wrong.push(line.clone());
        }
        self.last.push_back(line);
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Of a machine that is quick, on a test machine that may be slow.
    const LIMITS: Limits = Limits {
        boot: Duration::from_secs(3),
        silence: Duration::from_secs(3),
        progress: Duration::from_secs(6),
        power_off: Duration::from_secs(2),
        death: Duration::from_secs(2),
    };

    /// A machine whose console says what a shell script prints and whose runner tells these events at once, then a sign of life every second.
    fn machine(script: &str, events: &[Event], pulse: bool) -> (Watched, Vec<Event>, Duration) {
        let directory = tempfile::tempdir().unwrap();
        let lines: Vec<String> = events
            .iter()
            .map(|event| format!("{}\n", serde_json::to_string(event).unwrap()))
            .collect();
        let mut heard = Vec::new();
        let begun = Instant::now();
        let start = |port: &Path| {
            let port = port.to_path_buf();
            thread::spawn(move || {
                let mut stream = UnixStream::connect(port).unwrap();
                stream.write_all(lines.concat().as_bytes()).unwrap();
                let alive = format!("{}\n", serde_json::to_string(&Event::Alive).unwrap());
                while pulse && stream.write_all(alive.as_bytes()).is_ok() {
                    thread::sleep(Duration::from_secs(1));
                }
                // Its end does not come by itself: a machine that is stuck has its port open.
                thread::park_timeout(Duration::from_secs(20));
            });
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let log = directory.path().join("console");
        let watched = watch(start, LIMITS, &log, |event| heard.push(event.clone())).unwrap();
        let kept = std::fs::read_to_string(&log).unwrap();
        assert!(watched.console.iter().all(|line| kept.contains(line)));
        (watched, heard, begun.elapsed())
    }

    fn booted() -> Event {
        Event::Booted {
            kernel: "6.1".into(),
        }
    }

    #[test]
    fn a_machine_that_is_done_may_go_off() {
        let (watched, heard, _) = machine("echo up; sleep 1", &[booted(), Event::Done], false);
        assert_eq!(watched.end, End::Done);
        assert_eq!(heard, [booted(), Event::Done]);
        assert_eq!(watched.console, ["up"]);
        assert!(watched.wrong.is_empty());
    }

    #[test]
    fn a_panic_ends_it_and_the_last_lines_are_kept() {
        let panic = "Kernel panic - not syncing: sysrq triggered crash";
        let script = format!(
            "for n in $(seq 100); do echo line $n; done; sleep 1; echo '[  3.1] {panic}'; echo 'Call Trace:'; exec sleep 60"
        );
        let (watched, _, took) = machine(&script, &[booted()], true);
        assert_eq!(watched.end, End::Died(format!("[  3.1] {panic}")));
        assert_eq!(watched.console.len(), KEPT);
        assert_eq!(watched.console.last().unwrap(), "Call Trace:");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn one_that_says_nothing_more_is_killed() {
        let (watched, _, took) = machine("echo stalled; exec sleep 60", &[booted()], false);
        assert_eq!(
            watched.end,
            End::Died("it said nothing more for 3 s".into())
        );
        assert_eq!(watched.console, ["stalled"]);
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn one_that_is_alive_and_gets_nowhere_is_killed() {
        let (watched, heard, took) = machine("exec sleep 60", &[booted()], true);
        let why = "it is alive and got nowhere for 6 s";
        assert_eq!(watched.end, End::Died(why.into()));
        assert!(heard.len() > 2, "{heard:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[test]
    fn one_that_never_gets_to_the_runner_has_not_booted() {
        let (watched, _, _) = machine("echo no root; exec sleep 60", &[], false);
        assert_eq!(
            watched.end,
            End::NotBooted("it said nothing within 3 s".into())
        );
        let (watched, _, _) = machine("echo no memory >&2; exit 1", &[], false);
        assert_eq!(watched.end, End::NotBooted("the machine went off".into()));
        assert_eq!(watched.console, ["no memory"]);
    }

    #[test]
    fn what_is_wrong_in_the_kernel_is_told_though_it_goes_on() {
        let script = "echo 'WARNING: CPU: 0 PID: 1 at net/core/dev.c:1'; sleep 1";
        let (watched, _, _) = machine(script, &[booted(), Event::Done], false);
        assert_eq!(watched.end, End::Done);
        assert_eq!(watched.wrong.len(), 1);
    }
}
