//! The host's interfaces and addresses in a round: what is there, and what the record says of them.

use super::Agent;
use crate::compile::Compiled;
use crate::datapath::plan::Present;
use crate::image::HOST;
use crate::inventory::facts::address;
use crate::inventory::host_devices::host_devices;
use crate::policy::PortId;
use crate::record::HostRecord;

impl Agent {
    /// The devices and addresses that are there.
    pub(super) fn present(&self) -> Present {
        let addresses = self.facts.addresses.iter();
        Present {
            devices: self.devices.indices(),
            host: host_devices(&self.devices)
                .into_iter()
                .filter(|(name, _)| self.options.interfaces.wants(name))
                .collect(),
            locals: addresses.map(|net| address(net.addr())).collect(),
            unknown: self.unknown(),
        }
    }

    /// The host's interfaces, if its firewall is on.
    pub(super) fn host_record(&self, compiled: &Compiled, present: &Present) -> Vec<HostRecord> {
        let on = compiled.policy.enabled && compiled.policy.host.is_some();
        let own = present.host.iter().filter(|_| on);
        own.map(|(device, found)| HostRecord {
            device: device.clone(),
            ifindex: found.ifindex,
            attached: self.state.attached.contains_key(device),
        })
        .collect()
    }
}

/// A port's scope in words.
pub(super) fn scope(port: PortId) -> String {
    if port == HOST {
        return "the host".to_owned();
    }
    format!("guest {} net{}", port.vmid, port.net)
}
