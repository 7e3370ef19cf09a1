//! `fwctl`'s verbs, one per file. Each reads what it needs, prints, and returns how it went.
//!
//! Exit codes: 0 done, 1 something is not enforced as written (or a query was not understood), 2 failure.

mod apply;
mod backend;
mod ban;
mod check;
mod compile;
mod confirm;
mod conntrack;
mod counters;
mod diff;
mod examples;
mod import;
mod known;
mod live;
mod localnet;
mod log;
mod manual;
mod map;
mod rule;
mod rules;
mod save;
mod scope;
mod service;
mod simulate;
mod status;
mod top;
mod why;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{FromArgMatches, Parser, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};

use self::scope::Scope;
use crate::compile::{Compiled, compile as compile_sources};
use crate::config::{self, Sources};
use crate::datapath::counters::known;
use crate::datapath::pins::Pins;
use crate::diagnostic::{Diagnostic, Severity};
use crate::duration;
use crate::inventory::facts::HostFacts;
use crate::reconcile::unix_time;
use crate::record::RunDirectory;
use crate::settings::{DEFAULT_ROOT, Settings};

/// Looks at and controls Tapwall, the eBPF firewall of this node.
#[derive(Debug, Parser)]
#[command(name = "fwctl", version)]
pub struct Cli {
    #[command(flatten)]
    place: PlaceArguments,
    #[command(subcommand)]
    verb: Verb,
}

/// Where things are, if it is not where the agent's settings say.
#[derive(Debug, clap::Args)]
struct PlaceArguments {
    /// The agent's settings [default: /etc/tapwall/agent.toml, which need not exist].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Configuration tree, laid out like /etc/pve [default: /etc/pve; where there is none, /etc/tapwall with a plain host's firewall/host.fw].
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// Name of the node in the tree [default: the host's name].
    #[arg(long, global = true)]
    node: Option<String>,
    /// Directory where the agent pins maps and links [default: /sys/fs/bpf/tapwall].
    #[arg(long, value_name = "DIR", global = true)]
    pin_dir: Option<PathBuf>,
    /// Directory of the agent's lock, record and control socket [default: /run/tapwall].
    #[arg(long, value_name = "DIR", global = true)]
    run_dir: Option<PathBuf>,
    /// Directory of what outlives a boot: bans, the last good configuration, what is on trial [default: /var/lib/tapwall].
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
}

impl PlaceArguments {
    /// What the command line says, and below it what the settings' file says.
    fn resolve(self) -> Result<Place> {
        let (settings, found) = Settings::read(self.config.as_deref())
            .with_context(|| format!("cannot read the settings {:?}", self.config))?;
        for diagnostic in found {
            eprintln!("{diagnostic}");
        }
        // A tree that is named by hand is hardly the settings' node's.
        let node = match self.root {
            Some(_) => self.node,
            None => self.node.or(settings.node),
        };
        Ok(Place {
            root: self.root.unwrap_or_else(|| settings.root.clone()),
            own_root: settings.root,
            node,
            pin_dir: self.pin_dir.unwrap_or(settings.pin_directory),
            run_dir: self.run_dir.unwrap_or(settings.run_directory),
            state_dir: self.state_dir.unwrap_or(settings.state_directory),
            log_file: settings.log_file,
            log_json: settings.log_json,
        })
    }
}

