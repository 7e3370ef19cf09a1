//! A running agent: started in a namespace on a configuration tree, stopped and its pins removed when dropped.
//!
//! The agent writes `record.json` after every apply; waiting for an effect is waiting for a record, never a guess about time. Everything it
//! says on standard error is kept and is part of every error here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fw_agent::datapath::AttachMode;
use fw_agent::record::{Record, RunDirectory};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::patience::patience;
use crate::tree::{ConfigTree, NODE, temporary_directory};

/// How long the agent may take to load its programs and to apply the first time (debug build, busy machine).
const START: Duration = Duration::from_secs(20);

/// How long a change may take until it is enforced and recorded. The promise is a second; a busy machine gets more.
const APPLY: Duration = Duration::from_secs(5);

/// How long the agent may take to end.
const END: Duration = Duration::from_secs(5);

/// Number of the next agent of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The agent and where it keeps things.
pub struct Agent {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    places: Places,
    namespace: PathBuf,
    stopped: bool,
}

/// Directories and files of one agent.
struct Places {
    root: PathBuf,
    pins: PathBuf,
    run: TempDir,
    /// Further options of the agent.
    options: Vec<String>,
    state: Arc<TempDir>,
}

impl Places {
    fn arguments(&self, command: &mut Command) {
        command
            .arg("--root")
            .arg(&self.root)
            .args(["--node", NODE])
            .arg("--pin-dir")
            .arg(&self.pins)
            .arg("--run-dir")
            .arg(self.run.path())
            .arg("--state-dir")
            .arg(self.state.path());
    }
}

impl Agent {
    /// Starts it and waits until it has applied the tree.
    pub fn start(namespace: &Netns, tree: &ConfigTree) -> Result<Self> {
        Self::start_with(namespace, tree, &[])
    }

    /// Likewise with further options.
    pub fn start_with(namespace: &Netns, tree: &ConfigTree, options: &[&str]) -> Result<Self> {
        let agent = Self::spawn_with(namespace, tree, options)?;
        agent.wait_for(START, "its first record", |_| true)?;
        Ok(agent)
    }

    /// Starts it without waiting.
    pub fn spawn(namespace: &Netns, tree: &ConfigTree) -> Result<Self> {
        Self::spawn_with(namespace, tree, &[])
    }

    fn spawn_with(namespace: &Netns, tree: &ConfigTree, options: &[&str]) -> Result<Self> {
        Self::make(namespace, tree, options, |_| ())
    }

    /// Likewise, with another command or another environment besides.
    pub fn spawn_adjusted(
        namespace: &Netns,
        tree: &ConfigTree,
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        Self::make(namespace, tree, &[], adjust)
    }

    fn make(
        namespace: &Netns,
        tree: &ConfigTree,
        options: &[&str],
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let places = Places {
            root: tree.path().to_path_buf(),
            pins: PathBuf::from(format!("/sys/fs/bpf/tapwall-test-{}-{number}", id())),
            run: temporary_directory("run")?,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            state: Arc::new(temporary_directory("state")?),
        };
        Self::launch(namespace.path(), places, adjust)
    }

    /// Ends the agent and starts another on the same tree, pins and state: what an upgrade does.
    pub fn restart(self, namespace: &Netns) -> Result<Self> {
        let agent = self.respawn(namespace)?;
        agent.wait_for(START, "its first record", |_| true)?;
        Ok(agent)
    }

    /// Likewise, without waiting.
    pub fn respawn(self, namespace: &Netns) -> Result<Self> {
        self.respawn_adjusted(namespace, |_| ())
    }

    /// Likewise, with other arguments or another environment besides.
    pub fn respawn_adjusted(
        mut self,
        namespace: &Netns,
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        self.terminate()?;
        let run = temporary_directory("run")?;
        let places = Places {
            root: self.places.root.clone(),
            pins: self.places.pins.clone(),
            run,
            options: self.places.options.clone(),
            state: Arc::clone(&self.places.state),
        };
        let agent = Self::launch(namespace.path(), places, adjust)?;
        // The pins are the new agent's now.
        self.stopped = true;
        Ok(agent)
    }

