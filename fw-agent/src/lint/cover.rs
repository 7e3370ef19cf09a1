//! Whether one rule's conditions hold whenever another's do.
//!
//! In: two [`Matches`]. Out: yes only if it is certain: every condition is compared for itself, per IP version that the second can match at
//! all. Sets are compared as ranges of addresses, once per pair of sets.

use std::collections::HashMap;
use std::sync::Arc;

use super::ranges::{Ranges, contains, everything, of_set};
use crate::config::registry::{ICMP, ICMPV6};
use crate::policy::{AddressSet, Family, Matches};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Addresses of sets and comparisons, each made once; sets are told apart by identity, so they must outlive this.
#[derive(Default)]
pub(super) struct Cover {
    ranges: HashMap<(*const AddressSet, Family), Ranges>,
    known: HashMap<(*const AddressSet, *const AddressSet, Family), bool>,
    /// What the comparisons cost so far, in comparisons of two numbers.
    pub(super) work: usize,
}

/// A condition on addresses.
type Of<'a> = Option<&'a Arc<AddressSet>>;

impl Cover {
    /// Whether `a` holds for every packet that `b` holds for.
    pub(super) fn covers(&mut self, a: &Matches, b: &Matches) -> bool {
        // All conditions are named, so that a new one cannot be forgotten here.
        let Matches {
            interface,
            not_ip,
            family,
            protocol,
            source,
            dest,
            sport,
            dport,
            traits_mask,
            traits_value,
        } = a;
        self.work += 1;
        *not_ip == b.not_ip
            && (interface.is_none() || *interface == b.interface)
            && protocol.is_none_or(|protocol| b.protocol == Some(protocol))
            && ports_cover(sport, &b.sport)
            && ports_cover(dport, &b.dport)
            && b.traits_mask & traits_mask == *traits_mask
            && b.traits_value & traits_mask == *traits_value
            && FAMILIES.into_iter().all(|of| {
                !self.can_match(b, of)
                    || family.is_none_or(|family| family == of)
                        && self.addresses_cover(source.as_ref(), b.source.as_ref(), of)
                        && self.addresses_cover(dest.as_ref(), b.dest.as_ref(), of)
            })
    }

    /// Whether a packet of this IP version can fulfil the conditions.
    pub(super) fn can_match(&mut self, matches: &Matches, of: Family) -> bool {
        matches.family.is_none_or(|family| family == of)
            && !self.is_empty(matches.source.as_ref(), of)
            && !self.is_empty(matches.dest.as_ref(), of)
    }

    /// Why no packet can fulfil the conditions, if so.
    pub(super) fn never(&mut self, matches: &Matches) -> Option<&'static str> {
        if FAMILIES.into_iter().any(|of| self.can_match(matches, of)) {
            return None;
        }
        let mut empty = |set: Of<'_>| FAMILIES.into_iter().all(|of| self.is_empty(set, of));
        Some(if empty(matches.source.as_ref()) {
            "its set of sources is empty"
        } else if empty(matches.dest.as_ref()) {
            "its set of destinations is empty"
        } else if matches.source.is_some() && matches.dest.is_some() {
            "source and destination have no IP version in common"
        } else {
            match matches.protocol {
                Some(ICMP | ICMPV6) => "the set has no address of the protocol's IP version",
                _ => "the set has no address of the rule's IP version",
            }
        })
    }

    fn is_empty(&mut self, set: Of<'_>, of: Family) -> bool {
        set.is_some_and(|set| self.ranges(set, of).is_empty())
    }

    fn ranges(&mut self, set: &Arc<AddressSet>, of: Family) -> &Ranges {
        self.ranges
            .entry((Arc::as_ptr(set), of))
            .or_insert_with(|| of_set(set, of))
    }

    fn addresses_cover(&mut self, a: Of<'_>, b: Of<'_>, of: Family) -> bool {
        let Some(a) = a else { return true };
        let key = match b {
            Some(b) if Arc::ptr_eq(a, b) => return true,
            Some(b) => (Arc::as_ptr(a), Arc::as_ptr(b), of),
            None => (Arc::as_ptr(a), std::ptr::null(), of),
        };
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        self.ranges(a, of);
        if let Some(b) = b {
            self.ranges(b, of);
        }
        let all = everything(of);
        let inner = match b {
            Some(b) => self.ranges.get(&(Arc::as_ptr(b), of)),
            None => Some(&all),
        };
        let outer = self.ranges.get(&(Arc::as_ptr(a), of));
        let covers = outer
            .zip(inner)
            .is_some_and(|(outer, inner)| contains(outer, inner));
        self.work += 64 + inner.map_or(0, Vec::len) / 8;
        self.known.insert(key, covers);
        covers
    }
}

/// No ports stand for every packet, with ports or without.
fn ports_cover(a: &[(u16, u16)], b: &[(u16, u16)]) -> bool {
    a.is_empty() || !b.is_empty() && contains(a, b)
}
