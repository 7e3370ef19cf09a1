//! Standard rules that only the host has: loopback, IGMP, management, corosync.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{accept, checked, ports};
use crate::config::registry::{IGMP, TCP, UDP};
use crate::policy::sets::Sets;
use crate::policy::{AddressSet, Matches, OriginKind, Rule, SourceLine};

/// Accepts what stays on the machine.
pub(in crate::policy) fn loopback() -> Rule {
    let matches = Matches {
        interface: Some("lo".into()),
        ..Matches::default()
    };
    accept(matches, "standard: loopback")
}

/// Accepts multicast group management.
pub(in crate::policy) fn igmp() -> Rule {
    let matches = Matches {
        protocol: Some(IGMP),
        ..Matches::default()
    };
    accept(matches, "standard: IGMP")
}

/// Ports of a node's services: web interface, consoles, SPICE proxy, SSH, migration.
const SERVICES: [(u16, u16); 5] = [
    (22, 22),
    (3128, 3128),
    (5900, 5999),
    (8006, 8006),
    (60000, 60050),
];

/// Accepts access to the node's services from `sources`.
pub(in crate::policy) fn management(sources: Arc<AddressSet>) -> Rule {
    let matches = Matches {
        source: Some(sources),
        ..ports(None, TCP, &[], &SERVICES)
    };
    accept(matches, "standard: management")
}

/// Accepts access of the node to the services of the nodes in `dest`.
pub(in crate::policy) fn local_services(dest: Arc<AddressSet>) -> Rule {
    let matches = Matches {
        dest: Some(dest),
        ..ports(None, TCP, &[], &SERVICES)
    };
    accept(matches, "standard: local network")
}

/// Accepts the multicast of a cluster without knet.
pub(in crate::policy) fn corosync_multicast(sets: &mut Sets) -> Rule {
    let groups = [
        IpNet::V4(Ipv4Net::new_assert([224, 0, 0, 0].into(), 4)),
        IpNet::V6(Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8)),
    ];
    let matches = Matches {
        dest: Some(sets.nets(groups)),
        ..ports(None, UDP, &[], &[(5404, 5405)])
    };
    accept(matches, "standard: corosync multicast")
}

/// Accepts what a cluster's nodes say to each other on one link. Link N uses port 5405 + N.
pub(in crate::policy) fn corosync(
    source: Arc<AddressSet>,
    dest: Arc<AddressSet>,
    text: &str,
    line: Option<SourceLine>,
) -> Rule {
    let matches = Matches {
        source: Some(source),
        dest: Some(dest),
        ..ports(None, UDP, &[], &[(5404, 5412)])
    };
    checked(accept(matches, text), OriginKind::Standard, None, line)
}
