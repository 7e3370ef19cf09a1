//! Installing daemons without starting them: tests start their own.
//!
//! While a [`Quiet`] is held, `invoke-rc.d` and what packages start services by are refused by `/usr/sbin/policy-rc.d` (Debian policy 9.11.6), unless the
//! machine has a policy of its own, which stays. Afterwards [`disable`] takes the new services out of the next boot.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress;
use crate::workspace::{Workspace, programs_named};

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Nothing is started while it is held.
pub struct Quiet {
    made: bool,
}

impl Quiet {
    /// Puts the policy there.
    pub fn begin() -> Result<Self> {
        let file = fs::File::options()
            .create_new(true)
            .write(true)
            .mode(0o755)
            .open(POLICY);
        match file {
            Ok(mut file) => {
                let quiet = Self { made: true };
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("writing {POLICY}"))?;
                Ok(quiet)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { made: false }),
            Err(error) => Err(error).with_context(|| format!("making {POLICY}")),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(Path::new(POLICY))
        {
            eprintln!("removing {POLICY}: {error}");
        }
    }
}

/// Has none of these services start with the machine.
pub fn disable(workspace: &Workspace, services: &[&str]) -> Result<()> {
    if services.is_empty() || programs_named("systemctl").is_empty() {
        return Ok(());
    }
    let mut command = Command::new("systemctl");
    command.arg("disable").args(services);
    let step = format!("systemctl disable {}", services.join(" "));
    progress::run(workspace, &step, "systemctl-disable", &mut command)
}
