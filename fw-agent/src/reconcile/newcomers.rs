//! Devices that have just come, before anything else is done about them.
//!
//! In: what netlink said. A device that is a guest's by its name gets the programs at once, by the name and interface index of the message, before
//! devices are listed or files are read: without a port value it is closed. What it is to have instead is found out in the round that follows.
//! Not closed: NICs that the configuration says are not to be filtered, and everything while the firewall is off.
//!
//! Before kernel 6.6 the programs are filters of a qdisc that others can delete; a device that has lost them gets them again, at once likewise.
//!
//! Invariant: nothing here gives a device more than it had.

use fw_common::maps::port_flag;

use super::Agent;
use super::events::LinkNews;
use crate::compile::Compiled;
use crate::datapath::plan::Present;
use crate::datapath::{Action, AttachMode, Plan, Role};
use crate::policy::PortId;
use crate::record::PortRecord;

impl Agent {
    /// Closes guests' devices that have just come. Says whether the files are to be read at once: a device may come together with them, from
    /// another node whose changes of files raise no events.
    pub(super) fn meet(&mut self, news: &LinkNews) -> bool {
        self.attach_again(news);
        let mut plan = Plan::default();
        let mut unknown = false;
        for (name, ifindex) in &news.there {
            let Some((_, port)) = PortId::of_device(name) else {
                continue;
            };
            let known = self.configured(name);
            if self.state.attached.get(name) == Some(ifindex)
                || known == Some(false)
                || !self.is_enforcing()
            {
                continue;
            }
            unknown |= known.is_none();
            // A value of another port under an interface index that is used again.
            if let Some(value) = self.state.ports.get(ifindex)
                && (value.flags & port_flag::HOST != 0
                    || (value.vmid, value.net) != (port.vmid, port.net))
            {
                self.state.ports.remove(ifindex);
                plan.actions.push(Action::RemovePort { ifindex: *ifindex });
            }
            self.state.attached.insert(name.clone(), *ifindex);
            plan.actions.push(Action::Attach {
                device: name.clone(),
                role: Role::Guest,
                ifindex: *ifindex,
            });
        }
        self.execute_early(&plan);
        unknown
    }

    /// Attaches what is attached no more by what netlink said.
    fn attach_again(&mut self, news: &LinkNews) {
        if self.kernel.mode() == AttachMode::Tcx {
            return;
        }
        let mut plan = Plan::default();
        for (device, ifindex) in &self.state.attached {
            if !news.lost && !news.bared.contains(ifindex) {
                continue;
            }
            let port = self.state.ports.get(ifindex);
            let role = match port.is_some_and(|port| port.flags & port_flag::HOST != 0) {
                true => Role::Host,
                false => Role::Guest,
            };
            plan.actions.push(Action::Attach {
                device: device.clone(),
                role,
                ifindex: *ifindex,
            });
        }
        self.execute_early(&plan);
    }

    fn execute_early(&mut self, plan: &Plan) {
        // What fails is said where it fails, and tried again in the round that follows.
        let mut degraded = Vec::new();
        self.execute(plan, &self.devices.indices(), &mut degraded);
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
    pub(super) fn unknown(&self) -> std::collections::BTreeSet<String> {
        let Some(compiled) = self.compiled.as_ref() else {
            return std::collections::BTreeSet::new();
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
                attached: true,
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
                let error = format!("{:#}", anyhow::Error::from(error));
                if self.pin_error.as_ref() != Some(&error) {
                    tracing::error!(
                        "{error}; the programs stay on their devices only while this process runs; trying again every second"
                    );
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
