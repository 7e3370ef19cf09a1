//! From what the kernel is to hold to what it holds: plans are made and carried out.
//!
//! In: an image and the devices that are there. Out: the scopes that are not as they should be, in words. An action that fails is tried again
//! in a later round; if it is not certain what the kernel holds after it, that is read back first.
//!
//! Invariant: nothing is planned from a state that is not known.

use std::collections::BTreeMap;

use super::Agent;
use super::host::scope;
use crate::datapath::plan::{Edge, Present, plan_node, plan_uplinks};
use crate::datapath::{Action, Plan};
use crate::image::MapImage;
use crate::inventory::uplinks::uplinks;

impl Agent {
    /// Carries out the plan for `image`; says which scopes are not as they should be. Guests that `image` does not know and `leave` names
    /// keep what they have until their device is gone.
    pub(super) fn apply(
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

    pub(super) fn edge(&self) -> Edge {
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
    pub(super) fn has_bans(&self) -> bool {
        self.bans.may_exist().unwrap_or(true)
    }

    /// Carries out a plan and adds what is not as it should be. False: what the kernel holds had to be read back.
    pub(super) fn execute(
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
                    // One of its two links may have been made and pinned before it went.
                    let device = device.clone();
                    if let Err(error) = self.kernel.apply(&Action::Detach {
                        device: device.clone(),
                    }) {
                        let why = format!("{:#}", anyhow::Error::from(error));
                        tracing::debug!(device, "nothing to take off: {why}");
                    }
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
                | Action::WriteEntries { .. }
                | Action::AddBits { .. }
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
    pub(super) fn recover(&mut self, devices: &BTreeMap<String, u32>) -> bool {
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
}
