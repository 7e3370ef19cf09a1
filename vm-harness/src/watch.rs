//! One boot of a machine, listened to until it is done or dead.
//!
//! In: a machine. Out: its events as they come, and how it ended. It is killed when its kernel panics, when it does not reach the runner in time, and
//! when the runner is silent for longer than [`SILENCE`]; what the console showed last is part of the result. The whole console goes to a file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::protocol::{Event, PULSE};
use crate::qemu::Machine;

/// The runner, which says that it is alive every [`PULSE`], may be silent this long on a busy machine.
const SILENCE: Duration = Duration::from_secs(18 * PULSE.as_secs());

/// After the last event the machine may take so long to power off.
const POWER_OFF: Duration = Duration::from_secs(20);

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

/// Boots and listens. `boot` is how long it may take until the runner speaks.
pub fn watch(
    machine: &Machine<'_>,
    boot: Duration,
    log: &Path,
    mut told: impl FnMut(&Event),
) -> Result<Watched> {
    let place = tempfile::Builder::new()
        .prefix("tapwall-vm-")
        .tempdir()
        .context("making a directory for a socket")?;
    let path = place.path().join("port");
    let listener = UnixListener::bind(&path).context("listening for the machine")?;
    let mut child = machine
        .watched(&path)
        .spawn()
        .with_context(|| format!("starting {}", crate::qemu::PROGRAM))?;
    let watched = listen(&mut child, listener, boot, log, &mut told);
    // It is over, however it went.
    if child.try_wait().context("asking for QEMU")?.is_none() {
        child.kill().context("killing QEMU")?;
    }
    child.wait().context("waiting for QEMU")?;
    watched
}

fn listen(
    child: &mut Child,
    listener: UnixListener,
    boot: Duration,
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
    .until_the_end(&heard, boot, told)
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
        boot: Duration,
        told: &mut dyn FnMut(&Event),
    ) -> Result<Watched> {
        let mut deadline = Instant::now() + boot;
        let mut dying: Option<String> = None;
        let mut done = false;
        let why = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match heard.recv_timeout(left) {
                Ok(Heard::Event(event)) => {
                    self.booted |= matches!(event, Event::Booted { .. });
                    done |= event == Event::Done;
                    told(&event);
                    deadline = Instant::now() + if done { POWER_OFF } else { SILENCE };
                }
                Ok(Heard::Console(line)) => {
                    if dying.is_none() && DEADLY.iter().any(|words| line.contains(words)) {
                        dying = Some(line.clone());
                        // What it still prints is wanted; with `panic=-1` QEMU then ends by itself.
                        deadline = Instant::now() + Duration::from_secs(2);
                    }
                    self.keep(line)?;
                }
                Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => {
                    break dying.unwrap_or_else(|| "the machine went off".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {
                    break dying.unwrap_or_else(|| "it said nothing more".to_owned());
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
