//! `fwctl start`, `restart`, `reload` and `stop`: the service manager does it where there is one.
//!
//! `start` and `restart` are systemd's, as with the reference; `reload` asks the agent itself, and is what systemd runs. `stop` ends the agent however it was started, and then takes the programs off
//! every device: an agent that merely ends leaves the firewall in force.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{Outcome, Place};
use crate::control::client;
use crate::datapath::pins::Pins;
use crate::datapath::{AttachMode, detach_all};
use crate::settings::Settings;

/// The unit.
const UNIT: &str = "tapwall.service";

/// Exists while systemd is the service manager (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Time that an agent gets to end.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn start() -> Result<Outcome> {
    delegate("start")
}

pub(super) fn restart() -> Result<Outcome> {
    delegate("reload-or-restart")
}

fn delegate(verb: &str) -> Result<Outcome> {
    if !is_booted() {
        anyhow::bail!(
            "no systemd here that could {verb} {UNIT}: run `fw-agent`, or send a running one SIGHUP to read everything again"
        );
    }
    systemctl(verb)?;
    Ok(Outcome::Done)
}

/// Has the running agent read everything again; done when that is carried out.
pub(super) fn reload(place: &Place) -> Result<Outcome> {
    let status = client::reload(&place.run_dir)?;
    if status.record.incomplete {
        anyhow::bail!("not everything could be carried out: see `fwctl status`");
    }
    Ok(Outcome::Done)
}

pub(super) fn stop(place: &Place) -> Result<Outcome> {
    let directory = place.run_directory();
    // First of all, and whether an agent runs or not: systemd may be about to start one (again).
    if is_booted() && is_of_the_unit(place) && may_start() {
        systemctl("stop")?;
    }
    if directory.is_locked() {
        let pid = agent(place)?;
        // A signal would not do: systemd starts an agent again that ended by itself.
        match is_booted() && main_process() == Some(pid) {
            true => systemctl("stop")?,
            false => terminate(pid)?,
        }
        let deadline = Instant::now() + PATIENCE;
        while directory.is_locked() {
            if Instant::now() > deadline {
                anyhow::bail!("the agent (process {pid}) does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let pins = Pins::new(&place.pin_dir);
    detach_all(&pins, AttachMode::of_this_kernel())?;
    // What it says is no longer so.
    directory
        .forget()
        .context("cannot remove the agent's record")?;
    println!("stopped: nothing is filtered");
    Ok(Outcome::Done)
}

/// Whether the agent of this place is the one that the unit starts: it has the run directory of the settings' file.
fn is_of_the_unit(place: &Place) -> bool {
    Settings::read(None).is_ok_and(|(settings, _)| settings.run_directory == place.run_dir)
}

/// Whether the unit runs, starts or ends, or waits to be started again.
fn may_start() -> bool {
    !matches!(
        property("ActiveState").as_deref(),
        None | Some("inactive" | "failed")
    )
}

/// The agent's process, from the agent, or if it does not answer from its record.
fn agent(place: &Place) -> Result<u32> {
    let error = match client::status(&place.run_dir) {
        Ok(status) => return Ok(status.record.pid),
        Err(error) => error,
    };
    match place.run_directory().read()? {
        Some(record) => Ok(record.pid),
        None => Err(error.context("the agent has no record yet; try again")),
    }
}

fn terminate(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("the record names no process")?;
    kill_process(pid, Signal::TERM).context("cannot signal the agent")
}

fn is_booted() -> bool {
    Path::new(BOOTED).is_dir()
}

fn systemctl(verb: &str) -> Result<()> {
    let status = Command::new("systemctl")
        .args([verb, UNIT])
        .stdin(Stdio::null())
        .status()
        .context("cannot run systemctl")?;
    if !status.success() {
        anyhow::bail!("`systemctl {verb} {UNIT}` failed ({status}): see `systemctl status {UNIT}`");
    }
    Ok(())
}

/// The process that systemd runs the unit with.
fn main_process() -> Option<u32> {
    property("MainPID")?.parse().ok().filter(|pid| *pid != 0)
}

/// What systemd knows of the unit.
fn property(name: &str) -> Option<String> {
    let output = Command::new("systemctl")
        .args(["show", &format!("--property={name}"), "--value", UNIT])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
