//! `fwctl stop`: end the agent and take the programs off every device.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{Outcome, Place};
use crate::datapath::pins::Pins;
use crate::datapath::{AttachMode, detach_all};

/// Time that an agent gets to end.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(place: &Place) -> Result<Outcome> {
    let directory = place.run_directory();
    if directory.is_locked() {
        let record = directory
            .read()?
            .context("the agent has no record yet; try again")?;
        let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("the record names no process")?;
        kill_process(pid, Signal::TERM).context("cannot signal the agent")?;
        let deadline = Instant::now() + PATIENCE;
        while directory.is_locked() {
            if Instant::now() > deadline {
                anyhow::bail!("the agent (process {}) does not end", record.pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let pins = Pins::new(&place.pin_dir);
    detach_all(&pins, AttachMode::of_this_kernel())?;
    println!("stopped: nothing is filtered");
    Ok(Outcome::Done)
}
