//! Policies as text: one line per rule, in order.
//!
//! ```text
//! tap100i0: guest 100, mac bc:24:11:00:00:64, MAC filter on, DHCP on
//!   in
//!     1 DROP   state-invalid -- invalid: standard: invalid
//!     2 ACCEPT proto=tcp dport=22 log=6 -- rule: firewall/100.fw:4: IN SSH(ACCEPT) -log info
//! ```

use std::fmt::{self, Display, Formatter};

use fw_common::maps::traits;

use super::{
    AddressSet, Family, ForwardPolicy, Matches, NodePolicy, Origin, OriginKind, Policy, PortPolicy,
    Rule, SetEntry, SourceLine, Vlans,
};
use crate::config::registry::{ICMP, ICMPV6};

/// Every policy of a node as text.
pub fn print(policy: &NodePolicy) -> String {
    policy.to_string()
}

impl Display for NodePolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.enabled {
            writeln!(f, "the firewall is off")?;
        }
        match &self.host {
            Some(host) => write!(f, "host\n  in\n{}  out\n{}", host.inbound, host.outbound)?,
            None => writeln!(f, "host: the firewall is off")?,
        }
        self.ports.iter().try_for_each(|port| write!(f, "{port}"))?;
        self.forward
            .iter()
            .try_for_each(|forward| write!(f, "{forward}"))
    }
}

impl Display for PortPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: guest {}, mac ", self.device(), self.port.vmid)?;
        match self.mac {
            Some([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?
            }
            None => f.write_str("unknown")?,
        }
        let switch = |on| if on { "on" } else { "off" };
        writeln!(
            f,
            ", MAC filter {}{}, DHCP {}, VLANs {}",
            switch(self.macfilter),
            if self.macfilter && !self.macfilter_layer2 {
                " (IP only)"
            } else {
                ""
            },
            switch(self.dhcp),
            self.vlans
        )?;
        write!(f, "  in\n{}  out\n{}", self.inbound, self.outbound)?;
        match &self.guard {
            Some(guard) => write!(f, "  out, in flows that run\n{guard}"),
            None => Ok(()),
        }
    }
}

impl Display for Vlans {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Any => f.write_str("any"),
            Self::Only(ranges) => write!(f, "{}", Ranges(ranges)),
        }
    }
}

impl Display for ForwardPolicy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.vnet {
            Some(vnet) => write!(f, "VNet {vnet}")?,
            None => f.write_str("host")?,
        }
        write!(f, ", forwarded (not enforced yet)\n{}", self.policy)
    }
}

impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (rule, number) in self.rules.iter().zip(1..) {
            writeln!(f, "{number:>5} {rule}")?;
        }
        Ok(())
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6} {}", self.verdict.name(), self.matches)?;
        if let Some(level) = self.log {
            write!(f, "log={level} ")?;
        }
        write!(f, "-- {}: {}", self.reason.name(), self.origin)
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(line) = &self.line {
            write!(f, "{line}: ")?;
        }
        if let OriginKind::Group(name) = &self.kind {
            write!(f, "[group {name}] ")?;
        }
        self.text
            .split_ascii_whitespace()
            .enumerate()
            .try_for_each(|(index, word)| {
                let blank = if index > 0 { " " } else { "" };
                write!(f, "{blank}{word}")
            })
    }
}

impl Display for SourceLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Writes every condition with a blank behind it.
impl Display for Matches {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(interface) = &self.interface {
            write!(f, "interface={interface} ")?;
        }
        if self.not_ip {
            f.write_str("not-ip ")?;
        }
        match self.family {
            Some(Family::V4) => f.write_str("ipv4 ")?,
            Some(Family::V6) => f.write_str("ipv6 ")?,
            None => {}
        }
        if let Some(protocol) = self.protocol {
            match protocol {
                ICMP => f.write_str("proto=icmp ")?,
                6 => f.write_str("proto=tcp ")?,
                17 => f.write_str("proto=udp ")?,
                ICMPV6 => f.write_str("proto=icmpv6 ")?,
                other => write!(f, "proto={other} ")?,
            }
        }
        let is_icmp = matches!(self.protocol, Some(ICMP | ICMPV6));
        for (name, set) in [("source", &self.source), ("dest", &self.dest)] {
            if let Some(set) = set {
                write!(f, "{name}={set} ")?;
            }
        }
        let names = if self.not_ip {
            ["sport", "ethertype"]
        } else if is_icmp {
            ["type", "code"]
        } else {
            ["sport", "dport"]
        };
        for (name, ports) in names.into_iter().zip([&self.sport, &self.dport]) {
            if !ports.is_empty() && self.not_ip {
                write!(f, "{name}={} ", Ethertypes(ports))?;
            } else if !ports.is_empty() {
                write!(f, "{name}={} ", Ranges(ports))?;
            }
        }
        for (bit, name) in TRAITS {
            if self.traits_mask & bit != 0 {
                let not = if self.traits_value & bit == 0 {
                    "not-"
                } else {
                    ""
                };
                write!(f, "{not}{name} ")?;
            }
        }
        Ok(())
    }
}

const TRAITS: [(u8, &str); 6] = [
    (traits::TO_GROUP, "to-group"),
    (traits::FROM_GROUP, "from-group"),
    (traits::INVALID, "state-invalid"),
    (traits::NEW, "state-new"),
    (traits::NOT_SYN, "not-syn"),
    (traits::BAD_TCP_FLAGS, "bad-tcp-flags"),
];

struct Ranges<'a>(&'a [(u16, u16)]);

impl Display for Ranges<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}:{last}")?;
            }
        }
        Ok(())
    }
}

struct Ethertypes<'a>(&'a [(u16, u16)]);

impl Display for Ethertypes<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first:04x}")?;
            } else {
                write!(f, "{comma}{first:04x}:{last:04x}")?;
            }
        }
        Ok(())
    }
}

/// Entries of a set that are printed; of larger ones the number is.
const SHOWN: usize = 8;

impl Display for AddressSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, entry) in self.entries.iter().take(SHOWN).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{entry}")?;
        }
        if self.entries.len() > SHOWN {
            write!(f, ",… {} in all", self.entries.len())?;
        }
        f.write_str("}")
    }
}

impl Display for SetEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let not = if self.nomatch { "!" } else { "" };
        if self.net.prefix_len() == self.net.max_prefix_len() {
            write!(f, "{not}{}", self.net.addr())
        } else {
            write!(f, "{not}{}", self.net)
        }
    }
}
