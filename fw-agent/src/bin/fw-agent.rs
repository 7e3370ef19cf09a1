//! Tapwall's agent: keeps a node's eBPF firewall as Proxmox's files say.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fw_agent::arguments::Arguments;
use fw_agent::conflicts;
use fw_agent::datapath::{AttachMode, missing_privilege};
use fw_agent::journal;
use fw_agent::reconcile::{self, Options};
use fw_agent::settings::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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
