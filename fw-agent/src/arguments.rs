//! The command line of `fw-agent`: what of the settings it overrides.
//!
//! It is here and not beside `main`, because `fwctl man` makes a manual page of it, too.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;

use crate::diagnostic::Severity;
use crate::settings::Settings;

/// Keeps the eBPF firewall of this node as Proxmox's firewall files say.
///
/// The policy stays in force when the agent ends; `fwctl stop` takes it away. Options override the settings' file.
#[derive(Debug, Parser)]
#[command(name = "fw-agent", version)]
pub struct Arguments {
    /// The agent's settings [default: /etc/tapwall/agent.toml, which need not exist].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Configuration tree, laid out like /etc/pve.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Name of this node in the tree [default: the host's name].
    #[arg(long)]
    node: Option<String>,
    /// Directory on a BPF file system where maps and links are pinned.
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Directory of the agent's lock, record and control socket.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Attach by filters of the clsact qdisc, as kernels before 6.6 need it.
    #[arg(long, hide = true)]
    pub clsact: bool,
    /// Directory of the last good configuration.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Log of packets that rules and policies log.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The same log as JSON lines.
    #[arg(long, value_name = "FILE")]
    log_json: Option<PathBuf>,
    /// Judge flows again after a change of the rules, and cut those that are no longer allowed.
    #[arg(long)]
    reevaluate: bool,
    /// Start although pve-firewall or proxmox-firewall runs.
    #[arg(long)]
    pub force: bool,
}

impl Arguments {
    /// What the file says, and above it what the command line says.
    ///
    /// # Errors
    /// The command line names a file that cannot be read.
    pub fn settings(self) -> Result<Settings> {
        let (mut settings, found) = Settings::read(self.config.as_deref())
            .with_context(|| format!("cannot read {}", shown(self.config.as_deref())))?;
        for diagnostic in found {
            match diagnostic.severity {
                Severity::Error => tracing::error!("{diagnostic}"),
                Severity::Warning => tracing::warn!("{diagnostic}"),
            }
        }
        for (place, given) in [
            (&mut settings.root, self.root),
            (&mut settings.pin_directory, self.pin_dir),
            (&mut settings.run_directory, self.run_dir),
            (&mut settings.state_directory, self.state_dir),
            (&mut settings.log_file, self.log_file),
        ] {
            if let Some(given) = given {
                *place = given;
            }
        }
        settings.node = self.node.or(settings.node);
        settings.reevaluate |= self.reevaluate;
        settings.log_json = self.log_json.or(settings.log_json);
        Ok(settings)
    }
}

fn shown(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}
