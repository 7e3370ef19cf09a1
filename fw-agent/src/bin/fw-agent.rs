//! Tapwall's agent: keeps a node's eBPF firewall as Proxmox's files say.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fw_agent::datapath::{missing_privilege, pins};
use fw_agent::reconcile::{self, Options};
use fw_agent::{config, record};

/// Keeps the eBPF firewall of this node as Proxmox's firewall files say.
///
/// The policy stays in force when the agent ends; `fwctl stop` takes it away.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration tree, laid out like /etc/pve.
    #[arg(long, value_name = "DIR", default_value = "/etc/pve")]
    root: PathBuf,
    /// Name of this node in the tree [default: the host's name].
    #[arg(long)]
    node: Option<String>,
    /// Directory on a BPF file system where maps and links are pinned.
    #[arg(long, value_name = "DIR", default_value = pins::DEFAULT)]
    pin_dir: PathBuf,
    /// Directory of the agent's lock and record.
    #[arg(long, value_name = "DIR", default_value = record::DEFAULT_RUN_DIRECTORY)]
    run_dir: PathBuf,
    /// Log of packets that rules and policies log.
    #[arg(long, value_name = "FILE", default_value = "/var/log/pve-firewall.log")]
    log_file: PathBuf,
    /// Judge flows again after a change of the rules, and cut those that are no longer allowed.
    #[arg(long)]
    reevaluate: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fw-agent: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(sentence) = missing_privilege(&arguments.pin_dir) {
        anyhow::bail!(sentence);
    }
    let node = match arguments.node {
        Some(node) => node,
        None => config::node_name(&arguments.root).with_context(|| {
            format!(
                "no node name: give --node, or check {}",
                arguments.root.display()
            )
        })?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(reconcile::run(Options {
        root: arguments.root,
        node,
        pin_directory: arguments.pin_dir,
        run_directory: arguments.run_dir,
        log_file: arguments.log_file,
        reevaluate: arguments.reevaluate,
    }))
}
