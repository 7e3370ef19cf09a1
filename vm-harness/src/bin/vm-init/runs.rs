//! One test program: its tests, one after the other, and what became of each.
//!
//! The program runs all its tests in one process. When a test does not end in time, or the process ends under it, that test has failed, everything
//! that it started is killed, and the program goes on with the tests after it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process};
use vm_harness::libtest::{Step, Stream, listed};
use vm_harness::protocol::{Event, Outcome, Run};

use crate::Teller;

/// Lines of a program's standard error that are told when it crashes or hangs.
const KEPT: usize = 60;

/// Longest output of one failed test that is told: the port is slow.
const LONGEST: usize = 12_000;

/// Runs a program's tests.
pub fn run(teller: &Teller, run: &Run) -> Result<()> {
    let mut left = names(run)?;
    teller.tell(&Event::Run {
        run: run.name.clone(),
        tests: left.len(),
    });
    while !left.is_empty() {
        let ended = Pass { teller, run }.go(&left)?;
        let before = left.len();
        left.retain(|name| !ended.contains(name));
        if left.len() == before {
            teller.tell(&Event::Broken {
                what: format!("{}: the program runs none of {left:?}", run.name),
            });
            break;
        }
    }
    Ok(())
}

/// The tests to run.
fn names(run: &Run) -> Result<Vec<String>> {
    let output = command(run)
        .args(["--list", "--format", "terse"])
        .output()
        .with_context(|| format!("starting {}", run.program.display()))?;
    let mut names = listed(&String::from_utf8_lossy(&output.stdout));
    for excluded in &run.excluded {
        if !names.contains(excluded) {
            bail!("{}: there is no test {excluded} to exclude", run.name);
        }
    }
    for prefix in &run.prefixes {
        if !names.iter().any(|name| name.starts_with(prefix)) {
            bail!("{}: no test begins with {prefix}", run.name);
        }
    }
    names.retain(|name| {
        let full = format!("{}::{name}", run.name);
        let mut prefixes = run.prefixes.iter();
        (run.prefixes.is_empty() || prefixes.any(|prefix| name.starts_with(prefix)))
            && !run.excluded.contains(name)
            && (run.filter.is_empty() || run.filter.iter().any(|part| full.contains(part)))
    });
    Ok(names)
}

fn command(run: &Run) -> Command {
    let mut command = Command::new(&run.program);
    command
        .envs(run.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    command
}

/// One process of the program.
struct Pass<'a> {
    teller: &'a Teller,
    run: &'a Run,
}

impl Pass<'_> {
    /// Runs these tests; the names of those that have ended.
    fn go(&self, names: &[String]) -> Result<Vec<String>> {
        let mut child = command(self.run)
            .args(["--exact", "--test-threads=1"])
            .args(names)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.run.program.display()))?;
        let errors = keep_errors(&mut child);
        let (sender, pieces) = channel();
        if let Some(mut stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
        let limit = Duration::from_secs(self.run.limit);
        let (mut stream, mut ended) = (Stream::default(), Vec::new());
        let mut since = Instant::now();
        let cut = loop {
            match pieces.recv_timeout(limit.saturating_sub(since.elapsed())) {
                Ok(piece) => stream.feed(&piece, |step| {
                    let took = since.elapsed();
                    since = Instant::now();
                    self.step(step, took, &mut ended);
                }),
                Err(RecvTimeoutError::Timeout) => break Some(Outcome::Timeout),
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        let mut cut = cut;
        if cut.is_some() {
            kill_the_rest();
        } else if stream.current().is_some() {
            cut = Some(Outcome::Crashed);
        }
        let status = child.wait().context("waiting for a test program")?;
        for (test, text) in stream.failures() {
            self.output(&test, &text);
        }
        if let (Some(outcome), Some(test)) = (cut, stream.current()) {
            self.end(test, outcome, since.elapsed());
            ended.push(test.to_owned());
            let errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
            let errors: Vec<&str> = errors.iter().map(String::as_str).collect();
            self.output(test, &format!("{status}\n{}", errors.join("\n")));
            kill_the_rest();
        }
        Ok(ended)
    }

    fn step(&self, step: Step, took: Duration, ended: &mut Vec<String>) {
        match step {
            Step::Started(test) => self.teller.tell(&Event::Started {
                run: self.run.name.clone(),
                test,
            }),
            Step::Ended(test, outcome) => {
                if let Some(outcome) = outcome {
                    self.end(&test, outcome, took);
                }
                ended.push(test);
            }
        }
    }

    fn end(&self, test: &str, outcome: Outcome, took: Duration) {
        self.teller.tell(&Event::Ended {
            run: self.run.name.clone(),
            test: test.to_owned(),
            outcome,
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn output(&self, test: &str, text: &str) {
        let start = text
            .char_indices()
            .rev()
            .nth(LONGEST)
            .map_or(0, |(at, _)| at);
        self.teller.tell(&Event::Output {
            of: format!("{}::{test}", self.run.name),
            text: text.get(start..).unwrap_or_default().to_owned(),
        });
    }
}

/// The last lines of what a program says on standard error.
fn keep_errors(child: &mut Child) -> Arc<Mutex<VecDeque<String>>> {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    if let Some(stderr) = child.stderr.take() {
        let kept = Arc::clone(&kept);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > KEPT {
                    kept.pop_front();
                }
            }
        });
    }
    kept
}

/// Kills every process of the machine but the first one and this: what a test that hangs has started, above all.
fn kill_the_rest() {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return;
    };
    for pid in entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != 1 && *pid != own)
    {
        // It may have ended, or be a thread of the kernel.
        if let Some(pid) = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
    }
}
