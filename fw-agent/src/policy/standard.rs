//! The rules that no file spells out: connection state, blacklist, smurfs, DHCP, neighbour discovery, spoof checks, noise.
//!
//! They are ordinary [`Rule`]s, so that there is one way to match, to count and to print. Each function answers with the rules of one step of
//! the reference's chains; the order of the steps is [`super::guest`]'s and
//! [`super::host`]'s.

mod host;
mod layer2;

use std::sync::Arc;

use fw_common::maps::traits;
use fw_common::verdict::{Direction, Reason, Verdict};
use ipnet::{IpNet, Ipv6Net};

pub(super) use self::host::{
    corosync, corosync_multicast, igmp, local_services, loopback, management,
};
pub(super) use self::layer2::layer2;
use super::sets::Sets;
use super::{AddressSet, Family, Matches, Origin, OriginKind, Rule, SourceLine};
use crate::config::registry::{ICMP, ICMPV6, TCP, UDP};

/// ICMPv6 types of neighbour discovery (RFC 4861) and MLD (RFC 2710, RFC 3810).
const ROUTER_SOLICITATION: u16 = 133;
const ROUTER_ADVERTISEMENT: u16 = 134;
const NEIGHBOUR_SOLICITATION: u16 = 135;
const NEIGHBOUR_ADVERTISEMENT: u16 = 136;
const MLD_REPORT: u16 = 131;
const MLD_DONE: u16 = 132;
const MLD2_REPORT: u16 = 143;

/// A rule that no line of a file caused.
fn rule(matches: Matches, verdict: Verdict, reason: Reason, text: &str) -> Rule {
    Rule {
        matches,
        verdict,
        reason,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Standard,
            text: text.into(),
        },
    }
}

fn with_traits(mask: u8) -> Matches {
    Matches {
        traits_mask: mask,
        traits_value: mask,
        ..Matches::default()
    }
}

fn ports(
    family: Option<Family>,
    protocol: u8,
    sport: &[(u16, u16)],
    dport: &[(u16, u16)],
) -> Matches {
    Matches {
        family,
        protocol: Some(protocol),
        sport: sport.to_vec(),
        dport: dport.to_vec(),
        ..Matches::default()
    }
}

fn icmpv6(types: &[(u16, u16)]) -> Matches {
    ports(Some(Family::V6), ICMPV6, types, &[])
}

/// Drops what connection tracking calls invalid.
pub(super) fn invalid() -> Rule {
    rule(
        with_traits(traits::INVALID),
        Verdict::Drop,
        Reason::Invalid,
        "standard: invalid",
    )
}

/// Drops sources in the cluster's blacklist.
pub(super) fn blacklist(set: Arc<AddressSet>, log: Option<u8>, line: Option<SourceLine>) -> Rule {
    let matches = Matches {
        source: Some(set),
        ..Matches::default()
    };
    let rule = rule(
        matches,
        Verdict::Drop,
        Reason::Blacklist,
        "standard: blacklist",
    );
    checked(rule, OriginKind::Blacklist, log, line)
}

/// Drops new IPv4 packets (and invalid ones, where those get this far) from broadcast and multicast addresses.
pub(super) fn smurfs(allow_invalid: bool, log: Option<u8>, line: Option<SourceLine>) -> Vec<Rule> {
    let states = [Some(traits::NEW), allow_invalid.then_some(traits::INVALID)];
    let smurf = |state: u8| {
        let matches = Matches {
            family: Some(Family::V4),
            ..with_traits(traits::FROM_GROUP | state)
        };
        let rule = rule(matches, Verdict::Drop, Reason::Smurf, "standard: smurf");
        checked(rule, OriginKind::Smurf, log, line.clone())
    };
    states.into_iter().flatten().map(smurf).collect()
}

/// Drops TCP packets with impossible flags.
pub(super) fn tcp_flags(log: Option<u8>, line: Option<SourceLine>) -> Rule {
    let matches = Matches {
        protocol: Some(TCP),
        ..with_traits(traits::BAD_TCP_FLAGS)
    };
    let rule = rule(
        matches,
        Verdict::Drop,
        Reason::TcpFlags,
        "standard: TCP flags",
    );
    checked(rule, OriginKind::TcpFlags, log, line)
}

fn checked(rule: Rule, kind: OriginKind, log: Option<u8>, line: Option<SourceLine>) -> Rule {
    Rule {
        log,
        origin: Origin {
            line,
            kind,
            ..rule.origin
        },
        ..rule
    }
}

fn accept(matches: Matches, text: &str) -> Rule {
    rule(matches, Verdict::Accept, Reason::Standard, text)
}

/// Accepts everything: the guest's firewall is off.
pub(super) fn guest_off() -> Rule {
    rule(
        Matches::default(),
        Verdict::Accept,
        Reason::GuestOff,
        "standard: the guest's firewall is off",
    )
}

/// Drops everything, because the policy could not be built.
pub(super) fn closed(text: &str) -> Rule {
    rule(Matches::default(), Verdict::Drop, Reason::NoPolicy, text)
}

/// Accepts a guest's DHCP: it is always the client.
pub(super) fn dhcp(direction: Direction) -> [Rule; 2] {
    [(Family::V4, 68, 67), (Family::V6, 546, 547)].map(|(family, client, server)| {
        let (from, to) = match direction {
            Direction::In => (server, client),
            Direction::Out => (client, server),
        };
        let matches = ports(Some(family), UDP, &[(from, from)], &[(to, to)]);
        rule(matches, Verdict::Accept, Reason::Standard, "standard: DHCP")
    })
}

