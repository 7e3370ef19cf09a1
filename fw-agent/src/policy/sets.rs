//! Sets of addresses in their resolved form, each kept once.
//!
//! Equal sets are one [`Arc`], so later stages may tell sets apart by identity: also those of one configuration and the next, if the same
//! [`Sets`] is used for both. Entries are sorted by network; of entries with the same network the last decides whether it is a `nomatch`.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{AddressSet, Family, SetEntry};
use crate::config::address::family;

/// Every set in use.
#[derive(Debug, Default)]
pub(super) struct Sets {
    known: HashSet<Arc<AddressSet>>,
}

impl Sets {
    /// Forgets the sets that nobody else holds.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|set| Arc::strong_count(set) > 1);
    }

    /// The set with these entries, given in the order of the file.
    pub(super) fn share(&mut self, mut entries: Vec<SetEntry>) -> Arc<AddressSet> {
        entries.sort_by_key(|entry| entry.net);
        entries.dedup_by(|next, last| {
            let same = next.net == last.net;
            if same {
                last.nomatch = next.nomatch;
            }
            same
        });
        entries.shrink_to_fit();
        let set = AddressSet { entries };
        if let Some(known) = self.known.get(&set) {
            return Arc::clone(known);
        }
        let set = Arc::new(set);
        self.known.insert(Arc::clone(&set));
        set
    }

    /// The set that is equal to this one, if there is one, or else this one.
    pub(super) fn adopt(&mut self, set: &Arc<AddressSet>) -> Arc<AddressSet> {
        if let Some(known) = self.known.get(set) {
            return Arc::clone(known);
        }
        self.known.insert(Arc::clone(set));
        Arc::clone(set)
    }

    /// A set of plain networks.
    pub(super) fn nets(&mut self, nets: impl IntoIterator<Item = IpNet>) -> Arc<AddressSet> {
        self.share(nets.into_iter().map(SetEntry::member).collect())
    }
}

impl SetEntry {
    /// A network whose addresses are in the set.
    pub(super) fn member(net: IpNet) -> Self {
        Self {
            net,
            nomatch: false,
        }
    }
}

impl AddressSet {
    /// Entries of the set of every address that is not in this one.
    pub(super) fn complement(&self) -> Vec<SetEntry> {
        let all = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let flipped = self.entries.iter().map(|entry| SetEntry {
            net: entry.net,
            nomatch: !entry.nomatch,
        });
        all.into_iter()
            .map(SetEntry::member)
            .chain(flipped)
            .collect()
    }

    /// Whether any address of a family can be in the set.
    pub(super) fn has(&self, of: Family) -> bool {
        self.entries
            .iter()
            .any(|entry| !entry.nomatch && family(&entry.net) == of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &str) -> Vec<SetEntry> {
        let entry = |text: &str| SetEntry {
            net: text.trim_start_matches('!').parse().unwrap(),
            nomatch: text.starts_with('!'),
        };
        entries.split_whitespace().map(entry).collect()
    }

    #[test]
    fn equal_sets_are_one_and_the_last_duplicate_decides() {
        let mut sets = Sets::default();
        let a = sets.share(set("10.0.0.0/8 !10.1.0.0/16 fd00::/8"));
        let b = sets.share(set("fd00::/8 10.1.0.0/16 10.0.0.0/8 !10.1.0.0/16"));
        assert!(Arc::ptr_eq(&a, &b));
        assert_eq!(a.entries, set("10.0.0.0/8 !10.1.0.0/16 fd00::/8"));
        assert_eq!(
            sets.share(set("!fe80::/10 fe80::/10")).entries,
            set("fe80::/10")
        );
    }

    #[test]
    fn a_complement_flips_every_entry() {
        let mut sets = Sets::default();
        let of = sets.share(set("10.0.0.0/8 !10.1.0.0/16"));
        let complement = sets.share(of.complement());
        assert_eq!(
            complement.entries,
            set("0.0.0.0/0 !10.0.0.0/8 10.1.0.0/16 ::/0")
        );
        assert!(of.has(Family::V4) && !of.has(Family::V6));
    }
}
