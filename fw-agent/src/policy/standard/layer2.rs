//! Rules for what a guest sends that is neither IPv4 nor IPv6: which EtherTypes, and as whom it may speak ARP.
//!
//! They come first in the policy for what the guest sends, and their last one accepts every frame that is not IP, so that no rule for IP is
//! ever asked about one. A NIC without any of these conditions has no such rules, and its frames are not classified.

use std::sync::Arc;

use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::ETHERTYPE_ARP;
use ipnet::{IpNet, Ipv4Net};

use super::super::sets::Sets;
use super::super::{AddressSet, Matches, Rule, SourceLine};
use super::{checked, rule};
use crate::policy::OriginKind;

/// The rules; none if there is nothing to check. `listed`: the option `layer2_protocols`, with its line. `senders`: the addresses that the
/// guest may speak ARP for, with the line that says so.
pub(in crate::policy) fn layer2(
    listed: Option<(&[u16], Option<SourceLine>)>,
    senders: Option<(&Arc<AddressSet>, SourceLine)>,
    sets: &mut Sets,
) -> Vec<Rule> {
    if listed.is_none() && senders.is_none() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    if let Some((listed, line)) = listed {
        let unlisted = rule(
            frames(others(listed)),
            Verdict::Drop,
            Reason::Layer2,
            "standard: not among layer2_protocols",
        );
        rules.push(checked(unlisted, OriginKind::Standard, None, line));
    }
    if let Some((own, line)) = senders {
        rules.extend(arp(own, line, sets));
    }
    rules.push(rule(
        frames(Vec::new()),
        Verdict::Accept,
        Reason::NotIp,
        "standard: not IP",
    ));
    rules
}

/// ARP must be sent as one of the guest's own addresses, but for probes whether one of these is free (RFC 5227).
fn arp(own: &Arc<AddressSet>, line: SourceLine, sets: &mut Sets) -> [Rule; 2] {
    let arp = || frames(vec![(ETHERTYPE_ARP, ETHERTYPE_ARP)]);
    let nobody = sets.nets([IpNet::V4(Ipv4Net::from(std::net::Ipv4Addr::UNSPECIFIED))]);
    let probe = Matches {
        source: Some(nobody),
        dest: Some(Arc::clone(own)),
        ..arp()
    };
    let foreign = Matches {
        source: Some(sets.share(own.complement())),
        ..arp()
    };
    let drop = rule(
        foreign,
        Verdict::Drop,
        Reason::IpFilter,
        "standard: ARP sender is not the NIC's own",
    );
    [
        rule(
            probe,
            Verdict::Accept,
            Reason::NotIp,
            "standard: ARP probe for an own address",
        ),
        checked(drop, OriginKind::Standard, None, Some(line)),
    ]
}

fn frames(ethertypes: Vec<(u16, u16)>) -> Matches {
    Matches {
        not_ip: true,
        dport: ethertypes,
        ..Matches::default()
    }
}

/// Ranges of all EtherTypes that are not listed. There always are some: a list names at most the registry.
fn others(listed: &[u16]) -> Vec<(u16, u16)> {
    let mut listed: Vec<u16> = listed.to_vec();
    listed.sort_unstable();
    let mut ranges = Vec::new();
    let mut next = Some(0);
    for ethertype in listed {
        if let Some(first) = next
            && first < ethertype
        {
            ranges.push((first, ethertype - 1));
        }
        next = ethertype.checked_add(1);
    }
    ranges.extend(next.map(|first| (first, u16::MAX)));
    ranges
}

#[cfg(test)]
mod tests {
    use super::others;

    #[test]
    fn what_is_not_listed() {
        type Ranges = &'static [(u16, u16)];
        let cases: [(&[u16], Ranges); 5] = [
            (&[], &[(0, 0xffff)]),
            (&[0x0806], &[(0, 0x0805), (0x0807, 0xffff)]),
            (
                &[0x8100, 0x0806],
                &[(0, 0x0805), (0x0807, 0x80ff), (0x8101, 0xffff)],
            ),
            (&[1, 2, 2, 3], &[(0, 0), (4, 0xffff)]),
            (&[0, 0xffff], &[(1, 0xfffe)]),
        ];
        for (listed, expect) in cases {
            assert_eq!(others(listed), expect, "{listed:?}");
        }
    }
}