/// Where things are.
#[derive(Clone, Debug)]
struct Place {
    root: PathBuf,
    /// The tree that is this machine's.
    own_root: PathBuf,
    node: Option<String>,
    pin_dir: PathBuf,
    run_dir: PathBuf,
    state_dir: PathBuf,
    /// The log of packets.
    log_file: PathBuf,
    /// The same as JSON lines, if the settings want one.
    log_json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read the configuration and say what is wrong with it.
    ///
    /// Exits with 0 if every line is enforced, with 1 if some are not (errors), with 2 if the configuration cannot be read at all. Warnings
    /// (lines that may not mean what was meant, and lines that pve-firewall would ignore) count only with --strict.
    Check(check::Arguments),
    /// Print the policies of the host and every port: the rules in order, with where they come from.
    Compile(compile::Arguments),
    /// Say what would happen to a packet, and why.
    Simulate(Box<simulate::Arguments>),
    /// Try a packet on the programs in force, changing nothing, and explain what becomes of it.
    Why(Box<why::Arguments>),
    /// Show what is dropped and rejected: as it happens with rule and reason, or the totals by reason.
    Drops(live::Drops),
    /// Show every verdict as it is made, with rule and reason, until interrupted.
    Trace(live::Live),
    /// Show the firewall's log, by guest, address, port and protocol.
    Log(log::Arguments),
    /// Print the network that `local_network` stands for, and the cluster's other nodes.
    Localnet(localnet::Arguments),
    /// Look into the maps of the kernel programs.
    #[command(subcommand)]
    Map(map::Arguments),
    /// Print the rules in force in order, with packets, bytes, last hit, file and line.
    Rules(rules::Arguments),
    /// List, count, forget, export and import flows.
    #[command(subcommand)]
    Conntrack(Box<conntrack::Arguments>),
    /// List, look for and edit the rules of one file.
    #[command(subcommand)]
    Rule(rule::Arguments),
    /// Print the firewall files without what is not in force: lines in error, disabled rules, definitions that are replaced.
    Save(save::Arguments),
    /// Say what a candidate would change, by policy.
    ///
    /// Exits with 0 if nothing that is enforced differs and every line is enforced, with 1 if something differs or some line is not enforced, with 2 if
    /// the configurations cannot be read.
    Diff(diff::Arguments),
    /// Put a candidate in force: for a while, or for good.
    ///
    /// The candidate is checked, compared with what is in force, and the connections of this node are judged by it. If something is wrong with it, or
    /// somebody would be cut off, nothing is done without --force. Exits with 0 if it is in force, with 1 if it is although some line is not enforced (and with
    /// --dry-run if something would change), with 2 if it was refused or failed.
    Apply(apply::Arguments),
    /// Write what is on trial into the files.
    Confirm(confirm::Arguments),
    /// End what is on trial; if nothing is, bring back the files as they were before the last apply.
    Revert(confirm::Arguments),
    /// Translate another firewall's rules to a firewall file of this one.
    #[command(subcommand)]
    Import(import::Arguments),
    /// Drop everything from these addresses at once, whatever the rules say: for the host and all guests under policy, running flows too.
    ///
    /// Refused are the management set, the cluster's nodes, this node's own addresses and gateways, and who administers it right now. The ban is
    /// enforced when the command ends, with or without an agent. Exits with 1 if some were refused or are not enforced.
    Ban(ban::Ban),
    /// Lift bans.
    Unban(ban::Unban),
    /// List bans: who, how long still, on whose account, why.
    Bans(ban::Bans),
    /// Enforce what sshguard or CrowdSec decides.
    #[command(subcommand)]
    Backend(backend::Arguments),
    /// Set what rules and ports have counted back to zero.
    #[command(subcommand)]
    Counters(counters::Arguments),
    /// Say whether the firewall is on, and which ports are under policy.
    Status(status::Arguments),
    /// Watch guests, talkers, rules and drops on a screen.
    ///
    /// Guests' NICs by traffic and drops, addresses by flows, rules by how often they decide, and what is dropped as it happens. Works without an
    /// agent. Keys: q quits, Tab and 1 to 4 change the list, s sorts, / shows one guest only, p pauses, ? tells them all.
    Top(top::Arguments),
    /// Start the agent, by systemd.
    Start,
    /// Stop the agent and take the firewall away: nothing is filtered any more.
    Stop,
    /// Read everything again, by systemd; start the agent if it does not run. The firewall stays in force.
    Restart,
    /// Print the completions of a shell.
    Completions(manual::Completions),
    /// Print the manual page, or write one per verb.
    Man(manual::Man),
    /// Have the running agent read everything again, and wait until that is carried out.
    Reload,
}

impl Verb {
    fn run(self, place: &Place) -> Result<Outcome> {
        match self {
            Self::Check(arguments) => check::run(place, &arguments),
            Self::Compile(arguments) => compile::run(place, &arguments),
            Self::Simulate(arguments) => simulate::run(place, &arguments),
            Self::Why(arguments) => why::run(place, &arguments),
            Self::Drops(arguments) => live::drops(place, &arguments),
            Self::Trace(arguments) => live::trace(place, &arguments),
            Self::Log(arguments) => log::run(place, &arguments),
            Self::Localnet(arguments) => localnet::run(place, &arguments),
            Self::Map(arguments) => map::run(place, &arguments),
            Self::Rules(arguments) => rules::run(place, &arguments),
            Self::Conntrack(arguments) => conntrack::run(place, &arguments),
            Self::Rule(arguments) => rule::run(place, &arguments),
            Self::Save(arguments) => save::run(place, &arguments),
            Self::Diff(arguments) => diff::run(place, &arguments),
            Self::Apply(arguments) => apply::run(place, &arguments),
            Self::Confirm(arguments) => confirm::confirm(place, &arguments),
            Self::Revert(arguments) => confirm::revert(place, &arguments),
            Self::Import(arguments) => import::run(place, &arguments),
            Self::Ban(arguments) => ban::ban(place, &arguments),
            Self::Unban(arguments) => ban::unban(place, &arguments),
            Self::Bans(arguments) => ban::bans(place, &arguments),
            Self::Backend(arguments) => backend::run(place, &arguments),
            Self::Counters(arguments) => counters::run(place, &arguments),
            Self::Status(arguments) => status::run(place, &arguments),
            Self::Top(arguments) => top::run(place, &arguments),
            Self::Start => service::start(),
            Self::Stop => service::stop(place),
            Self::Restart => service::restart(),
            Self::Completions(arguments) => manual::completions(&arguments),
            Self::Man(arguments) => manual::man(&arguments),
            Self::Reload => service::reload(place),
        }
    }
}

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Diagnostics,
}

