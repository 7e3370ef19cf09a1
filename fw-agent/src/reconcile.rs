//! When things are done: the agent's loop.
//!
//! Something changed (a file, a device, the time): read the files, go through the pure stages, plan against what the kernel holds, apply, and
//! write the record. Anything that fails leaves the last policy in force and is tried again.
//!
//! 1. [`events`] says what happened, from a closed list; [`watch`] is its part about files: at once by inotify, within a second by looking
//!    (`/etc/pve` is a FUSE file system whose remote changes raise no events).
//! 2. Devices are listed with every round but those that files alone caused; a guest's that is new is closed before that, without the loop ([`doorkeeper`],
//!    [`newcomers`]). The host's addresses and routes are asked for once a second at most.
//! 3. Changes that come together are carried out together.
//! 4. A round is [`round`]; what it decided is carried out by [`carry`] and noted by [`note`].
//! 5. What was carried out is kept on disk ([`keeper`]); until the files can be read for the first time, that is enforced.
//! 6. Another configuration may be on [`trial`]: it stands in the files' place until its time is over.
//!
//! Invariant: the firewall is opened only by a configuration that says so and that could be read. A root directory that is gone, or a file that
//! exists and cannot be read, changes nothing; one that is gone or cut off does not open what it had closed.

mod answers;
mod bans;
mod carry;
mod debug_log;
mod doorkeeper;
mod events;
mod host;
mod keeper;
mod logger;
mod newcomers;
mod note;
mod outputs;
mod round;
mod sweeper;
mod trial;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

use self::doorkeeper::{Doorkeeper, Orders};
use self::events::{Event, Events};
use self::keeper::Keeper;
use self::logger::{LogNames, Logger};
use self::outputs::Outputs;
use self::sweeper::Sweeper;
use crate::bans::Desk;
use crate::bans::protected::Tree;
use crate::cache::{Cache, Digests};
use crate::compile::{Compiled, Compiler};
use crate::config::{Changed, Reader, Sources};
use crate::control::bans::BanRequests;
use crate::control::{Request, server, socket};
use crate::datapath::pins::Pins;
use crate::datapath::{AttachMode, Bans, Kernel, State};
use crate::image::Builder;
use crate::inventory::devices::{self, Devices};
use crate::inventory::facts::HostFacts;
use crate::metrics::{self, Exporter};
use crate::notify::Manager;
use crate::record::{Record, RunDirectory};
use crate::settings::Interfaces;
use crate::trial::Trial;
use crate::trial::store::Store;

/// Where the agent finds and puts things.
#[derive(Clone, Debug)]
pub struct Options {
    /// A tree laid out like `/etc/pve`.
    pub root: PathBuf,
    /// Name of the node in that tree.
    pub node: String,
    /// Directory on a BPF file system for pins.
    pub pin_directory: PathBuf,
    /// Directory for the record and the lock.
    pub run_directory: PathBuf,
    /// Directory of the last good configuration.
    pub state_directory: PathBuf,
    /// Interfaces of the host's zone.
    pub interfaces: Interfaces,
    /// The firewall's log.
    pub log_file: PathBuf,
    /// The same as JSON lines, if there is to be one.
    pub log_json: Option<PathBuf>,
    /// How programs are attached.
    pub attach_mode: AttachMode,
    /// Flows that were accepted under older rules are judged again.
    pub reevaluate: bool,
    /// Where metrics are served besides the control socket, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Rules that metrics tell of, at the most.
    pub metrics_rules: usize,
}

impl Options {
    fn exporter(&self) -> Arc<Exporter> {
        let (pins, run) = (&self.pin_directory, &self.run_directory);
        Arc::new(Exporter::new(pins, run, self.metrics_rules))
    }
}

