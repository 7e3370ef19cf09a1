//! The lines of a long set, read as a whole, and when they change only where they did.
//!
//! In: the lines behind the header of a set that holds networks only, and perhaps what they were before. Out: a [`LongSet`], sorted, with what is
//! wrong with its lines. It means what reading line by line ([`super::entry`]) would mean; a set that names aliases is not read here.
//!
//! 1. Of a text that was different before, the lines at the beginning and at the end that are the same are found by comparing memory. 2. The
//!    lines between are read, as they were and as they are; what they name goes from the set and into it. 3. A network that more than one line
//!    names, or would then, has to do with other lines: then, and if there is nothing from before, every line is read.
//!
//! Invariant: what comes of a change is what comes of reading every line.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use memchr::{memchr, memchr_iter, memrchr};

use super::document::Member;
use super::entry::{Listed, entries};
use super::line::{Fault, Note, lines};
use crate::policy::{AddressSet, SetEntry};

/// Bytes from which on a set is a long one.
pub(super) const LONG: usize = 64 << 10;

/// A long set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongSet {
    /// What the lines mean.
    pub set: Arc<AddressSet>,
    /// The lines.
    text: Bytes,
    /// Their number: line feeds.
    lines: u32,
    /// What is to be said of lines, by their number from 0.
    remarks: BTreeMap<u32, Remark>,
    /// Networks that more than one line names, if only to be refused.
    repeated: HashSet<IpNet>,
}

/// What is to be said of a line.
pub(super) type Remark = Result<Note, Fault>;

/// A network and the line that names it.
#[derive(Clone, Copy, Debug)]
struct Named {
    net: IpNet,
    line: u32,
    nomatch: bool,
}

impl LongSet {
    /// Reads the lines; `last` is what they were before. None if one of them names an alias.
    pub(super) fn read(text: Bytes, last: Option<&Self>) -> Option<Self> {
        let spliced = last.and_then(|last| last.splice(&text));
        spliced.or_else(|| Self::whole(text))
    }

    /// Number of lines.
    pub(super) fn lines(&self) -> u32 {
        self.lines
    }

    /// What is to be said of lines, by their number from 0.
    pub(super) fn remarks(&self) -> impl Iterator<Item = (u32, &Remark)> {
        self.remarks.iter().map(|(line, remark)| (*line, remark))
    }

    fn whole(bytes: Bytes) -> Option<Self> {
        let text = std::str::from_utf8(&bytes).ok()?;
        let count = count_lines(&bytes);
        let (mut named, mut remarks) = read(text, count)?;
        named.sort_unstable_by_key(|named| (named.net, named.line));
        let pairs = named.array_windows().filter(|[a, b]| a.net == b.net);
        let repeated: HashSet<IpNet> = pairs.map(|[a, _]| a.net).collect();
        if !repeated.is_empty() {
            let refused = refused(text, &named, &repeated);
            named.retain(|named| !refused.contains_key(&named.line));
            remarks.extend(refused.into_iter().map(|(line, fault)| (line, Err(fault))));
        }
        // Of equal networks the last decides.
        named.dedup_by(|next, last| {
            let same = next.net == last.net;
            if same {
                last.nomatch = next.nomatch;
            }
            same
        });
        let entries = named.iter().map(|named| SetEntry {
            net: named.net,
            nomatch: named.nomatch,
        });
        let set = Arc::new(AddressSet {
            entries: entries.collect(),
        });
        Some(Self {
            set,
            text: bytes,
            lines: count,
            remarks,
            repeated,
        })
    }

    /// What the lines mean if they are `now`, by the difference; none if that cannot be told.
    fn splice(&self, now: &Bytes) -> Option<Self> {
        let (first, behind) = difference(&self.text, now);
        let middle = |text: &Bytes| text.slice(first..text.len() - behind);
        let (old, new) = (middle(&self.text), middle(now));
        if old.len().max(new.len()) > now.len() / 4 {
            return None;
        }
        let (old_lines, new_lines) = (count_lines(&old), count_lines(&new));
        let (old, _) = read(std::str::from_utf8(&old).ok()?, old_lines)?;
        let (new, new_remarks) = read(std::str::from_utf8(&new).ok()?, new_lines)?;
        let is_repeated = |named: &Named| self.repeated.contains(&named.net);
        if old.iter().chain(&new).any(is_repeated) {
            return None;
        }
        let entries = &self.set.entries;
        let mut changes: BTreeMap<IpNet, Option<bool>> =
            old.iter().map(|named| (named.net, None)).collect();
        for named in &new {
            match changes.insert(named.net, Some(named.nomatch)) {
                // Its only line was among those that changed.
                Some(None) => {}
                Some(Some(_)) => return None,
                None if entries
                    .binary_search_by_key(&named.net, |entry| entry.net)
                    .is_ok() =>
                {
                    return None;
                }
                None => {}
            }
        }

        let before = count_lines(&now[..first]);
        let is_behind = |line: u32| behind > 0 && line >= before + old_lines;
        let mut remarks: BTreeMap<u32, Remark> = new_remarks
            .into_iter()
            .map(|(line, remark)| (line + before, remark))
            .collect();
        for (line, remark) in &self.remarks {
            if *line < before {
                remarks.insert(*line, remark.clone());
            } else if is_behind(*line) {
                remarks.insert(line - old_lines + new_lines, remark.clone());
            }
        }
        Some(Self {
            set: apply(&self.set, &changes),
            text: now.clone(),
            lines: self.lines - old_lines + new_lines,
            remarks,
            repeated: self.repeated.clone(),
        })
    }
}

