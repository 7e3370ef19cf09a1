//! The map image as text, for `fwctl compile --image` and snapshots.

use std::fmt::{self, Display, Formatter};

use fw_common::classify::Head;
use fw_common::maps::RuleWord;
use fw_common::maps::classes::BLACKLISTED;
use fw_common::maps::policy::{ENTRIES, FIELDS, HEAD, PLACE_BITS};
use ipnet::IpNet;

use super::{Classes, MapImage, PolicyImage, VlanImage};

/// Names of the fields of a policy, in order.
const FIELD_NAMES: [&str; FIELDS] = ["source", "dest", "sport", "dport", "protocol", "traits"];

impl Display for MapImage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [small, big] = [&self.space.small, &self.space.big].map(|classes| classes.count());
        writeln!(f, "{small} address classes")?;
        write_classes(f, &self.space.small)?;
        if big > 1 {
            writeln!(f, "{big} classes of big sets")?;
            write_classes(f, &self.space.big)?;
        }
        for (id, port) in &self.ports {
            let [inbound, outbound] = port.policies;
            writeln!(
                f,
                "port {}: guest {} net{}, mac {:012x}, flags {:#x}, in policy {inbound}, out policy {outbound}{}{}",
                port.device,
                id.vmid,
                id.net,
                port.mac,
                port.flags,
                port.guard
                    .map_or(String::new(), |guard| format!(", guard policy {guard}")),
                port.vlans
            )?;
        }
        if let Some(host) = &self.host {
            let interfaces = host.interfaces.iter().map(|(name, pair)| (&**name, pair));
            for (name, [inbound, outbound]) in interfaces.chain([("elsewhere", &host.elsewhere)]) {
                writeln!(f, "host {name}: in policy {inbound}, out policy {outbound}")?;
            }
        }
        for (index, policy) in self.policies.iter().enumerate() {
            writeln!(f, "policy {index}: {policy}")?;
        }
        for (port, direction, error) in &self.failures {
            writeln!(
                f,
                "guest {} net{} {}: {error}",
                port.vmid,
                port.net,
                direction.name()
            )?;
        }
        Ok(())
    }
}

fn write_classes(f: &mut Formatter<'_>, classes: &Classes) -> fmt::Result {
    let v4 = classes
        .prefixes
        .v4
        .iter()
        .map(|(net, value)| (IpNet::V4(*net), value));
    let v6 = classes
        .prefixes
        .v6
        .iter()
        .map(|(net, value)| (IpNet::V6(*net), value));
    for (net, value) in v4.chain(v6) {
        let class = value & !BLACKLISTED;
        match value & BLACKLISTED {
            0 => writeln!(f, "  {net} class {class}")?,
            _ => writeln!(f, "  {net} class {class}, blacklisted")?,
        }
    }
    Ok(())
}

impl Display for VlanImage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Any => f.write_str(", any VLAN"),
            Self::Words(words) => {
                let count: u32 = words.iter().map(|word| word.count_ones()).sum();
                write!(f, ", {count} VLANs")
            }
        }
    }
}

impl Display for PolicyImage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules, {} words", self.rules.len(), self.words.len())?;
        for (field, name) in FIELD_NAMES.iter().enumerate() {
            write!(f, ", {name} {} intervals", self.intervals(field))?;
        }
        let rules = &self.words[HEAD..HEAD + self.rules.len()];
        for (number, word) in rules.iter().enumerate() {
            let judgement = RuleWord(*word).judgement();
            write!(
                f,
                "\n  {:>5} {:08x} {} {}",
                number + 1,
                judgement.rule,
                judgement.verdict.name(),
                judgement.reason.name()
            )?;
        }
        Ok(())
    }
}

impl PolicyImage {
    /// Intervals that the values of a field fall into.
    fn intervals(&self, field: usize) -> u64 {
        const PLACE: u64 = (1 << PLACE_BITS) - 1;
        if !Head(self.words[0]).looks_at(field) {
            return 1;
        }
        let entry = self.words[ENTRIES + field];
        let (map, tops) = (entry & PLACE, entry >> PLACE_BITS & PLACE);
        // The last top entry counts the blocks; the block behind them counts the boundaries.
        let blocks = self.words[(map + tops) as usize] >> 32;
        (self.words[(map + tops + 1 + blocks) as usize] >> 32) + 1
    }
}
