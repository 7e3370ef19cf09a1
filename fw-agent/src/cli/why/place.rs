//! The ends of a packet as people write them: places of the simulation, guests by number alone, and addresses.
//!
//! An address is the host's if the programs count it among its own, a guest's if a flow of the guest has it at its end, else outside.

use std::net::IpAddr;

use anyhow::{Context, Result};
use fw_common::wire::Address;

use super::has_flows;
use crate::cli::scope::Scope;
use crate::datapath::pins::Pins;
use crate::migrate::address;
use crate::policy::{GuestKind, NodePolicy, PortId};
use crate::simulate::Endpoint;

/// One end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// In the simulation's words.
    pub(super) endpoint: Endpoint,
    /// Its address, if that was said.
    pub(super) address: Option<IpAddr>,
}

/// The host's addresses in order, IPv4 first.
pub(super) fn addresses(locals: &[Address]) -> Vec<IpAddr> {
    let plain = locals.iter().map(|local| match address(6, local) {
        IpAddr::V6(found) => found.to_canonical(),
        found @ IpAddr::V4(_) => found,
    });
    let mut found: Vec<IpAddr> = plain.collect();
    found.sort_unstable();
    found
}

pub(super) fn resolve(
    ends: [&str; 2],
    policy: &NodePolicy,
    locals: &[IpAddr],
    pins: &Pins,
) -> Result<[Resolved; 2]> {
    let [from, to] = ends.map(|text| one(text, policy, locals, pins));
    Ok([from?, to?])
}

fn one(text: &str, policy: &NodePolicy, locals: &[IpAddr], pins: &Pins) -> Result<Resolved> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let guest = has_flows(pins, address)?;
        let endpoint = match guest.and_then(|(vmid, net)| guest_at(PortId { vmid, net }, policy)) {
            _ if locals.contains(&address) => Endpoint::Host,
            Some(guest) => guest,
            None => Endpoint::Outside,
        };
        return Ok(Resolved {
            endpoint,
            address: Some(address),
        });
    }
    let parsed = text.parse::<Endpoint>().ok();
    let endpoint = parsed.or_else(|| match text.parse().ok()? {
        Scope::Host => Some(Endpoint::Host),
        Scope::Guest(vmid) => guest_at(PortId { vmid, net: 0 }, policy),
        Scope::Nic(port) => guest_at(port, policy),
    });
    let endpoint = endpoint.with_context(|| {
        format!("{text:?}: expected host, outside, a guest of this node such as 100 or vm100, <bridge>/<port>, or an address")
    })?;
    Ok(Resolved {
        endpoint,
        address: None,
    })
}

fn guest_at(port: PortId, policy: &NodePolicy) -> Option<Endpoint> {
    let known = policy.ports.iter().find(|known| known.port == port)?;
    let kind: GuestKind = known.kind;
    Some(Endpoint::Guest { kind, port })
}
