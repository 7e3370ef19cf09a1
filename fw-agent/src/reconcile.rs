//! When things are done: the agent's loop.
//!
//! Something changed (a file, a device, the time): read the files, go through the pure stages, plan against what the kernel holds, apply, and
//! write the record. Anything that fails leaves the last policy in force and is tried again.
//!
//! 1. [`events`] says what happened, from a closed list; [`watch`] is its part about files: at once by inotify, within a second by looking
//!    (`/etc/pve` is a FUSE file system whose remote changes raise no events).
//! 2. Devices are listed with every round; a guest's that is new is closed before that, without the loop ([`doorkeeper`], [`newcomers`]). The host's addresses and routes are asked for once a second at most.
//! 3. Changes that come together are carried out together.
//! 4. What was carried out is kept on disk ([`keeper`]); until the files can be read for the first time, that is enforced.
//!
//! Invariant: the firewall is opened only by a configuration that says so and that could be read. A root directory that is gone, or a file that
//! exists and cannot be read, changes nothing; one that is gone or cut off does not open what it had closed.

mod answers;
mod debug_log;
mod doorkeeper;
mod events;
mod host;
mod keeper;
mod logger;
mod newcomers;
mod outputs;
mod sweeper;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fw_common::maps::PortKey;
use tokio::sync::{mpsc, oneshot};

