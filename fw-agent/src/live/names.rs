//! What a record's numbers are called: its device, and the rule that decided with the line it stands on.

use std::collections::{BTreeMap, HashMap};

use fw_common::event::Event;
use fw_common::maps::RuleKey;
use fw_common::verdict::Direction;
use jiff::Zoned;
use serde_json::Value;

use crate::compile::Compiled;
use crate::events::context::LogContext;
use crate::events::json;
use crate::image::directions;
use crate::policy::{Origin, OriginKind};

/// A rule: guest, NIC, direction, identity.
type Key = (u32, u16, u8, u32);

/// Names of devices and rules.
#[derive(Debug, Default)]
pub struct Names {
    /// Device and bridge by interface index.
    devices: BTreeMap<u32, (String, Option<String>)>,
    rules: HashMap<Key, Origin>,
}

impl Names {
    /// Those of a configuration, on a node with these devices.
    pub fn new(compiled: &Compiled, devices: BTreeMap<u32, (String, Option<String>)>) -> Self {
        let (policy, image) = (&compiled.policy, &compiled.image);
        let mut rules = HashMap::new();
        for port in &policy.ports {
            let Some(built) = image.ports.get(&port.port) else {
                continue;
            };
            for (direction, policy) in directions(port) {
                let numbers = image.policies.get(built.policies[direction as usize]);
                let numbers = numbers.into_iter().flat_map(|policy| &policy.rules);
                for (rule, number) in policy.rules.iter().zip(numbers) {
                    let key = (port.port.vmid, port.port.net, direction as u8, *number);
                    rules.insert(key, rule.origin.clone());
                }
            }
        }
        if let (Some(host), Some(built)) = (&policy.host, &image.host) {
            let interfaces = built.interfaces.keys().map(|name| &**name);
            for interface in interfaces.chain([""]) {
                for direction in [Direction::In, Direction::Out] {
                    let numbers = image.policies.get(built.on(interface)[direction as usize]);
                    let numbers = numbers.into_iter().flat_map(|policy| &policy.rules);
                    for ((_, rule), number) in host.applying(interface, direction).zip(numbers) {
                        let key = (0, 0, direction as u8, *number);
                        rules.insert(key, rule.origin.clone());
                    }
                }
            }
        }
        Self { devices, rules }
    }

    /// Device and bridge by interface index.
    pub fn devices(&self) -> &BTreeMap<u32, (String, Option<String>)> {
        &self.devices
    }

    /// Where a rule comes from, if it is in the configuration.
    pub fn origin(&self, rule: &RuleKey) -> Option<&Origin> {
        let key = (rule.vmid, rule.net, rule.direction, rule.rule);
        self.rules.get(&key)
    }

    /// A record as the JSON object of the log.
    pub fn json(&self, event: &Event, time: &Zoned) -> Option<Value> {
        let unknown = (format!("if{}", event.ifindex), None);
        let (device, bridge) = self.devices.get(&event.ifindex).unwrap_or(&unknown);
        let origin = self
            .rules
            .get(&(event.vmid, event.net, event.direction, event.rule));
        let kind = origin.map_or(&OriginKind::Rule, |origin| &origin.kind);
        let context = LogContext::of(event, kind, device, bridge.as_deref());
        let mut line = Vec::new();
        let place = (device.as_str(), bridge.as_deref());
        json::packet_into(&mut line, event, &context, place, origin, time);
        serde_json::from_slice(&line).ok()
    }
}
