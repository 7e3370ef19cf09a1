//! Bans: who is dropped at once, whatever the rules say, on whose account, why and until when.
//!
//! ```text
//! fwctl ban, backends, control socket ─Record→ Desk ─→ map BANS (what is enforced), bans.jsonl (what is known of it)
//! ```
//!
//! 1. A ban that is wanted is compared with those who are not banned ([`protected`]). 2. [`Desk::ban`] writes the kernel's map, which enforces it from
//!    that moment on, then the journal ([`journal`]), which knows account and reason and outlives the machine. 3. The agent, once a second, removes what
//!    has ended and says what was done ([`Desk::look`]). After a boot, or if the maps are new for another reason, it fills them from the journal
//!    ([`Desk::restore`]).
//!
//! Invariants: the map is the truth of what is enforced; what somebody took out of it is not banned, and the journal follows. Who changes bans holds
//! the journal's lock, so that no end of one and beginning of another meet in the map. Without the map nothing is enforced, and what is wanted is
//! noted only, for the agent that makes it.
//!
//! Only the lookup is in the kernel ([`fw_common::ban`]).

pub mod book;
pub mod journal;
pub mod json;
pub mod protected;
pub mod record;
pub mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fw_common::ban::Ban;
use fw_common::maps::capacity;
use ipnet::IpNet;

use self::book::{Book, Change, Loaded};
use self::journal::{Journal, Lock};
use self::record::{Lasts, Now, Record};
use crate::datapath::pins::Pins;
use crate::datapath::{self, Bans};

/// Why bans cannot be changed or told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal cannot be used.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's map cannot be used.
    #[error("the kernel's map of bans fails")]
    Kernel(#[from] datapath::Error),
    /// There would be too many.
    #[error(
        "{wanted} bans are more than the {room} that the kernel has room for; none of these was made"
    )]
    Full {
        /// Prefixes that would be banned.
        wanted: usize,
        /// Entries of the map.
        room: u32,
    },
}

/// Which bans are lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those of exactly these prefixes; if a name is given, on that account only.
    Nets(Vec<IpNet>, Option<String>),
    /// Those on one account.
    By(String),
    /// All.
    All,
}

/// What was lifted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifted {
    /// Prefixes of which a ban was lifted.
    pub lifted: Vec<IpNet>,
    /// Prefixes that are banned on, on another account.
    pub held: Vec<(IpNet, String)>,
    /// Prefixes that were not banned themselves, and who they are in that is.
    pub missing: Vec<(IpNet, Option<IpNet>)>,
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Who is banned.
    pub net: IpNet,
    /// What is known of it; none if somebody wrote the map by other means.
    pub record: Option<Record>,
    /// How long it still lasts; none if no clock ends it.
    pub left: Option<Duration>,
}

/// What happened since the agent looked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody was banned.
    Banned(Record),
    /// A ban was lifted.
    Lifted(IpNet, String),
    /// A ban has ended.
    Ended(Record),
}

/// Where bans are made, lifted and listed.
#[derive(Debug)]
pub struct Desk {
    pins: Pins,
    journal: Journal,
}

impl Desk {
    /// That of the agent with these directories.
    pub fn new(pin_directory: &Path, state_directory: &Path) -> Self {
        Self {
            pins: Pins::new(pin_directory),
            journal: Journal::new(state_directory),
        }
    }

    /// The kernel's map, if there is one.
    fn map(&self) -> Result<Option<Bans>, Error> {
        match self.pins.exist() {
            true => Ok(Some(Bans::open(&self.pins)?)),
            false => Ok(None),
        }
    }

    fn begin(&mut self, now: Now) -> Result<Lock, Error> {
        let lock = self.journal.lock()?;
        self.journal.refresh(now)?;
        Ok(lock)
    }

