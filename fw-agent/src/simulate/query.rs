//! One question to the simulation: a packet, and between which places it goes.
//!
//! In: a JSON object or the options of the command line, as [`Fields`]. Out: a [`Query`], or a [`QueryError`] that names the field, what was
//! found there and what belongs there. Unknown fields are ignored, so that files with expectations beside the packets can be read.
//!
//! Defaults: TCP SYN; echo request for ICMP; state NEW; source 100.100.1.2 and destination 100.200.3.4 (or two addresses of 2001:db8::/32 where
//! the packet is IPv6), but the node's own address for `host` once [`Query::set_host_addresses`] was called. Without a source port a packet has
//! [`SOURCE_PORT`], without a destination port it has port 0.
//!
//! Invariant: source and destination are of one family; ports, types and flags are there only for protocols that have them.

mod leaf;
mod values;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer};
use thiserror::Error;

pub use self::leaf::Leaf;
use super::State;
use super::endpoint::{Endpoint, number};
use super::protocol::{self, ICMP, ICMPV6, TCP};
use crate::config::registry;
use crate::policy::Family;

/// Source port of a packet whose query has none.
pub const SOURCE_PORT: u16 = 40000;

const SOURCE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(100, 100, 1, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, 1, 0, 0, 0, 2),
);
const DEST: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(100, 200, 3, 4),
    Ipv6Addr::new(0x2001, 0xdb8, 0x200, 3, 0, 0, 0, 4),
);

/// Bit of SYN in a TCP header's flags.
pub const SYN: u8 = 0x02;

/// Kind of address at the link layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestType {
    /// One station.
    Unicast,
    /// Every station.
    Broadcast,
    /// A group of stations.
    Multicast,
}

/// Source and destination, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

/// A packet and its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) family: Family,
    pub(super) source: Option<IpAddr>,
    pub(super) dest: Option<IpAddr>,
    pub(super) protocol: u8,
    pub(super) sport: Option<u16>,
    pub(super) dport: Option<u16>,
    pub(super) icmp_type: Option<u8>,
    pub(super) icmp_code: Option<u8>,
    pub(super) tcp_flags: u8,
    pub(super) mac_source: Option<[u8; 6]>,
    pub(super) dsttype: Option<DestType>,
    pub(super) vlan: Option<u16>,
    pub(super) state: State,
}

/// A query as written: every field as text or number.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are those of the JSON fields and options"
)]
pub struct Fields<'a> {
    #[serde(borrow)]
    pub from: Option<Leaf<'a>>,
    pub to: Option<Leaf<'a>>,
    pub proto: Option<Leaf<'a>>,
    pub source: Option<Leaf<'a>>,
    pub dest: Option<Leaf<'a>>,
    pub sport: Option<Leaf<'a>>,
    pub dport: Option<Leaf<'a>>,
    pub icmp_type: Option<Leaf<'a>>,
    pub icmp_code: Option<Leaf<'a>>,
    pub mac_source: Option<Leaf<'a>>,
    pub dsttype: Option<Leaf<'a>>,
    pub tcp_flags: Option<Leaf<'a>>,
    pub vlan: Option<Leaf<'a>>,
    pub state: Option<Leaf<'a>>,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// Not a JSON object, or a field twice.
    #[error("{message} (column {column})")]
    Json {
        /// What the JSON reader says.
        message: String,
        /// Where, from 1.
        column: usize,
    },
    /// A field that must be there is not.
    #[error("`{field}` is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field's value cannot be used.
    #[error("`{field}`: expected {expected}, found {found}")]
    Value {
        /// The field.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A field that the packet's protocol does not have.
    #[error("`{field}` is for {only}, the packet's protocol is {protocol}")]
    Protocol {
        /// The field.
        field: &'static str,
        /// Protocols that have it.
        only: &'static str,
        /// The packet's protocol, name or number.
        protocol: String,
    },
    /// Addresses of both families.
    #[error("`source` {source_address} and `dest` {dest} are not of the same IP version")]
    Families {
        /// The source.
        source_address: IpAddr,
        /// The destination.
        dest: IpAddr,
    },
    /// The packet would not move.
    #[error("`from` and `to` are the same place: {place}")]
    SamePlace {
        /// The place.
        place: String,
    },
    /// `vm<ID>` for a container or `ct<ID>` for a VM.
    #[error("guest {vmid} is {actual}{vmid}")]
    Kind {
        /// The guest.
        vmid: u32,
        /// What it is, and how its name begins.
        actual: &'static str,
    },
}

impl Query {
    /// Reads one JSON object.
    pub fn parse(json: &[u8]) -> Result<Self, QueryError> {
        match serde_json::from_slice::<Fields<'_>>(json) {
            Ok(fields) => Self::try_from(fields),
            Err(error) => {
                let text = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let message = text.strip_suffix(&place).unwrap_or(&text).to_owned();
                let column = error.column();
                Err(QueryError::Json { message, column })
            }
        }
    }

    /// Where the packet comes from.
    pub fn from(&self) -> &Endpoint {
        &self.from
    }

    /// Where it goes.
    pub fn to(&self) -> &Endpoint {
        &self.to
    }

    /// The state that its flow is to have.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its protocol.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Source and destination port, if it has any.
    pub fn ports(&self) -> (Option<u16>, Option<u16>) {
        let has_ports = self.icmp_type.is_none() && ![ICMP, ICMPV6].contains(&self.protocol);
        let sport = self.sport.unwrap_or(SOURCE_PORT);
        let sport = (has_ports && self.dport.is_some()).then_some(sport);
        (sport, self.dport)
    }

    /// Its addresses, with defaults for those that were not given.
    pub fn addresses(&self) -> Addresses {
        let v4 = |given, default| match given {
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(_)) | None => default,
        };
        let v6 = |given, default| match given {
            Some(IpAddr::V6(address)) => address,
            Some(IpAddr::V4(_)) | None => default,
        };
        match self.family {
            Family::V4 => Addresses::V4(v4(self.source, SOURCE.0), v4(self.dest, DEST.0)),
            Family::V6 => Addresses::V6(v6(self.source, SOURCE.1), v6(self.dest, DEST.1)),
        }
    }

    /// Makes the node's own addresses the defaults for the end that is `host`.
    pub fn set_host_addresses(&mut self, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) {
        let own = match self.family {
            Family::V4 => v4.map(IpAddr::V4),
            Family::V6 => v6.map(IpAddr::V6),
        };
        if self.from == Endpoint::Host {
            self.source = self.source.or(own);
        }
        if self.to == Endpoint::Host {
            self.dest = self.dest.or(own);
        }
    }
}

