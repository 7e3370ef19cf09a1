//! Devices of guests that have just come, and devices of which the configuration says nothing.
//!
//! The [`super::doorkeeper`] closes a guest's device the moment it comes, by its name alone. Here the loop says what is not to be closed (NICs that the
//! configuration says are not to be filtered, and everything while the firewall is off), and adopts what was attached, so that a plan starts from it. What
//! the device is to have instead is found out in the round that follows.
//!
//! Invariant: nothing here gives a device more than it had.

use std::collections::BTreeSet;

use super::Agent;
use super::doorkeeper::Told;
use crate::compile::Compiled;
use crate::datapath::plan::Present;
use crate::policy::PortId;
use crate::record::PortRecord;

impl Agent {
    /// Tells the doorkeeper what is to be closed from now on. Comes before anything that is done about it.
    pub(super) fn order(&self) {
        let mut unfiltered = BTreeSet::new();
        if let Some(compiled) = &self.compiled {
            for guest in compiled.config.guests.values().map(|guest| &guest.guest) {
                let nics = guest.nics.iter().filter(|nic| !nic.firewall);
                unfiltered.extend(nics.map(|nic| {
                    let port = PortId {
                        vmid: guest.vmid,
                        net: nic.net,
                    };
                    guest.kind.device(port)
                }));
            }
        }
        self.orders.set(self.is_enforcing(), unfiltered);
    }

    /// Whether a device has come of which the configuration says nothing. Its files may have come together with it, from another node whose changes
    /// raise no events.
    pub(super) fn is_unknown_to_files(&self, devices: &[(String, u32)]) -> bool {
        self.is_enforcing()
            && devices.iter().any(|(device, ifindex)| {
                PortId::of_device(device).is_some()
                    && self.devices.0.get(device).map(|known| known.ifindex) != Some(*ifindex)
                    && self.configured(device).is_none()
            })
    }

    /// Takes over what the doorkeeper has attached.
    pub(super) fn adopt(&mut self, told: Told) {
        let Told {
            newcomer,
            generation,
            forgot,
            kept,
            error,
        } = told;
        self.news = true;
        if forgot {
            self.state.ports.remove(&newcomer.ifindex);
        }
        let is_current = self.kernel.adopt(&newcomer, generation, kept);
        let device = newcomer.device;
        match error {
            None if is_current => {
                self.state.attached.insert(device, newcomer.ifindex);
            }
            // There is something on it. It is attached (again) or detached by the plan.
            None => {
                self.state.lost(&device);
                self.state.inherited.insert(device);
            }
            Some(error) if error.is_no_device() => {
                tracing::debug!(device, "the device went away before it was closed");
                self.state.lost(&device);
                self.state.inherited.insert(device);
            }
            Some(error) => {
                tracing::error!(device, "{:#}", anyhow::Error::from(error));
                self.state.lost(&device);
                self.state.inherited.insert(device);
            }
        }
    }

    /// Whether programs are attached to a device, both of them.
    pub(super) fn has_programs(&self, device: &str) -> bool {
        let ifindex = self.state.attached.get(device);
        ifindex.is_some_and(|ifindex| !self.kernel.is_being_closed(*ifindex))
    }

    /// Whether the firewall is on; until a configuration is known: whether it was for the agent before.
    fn is_enforcing(&self) -> bool {
        match &self.compiled {
            Some(compiled) => compiled.policy.enabled,
            None => !self.state.ports.is_empty() || !self.state.inherited.is_empty(),
        }
    }

    /// What the configuration says of a guest's device: whether it is to be filtered; none if it says nothing.
    fn configured(&self, device: &str) -> Option<bool> {
        configured(self.compiled.as_ref()?, device)
    }

    /// Devices that are a guest's by their name and of which the configuration says nothing.
    pub(super) fn unknown(&self) -> BTreeSet<String> {
        let Some(compiled) = self.compiled.as_ref() else {
            return BTreeSet::new();
        };
        let names = self.devices.0.keys().filter(|name| {
            compiled.policy.enabled
                && PortId::of_device(name).is_some()
                && configured(compiled, name).is_none()
        });
        names.cloned().collect()
    }

    /// Those of them that are closed now.
    pub(super) fn closed(&self, present: &Present) -> Vec<PortRecord> {
        let unknown = present.unknown.iter().filter_map(|device| {
            let (_, port) = PortId::of_device(device)?;
            let ifindex = self.state.attached.get(device)?;
            let closed = !self.state.ports.contains_key(ifindex);
            closed.then(|| PortRecord {
                device: device.clone(),
                vmid: port.vmid,
                net: port.net,
                ifindex: Some(*ifindex),
                attached: self.has_programs(device),
            })
        });
        unknown.collect()
    }

    /// Makes pins again that are gone. The programs stay on their devices meanwhile, as long as this process runs.
    pub(super) fn look_after_pins(&mut self) {
        match self.kernel.repair_pins() {
            Ok(0) => self.pin_error = None,
            Ok(count) => {
                self.pin_error = None;
                // These went with their pins.
                self.state.uplinks.clear();
                tracing::warn!(count, "pins were gone and have been made again");
                self.retry = true;
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                let error = format!(
                    "{error:#}; the programs stay on their devices only while this process runs; trying again every second"
                );
                if self.pin_error.as_ref() != Some(&error) {
                    tracing::error!("{error}");
                    self.news = true;
                }
                self.pin_error = Some(error);
            }
        }
    }

    /// Removes what a plan that was carried out has left behind.
    pub(super) fn tidy(&mut self, degraded: &mut Vec<String>) {
        if let Err(error) = self.kernel.tidy() {
            let error = anyhow::Error::from(error);
            tracing::error!("{error:#}");
            degraded.push(format!("{error:#}"));
            self.retry = true;
        }
    }
}

fn configured(compiled: &Compiled, device: &str) -> Option<bool> {
    let (kind, port) = PortId::of_device(device)?;
    let guest = &compiled.config.guests.get(&port.vmid)?.guest;
    let nic = guest.nics.iter().find(|nic| nic.net == port.net)?;
    (guest.kind == kind).then_some(nic.firewall)
}