    /// Bans; an earlier ban of the same prefix on the same account is replaced. False if that is only noted, because no firewall is loaded.
    ///
    /// # Errors
    /// There is no room, or the map or the journal fails. If it is the journal, the bans are in force but will not outlive the map.
    pub fn ban(&mut self, records: &[Record]) -> Result<bool, Error> {
        let now = Now::read();
        let lock = self.begin(now)?;
        let changes: Vec<Change> = records.iter().cloned().map(Change::Banned).collect();
        let nets: BTreeSet<IpNet> = records.iter().map(|record| record.net).collect();
        let mut book = self.journal.book().clone();
        book.forget_ended(now);
        let new: Vec<IpNet> = nets
            .iter()
            .copied()
            .filter(|net| book.of(*net).next().is_none())
            .collect();
        changes.iter().for_each(|change| book.apply(change));
        let wanted = book.nets().count();
        let room = capacity::BANS;
        if wanted > room as usize {
            return Err(Error::Full { wanted, room });
        }
        let in_force = match self.map()? {
            Some(mut map) => {
                if let Err(error) = map.add_all(&entries(&book, nets, now)) {
                    // None of them rather than some that nobody knows of; what fails here is the same failure.
                    map.remove_all(&new).unwrap_or_default();
                    return Err(error.into());
                }
                true
            }
            None => false,
        };
        self.journal.append(&lock, &changes, now)?;
        Ok(in_force)
    }

    /// Lifts bans. What others hold on another account stays banned.
    ///
    /// # Errors
    /// The map or the journal fails.
    pub fn lift(&mut self, which: &Which) -> Result<Lifted, Error> {
        let now = Now::read();
        let lock = self.begin(now)?;
        let mut map = self.map()?;
        let book = self.journal.book();
        let in_map: BTreeSet<IpNet> = match &map {
            Some(map) => map.list()?.into_iter().map(|(net, _)| net).collect(),
            None => BTreeSet::new(),
        };
        let mut done = Lifted::default();
        let mut gone: Vec<Change> = Vec::new();
        let mut touched: BTreeSet<IpNet> = BTreeSet::new();
        let by = match which {
            Which::Nets(_, by) => by.as_ref(),
            Which::By(by) => Some(by),
            Which::All => None,
        };
        let nets: BTreeSet<IpNet> = match which {
            Which::Nets(nets, _) => nets.iter().copied().collect(),
            Which::By(_) => book.nets().collect(),
            Which::All => book.nets().chain(in_map.iter().copied()).collect(),
        };
        for net in nets {
            let records = book.of(net);
            let own: Vec<&Record> = records
                .filter(|record| by.is_none_or(|by| *by == record.by))
                .collect();
            // Nobody's account has what was written by other means.
            let unknown = by.is_none() && in_map.contains(&net);
            if own.is_empty() && !unknown {
                if matches!(which, Which::Nets(..)) {
                    let around = in_map.iter().filter(|wide| wide.contains(&net));
                    done.missing
                        .push((net, around.max_by_key(|wide| wide.prefix_len()).copied()));
                }
                continue;
            }
            touched.insert(net);
            gone.extend(own.into_iter().map(|record| Change::Lifted {
                net,
                by: record.by.clone(),
            }));
        }
        let mut book = book.clone();
        gone.iter().for_each(|change| book.apply(change));
        let still: BTreeMap<IpNet, String> = touched
            .iter()
            .filter_map(|net| Some((*net, book.decides(*net, now)?.by.clone())))
            .collect();
        if let Some(map) = &mut map {
            let (keep, remove): (Vec<IpNet>, Vec<IpNet>) =
                touched.iter().partition(|net| still.contains_key(*net));
            map.add_all(&entries(&book, keep, now))?;
            map.remove_all(&remove)?;
        }
        self.journal.append(&lock, &gone, now)?;
        done.lifted = touched.into_iter().collect();
        done.held = still.into_iter().collect();
        Ok(done)
    }

    /// Bans in force, in order; those that are noted if no firewall is loaded, with false.
    ///
    /// # Errors
    /// The map or the journal cannot be read.
    pub fn list(&mut self) -> Result<(Vec<Listed>, bool), Error> {
        let now = Now::read();
        self.journal.refresh(now)?;
        let book = self.journal.book();
        let Some(map) = self.map()? else {
            let noted = book.all().filter(|record| record.lasts(now));
            let noted = noted.map(|record| Listed {
                net: record.net,
                record: Some(record.clone()),
                left: record.left(now),
            });
            return Ok((noted.collect(), false));
        };
        let in_force = map
            .list()?
            .into_iter()
            .filter(|(_, ban)| ban.lasts(now.monotonic));
        Ok((
            in_force
                .flat_map(|(net, ban)| listed(book, net, ban, now))
                .collect(),
            true,
        ))
    }