    fn launch(
        namespace: PathBuf,
        places: Places,
        adjust: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let (child, stderr, reader) = begin(&namespace, &places, adjust)?;
        Ok(Self {
            child,
            stderr,
            reader,
            places,
            namespace,
            stopped: false,
        })
    }

    /// Kills it (SIGKILL) and starts another in its place, on everything that it left. Does not wait for the new one.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.child.kill().context("killing the agent")?;
        let status = self.child.wait().context("waiting for the killed agent")?;
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            bail!("the reader of the agent's standard error panicked");
        }
        if status.signal() != Some(libc::SIGKILL) {
            bail!(
                "the agent had ended with {status}; it said:\n{}",
                self.stderr()
            );
        }
        (self.child, self.stderr, self.reader) = begin(&self.namespace, &self.places, |_| ())?;
        Ok(())
    }

    /// Memory that it has in use (RSS), in KiB.
    pub fn memory(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let size = size.with_context(|| format!("no VmRSS in {file}"))?;
        size.parse().with_context(|| format!("VmRSS {size:?}"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it pins.
    pub fn pin_directory(&self) -> &Path {
        &self.places.pins
    }

    /// Where it records.
    pub fn run_directory(&self) -> &Path {
        self.places.run.path()
    }

    /// Where it keeps what outlives a boot.
    pub fn state_directory(&self) -> &Path {
        self.places.state.path()
    }

    /// The latest record, if there is one.
    pub fn record(&self) -> Result<Option<Record>> {
        RunDirectory::new(self.run_directory())
            .read()
            .context("reading the agent's record")
    }

    /// Makes a change and waits until the agent has recorded an apply that came after it.
    pub fn after(&self, change: impl FnOnce() -> Result<()>) -> Result<Record> {
        let before = self.record()?.map_or(0, |record| record.generation);
        change()?;
        self.wait_for(APPLY, "a record after a change", |record| {
            record.generation > before
        })
    }

    /// Waits until a device is attached under another interface index than `not`.
    pub fn wait_attached(&self, device: &str, not: Option<u32>) -> Result<Record> {
        self.wait_for(APPLY, &format!("{device} attached"), |record| {
            record.ports.iter().any(|port| {
                port.device == device
                    && port.attached
                    && port.ifindex.is_some()
                    && port.ifindex != not
            })
        })
    }

    /// Waits for a record with some property.
    pub fn wait_for(
        &self,
        timeout: Duration,
        what: &str,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Record> {
        let deadline = Instant::now() + patience(timeout);
        loop {
            let record = self.record()?;
            if let Some(record) = &record
                && record.pid == self.pid()
                && wanted(record)
            {
                return Ok(record.clone());
            }
            if !self.is_running() {
                bail!(
                    "the agent ended while waiting for {what}; it said:\n{}",
                    self.stderr()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "no {what} within {timeout:?}; last record: {record:?}; the agent said:\n{}",
                    self.stderr()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it has said something with these words.
    pub fn wait_said(&self, words: &str) -> Result<()> {
        let deadline = Instant::now() + patience(START);
        while !self.stderr().contains(words) {
            if Instant::now() > deadline || !self.is_running() {
                bail!("it did not say {words:?}; it said:\n{}", self.stderr());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Everything it said so far.
    pub fn stderr(&self) -> String {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its log of packets so far.
    pub fn log(&self) -> String {
        // Not there before the first line.
        fs::read_to_string(self.places.run.path().join("pve-firewall.log")).unwrap_or_default()
    }

    /// Waits until the log of packets has a line with all of `parts`.
    pub fn wait_log(&self, parts: &[&str]) -> Result<String> {
        let deadline = Instant::now() + patience(APPLY);
        loop {
            let log = self.log();
            if let Some(line) = log
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)))
            {
                return Ok(line.to_owned());
            }
            if Instant::now() > deadline {
                bail!(
                    "no log line with {parts:?}; the log:\n{log}\nthe agent said:\n{}",
                    self.stderr()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs `fwctl` on the same tree, pins and record.
    pub fn fwctl(&self, arguments: &[&str]) -> Result<Output> {
        self.fwctl_command()?
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting fwctl {}", arguments.join(" ")))
    }

    /// `fwctl` on the same tree, pins and record, to be run.
    pub fn fwctl_command(&self) -> Result<Command> {
        let mut command = inside(&self.namespace, &program("fwctl")?);
        self.places.arguments(&mut command);
        Ok(command)
    }

    /// Writes a program called `fwctl` into a directory, for programs that call it by that name: on the same tree, pins and record.
    pub fn write_fwctl(&self, directory: &Path) -> Result<()> {
        let mut command = Command::new(program("fwctl")?);
        self.places.arguments(&mut command);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words = words.map(|word| format!("'{}' ", word.display()));
        let text = format!("#!/bin/sh\nexec {}\"$@\"\n", words.collect::<String>());
        let file = directory.join("fwctl");
        fs::write(&file, text)
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Ends it as systemd does; its policy stays in force. An agent that exits with anything but 0 is an error.
    pub fn terminate(&mut self) -> Result<()> {
        if self
            .child
            .try_wait()
            .context("asking for the agent")?
            .is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, Signal::TERM).context("stopping the agent")?;
        }
        let deadline = Instant::now() + patience(END);
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for the agent")? {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().context("killing the agent")?;
                self.child.wait().context("waiting for the killed agent")?;
                bail!(
                    "the agent did not end within {END:?}; it said:\n{}",
                    self.stderr()
                );
            }
            thread::sleep(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            bail!("the reader of the agent's standard error panicked");
        }
        if !status.success() {
            bail!("the agent ended with {status}; it said:\n{}", self.stderr());
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("it has no number")?, signal).context("signalling the agent")
    }

    /// Without taking its exit status away from [`Self::terminate`].
    fn is_running(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), options).is_ok_and(|ended| ended.is_none())
    }

    fn stop(&mut self) -> Result<()> {
        let ended = self.terminate();
        let stopped = self.fwctl(&["stop"]);
        if self.places.pins.exists() {
            fs::remove_dir_all(&self.places.pins)
                .with_context(|| format!("removing {}", self.places.pins.display()))?;
        }
        ended?;
        let stopped = stopped?;
        if !stopped.status.success() {
            bail!(
                "fwctl stop: {}: {}",
                stopped.status,
                String::from_utf8_lossy(&stopped.stderr).trim()
            );
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        if let Err(error) = self.stop() {
            eprintln!("stopping the agent: {error:#}");
        }
    }
}

/// The agent's process, what it says, and the thread that listens to it.
type Running = (Child, Arc<Mutex<String>>, Option<JoinHandle<()>>);

fn begin(namespace: &Path, places: &Places, adjust: impl FnOnce(&mut Command)) -> Result<Running> {
    let mut command = inside(namespace, &program("fw-agent")?);
    places.arguments(&mut command);
    command
        .arg("--log-file")
        .arg(places.run.path().join("pve-firewall.log"))
        .args(&places.options)
        .args(attach_by_clsact(&places.options))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    adjust(&mut command);
    let mut child = command.spawn().context("starting the agent")?;
    let stderr = Arc::new(Mutex::new(String::new()));
    let reader = child.stderr.take().map(|stream| {
        let stderr = Arc::clone(&stderr);
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut text = stderr.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        })
    });
    Ok((child, stderr, reader))
}

/// With `TAPWALL_TEST_ATTACH=clsact` every agent under test attaches as on kernels before 6.6.
fn is_by_clsact() -> bool {
    std::env::var("TAPWALL_TEST_ATTACH").is_ok_and(|mode| mode == "clsact")
}

/// How agents under test attach, if nothing else is said.
pub fn attach_mode() -> AttachMode {
    match is_by_clsact() {
        true => AttachMode::Clsact,
        false => AttachMode::of_this_kernel(),
    }
}

fn attach_by_clsact(options: &[String]) -> Option<&'static str> {
    const OPTION: &str = "--clsact";
    (is_by_clsact() && !options.iter().any(|option| option == OPTION)).then_some(OPTION)
}

/// A program that runs in a namespace, given by its file.
fn inside(namespace: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .arg("--")
        .arg(program);
    command
}

/// A program of this workspace, built beside the running one.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not built; run `cargo xtask build`"))
}