/// The set after these changes by network: gone, or there with or without a `!`.
fn apply(set: &Arc<AddressSet>, changes: &BTreeMap<IpNet, Option<bool>>) -> Arc<AddressSet> {
    let known = |net: &IpNet| {
        let found = set.entries.binary_search_by_key(net, |entry| entry.net);
        found
            .ok()
            .and_then(|at| set.entries.get(at))
            .map(|entry| entry.nomatch)
    };
    if changes.iter().all(|(net, change)| known(net) == *change) {
        return Arc::clone(set);
    }
    let mut entries = Vec::with_capacity(set.entries.len() + changes.len());
    let mut rest = set.entries.as_slice();
    for (net, change) in changes {
        let (smaller, others) = rest.split_at(rest.partition_point(|entry| entry.net < *net));
        entries.extend_from_slice(smaller);
        rest = match others.split_first() {
            Some((same, behind)) if same.net == *net => behind,
            Some(_) | None => others,
        };
        entries.extend(change.map(|nomatch| SetEntry { net: *net, nomatch }));
    }
    entries.extend_from_slice(rest);
    Arc::new(AddressSet { entries })
}

fn count_lines(text: &[u8]) -> u32 {
    u32::try_from(memchr_iter(b'\n', text).count()).unwrap_or(u32::MAX)
}

/// What lines name, in their order, and what is to be said of them; that a line repeats another is not looked at. None if one names an alias.
fn read(text: &str, count: u32) -> Option<(Vec<Named>, BTreeMap<u32, Remark>)> {
    let mut named = Vec::with_capacity(count as usize + 1);
    let mut remarks = BTreeMap::new();
    let mut of_line = Vec::new();
    let mut listed = Listed::unchecked();
    for line in lines(text) {
        let body = line.text.trim_ascii();
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        let number = line.number - 1;
        match entries(&line, &mut listed, &mut of_line) {
            Ok(None) => {}
            Ok(Some(note)) => {
                remarks.insert(number, Ok(note));
            }
            Err(fault) => {
                remarks.insert(number, Err(fault));
            }
        }
        for entry in of_line.drain(..) {
            let Member::Net(net) = entry.member else {
                return None;
            };
            named.push(Named {
                net,
                line: number,
                nomatch: entry.nomatch,
            });
        }
    }
    Some((named, remarks))
}

/// The lines that repeat another, by number from 0. Only those that name `repeated` networks can.
fn refused(text: &str, named: &[Named], repeated: &HashSet<IpNet>) -> BTreeMap<u32, Fault> {
    let suspects = named.iter().filter(|named| repeated.contains(&named.net));
    let suspects: HashSet<u32> = suspects.map(|named| named.line).collect();
    let mut listed = Listed::default();
    let mut refused = BTreeMap::new();
    let mut of_line = Vec::new();
    let lines = lines(text).filter(|line| suspects.contains(&(line.number - 1)));
    for line in lines {
        if let Err(fault) = entries(&line, &mut listed, &mut of_line) {
            refused.insert(line.number - 1, fault);
        }
        of_line.clear();
    }
    refused
}

/// Number of bytes at the beginning and at the end that are the same in both texts, whole lines of which only.
fn difference(a: &[u8], b: &[u8]) -> (usize, usize) {
    const STEP: usize = 4096;
    let shorter = a.len().min(b.len());
    let mut first = 0;
    while first + STEP <= shorter && a[first..first + STEP] == b[first..first + STEP] {
        first += STEP;
    }
    let pairs = a[first..shorter].iter().zip(&b[first..shorter]);
    first += pairs.take_while(|(a, b)| a == b).count();
    first = memrchr(b'\n', &a[..first]).map_or(0, |at| at + 1);

    let (a, b) = (&a[first..], &b[first..]);
    let shorter = a.len().min(b.len());
    let mut behind = 0;
    let end = |text: &'_ [u8], count: usize| (text.len() - count - STEP, text.len() - count);
    while behind + STEP <= shorter {
        let ((from, to), (of, until)) = (end(a, behind), end(b, behind));
        if a[from..to] != b[of..until] {
            break;
        }
        behind += STEP;
    }
    let pairs = a[..a.len() - behind]
        .iter()
        .rev()
        .zip(b[..b.len() - behind].iter().rev());
    behind += pairs.take_while(|(a, b)| a == b).count();
    let same = &a[a.len() - behind..];
    let line = memchr(b'\n', same).map_or(same.len(), |at| at + 1);
    (first, behind - line)
}

