//! Whose rules, counters or flows a verb is about: everybody's, the host's, a guest's, or one NIC's.
//!
//! `host`, `100`, `vm100` and `ct100` (all NICs), `100/net1`, `vm100i1`, `tap100i1`, `veth100i1`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use fw_common::maps::{HOST_VMID, PortKey};

use crate::policy::PortId;

/// Some of the node's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The host.
    Host,
    /// Every NIC of a guest.
    Guest(u32),
    /// One NIC.
    Nic(PortId),
}

/// The text is no scope.
#[derive(Debug, thiserror::Error)]
#[error("expected `host`, a guest such as `100`, or one of its NICs such as `100/net0`")]
pub(super) struct NotAScope;

impl Scope {
    /// A port's own.
    pub(super) const fn of(port: PortKey) -> Self {
        match port.vmid {
            HOST_VMID => Self::Host,
            vmid => Self::Nic(PortId {
                vmid,
                net: port.net,
            }),
        }
    }

    /// Whether a port is meant.
    pub(super) fn holds(self, port: PortKey) -> bool {
        match self {
            Self::Host => port.vmid == HOST_VMID,
            Self::Guest(vmid) => port.vmid == vmid,
            Self::Nic(id) => (port.vmid, port.net) == (id.vmid, id.net),
        }
    }
}

/// The same for verbs that mean all ports if none is named.
pub(super) fn holds(scope: Option<Scope>, port: PortKey) -> bool {
    scope.is_none_or(|scope| scope.holds(port))
}

/// Ports that are named in place of one that there is not.
const SUGGESTED: usize = 8;

/// What to say of a scope that holds none of these ports; those with the nearest numbers come first.
pub(super) fn unknown(scope: Scope, ports: impl IntoIterator<Item = PortKey>) -> Option<String> {
    let wanted = match scope {
        Scope::Host => HOST_VMID,
        Scope::Guest(vmid) => vmid,
        Scope::Nic(port) => port.vmid,
    };
    let ports: BTreeSet<PortKey> = ports.into_iter().collect();
    let mut ports: Vec<PortKey> = ports.into_iter().collect();
    if ports.iter().any(|port| scope.holds(*port)) {
        return None;
    }
    ports.sort_by_key(|port| (port.vmid.abs_diff(wanted), *port));
    let named = ports.iter().take(SUGGESTED);
    let named: Vec<String> = named.map(|port| Scope::of(*port).to_string()).collect();
    let rest = match ports.len().saturating_sub(SUGGESTED) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    Some(match named.is_empty() {
        true => format!("no {scope} is under policy on this node, nor is anything else"),
        false => format!(
            "no {scope} is under policy on this node: there are {}{rest}",
            named.join(", ")
        ),
    })
}

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Some((_, port)) = PortId::of_device(text) {
            return Ok(Self::Nic(port));
        }
        let rest = text.strip_prefix("vm").or_else(|| text.strip_prefix("ct"));
        let rest = rest.unwrap_or(text);
        let (vmid, net) = match (rest.split_once("/net"), rest.split_once('i')) {
            (Some((vmid, net)), _) | (None, Some((vmid, net))) => (vmid, Some(net)),
            (None, None) => (rest, None),
        };
        let vmid = digits::<u32>(vmid).filter(|vmid| *vmid != HOST_VMID);
        let vmid = vmid.ok_or(NotAScope)?;
        match net {
            None => Ok(Self::Guest(vmid)),
            Some(net) => {
                let net = digits(net).ok_or(NotAScope)?;
                Ok(Self::Nic(PortId { vmid, net }))
            }
        }
    }
}

/// A number without a sign.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Guest(vmid) => write!(f, "{vmid}"),
            Self::Nic(port) => write!(f, "{}/net{}", port.vmid, port.net),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_there_is_told_who_is() {
        let port = |vmid, net| PortKey {
            vmid,
            net,
            reserved: 0,
        };
        let ports = [port(0, 0), port(100, 0), port(104, 1)];
        let said =
            |text: &str, ports: &[PortKey]| unknown(text.parse().unwrap(), ports.iter().copied());
        assert_eq!(said("100", &ports), None);
        assert_eq!(said("host", &ports), None);
        assert_eq!(
            said("105", &ports).as_deref(),
            Some("no 105 is under policy on this node: there are 104/net1, 100/net0, host")
        );
        assert!(said("100/net1", &ports).is_some());
        assert!(said("100", &[]).unwrap().contains("nor is anything else"));
        let many: Vec<PortKey> = (200..300).map(|vmid| port(vmid, 0)).collect();
        assert!(said("1", &many).unwrap().ends_with("207/net0 and 92 more"));
    }

    #[test]
    fn whose_names_are_understood() {
        let nic = |net| Scope::Nic(PortId { vmid: 100, net });
        for (text, expect) in [
            ("host", Scope::Host),
            ("100", Scope::Guest(100)),
            ("vm100", Scope::Guest(100)),
            ("ct100", Scope::Guest(100)),
            ("100/net0", nic(0)),
            ("vm100i2", nic(2)),
            ("tap100i1", nic(1)),
            ("veth100i1", nic(1)),
        ] {
            assert_eq!(text.parse::<Scope>().ok(), Some(expect), "{text}");
        }
        for text in [
            "",
            "0",
            "net0",
            "100/",
            "100/net",
            "+1",
            "100/net+1",
            "hosts",
            "i1",
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
