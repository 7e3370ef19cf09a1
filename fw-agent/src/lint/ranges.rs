//! Sets of addresses as disjoint ranges: exact containment and intersection.
//!
//! In: an [`AddressSet`] with its longest-prefix rule. Out: per family ascending, disjoint, non-adjacent inclusive ranges of addresses, so that
//! two sets are equal exactly if their ranges are. Linear in the number of entries.

use ipnet::IpNet;

use crate::policy::{AddressSet, Family};

/// Ascending, disjoint, non-adjacent inclusive ranges; IPv4 addresses as their 32-bit numbers.
pub(crate) type Ranges = Vec<(u128, u128)>;

/// Every address of a family.
pub(crate) fn everything(family: Family) -> Ranges {
    match family {
        Family::V4 => vec![(0, u32::MAX.into())],
        Family::V6 => vec![(0, u128::MAX)],
    }
}

/// The addresses of a family that are in a set.
pub(super) fn of_set(set: &AddressSet, family: Family) -> Ranges {
    let mut out = Ranges::new();
    // Prefixes around the current place, outermost first: last address and whether it is in the set.
    let mut around: Vec<(u128, bool)> = Vec::new();
    let mut next = Some(0);
    for entry in &set.entries {
        let Some((first, last)) = bounds(entry.net, family) else {
            continue;
        };
        while let Some((end, inside)) = around.pop_if(|(end, _)| *end < first) {
            next = close(&mut out, next, end, inside);
        }
        if let (Some((_, true)), Some(from)) = (around.last(), next)
            && from < first
        {
            push(&mut out, from, first - 1);
        }
        next = Some(first);
        around.push((last, !entry.nomatch));
    }
    while let Some((end, inside)) = around.pop() {
        next = close(&mut out, next, end, inside);
    }
    out
}

/// Ends a prefix at `end`; answers with the address after it.
fn close(out: &mut Ranges, next: Option<u128>, end: u128, inside: bool) -> Option<u128> {
    match next {
        Some(from) if from <= end => {
            if inside {
                push(out, from, end);
            }
            end.checked_add(1)
        }
        next => next,
    }
}

fn push(out: &mut Ranges, first: u128, last: u128) {
    match out.last_mut() {
        Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
        _ => out.push((first, last)),
    }
}

/// First and last address of a network, if it is of the family.
fn bounds(net: IpNet, family: Family) -> Option<(u128, u128)> {
    match (net, family) {
        (IpNet::V4(net), Family::V4) => Some((
            u32::from(net.network()).into(),
            u32::from(net.broadcast()).into(),
        )),
        (IpNet::V6(net), Family::V6) => Some((net.network().into(), net.broadcast().into())),
        (IpNet::V4(_), Family::V6) | (IpNet::V6(_), Family::V4) => None,
    }
}

/// Whether `outer` holds every address of `inner`.
pub(crate) fn contains<T: Copy + Ord>(outer: &[(T, T)], inner: &[(T, T)]) -> bool {
    inner.iter().all(|(first, last)| {
        let at = outer.partition_point(|(_, end)| end < first);
        outer
            .get(at)
            .is_some_and(|(from, to)| from <= first && last <= to)
    })
}

/// The addresses that are in both.
pub(crate) fn intersection(a: &Ranges, b: &Ranges) -> Ranges {
    let mut out = Ranges::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let (first, last) = (x.0.max(y.0), x.1.min(y.1));
        if first <= last {
            out.push((first, last));
        }
        if x.1 < y.1 {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

/// The addresses of `a` that are not in `b`.
pub(crate) fn difference(a: &Ranges, b: &Ranges) -> Ranges {
    let mut out = Ranges::new();
    let mut others = b.iter().peekable();
    for (first, last) in a {
        let mut from = Some(*first);
        while others.next_if(|(_, end)| end < first).is_some() {}
        while let (Some(start), Some((cut, end))) = (from, others.peek().copied())
            && cut <= last
        {
            if start < *cut {
                out.push((start, cut - 1));
            }
            from = end.checked_add(1).filter(|next| next <= last);
            if end > last {
                break;
            }
            others.next();
        }
        out.extend(from.map(|start| (start, *last)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SetEntry;

    fn set(text: &str) -> AddressSet {
        let entry = |text: &str| SetEntry {
            net: text.trim_start_matches('!').parse().unwrap(),
            nomatch: text.starts_with('!'),
        };
        let mut entries: Vec<_> = text.split_whitespace().map(entry).collect();
        entries.sort();
        AddressSet { entries }
    }

    fn check(text: &str, expect: &[(u128, u128)]) {
        assert_eq!(of_set(&set(text), Family::V4), expect, "{text}");
    }

    #[test]
    fn the_longest_prefix_decides() {
        check("", &[]);
        check("0.0.0.0/24 0.0.1.0/24", &[(0, 511)]);
        check("0.0.0.0/24 !0.0.0.0/25", &[(128, 255)]);
        check("0.0.0.0/24 !0.0.0.128/25", &[(0, 127)]);
        check(
            "0.0.0.0/24 !0.0.0.64/26 0.0.0.65/32",
            &[(0, 63), (65, 65), (128, 255)],
        );
        check("!0.0.0.0/24", &[]);
        check("0.0.0.0/0 !255.255.255.255/32", &[(0, 0xffff_fffe)]);
        check("0.0.0.0/24 0.0.0.0/25 0.0.0.7/32", &[(0, 255)]);
        assert_eq!(of_set(&set("::/0"), Family::V6), everything(Family::V6));
        assert_eq!(of_set(&set("::/0"), Family::V4), []);
    }

    #[test]
    fn sets_of_numbers() {
        let a = vec![(0, 9), (20, 29), (40, u128::MAX)];
        for (b, both, rest) in [
            (vec![], vec![], a.clone()),
            (a.clone(), a.clone(), vec![]),
            (
                vec![(5, 24)],
                vec![(5, 9), (20, 24)],
                vec![(0, 4), (25, 29), (40, u128::MAX)],
            ),
            (
                vec![(2, 3), (5, 6)],
                vec![(2, 3), (5, 6)],
                vec![(0, 1), (4, 4), (7, 9), (20, 29), (40, u128::MAX)],
            ),
            (
                vec![(41, u128::MAX)],
                vec![(41, u128::MAX)],
                vec![(0, 9), (20, 29), (40, 40)],
            ),
            (vec![(0, u128::MAX)], a.clone(), vec![]),
        ] {
            assert_eq!(intersection(&a, &b), both, "{b:?}");
            assert_eq!(difference(&a, &b), rest, "{b:?}");
            assert_eq!(contains(&a, &b), both == b, "{b:?}");
        }
    }
}