impl<'de> Deserialize<'de> for Query {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        Self::try_from(fields).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<Fields<'_>> for Query {
    type Error = QueryError;

    fn try_from(fields: Fields<'_>) -> Result<Self, QueryError> {
        let from = required("from", &fields.from, values::PLACE, |text| {
            text.parse().ok()
        })?;
        let to = required("to", &fields.to, values::PLACE, |text| text.parse().ok())?;
        let protocol =
            read("proto", &fields.proto, values::PROTOCOL, protocol::number)?.unwrap_or(TCP);
        let address = |text: &str| text.parse::<IpAddr>().ok();
        let source = read("source", &fields.source, values::ADDRESS, address)?;
        let dest = read("dest", &fields.dest, values::ADDRESS, address)?;
        let port = |text: &str| number::<u16>(text);
        let byte = |text: &str| number::<u8>(text);
        let flags = read(
            "tcp_flags",
            &fields.tcp_flags,
            values::FLAGS,
            values::tcp_flags,
        )?;
        let query = Self {
            family: family(source, dest, protocol)?,
            from,
            to,
            source,
            dest,
            protocol,
            sport: read("sport", &fields.sport, values::PORT, port)?,
            dport: read("dport", &fields.dport, values::PORT, port)?,
            icmp_type: read("icmp_type", &fields.icmp_type, values::BYTE, byte)?,
            icmp_code: read("icmp_code", &fields.icmp_code, values::BYTE, byte)?,
            tcp_flags: flags.unwrap_or(SYN),
            mac_source: read("mac_source", &fields.mac_source, values::MAC, values::mac)?,
            dsttype: read(
                "dsttype",
                &fields.dsttype,
                values::DEST_TYPE,
                values::dest_type,
            )?,
            vlan: read("vlan", &fields.vlan, values::VLAN, values::vlan)?,
            state: read("state", &fields.state, values::STATE, values::state)?.unwrap_or_default(),
        };
        if query.from.is_same_place(&query.to) {
            let place = query.from.to_string();
            return Err(QueryError::SamePlace { place });
        }
        let has_ports = protocol::has_ports(protocol);
        let has_type = protocol::has_type(protocol);
        let misplaced = [
            (
                "sport",
                query.sport.is_some() && !has_ports,
                values::WITH_PORTS,
            ),
            (
                "dport",
                query.dport.is_some() && !has_ports,
                values::WITH_PORTS,
            ),
            (
                "icmp_type",
                query.icmp_type.is_some() && !has_type,
                values::WITH_TYPE,
            ),
            (
                "icmp_code",
                query.icmp_code.is_some() && !has_type,
                values::WITH_TYPE,
            ),
            ("tcp_flags", flags.is_some() && protocol != TCP, "tcp"),
        ];
        match misplaced.into_iter().find(|&(_, wrong, _)| wrong) {
            None => Ok(query),
            Some((field, _, only)) => Err(QueryError::Protocol {
                field,
                only,
                protocol: registry::protocol_name(protocol)
                    .map_or_else(|| protocol.to_string(), str::to_owned),
            }),
        }
    }
}

fn read<T>(
    field: &'static str,
    leaf: &Option<Leaf<'_>>,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, QueryError> {
    let Some(leaf) = leaf else {
        return Ok(None);
    };
    let text: Option<Cow<'_, str>> = leaf.text();
    match text.and_then(|text| parse(&text)) {
        Some(value) => Ok(Some(value)),
        None => Err(QueryError::Value {
            field,
            expected,
            found: leaf.shown(),
        }),
    }
}

fn required<T>(
    field: &'static str,
    leaf: &Option<Leaf<'_>>,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, QueryError> {
    read(field, leaf, expected, parse)?.ok_or(QueryError::Missing { field })
}

fn family(
    source: Option<IpAddr>,
    dest: Option<IpAddr>,
    protocol: u8,
) -> Result<Family, QueryError> {
    match (source, dest) {
        (Some(source_address), Some(dest)) if source_address.is_ipv4() != dest.is_ipv4() => {
            Err(QueryError::Families {
                source_address,
                dest,
            })
        }
        (Some(address), _) | (None, Some(address)) => Ok(match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }),
        (None, None) => Ok(match protocol {
            ICMPV6 => Family::V6,
            _ => Family::V4,
        }),
    }
}

/// Type of an ICMP packet whose query has none: echo request.
pub(super) const fn echo_request(protocol: u8) -> u8 {
    match protocol {
        ICMP => 8,
        _ => 128,
    }
}

#[cfg(test)]
mod tests;