impl Outcome {
    /// How a verb ends that found these: errors count, and if `strict` warnings too.
    fn of(found: &[Diagnostic], strict: bool) -> Self {
        let counts = |diagnostic: &Diagnostic| strict || diagnostic.severity == Severity::Error;
        match found.iter().any(counts) {
            true => Self::Diagnostics,
            false => Self::Done,
        }
    }
}

/// Runs `fwctl`.
pub fn main() -> ExitCode {
    let arguments = examples::command().get_matches();
    let cli = Cli::from_arg_matches(&arguments).unwrap_or_else(|error| error.exit());
    let result = cli.place.resolve().and_then(|place| cli.verb.run(&place));
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Diagnostics) => ExitCode::from(1),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fwctl: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The reader of our output has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let written = cause.downcast_ref::<std::io::Error>();
        let said = cause.downcast_ref::<serde_json::Error>();
        let kind = written.map(std::io::Error::kind);
        kind.or_else(|| said?.io_error_kind()) == Some(std::io::ErrorKind::BrokenPipe)
    })
}

impl Place {
    fn sources(&self) -> Result<Sources> {
        let root: &Path = &self.root;
        std::fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
        Ok(Sources::read(root, &self.node_name()?))
    }

    fn node_name(&self) -> Result<String> {
        let root = &self.root;
        match &self.node {
            Some(node) => Ok(node.clone()),
            None => config::node_name(root)
                .with_context(|| format!("no node name: give --node, or check {}", root.display())),
        }
    }

    fn compiled(&self) -> Result<Compiled> {
        Ok(compile_sources(
            &self.sources()?,
            &self.facts()?,
            unix_time(),
        ))
    }

    /// Whether the tree is this machine's.
    fn is_own(&self) -> bool {
        self.root == self.own_root || self.root == Path::new(DEFAULT_ROOT)
    }

    /// What is known of the machine that the tree is for: nothing, unless it is this one's.
    fn facts(&self) -> Result<HostFacts> {
        let is_here = match &self.node {
            Some(node) => config::node_name(&self.root).as_ref() == Some(node),
            None => true,
        };
        if !self.is_own() || !is_here {
            return Ok(HostFacts::default());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(async {
            let (connection, netlink, _) =
                rtnetlink::new_connection().context("cannot talk to netlink")?;
            tokio::spawn(connection);
            let facts = HostFacts::gather(&netlink).await;
            facts.context("cannot list the host's addresses and routes")
        })
    }

    fn run_directory(&self) -> RunDirectory {
        RunDirectory::new(&self.run_dir)
    }

    /// The pins of an agent, which must exist.
    fn pins(&self) -> Result<Pins> {
        let pins = Pins::new(&self.pin_dir);
        if !rustix::process::geteuid().is_root() {
            anyhow::bail!("only root may look into the maps of the kernel: use sudo");
        }
        if !pins.exist() {
            anyhow::bail!(
                "no maps are pinned in {}: the firewall is not loaded; `fwctl start` starts it",
                self.pin_dir.display()
            );
        }
        Ok(pins)
    }

    /// Tells who asks for a port that this node has not.
    fn remark(&self, pins: &Pins, scope: Option<Scope>) -> Result<()> {
        if let Some(scope) = scope
            && let Some(sentence) = scope::unknown(scope, known(pins)?)
        {
            eprintln!("fwctl: {sentence}");
        }
        Ok(())
    }
}

/// Whether to print in colours: on a terminal, unless `NO_COLOR` is set (no-color.org).
fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

/// A table in the style of all verbs.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}