/// Accepts neighbour discovery; router advertisements too, if they are allowed.
pub(super) fn ndp(router: bool) -> Rule {
    let types: &[_] = if router {
        &[(ROUTER_SOLICITATION, NEIGHBOUR_ADVERTISEMENT)]
    } else {
        &[
            (ROUTER_SOLICITATION, ROUTER_SOLICITATION),
            (NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT),
        ]
    };
    rule(
        icmpv6(types),
        Verdict::Accept,
        Reason::Standard,
        "standard: NDP",
    )
}

/// Drops router advertisements of a guest that is no router.
pub(super) fn router_advertisement() -> Rule {
    let matches = icmpv6(&[(ROUTER_ADVERTISEMENT, ROUTER_ADVERTISEMENT)]);
    rule(
        matches,
        Verdict::Drop,
        Reason::RouterAdvertisement,
        "standard: router advertisement",
    )
}

/// Drops sources that are not the NIC's own. What a guest without an address has to send first (duplicate address detection, RFC 4862, and
/// MLD reports from `::`, RFC 3590) is accepted before.
pub(super) fn ip_filter(
    own: &AddressSet,
    ndp: bool,
    line: Option<SourceLine>,
    sets: &mut Sets,
) -> Vec<Rule> {
    let unspecified = sets.nets([IpNet::V6(Ipv6Net::from(std::net::Ipv6Addr::UNSPECIFIED))]);
    let from_nowhere = |types: &[(u16, u16)], text: &str| {
        let matches = Matches {
            source: Some(Arc::clone(&unspecified)),
            ..icmpv6(types)
        };
        rule(matches, Verdict::Accept, Reason::Standard, text)
    };
    let mut rules = Vec::new();
    if ndp {
        let types = [(NEIGHBOUR_SOLICITATION, NEIGHBOUR_SOLICITATION)];
        rules.push(from_nowhere(
            &types,
            "standard: duplicate address detection",
        ));
    }
    let types = [(MLD_REPORT, MLD_DONE), (MLD2_REPORT, MLD2_REPORT)];
    rules.push(from_nowhere(
        &types,
        "standard: MLD report without an address",
    ));
    let matches = Matches {
        source: Some(sets.share(own.complement())),
        ..Matches::default()
    };
    let filter = rule(
        matches,
        Verdict::Drop,
        Reason::IpFilter,
        "standard: source is not the NIC's own",
    );
    rules.push(checked(filter, OriginKind::Standard, None, line));
    rules
}

/// Accepts whatever got so far: the end of a guard.
pub(super) fn own_address() -> Rule {
    accept(Matches::default(), "standard: the source is the NIC's own")
}

/// What a DROP or REJECT policy does with common noise before it logs.
fn noise(policy: Verdict) -> Vec<Rule> {
    let noise = |matches, verdict, text: &str| rule(matches, verdict, Reason::Noise, text);
    let critical = |matches| {
        rule(
            matches,
            Verdict::Accept,
            Reason::Standard,
            "standard: critical ICMP",
        )
    };
    let v4 = Some(Family::V4);
    vec![
        noise(
            with_traits(traits::TO_GROUP),
            Verdict::Drop,
            "standard: broadcast or multicast",
        ),
        critical(ports(v4, ICMP, &[(3, 3)], &[(4, 4)])),
        critical(ports(v4, ICMP, &[(11, 11)], &[])),
        critical(icmpv6(&[(1, 3)])),
        rule(
            with_traits(traits::INVALID),
            Verdict::Drop,
            Reason::Invalid,
            "standard: invalid",
        ),
        noise(
            ports(None, UDP, &[], &[(135, 135), (137, 139), (445, 445)]),
            policy,
            "standard: SMB",
        ),
        noise(
            ports(None, UDP, &[(137, 137)], &[(1024, u16::MAX)]),
            policy,
            "standard: SMB",
        ),
        noise(
            ports(None, TCP, &[], &[(135, 135), (139, 139), (445, 445)]),
            policy,
            "standard: SMB",
        ),
        noise(
            ports(None, UDP, &[], &[(1900, 1900)]),
            Verdict::Drop,
            "standard: UPnP",
        ),
        noise(
            Matches {
                protocol: Some(TCP),
                ..with_traits(traits::NOT_SYN)
            },
            Verdict::Drop,
            "standard: TCP without connection",
        ),
        noise(
            ports(None, UDP, &[(53, 53)], &[]),
            Verdict::Drop,
            "standard: late DNS reply",
        ),
    ]
}

/// Noise (unless the policy accepts), then the policy.
pub(super) fn end(
    verdict: Verdict,
    option: &str,
    log: Option<u8>,
    line: Option<SourceLine>,
) -> Vec<Rule> {
    let mut rules = match verdict {
        Verdict::Accept => Vec::new(),
        Verdict::Drop | Verdict::Reject => noise(verdict),
    };
    rules.push(policy(verdict, option, log, line));
    rules
}

/// The rule that decides what no other did.
pub(super) fn policy(
    verdict: Verdict,
    option: &str,
    log: Option<u8>,
    line: Option<SourceLine>,
) -> Rule {
    Rule {
        matches: Matches::default(),
        verdict,
        reason: Reason::Policy,
        log: log.filter(|_| verdict != Verdict::Accept),
        origin: Origin {
            line,
            kind: OriginKind::Policy,
            text: format!("{option}: {}", verdict.name()).into(),
        },
    }
}
