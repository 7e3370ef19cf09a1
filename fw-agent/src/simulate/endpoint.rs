//! Where a packet comes from or goes to.
//!
//! In: `host`, `outside`, `vm<ID>`, `ct<ID>`, `vm<ID>i<N>`, `ct<ID>i<N>`, `<bridge>/<port>`. Out: an [`Endpoint`]. A guest without a NIC's
//! number means its net0; `outside` is the port eth0 of vmbr0. A bridge's port named like a guest's device (`vmbr0/tap100i0`) is the guest.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::policy::{GuestKind, PortId};

/// A place that packets come from and go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// This node.
    Host,
    /// Whatever is behind the node's uplink.
    Outside,
    /// A guest's NIC.
    Guest {
        /// What the guest is said to be.
        kind: GuestKind,
        /// The NIC.
        port: PortId,
    },
    /// A port of a bridge that is no guest's.
    Bridge {
        /// The bridge.
        bridge: Box<str>,
        /// Its port.
        port: Box<str>,
    },
}

/// Bytes of an interface's name, as in the kernel (`IFNAMSIZ` less its zero).
const NAME_LIMIT: usize = 15;

/// The text is not an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a place")]
pub struct NotAnEndpoint;

impl Endpoint {
    /// Whether both are the same place, however they are written.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Outside, Self::Bridge { bridge, port })
            | (Self::Bridge { bridge, port }, Self::Outside) => {
                (&**bridge, &**port) == ("vmbr0", "eth0")
            }
            (Self::Guest { port, .. }, Self::Guest { port: other, .. }) => port == other,
            _ => self == other,
        }
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        let endpoint = match text {
            "host" => Some(Self::Host),
            "outside" => Some(Self::Outside),
            _ => match text.split_once('/') {
                Some((bridge, port)) => bridge_port(bridge, port),
                None => guest(text, ["vm", "ct"], false),
            },
        };
        endpoint.ok_or(NotAnEndpoint)
    }
}

fn bridge_port(bridge: &str, port: &str) -> Option<Endpoint> {
    let first = bridge.bytes().next()?;
    if !first.is_ascii_alphabetic() || !is_name(bridge) || !is_name(port) {
        return None;
    }
    let bridged = || Endpoint::Bridge {
        bridge: bridge.into(),
        port: port.into(),
    };
    Some(guest(port, ["tap", "veth"], true).unwrap_or_else(bridged))
}

/// `<prefix><ID>` or `<prefix><ID>i<N>`, the prefix that of a VM or of a container.
fn guest(text: &str, [vm, ct]: [&str; 2], nic_required: bool) -> Option<Endpoint> {
    let (kind, rest) = match (text.strip_prefix(vm), text.strip_prefix(ct)) {
        (Some(rest), _) => (GuestKind::Vm, rest),
        (None, Some(rest)) => (GuestKind::Container, rest),
        (None, None) => return None,
    };
    let (vmid, net) = match rest.split_once('i') {
        Some((vmid, net)) => (vmid, number::<u16>(net)?),
        None if nic_required => return None,
        None => (rest, 0),
    };
    let vmid = number::<u32>(vmid).filter(|&vmid| vmid > 0)?;
    let port = PortId { vmid, net };
    Some(Endpoint::Guest { kind, port })
}

/// A number of decimal digits only.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    // `parse` would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    (1..=NAME_LIMIT).contains(&name.len()) && name.bytes().all(fits)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Outside => f.write_str("outside"),
            Self::Guest { kind, port } => {
                let kind = match kind {
                    GuestKind::Vm => "vm",
                    GuestKind::Container => "ct",
                };
                write!(f, "{kind}{}", port.vmid)?;
                match port.net {
                    0 => Ok(()),
                    net => write!(f, "i{net}"),
                }
            }
            Self::Bridge { bridge, port } => write!(f, "{bridge}/{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let guest = |kind, vmid, net| {
            let port = PortId { vmid, net };
            Some(Endpoint::Guest { kind, port })
        };
        let bridge = |bridge: &str, port: &str| {
            Some(Endpoint::Bridge {
                bridge: bridge.into(),
                port: port.into(),
            })
        };
        use GuestKind::{Container, Vm};
        let cases = [
            ("host", Some(Endpoint::Host)),
            ("outside", Some(Endpoint::Outside)),
            ("vm100", guest(Vm, 100, 0)),
            ("vm100i0", guest(Vm, 100, 0)),
            ("vm100i31", guest(Vm, 100, 31)),
            ("ct123456789", guest(Container, 123_456_789, 0)),
            ("ct200i2", guest(Container, 200, 2)),
            ("vmbr0/eth0", bridge("vmbr0", "eth0")),
            ("vmbr1/bond0.100", bridge("vmbr1", "bond0.100")),
            ("vmbr0/tap100i1", guest(Vm, 100, 1)),
            ("vmbr0/veth100i1", guest(Container, 100, 1)),
            ("vmbr0/tap100", bridge("vmbr0", "tap100")),
            ("", None),
            ("HOST", None),
            ("vm", None),
            ("vm0", None),
            ("vm-1", None),
            ("vm+1", None),
            ("vm100i", None),
            ("vm100i65536", None),
            ("vm4294967296", None),
            ("vm100x1", None),
            ("vmbr0", None),
            ("vmbr0/", None),
            ("/eth0", None),
            ("0br/eth0", None),
            ("vmbr0/a/b", None),
            ("vmbr0/a b", None),
            ("vmbr0/abcdefghijklmnop", None),
        ];
        for (text, expect) in cases {
            assert_eq!(text.parse().ok(), expect, "{text:?}");
        }
    }

    #[test]
    fn the_same_place_written_differently() {
        let cases = [
            ("outside", "vmbr0/eth0", true),
            ("vmbr0/eth0", "outside", true),
            ("outside", "vmbr1/eth0", false),
            ("outside", "outside", true),
            ("vm100", "vm100i0", true),
            ("vm100", "vm100i1", false),
            ("vm100", "vmbr0/tap100i0", true),
            ("host", "outside", false),
        ];
        for (a, b, expect) in cases {
            let place = |text: &str| text.parse::<Endpoint>().unwrap();
            assert_eq!(place(a).is_same_place(&place(b)), expect, "{a} {b}");
        }
    }

    #[test]
    fn printing_and_parsing_is_identity() {
        for text in ["host", "outside", "vm100", "ct100i3", "vmbr0/eth0"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }
}
