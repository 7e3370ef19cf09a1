//! Whose rules, counters or flows a verb is about: everybody's, the host's, a guest's, or one NIC's.
//!
//! `host`, `100`, `vm100` and `ct100` (all NICs), `100/net1`, `vm100i1`, `tap100i1`, `veth100i1`.

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
        for text in ["", "0", "net0", "100/", "100/net", "+1", "100/net+1", "hosts", "i1"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
