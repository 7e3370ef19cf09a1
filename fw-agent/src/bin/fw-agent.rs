//! Tapwall's agent: keeps a node's eBPF firewall as Proxmox's files say.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fw_agent::conflicts;
use fw_agent::datapath::{AttachMode, missing_privilege};
use fw_agent::diagnostic::Severity;
use fw_agent::journal;
use fw_agent::reconcile::{self, Options};
use fw_agent::settings::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Keeps the eBPF firewall of this node as Proxmox's firewall files say.
///
/// The policy stays in force when the agent ends; `fwctl stop` takes it away. Options override the settings' file.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
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
    clsact: bool,
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
    force: bool,
}

impl Arguments {
    /// What the file says, and above it what the command line says.
    fn settings(self) -> Result<Settings> {
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    journal::start();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fw-agent: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Refuses to start beside another firewall, unless that is wanted. Their pid files are beside the agent's run directory.
fn refuse_company(settings: &Settings, force: bool) -> Result<()> {
    let run = settings.run_directory.parent().unwrap_or(Path::new("/run"));
    for conflict in conflicts::find(run, Path::new(conflicts::SYSTEM_SLICE)) {
        match force {
            true => tracing::warn!("{conflict}"),
            false => return Err(conflict.into()),
        }
    }
    // Only a remark, which need not be waited for.
    std::thread::spawn(|| {
        for sentence in conflicts::leftovers() {
            tracing::warn!("{sentence}");
        }
    });
    Ok(())
}

/// Lets the process have as many files as it may: it holds two links per device.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let force = arguments.force;
    let attach_mode = match arguments.clsact {
        true => AttachMode::Clsact,
        false => AttachMode::of_this_kernel(),
    };
    let settings = arguments.settings()?;
    refuse_company(&settings, force)?;
    if let Some(sentence) = missing_privilege(&settings.pin_directory) {
        anyhow::bail!(sentence);
    }
    let node = settings.node_name().with_context(|| {
        format!(
            "no node name: give --node, or check {}",
            settings.root.display()
        )
    })?;
    raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(reconcile::run(Options {
        root: settings.root,
        node,
        pin_directory: settings.pin_directory,
        run_directory: settings.run_directory,
        state_directory: settings.state_directory,
        interfaces: settings.interfaces,
        log_file: settings.log_file,
        log_json: settings.log_json,
        attach_mode,
        reevaluate: settings.reevaluate,
        metrics_address: settings.metrics_address,
        metrics_rules: settings.metrics_rules,
    }))
}