    /// Puts what the journal has into a map that is new; says how many. If the map is the same as ever, the journal forgets what is not in it.
    ///
    /// # Errors
    /// The map or the journal fails.
    pub fn restore(&mut self) -> Result<usize, Error> {
        let now = Now::read();
        let lock = self.begin(now)?;
        let Some(mut map) = self.map()? else {
            return Ok(0);
        };
        let loaded = Loaded {
            boot: boot()?,
            map: map.number()?,
        };
        let book = self.journal.book();
        let in_map: BTreeSet<IpNet> = map.list()?.into_iter().map(|(net, _)| net).collect();
        let lifted = |record: &Record| Change::Lifted {
            net: record.net,
            by: record.by.clone(),
        };
        if book.loaded() == Some(&loaded) {
            let gone = book.all().filter(|record| !in_map.contains(&record.net));
            let gone: Vec<Change> = gone.map(lifted).collect();
            self.journal.append(&lock, &gone, now)?;
            return Ok(0);
        }
        let other_boot = book.loaded().is_none_or(|last| last.boot != loaded.boot);
        let over = book.all().filter(|record| {
            !record.lasts(now)
                || (other_boot && record.lasts == Lasts::Boot && record.made < booted(now))
        });
        let mut changes: Vec<Change> = over.map(lifted).collect();
        changes.push(Change::Loaded(loaded));
        let mut book = book.clone();
        changes.iter().for_each(|change| book.apply(change));
        let missing = book.nets().filter(|net| !in_map.contains(net));
        let entries = entries(&book, missing, now);
        map.add_all(&entries)?;
        self.journal.append(&lock, &changes, now)?;
        Ok(entries.len())
    }

    /// Removes what has ended, unless somebody changes bans right now, and tells what happened.
    ///
    /// # Errors
    /// The map or the journal fails.
    pub fn look(&mut self, map: &mut Bans) -> Result<Vec<News>, Error> {
        let now = Now::read();
        if let Some(_lock) = self.journal.try_lock()? {
            map.expire(now.monotonic)?;
        }
        let changes = self.journal.refresh(now)?;
        let ended = self.journal.book_mut().forget_ended(now);
        let news = changes.into_iter().filter_map(|change| match change {
            Change::Banned(record) => Some(News::Banned(record)),
            Change::Lifted { net, by } => Some(News::Lifted(net, by)),
            Change::Loaded(_) => None,
        });
        Ok(news.chain(ended.into_iter().map(News::Ended)).collect())
    }

    /// Reads what is there, so that [`Desk::look`] tells only what happens from now on.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn catch_up(&mut self) -> Result<(), Error> {
        let now = Now::read();
        self.journal.refresh(now)?;
        self.journal.book_mut().forget_ended(now);
        Ok(())
    }
}

/// What the kernel is to have for some prefixes.
fn entries(book: &Book, nets: impl IntoIterator<Item = IpNet>, now: Now) -> Vec<(IpNet, u64, u32)> {
    let decides = nets.into_iter().filter_map(|net| book.decides(net, now));
    decides
        .map(|record| (record.net, record.until(now), record.number()))
        .collect()
}

/// What is known of an entry of the map: the records of its prefix if one of them is the entry's.
fn listed(book: &Book, net: IpNet, ban: Ban, now: Now) -> Vec<Listed> {
    let left =
        (ban.until != 0).then(|| Duration::from_nanos(ban.until.saturating_sub(now.monotonic)));
    let records: Vec<&Record> = book.of(net).filter(|record| record.lasts(now)).collect();
    if !records.iter().any(|record| record.number() == ban.reason) {
        return vec![Listed {
            net,
            record: None,
            left,
        }];
    }
    let listed = records.into_iter().map(|record| Listed {
        net,
        record: Some(record.clone()),
        left: match record.number() == ban.reason {
            true => left,
            false => record.left(now),
        },
    });
    listed.collect()
}

/// The kernel's name of the time since it started.
fn boot() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        verb: "read",
        path: path.to_path_buf(),
        source,
    })?;
    Ok(text.trim().to_owned())
}

/// When the machine started, in milliseconds since 1970.
fn booted(now: Now) -> u64 {
    now.wall.saturating_sub(now.monotonic / 1_000_000)
}
