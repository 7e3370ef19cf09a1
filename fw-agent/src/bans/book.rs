//! All bans that are known, by prefix and by whose they are, and which of several on one prefix is in force.
//!
//! Invariant: of each prefix and name there is one record, the last. The kernel has one entry per prefix: that of the record that lasts longest, so
//! that what one program lifts does not free whom another holds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::{Now, Record};

/// A change of the book, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Somebody is banned.
    Banned(Record),
    /// A ban is lifted.
    Lifted {
        /// Whose.
        net: IpNet,
        /// On whose account it was.
        by: String,
    },
    /// What was in the book is in the kernel's map.
    Loaded(Loaded),
}

/// Which map the bans are in: another one has to be filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The kernel's name of the time since it started.
    pub boot: String,
    /// The map's number.
    pub map: u32,
}

/// The bans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    records: BTreeMap<IpNet, BTreeMap<String, Record>>,
    loaded: Option<Loaded>,
}

impl Book {
    /// Takes a change over.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Banned(record) => {
                let of = self.records.entry(record.net).or_default();
                of.insert(record.by.clone(), record.clone());
            }
            Change::Lifted { net, by } => {
                if let Entry::Occupied(mut of) = self.records.entry(*net) {
                    of.get_mut().remove(by);
                    if of.get().is_empty() {
                        of.remove();
                    }
                }
            }
            Change::Loaded(loaded) => self.loaded = Some(loaded.clone()),
        }
    }

    /// The map that the bans are in, as far as is known.
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.as_ref()
    }

    /// All records.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.records.values().flat_map(BTreeMap::values)
    }

    /// The records of exactly this prefix.
    pub fn of(&self, net: IpNet) -> impl Iterator<Item = &Record> {
        self.records
            .get(&net)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Banned prefixes.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.records.keys().copied()
    }

    /// Which record of a prefix counts: of those that last, the longest.
    pub fn decides(&self, net: IpNet, now: Now) -> Option<&Record> {
        let lasting = self.of(net).filter(|record| record.lasts(now));
        lasting.max_by_key(|record| record.lasts)
    }

    /// Forgets what has ended, and tells it.
    pub fn forget_ended(&mut self, now: Now) -> Vec<Record> {
        let ended: Vec<Record> = self
            .all()
            .filter(|record| !record.lasts(now))
            .cloned()
            .collect();
        for record in &ended {
            self.apply(&Change::Lifted {
                net: record.net,
                by: record.by.clone(),
            });
        }
        ended
    }

    /// Everything as changes of an empty book.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let loaded = self.loaded.iter().cloned().map(Change::Loaded);
        loaded.chain(self.all().cloned().map(Change::Banned))
    }

    /// What makes this book of an older one. Records that ended by themselves are no change.
    pub fn since(&self, old: &Self, now: Now) -> Vec<Change> {
        let find = |book: &Self, like: &Record| -> Option<Record> {
            book.records.get(&like.net)?.get(&like.by).cloned()
        };
        let gone = old.all().filter(|record| record.lasts(now));
        let gone = gone.filter(|record| find(self, record).is_none());
        let gone = gone.map(|record| Change::Lifted {
            net: record.net,
            by: record.by.clone(),
        });
        let new = self.all();
        let new = new.filter(|record| find(old, record).as_ref() != Some(record));
        gone.chain(new.cloned().map(Change::Banned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::record::{Length, Word};

    const NOW: Now = Now {
        wall: 1_000_000,
        monotonic: 0,
    };

    fn record(net: &str, by: &str, length: Length) -> Record {
        Record::new(net.parse().unwrap(), by, "", length, NOW)
    }

    fn banned(net: &str, by: &str, length: Length) -> Change {
        Change::Banned(record(net, by, length))
    }

    fn lifted(net: &str, by: &str) -> Change {
        Change::Lifted {
            net: net.parse().unwrap(),
            by: by.to_owned(),
        }
    }

    #[test]
    fn of_several_bans_of_a_prefix_the_one_that_lasts_longest_counts() {
        const NET: &str = "192.0.2.7/32";
        let mut book = Book::default();
        let decides = |book: &Book, later| {
            let now = Now {
                wall: NOW.wall + later,
                ..NOW
            };
            let record = book.decides(NET.parse().unwrap(), now);
            record.map(|record| record.by.clone())
        };
        assert_eq!(decides(&book, 0), None);
        book.apply(&banned(NET, "a", Length::Seconds(10)));
        book.apply(&banned(NET, "b", Length::Seconds(20)));
        assert_eq!(decides(&book, 0).as_deref(), Some("b"));
        book.apply(&banned(NET, "a", Length::Word(Word::Boot)));
        assert_eq!(decides(&book, 0).as_deref(), Some("a"));
        book.apply(&lifted(NET, "a"));
        assert_eq!(decides(&book, 0).as_deref(), Some("b"));
        assert_eq!(decides(&book, 20_000), None);
        let later = Now {
            wall: NOW.wall + 20_000,
            ..NOW
        };
        assert_eq!(book.forget_ended(later).len(), 1);
        assert_eq!(book, Book::default());
    }

    #[test]
    fn changes_lead_from_one_book_to_another() {
        let of = |changes: &[Change]| {
            let mut book = Book::default();
            changes.iter().for_each(|change| book.apply(change));
            book
        };
        let hour = Length::Seconds(3600);
        let old = of(&[
            banned("192.0.2.7/32", "a", hour),
            banned("192.0.2.7/32", "b", hour),
            banned("192.0.2.8/32", "a", Length::Seconds(0)),
        ]);
        let new = of(&[
            banned("192.0.2.7/32", "a", hour),
            banned("2001:db8::/32", "a", hour),
        ]);
        assert_eq!(
            new.since(&old, NOW),
            [
                lifted("192.0.2.7/32", "b"),
                banned("2001:db8::/32", "a", hour)
            ]
        );
        assert_eq!(of(&new.changes().collect::<Vec<_>>()), new);
    }
}