use self::answers::unreadable;
use self::doorkeeper::{Doorkeeper, Orders};
use self::events::{Event, Events};
use self::host::scope;
use self::keeper::Keeper;
use self::logger::{LogNames, Logger};
use self::outputs::Outputs;
use self::sweeper::Sweeper;
use crate::cache::{self, Cache};
use crate::compile::{Compiled, compile};
use crate::config::Sources;
use crate::control::{Request, server, socket};
use crate::datapath::pins::Pins;
use crate::datapath::{
    Action, AttachMode, Bans, Kernel, Plan, State, monotonic,
    plan::{Edge, Present, plan_node, plan_uplinks},
};
use crate::diagnostic::Severity;
use crate::image::{HOST, MapImage};
use crate::inventory::devices::{self, Devices};
use crate::inventory::facts::HostFacts;
use crate::inventory::uplinks::uplinks;
use crate::notify::Manager;
use crate::record::{PortRecord, Record, RunDirectory, UplinkRecord};
use crate::settings::Interfaces;

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
    let outputs = Outputs::new(options.log_file.clone(), options.log_json.clone());
    let (logger, names, news) = Logger::new(&mut kernel, outputs)?;
    let logging = tokio::spawn(logger.run());

    let mut events = Events::listen(&options.root, &options.node, links, control, closed)?;
    let cache = Cache::new(&options.state_directory, &options.root, &options.node);
    let cached = cache.load().unwrap_or_else(|error| {
        tracing::error!("{:#}; it is not used", anyhow::Error::from(error));
        None
    });
    let mut agent = Agent {
        options,
        run_directory,
        kernel,
        bans,
        state,
        state_is_unknown: false,
        sources: Sources::default(),
        compiled: None,
        cached_at: None,
        keeper: Keeper::start(cache),
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
    agent.start_from(cached);
    agent.reconcile(present, true);
    // After the settings are written: timeouts are among them.
    agent.sweeper = Some(Sweeper::start(&agent.options.pin_directory, news)?);
    agent.keep_counters();
    let mut manager = Manager::of_this_process();
    manager.round(&agent.sentence());
    let serving = tokio::spawn(server::serve(listener, requests));
    let mut facts_are_old = false;
    let ended_by = loop {
        let mut answer = None;
        let files_changed = match events.next().await {
            Event::Files => {
                events.settle().await;
                true
            }
            // Addresses may have come with it.
            Event::Links(news) => {
                facts_are_old = true;
                agent.is_unknown_to_files(&news)
            }
            Event::Closed(told) => {
                told.into_iter().for_each(|told| agent.adopt(told));
                false
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
                events.look() || agent.is_due() || news
            }
            Event::Terminate(signal) => break signal,
            Event::Hangup => {
                tracing::info!("SIGHUP: reading everything again, opening the logs anew");
                manager.reloading();
                agent.names.send_modify(|names| names.reopen += 1);
                true
            }
            Event::Control(Request::Status(to)) => {
                reply(to, agent.status());
                continue;
            }
            Event::Control(Request::Diagnostics(to)) => {
                reply(to, agent.diagnostics());
                continue;
            }
            Event::Control(Request::Reload(to)) => {
                answer = Some(to);
                true
            }
        };
        match Devices::list(&netlink).await {
            Ok(present) => {
                facts_are_old |= files_changed || present != agent.devices;
                agent.reconcile(present, files_changed);
            }
            Err(error) => tracing::error!(%error, "cannot list the network devices"),
        }
        if let Some(to) = answer {
            reply(to, agent.status());
        }
        manager.round(&agent.sentence());
    };
    tracing::info!("{ended_by}: stopping; the policy stays in force");
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
    state: State,
    /// An action failed, and then so did reading back what the kernel holds: `state` is not to be planned from.
    state_is_unknown: bool,
    sources: Sources,
    facts: HostFacts,
    compiled: Option<Arc<Compiled>>,
    /// When the files in force were kept, if they are from the cache and not yet from the tree.
    cached_at: Option<String>,
    keeper: Keeper,
    /// What the doorkeeper is to close.
    orders: Arc<Orders>,
    /// There is something to plan or to record that neither files nor devices show.
    news: bool,
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

    /// Removes bans that have ended, and has others dropped early. Anyone may have made them meanwhile.
    fn look_after_bans(&mut self) {
        match self.bans.expire(monotonic()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "bans have ended"),
            Err(error) => tracing::error!("{:#}", anyhow::Error::from(error)),
        }
        if self.state_is_unknown || !self.has_bans() {
            return;
        }
        let edge = self.edge();
        let plan = plan_uplinks(&mut self.state, &edge);
        if plan == Plan::default() {
            return;
        }
        let mut degraded = Vec::new();
        self.execute(&plan, &self.devices.indices(), &mut degraded);
        self.record.degraded.extend(degraded);
        self.record.uplinks = self.uplink_records();
        if let Err(error) = self.run_directory.write(&self.record) {
            tracing::error!(%error, "cannot write the record");
        }
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

    /// One round: from the files (read anew if they `changed`) and the devices to the maps.
    fn reconcile(&mut self, present: Devices, changed: bool) {
        let retry = std::mem::take(&mut self.retry);
        let mut news = std::mem::take(&mut self.news) || retry || present != self.devices;
        self.devices = present;
        if changed || retry || self.compiled.is_none() {
            match self.read() {
                Ok(sources) => {
                    self.read_error = None;
                    self.cached_at = None;
                    let other = sources != self.sources || retry || self.is_due();
                    if self.compiled.is_none() || other {
                        let compiled = self.compile(&sources);
                        self.report(&compiled);
                        self.sources = sources;
                        self.compiled = Some(Arc::new(compiled));
                        news = true;
                    }
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if self.read_error.as_ref() != Some(&error) {
                        tracing::error!("{error}; the last policy stays in force");
                    }
                    self.read_error = Some(error);
                    self.retry = true;
                }
            }
        }
        if news && let Some(compiled) = self.compiled.clone() {
            self.carry_out(&compiled);
            self.keep_counters();
            // Programs may have been loaded anew.
            debug_log::listen(&mut self.kernel);
        }
    }

    /// Makes the kernel hold what the configuration says, for the devices that are there.
    fn carry_out(&mut self, compiled: &Arc<Compiled>) {
        self.order();
        self.names.send_modify(|names| {
            if *names.rules != compiled.image.rules {
                let rules = Arc::new(compiled.image.rules.clone());
                names.previous = std::mem::replace(&mut names.rules, rules);
                names.compiled_before = names.compiled.take();
            }
            names.compiled = Some(Arc::clone(compiled));
            names.devices = self.devices.names();
        });
        let nothing = MapImage::default();
        let image = match compiled.policy.enabled {
            true => &compiled.image,
            false => &nothing,
        };
        let present = self.present();
        let certain = self.sources.unreadable.is_empty();
        // A guest without a configuration here may be leaving for another node, or its file may be what cannot be read.
        let leave = |vmid: u32| {
            let known = compiled.config.guests.contains_key(&vmid);
            compiled.policy.enabled && !(certain && known)
        };
        let mut degraded = self.apply(image, &present, leave);
        degraded.extend(self.pin_error.clone());
        degraded.extend(self.unread());
        degraded.extend(unreadable(&self.sources));
        self.note(compiled, &present, &degraded);
    }

    /// Tells the sweep whose counters may not be forgotten.
    fn keep_counters(&self) {
        let (Some(sweeper), Some(compiled)) = (&self.sweeper, &self.compiled) else {
            return;
        };
        let ports = compiled.image.ports.keys().chain([&HOST]);
        let ports = ports.map(|port| PortKey {
            vmid: port.vmid,
            net: port.net,
            reserved: 0,
        });
        sweeper.keep(ports.collect());
    }

    /// Reads the files. Those that exist but cannot be read keep the contents they had.
    fn read(&self) -> Result<Sources> {
        // Both directories exist on every node. If they do not, the cluster file system is not there.
        let node = self.options.root.join("nodes").join(&self.options.node);
        std::fs::read_dir(&node).with_context(|| format!("cannot read {}", node.display()))?;
        let mut sources = Sources::read(&self.options.root, &self.options.node);
        sources.keep_from(&self.sources);
        Ok(sources)
    }

    /// What the files mean here and now.
    fn compile(&self, sources: &Sources) -> Compiled {
        let mut compiled = compile(sources, &self.facts, unix_time());
        if self.options.reevaluate {
            compiled.image.reevaluate();
        }
        compiled
    }

    fn report(&self, compiled: &Compiled) {
        let old = self.compiled.as_ref().map(|old| &old.diagnostics);
        if old == Some(&compiled.diagnostics) {
            return;
        }
        for diagnostic in &compiled.diagnostics {
            match diagnostic.severity {
                Severity::Error => tracing::error!("{diagnostic}"),
                Severity::Warning => tracing::warn!("{diagnostic}"),
            }
        }
    }

    /// Carries out the plan for `image`; says which scopes are not as they should be. Guests that `image` does not know and `leave` names
    /// keep what they have until their device is gone.
    fn apply(
        &mut self,
        image: &MapImage,
        present: &Present,
        leave: impl Fn(u32) -> bool,
    ) -> Vec<String> {
        let mut degraded: Vec<String> = image
            .failures
            .iter()
            .map(|(port, direction, error)| {
                let (scope, direction) = (scope(*port), direction.name());
                format!("{scope} {direction}: {error}; its last policy stays, or it is closed")
            })
            .collect();
        let devices = &present.devices;
        if self.state_is_unknown && !self.recover(devices) {
            degraded.push("what the kernel holds is not known; it stays as it is".to_owned());
            return degraded;
        }
        let plan = plan_node(&mut self.state, image, present, leave);
        let sound = self.execute(&plan, devices, &mut degraded);
        if sound {
            let edge = self.edge();
            let plan = plan_uplinks(&mut self.state, &edge);
            let sound = self.execute(&plan, devices, &mut degraded);
            if sound && !self.retry {
                self.tidy(&mut degraded);
            }
        }
        degraded
    }

    fn edge(&self) -> Edge {
        let devices = self.devices.0.values();
        Edge {
            uplinks: uplinks(&self.devices)
                .into_iter()
                .filter(|(name, _)| self.options.interfaces.wants(name))
                .collect(),
            macs: devices.map(|device| (device.ifindex, device.mac)).collect(),
            bans: self.has_bans(),
        }
    }

    /// Whether there are bans. If the kernel does not tell there may be: the programs look them up.
    fn has_bans(&self) -> bool {
        self.bans.may_exist().unwrap_or(true)
    }

    /// Carries out a plan and adds what is not as it should be. False: what the kernel holds had to be read back.
    fn execute(
        &mut self,
        plan: &Plan,
        devices: &BTreeMap<String, u32>,
        degraded: &mut Vec<String>,
    ) -> bool {
        for port in &plan.no_room {
            let what = format!(
                "{}: no room for its policy; its last one stays, or it is closed",
                scope(*port)
            );
            if !self.record.degraded.contains(&what) {
                tracing::error!("{what}");
            }
            degraded.push(what);
        }
        // What it releases is room for the next plan.
        self.news |= !plan.no_room.is_empty() && plan.actions.contains(&Action::AwaitReaders);
        for action in &plan.actions {
            let Err(error) = self.kernel.apply(action) else {
                continue;
            };
            if let Action::AttachUplink { device, .. } = action {
                // No harm: the hooks behind it decide the same.
                let why = format!("{:#}", anyhow::Error::from(error));
                tracing::info!(device, "nothing is dropped early here: {why}");
                self.state.refused_uplink(device, why);
                continue;
            }
            let retry = std::mem::replace(&mut self.retry, true);
            let gone = error.is_no_device();
            let error = anyhow::Error::from(error);
            match action {
                Action::Attach { device, .. } if gone => {
                    self.state.lost(device);
                    tracing::info!(device, "the device went away before it was attached");
                }
                Action::Attach { device, .. } => {
                    self.state.lost(device);
                    tracing::error!(device, "{error:#}");
                    degraded.push(format!("{device}: {error:#}"));
                }
                // Everything else is done, and goes on with the table that there is.
                Action::ResizeFlows { .. } => {
                    tracing::error!("{error:#}");
                    degraded.push(format!("{error:#}"));
                    self.retry = retry;
                }
                Action::WriteClasses { .. }
                | Action::FetchFlows
                | Action::WritePolicy { .. }
                | Action::WriteSettings(_)
                | Action::ClearCounters { .. }
                | Action::SetPort { .. }
                | Action::AddLocals(_)
                | Action::RemoveLocals(_)
                | Action::Detach { .. }
                | Action::RemovePort { .. }
                | Action::SetStation { .. }
                | Action::RemoveStation { .. }
                | Action::AttachUplink { .. }
                | Action::DetachUplink { .. }
                | Action::AwaitReaders
                | Action::RemoveClasses { .. } => {
                    tracing::error!("{error:#}; reading back what the kernel holds");
                    degraded.push(format!("{error:#}"));
                    self.recover(devices);
                    return false;
                }
            }
        }
        if !plan.actions.is_empty() && degraded.is_empty() {
            tracing::info!(
                actions = plan.actions.len(),
                ports = self.state.ports.len(),
                "policy enforced"
            );
        }
        true
    }

    /// Reads back what the kernel holds; until that works nothing is planned. Says whether it did.
    fn recover(&mut self, devices: &BTreeMap<String, u32>) -> bool {
        match self.kernel.recover(devices) {
            Ok(state) => {
                self.state = state;
                self.state_is_unknown = false;
            }
            Err(error) => {
                tracing::error!("{:#}", anyhow::Error::from(error));
                self.state_is_unknown = true;
                self.retry = true;
            }
        }
        !self.state_is_unknown
    }

    fn uplink_records(&self) -> Vec<UplinkRecord> {
        let attached = self.state.uplinks.keys().map(|device| UplinkRecord {
            device: device.clone(),
            refused: None,
        });
        let refused = self.state.refused_uplinks.iter();
        let refused = refused.map(|(device, (_, why))| UplinkRecord {
            device: device.clone(),
            refused: Some(why.clone()),
        });
        attached.chain(refused).collect()
    }

    /// Writes the record of this round.
    fn note(&mut self, compiled: &Compiled, present: &Present, degraded: &[String]) {
        let devices = &present.devices;
        let count = |severity| {
            let diagnostics = compiled.diagnostics.iter();
            diagnostics
                .filter(|found| found.severity == severity)
                .count()
        };
        let ports = compiled.policy.ports.iter().map(|port| {
            let device = port.device();
            PortRecord {
                ifindex: devices.get(&device).copied(),
                attached: self.has_programs(&device),
                vmid: port.port.vmid,
                net: port.port.net,
                device,
            }
        });
        // A tree that could not be read has set `retry` too, but nothing of it was tried.
        let incomplete = self.retry && self.read_error.is_none();
        let digest = cache::digest(&self.sources);
        if self.read_error.is_none() && !incomplete && digest != self.record.digest {
            self.keeper.keep(self.sources.clone());
        }
        self.record = Record {
            pid: self.record.pid,
            generation: self.record.generation + 1,
            enabled: compiled.policy.enabled,
            applied_at: jiff::Timestamp::now().to_string(),
            ports: ports.collect(),
            closed: self.closed(present),
            host: self.host_record(compiled, present),
            uplinks: self.uplink_records(),
            degraded: degraded.to_vec(),
            digest,
            incomplete,
            not_enforced: compiled.policy.not_enforced(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
        };
        if let Err(error) = self.run_directory.write(&self.record) {
            tracing::error!(%error, "cannot write the record");
        }
    }
}

/// Now, in seconds.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
