//! What a packet must be for a rule: one condition per field, all of which must hold.
//!
//! [`Condition::and`] is what is left of two of them, as one; the language of firewall files has no others. A network that is cut by another, ports likewise,
//! stay exact. A set by its name cannot be cut with networks.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::lint::ranges::{Ranges, contains, difference, everything, intersection};
use crate::policy::Family;

/// Conditions on the fields of a packet; none on any is every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Interface that it comes in by, or goes out by.
    pub interface: Option<String>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Source.
    pub source: Addresses,
    /// Destination.
    pub dest: Addresses,
    /// Source ports: ascending, disjoint.
    pub sport: Option<Ports>,
    /// Destination ports.
    pub dport: Option<Ports>,
    /// Type and code of an ICMP message.
    pub icmp: Option<(u8, Option<u8>)>,
}

/// Ranges of ports: ascending, disjoint, inclusive.
pub type Ports = Vec<(u16, u16)>;

/// A condition on an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// None.
    #[default]
    Any,
    /// In one of these ranges, of the ruleset's family.
    Ranges(Ranges),
    /// In a set.
    Set(String),
}

/// Two sets, or a set and networks, hold together: that cannot be written as one condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoSets;

impl Condition {
    /// What both conditions hold for; none if that is no packet.
    pub fn and(&self, other: &Self) -> Result<Option<Self>, TwoSets> {
        let (Some(interface), Some(protocol), Some(icmp)) = (
            both(&self.interface, &other.interface),
            both(&self.protocol, &other.protocol),
            icmp(self.icmp, other.icmp),
        ) else {
            return Ok(None);
        };
        let (Some(source), Some(dest)) =
            (self.source.and(&other.source)?, self.dest.and(&other.dest)?)
        else {
            return Ok(None);
        };
        let (Some(sport), Some(dport)) = (
            ports(&self.sport, &other.sport),
            ports(&self.dport, &other.dport),
        ) else {
            return Ok(None);
        };
        Ok(Some(Self {
            interface,
            protocol,
            source,
            dest,
            sport,
            dport,
            icmp,
        }))
    }

    /// Whether some packet may be in both.
    pub fn meets(&self, other: &Self) -> bool {
        !matches!(self.and(other), Ok(None))
    }

    /// Whether it holds for every packet that the other holds for, as far as that is seen.
    pub fn covers(&self, other: &Self) -> bool {
        self.and(other)
            .is_ok_and(|both| both.as_ref() == Some(other))
    }
}

/// One of two values, if they agree; the outer none: they do not.
fn both<T: Clone + PartialEq>(a: &Option<T>, b: &Option<T>) -> Option<Option<T>> {
    match (a, b) {
        (Some(x), Some(y)) => (x == y).then(|| Some(x.clone())),
        (Some(one), None) | (None, Some(one)) => Some(Some(one.clone())),
        (None, None) => Some(None),
    }
}

type Icmp = Option<(u8, Option<u8>)>;

fn icmp(a: Icmp, b: Icmp) -> Option<Icmp> {
    match (a, b) {
        (Some((kind, code)), Some((other, its))) if kind == other => {
            Some(Some((kind, both(&code, &its)?)))
        }
        (Some(_), Some(_)) => None,
        (one, None) | (None, one) => Some(one),
    }
}

fn ports(a: &Option<Ports>, b: &Option<Ports>) -> Option<Option<Ports>> {
    let (Some(a), Some(b)) = (a, b) else {
        return Some(a.as_ref().or(b.as_ref()).cloned());
    };
    let wide = |ports: &Ports| {
        ports
            .iter()
            .map(|(x, y)| ((*x).into(), (*y).into()))
            .collect()
    };
    let narrow = |(x, y): (u128, u128)| Some((u16::try_from(x).ok()?, u16::try_from(y).ok()?));
    let both = intersection(&wide(a), &wide(b));
    (!both.is_empty()).then(|| Some(both.into_iter().filter_map(narrow).collect()))
}

impl Addresses {
    fn and(&self, other: &Self) -> Result<Option<Self>, TwoSets> {
        match (self, other) {
            (Self::Any, one) | (one, Self::Any) => Ok(Some(one.clone())),
            (Self::Ranges(a), Self::Ranges(b)) => {
                let both = intersection(a, b);
                Ok((!both.is_empty()).then_some(Self::Ranges(both)))
            }
            (Self::Set(a), Self::Set(b)) if a == b => Ok(Some(self.clone())),
            (Self::Set(_), Self::Ranges(_) | Self::Set(_)) | (Self::Ranges(_), Self::Set(_)) => {
                Err(TwoSets)
            }
        }
    }

    /// Every address but these.
    pub fn but(ranges: &Ranges, family: Family) -> Self {
        Self::Ranges(difference(&everything(family), ranges))
    }

    /// These addresses; no condition if it is all of a family's.
    pub fn of(ranges: Ranges, family: Family) -> Self {
        match contains(&ranges, &everything(family)) {
            true => Self::Any,
            false => Self::Ranges(ranges),
        }
    }
}

/// First and last address of a network.
pub fn bounds(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (
            u32::from(net.network()).into(),
            u32::from(net.broadcast()).into(),
        ),
        IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
    }
}

/// Ranges as networks.
pub fn networks(ranges: &Ranges, family: Family) -> Vec<IpNet> {
    let networks = |(first, last): &(u128, u128)| -> Vec<IpNet> {
        match family {
            Family::V4 => {
                let address =
                    |number: u128| Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX));
                let nets = Ipv4Subnets::new(address(*first), address(*last), 0);
                nets.map(IpNet::V4).collect()
            }
            Family::V6 => {
                let nets = Ipv6Subnets::new(Ipv6Addr::from(*first), Ipv6Addr::from(*last), 0);
                nets.map(IpNet::V6).collect()
            }
        }
    };
    ranges.iter().flat_map(networks).collect()
}