/// Runs the agent until a signal ends it. The policy stays in force afterwards.
///
/// # Errors
/// The programs cannot be loaded, or netlink or the run directory do not work.
pub async fn run(options: Options) -> Result<()> {
    let run_directory = RunDirectory::new(&options.run_directory);
    let Some(_lock) = run_directory
        .lock()
        .with_context(|| format!("cannot lock {}", options.run_directory.display()))?
    else {
        anyhow::bail!(
            "another agent holds the lock in {}",
            options.run_directory.display()
        );
    };
    let (requests, control) = mpsc::channel(16);
    let listener = server::bind(&options.run_directory).with_context(|| {
        format!(
            "cannot make the control socket in {}",
            options.run_directory.display()
        )
    })?;
    let mode = options.attach_mode;
    let (netlink, links) = devices::watch().context("cannot listen to netlink")?;
    let mut kernel = Kernel::open(&options.pin_directory, mode)?;
    let orders = Arc::new(Orders::default());
    let (tell, closed) = mpsc::unbounded_channel();
    let doorkeeper = Doorkeeper::start(kernel.door()?, Arc::clone(&orders), tell)?;
    let present = Devices::list(&netlink)
        .await
        .context("cannot list the network devices")?;
    let facts = HostFacts::gather(&netlink)
        .await
        .context("cannot list the host's addresses and routes")?;
    let state = kernel.recover(&present.indices())?;
    let bans = Bans::open(&Pins::new(&options.pin_directory))?;
    let desk = bans::open(&options);
    let outputs = Outputs::new(options.log_file.clone(), options.log_json.clone());
    let (logger, names, news) = Logger::new(&mut kernel, outputs)?;
    let logging = tokio::spawn(logger.run());

    let mut events = Events::listen(&options.root, &options.node, links, control, closed)?;
    let cache = Cache::new(&options.state_directory, &options.root, &options.node);
    let trials = Store::new(&options.state_directory, &options.root, &options.node);
    let cached = cache.load().unwrap_or_else(|error| {
        tracing::error!("{:#}; it is not used", anyhow::Error::from(error));
        None
    });
    let reader = Reader::new(&options.root, &options.node);
    let builder = Builder::new(options.reevaluate);
    let mut agent = Agent {
        options,
        run_directory,
        kernel,
        bans,
        desk,
        state,
        state_is_unknown: false,
        reader,
        sources: Sources::default(),
        compiler: Compiler::default(),
        builder,
        compiled: None,
        cached_at: None,
        keeper: Keeper::start(cache),
        kept: String::new(),
        trials,
        trial: None,
        digests: Digests::default(),
        facts,
        orders,
        news: false,
        devices: Devices::default(),
        names,
        record: Record {
            pid: std::process::id(),
            ..Record::default()
        },
        retry: false,
        read_error: None,
        pin_error: None,
        sweeper: None,
        started: Instant::now(),
    };
    agent.order();
    agent.take_up_trial();
    agent.start_from(cached);
    agent.reconcile(present, &Changed::Anything);
    // After the settings are written: timeouts are among them.
    agent.sweeper = Some(Sweeper::start(&agent.options.pin_directory, news)?);
    agent.keep_counters();
    let mut manager = Manager::of_this_process();
    manager.round(&agent.sentence());
    let exporter = agent.options.exporter();
    if let Some(address) = agent.options.metrics_address {
        tokio::spawn(metrics::server::serve(address, Arc::clone(&exporter)));
    }
    let bans = BanRequests::new(
        &agent.options.pin_directory,
        Tree {
            root: agent.options.root.clone(),
            node: agent.options.node.clone(),
            state_directory: agent.options.state_directory.clone(),
        },
    );
    let serving = tokio::spawn(server::serve(listener, requests, exporter, bans));
    let mut facts_are_old = false;
    let ended_by = loop {
        let mut answer = None;
        let mut only_files = false;
        let changed = match events.next().await {
            Event::Files(changed) => {
                only_files = true;
                events.settle(changed).await
            }
            // Addresses may have come with it.
            Event::Links(news) => {
                facts_are_old = true;
                anything(agent.is_unknown_to_files(&news))
            }
            Event::Closed(told) => {
                told.into_iter().for_each(|told| agent.adopt(told));
                Changed::NOTHING
            }
            Event::Addresses => {
                facts_are_old = true;
                continue;
            }
            // Devices are listed again in any case: netlink drops messages when many come at once.
            Event::Tick => {
                let news = std::mem::take(&mut facts_are_old) && agent.look_around(&netlink).await;
                agent.look_after_pins();
                agent.look_after_bans();
                agent.look_after_trial();
                anything(events.look() || agent.is_due() || news || !agent.reader.is_certain())
            }
            Event::Terminate(signal) => break signal,
            Event::Hangup => {
                tracing::info!("SIGHUP: reading everything again, opening the logs anew");
                manager.reloading();
                agent.names.send_modify(|names| names.reopen += 1);
                agent.reader.forget();
                Changed::Anything
            }
            Event::Control(Request::Status(to)) => {
                reply(to, agent.status());
                continue;
            }
            Event::Control(Request::Diagnostics(to)) => {
                reply(to, agent.diagnostics());
                continue;
            }
            Event::Control(Request::Begin(to)) => {
                reply(to, agent.begin_trial());
                continue;
            }
            Event::Control(Request::Confirm(to)) => {
                reply(to, agent.confirm_trial());
                continue;
            }
            Event::Control(Request::Revert(to)) => {
                reply(to, agent.revert_trial());
                continue;
            }
            Event::Control(Request::Reload(to)) => {
                answer = Some(to);
                agent.reader.forget();
                Changed::Anything
            }
        };
        // The devices that are known, if only files changed: netlink tells of others, and each time it does they are listed.
        let present = match only_files {
            true => Ok(agent.devices.clone()),
            false => Devices::list(&netlink).await,
        };
        match present {
            Ok(present) => {
                facts_are_old |= !changed.is_nothing() || present != agent.devices;
                agent.reconcile(present, &changed);
            }
            Err(error) => tracing::error!(%error, "cannot list the network devices"),
        }
        if let Some(to) = answer {
            reply(to, agent.status());
        }
        manager.round(&agent.sentence());
    };
    tracing::info!("{ended_by}: stopping; the policy stays in force");
    agent.leave_trial();
    drop(doorkeeper);
    manager.stopping();
    serving.abort();
    if let Err(error) = std::fs::remove_file(socket(&agent.options.run_directory)) {
        tracing::warn!(%error, "cannot remove the control socket");
    }
    let Agent {
        keeper,
        names,
        sweeper,
        ..
    } = agent;
    drop((names, sweeper));
    keeper.finish().await;
    logging.await.context("the log reader failed")
}

