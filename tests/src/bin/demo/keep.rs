//! `--keep`: the demo goes on in the background until `--clean`.
//!
//! The tap peer, the servers and every handle that removes something live in a process. `--keep` therefore starts the demo as a process of a
//! session of its own and shows its output; once that process has run everything, it writes [`STATE`], lets go of the terminal and waits
//! for a signal. `--clean` sends the signal and waits; the handles do the rest.

use std::fs;
use std::io::{copy, stdout};
use std::path::Path;
use std::process::{Command, Stdio, id};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use serde::{Deserialize, Serialize};
use tapwall_tests::agent::{Agent, program};
use tapwall_tests::node::DemoNode;
use tapwall_tests::tree::{ConfigTree, NODE};

use crate::signals;

/// Says which process holds a demo.
const STATE: &str = "/run/tapwall-demo.json";

/// How long taking a demo down may take.
const END: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct State {
    pid: u32,
    as_expected: bool,
}

/// Runs the demo in the background; returns when it has shown everything, with its result.
pub fn start() -> Result<bool> {
    if let Some(state) = running()? {
        bail!(
            "a demo is up already (process {}); remove it with `cargo xtask demo --clean`",
            state.pid
        );
    }
    let own = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(own)
        .arg("--hold")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the demo in the background")?;
    let mut output = child.stdout.take().context("the demo has no output")?;
    copy(&mut output, &mut stdout()).context("showing the demo's output")?;
    // Its output ended: it waits now, or it failed.
    if let Some(state) = running()?
        && state.pid == child.id()
    {
        return Ok(state.as_expected);
    }
    let status = child.wait().context("waiting for the demo")?;
    bail!("the demo ended by itself: {status}")
}

/// Leaves everything up until a signal comes.
pub fn hold(node: &DemoNode, tree: &ConfigTree, agent: &Agent, as_expected: bool) -> Result<()> {
    println!("── the node stays up\nenter it:");
    for (name, station) in node.stations() {
        println!(
            "  nsenter --net={:<32} # {name}: {} {}",
            station.namespace.path().display(),
            station.v4(),
            station.v6()
        );
    }
    println!(
        "configuration: {}/firewall (edit 100.fw and try again)",
        tree.path().display()
    );
    println!(
        "log:           {}/pve-firewall.log",
        agent.run_directory().display()
    );
    println!("remove:        cargo xtask demo --clean");
    println!(
        "status:        {} --root {} --node {NODE} --pin-dir {} --run-dir {} status",
        program("fwctl")?.display(),
        tree.path().display(),
        agent.pin_directory().display(),
        agent.run_directory().display(),
    );

    rustix::process::setsid().context("leaving the terminal's session")?;
    let state = State {
        pid: id(),
        as_expected,
    };
    fs::write(STATE, serde_json::to_vec(&state)?).with_context(|| format!("writing {STATE}"))?;
    let nowhere = fs::File::options()
        .write(true)
        .open("/dev/null")
        .context("opening /dev/null")?;
    dup2_stderr(&nowhere)?;
    dup2_stdout(&nowhere)?;
    signals::wait();
    fs::remove_file(STATE).with_context(|| format!("removing {STATE}"))
}

/// Takes a kept demo down.
pub fn clean() -> Result<()> {
    let Some(state) = running()? else {
        println!("no demo is up");
        return Ok(());
    };
    let pid = i32::try_from(state.pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("ending process {}", state.pid))?;
    let deadline = Instant::now() + END;
    while is_demo(state.pid) {
        if Instant::now() > deadline {
            bail!("process {} does not end", state.pid);
        }
        sleep(Duration::from_millis(20));
    }
    println!("the demo is removed");
    Ok(())
}

/// The demo that is up, if there is one; what a killed one left is forgotten.
fn running() -> Result<Option<State>> {
    let text = match fs::read(STATE) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {STATE}")),
    };
    let state = serde_json::from_slice::<State>(&text).ok();
    if let Some(state) = state
        && is_demo(state.pid)
    {
        return Ok(Some(state));
    }
    fs::remove_file(STATE).with_context(|| format!("removing {STATE}"))?;
    Ok(None)
}

/// Whether a process is one that holds a demo.
fn is_demo(pid: u32) -> bool {
    fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"--hold"))
}
