//! One round of the loop: from the files and the devices to what the kernel is to hold.
//!
//! In: the devices that are there, and whether the files may have changed. Out: the policy in force, and what others are told of it.
//!
//! 1. Read the files that look changed, if any may have or something failed last time. 2. If they are others than before, say what they mean and
//!    what is wrong with them. 3. Carry it out for the devices that are there ([`super::carry`]). 4. Write the record ([`super::note`]).
//!
//! Invariant: a tree that cannot be read changes nothing.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use fw_common::maps::PortKey;

use super::answers::unreadable;
use super::{Agent, debug_log, unix_time};
use crate::compile::Compiled;
use crate::config::{Changed, Sources};
use crate::datapath::plan::next_image;
use crate::diagnostic::Severity;
use crate::image::{HOST, MapImage};
use crate::inventory::devices::Devices;
use crate::metrics;

impl Agent {
    /// One round: from the files (read anew if they `changed`) and the devices to the maps.
    pub(super) fn reconcile(&mut self, present: Devices, changed: &Changed) {
        let retry = std::mem::take(&mut self.retry);
        let mut news = std::mem::take(&mut self.news) || retry || present != self.devices;
        self.devices = present;
        let changed = match retry || self.compiled.is_none() {
            true => &Changed::Anything,
            false => changed,
        };
        if !changed.is_nothing() {
            match self.read(changed) {
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
        // Reading may have ended a trial.
        news |= std::mem::take(&mut self.news);
        if news && let Some(compiled) = self.compiled.clone() {
            self.carry_out(&compiled);
            self.keep_counters();
            // Programs may have been loaded anew.
            debug_log::listen(&mut self.kernel);
        }
    }

    /// Makes the kernel hold what the configuration says, for the devices that are there.
    pub(super) fn carry_out(&mut self, compiled: &Arc<Compiled>) {
        self.order();
        // To let go of what was in force before takes a while on a node of many guests: not before this is.
        let mut retired = None;
        self.names.send_modify(|names| {
            if !names.rules.is_same(&compiled.image.rules) {
                let rules = Arc::new(compiled.image.rules.clone());
                names.previous = std::mem::replace(&mut names.rules, rules);
                retired = std::mem::replace(&mut names.compiled_before, names.compiled.take());
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
        let began = Instant::now();
        let mut degraded = self.apply(image, &present, leave);
        metrics::apply(began.elapsed());
        drop(retired);
        degraded.extend(self.pin_error.clone());
        degraded.extend(self.unread());
        degraded.extend(unreadable(&self.sources));
        self.note(compiled, &present, &degraded);
    }

    /// Tells the sweep whose counters may not be forgotten.
    pub(super) fn keep_counters(&self) {
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
    pub(super) fn read(&mut self, changed: &Changed) -> Result<Sources> {
        let mut sources = self.reader.read(changed)?;
        self.finish_trial(&sources);
        sources.keep_from(&self.sources);
        Ok(sources)
    }

    /// What the files mean here and now, with what is on trial, on what the kernel holds.
    pub(super) fn compile(&mut self, sources: &Sources) -> Compiled {
        let present = self.present();
        if self.state_is_unknown {
            self.recover(&present.devices);
        }
        let sources = self.under_trial(sources);
        let (builder, state) = (&mut self.builder, &self.state);
        self.compiler
            .compile(&sources, &self.facts, unix_time(), |policy| {
                next_image(builder, state, policy, &present)
            })
    }

    pub(super) fn report(&self, compiled: &Compiled) {
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
}