/// That anything may have changed, or nothing has.
fn anything(may_have_changed: bool) -> Changed {
    match may_have_changed {
        true => Changed::Anything,
        false => Changed::NOTHING,
    }
}

/// Answers a request; whoever asked may have gone.
fn reply<T>(to: oneshot::Sender<T>, answer: T) {
    if to.send(answer).is_err() {
        tracing::debug!("nobody waits for the answer any more");
    }
}

/// What the loop keeps between rounds.
struct Agent {
    options: Options,
    run_directory: RunDirectory,
    kernel: Kernel,
    bans: Bans,
    /// Where bans are made and told of.
    desk: Desk,
    state: State,
    /// An action failed, and then so did reading back what the kernel holds: `state` is not to be planned from.
    state_is_unknown: bool,
    reader: Reader,
    sources: Sources,
    facts: HostFacts,
    compiler: Compiler,
    builder: Builder,
    compiled: Option<Arc<Compiled>>,
    /// When the files in force were kept, if they are from the cache and not yet from the tree.
    cached_at: Option<String>,
    keeper: Keeper,
    /// Name of the contents that were handed to it last.
    kept: String,
    /// Where trials are kept.
    trials: Store,
    /// What stands in the place of files.
    trial: Option<Trial>,
    /// What the doorkeeper is to close.
    orders: Arc<Orders>,
    /// There is something to plan or to record that neither files nor devices show.
    news: bool,
    digests: Digests,
    devices: Devices,
    names: tokio::sync::watch::Sender<LogNames>,
    record: Record,
    /// Something failed that may go better next time.
    retry: bool,
    /// Why the files could not be read last time; said once.
    read_error: Option<String>,
    /// Why pins that are gone could not be made again; said once.
    pin_error: Option<String>,
    sweeper: Option<Sweeper>,
    started: Instant,
}

impl Agent {
    /// Something that is no event wants another round: a failure, or a switch that expires by itself.
    fn is_due(&self) -> bool {
        let expired = self.compiled.as_ref().is_some_and(|compiled| {
            let enable = compiled.config.cluster.options.enable.value;
            crate::policy::is_enabled(enable, unix_time()) != compiled.policy.enabled
        });
        self.retry || self.news || expired
    }

    /// Asks for the host's addresses and routes; says whether they are others than before.
    async fn look_around(&mut self, netlink: &rtnetlink::Handle) -> bool {
        match HostFacts::gather(netlink).await {
            Ok(facts) if facts == self.facts => false,
            Ok(facts) => {
                self.facts = facts;
                self.retry = true;
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot list the host's addresses and routes");
                false
            }
        }
    }
}

/// Now, in seconds.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