/// Where the lines of a section end: at the next line that begins with `[`, or with the text.
pub(super) fn end_of_section(text: &[u8]) -> usize {
    headers(text).next().unwrap_or(text.len())
}

/// Where lines begin whose first character that is no blank is `[`.
pub(crate) fn headers(text: &[u8]) -> impl Iterator<Item = usize> {
    memchr_iter(b'[', text).filter_map(|at| {
        let before = &text[..at];
        let start = memrchr(b'\n', before).map_or(0, |at| at + 1);
        before[start..].trim_ascii().is_empty().then_some(start)
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Lines of which some repeat others, in another form perhaps.
    const LINES: [&str; 16] = [
        "10.0.0.1",
        "10.0.0.1/32",
        "!10.0.0.1 # why",
        "10.0.0.0/24",
        "10.0.0.7/24",
        "!10.0.0.0/24",
        "fd00::1",
        "fd00::/8",
        "10.0.0.1-10.0.0.2",
        "10.0.0.1-10.0.0.3",
        "10.0.0.3",
        "",
        "# nothing",
        "not an address",
        "0.0.0.0/0",
        "172.16.0.0/12",
    ];

    /// A line that is one of a few, or of many.
    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            1 => select(&LINES[..]).prop_map(str::to_owned),
            4 => any::<u16>().prop_map(|number| {
                let [a, b] = number.to_be_bytes();
                format!("10.1.{a}.{b}")
            }),
        ]
    }

    /// A text without a line feed at the end, or with one.
    fn join(lines: &[String], end: bool) -> Bytes {
        let text = lines.join("\n");
        match end {
            true => format!("{text}\n").into(),
            false => text.into(),
        }
    }

    /// What reading line by line gives: the set, and what is said of lines.
    fn one_by_one(text: &str) -> (Vec<SetEntry>, BTreeMap<u32, Remark>) {
        let mut listed = Listed::default();
        let mut all = Vec::new();
        let mut remarks = BTreeMap::new();
        for line in lines(text) {
            let body = line.text.trim_ascii();
            if body.is_empty() || body.starts_with('#') {
                continue;
            }
            match entries(&line, &mut listed, &mut all) {
                Ok(note) => remarks.extend(note.map(|note| (line.number - 1, Ok(note)))),
                Err(fault) => remarks.extend([(line.number - 1, Err(fault))]),
            }
        }
        let nets = all.into_iter().map(|entry| match entry.member {
            Member::Net(net) => (net, entry.nomatch),
            Member::Alias(_) => panic!("no line names an alias"),
        });
        let nets: BTreeMap<IpNet, bool> = nets.collect();
        let entries = nets
            .into_iter()
            .map(|(net, nomatch)| SetEntry { net, nomatch });
        (entries.collect(), remarks)
    }

    /// From, to: lines that are replaced; and by what.
    type Edit = (prop::sample::Index, usize, Vec<String>, bool);

    proptest! {
        #[test]
        fn a_change_means_what_reading_every_line_means(
            mut text in vec(line(), 0..60),
            edits in vec((any::<prop::sample::Index>(), 0..4usize, vec(line(), 0..4), any::<bool>()), 1..8),
        ) {
            let mut last: Option<LongSet> = None;
            let edits: Vec<Edit> = edits;
            for (at, count, by, end) in edits {
                let bytes = join(&text, end);
                let read = LongSet::read(bytes.clone(), last.as_ref()).unwrap();
                prop_assert_eq!(&read, &LongSet::whole(bytes.clone()).unwrap());
                let (entries, remarks) = one_by_one(std::str::from_utf8(&bytes).unwrap());
                prop_assert_eq!(&read.set.entries, &entries);
                prop_assert_eq!(&read.remarks, &remarks);
                last = Some(read);
                let from = at.index(text.len() + 1);
                let to = (from + count).min(text.len());
                text.splice(from..to, by);
            }
        }
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let line = |number: u32| format!("10.{}.{}.1", number / 250, number % 250);
        let mut text: Vec<String> = (0..5000).map(line).collect();
        let last = LongSet::whole(join(&text, true)).unwrap();
        text.insert(2500, "fd00::1".into());
        text.remove(17);
        // All between the two, half of the text, is too much.
        assert!(last.splice(&join(&text, true)).is_none());
        text.insert(17, line(17));
        let next = last.splice(&join(&text, true)).unwrap();
        assert_eq!(next.set.entries.len(), 5001);
        text[2500] = "fd00::1 # why".into();
        let same = next.splice(&join(&text, true)).unwrap();
        assert!(Arc::ptr_eq(&next.set, &same.set));
        text[2500] = "10.0.1.1".into();
        assert!(
            same.splice(&join(&text, true)).is_none(),
            "another line names it"
        );
    }

    #[test]
    fn sections_end_where_a_line_begins_with_a_bracket() {
        for (text, expect) in [
            ("a\nb [c]\n", 8),
            ("a\n [c]\n[d]", 2),
            ("\t[c]", 0),
            ("a\n\r[", 2),
            ("", 0),
        ] {
            assert_eq!(end_of_section(text.as_bytes()), expect, "{text:?}");
        }
    }
}
