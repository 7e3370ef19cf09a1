//! The filter in front of the table of established flows, from the agent's side ([`fw_common::flow_filter`]).
//!
//! In: the pinned map. Out: [`FlowFilter::note`] for whoever puts a flow in that table, and [`Rebuild`] for the sweep, which sees all of them.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::MapData;
use fw_common::flow::FlowKey;
use fw_common::flow_filter::{ASKED, Half, PAUSED, WORDS};
use fw_common::maps::name;

use super::Error;
use super::kernel::await_readers;
use super::pages::{Access, Pages, check_layout};
use super::pins::Pins;

/// Bytes of the map's value.
pub(super) const VALUE_BYTES: u32 = WORDS * size_of::<u64>() as u32;

/// The filter, mapped as long as this lives.
pub struct FlowFilter(Pages);

impl FlowFilter {
    /// The pinned one.
    ///
    /// # Errors
    /// There is none, or its layout is another.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Self::of(&pins.data(name::FLOW_FILTER)?)
    }

    fn of(map: &MapData) -> Result<Self, Error> {
        check_layout(map, name::FLOW_FILTER, VALUE_BYTES)?;
        let pages = Pages::of(map, name::FLOW_FILTER, (0, WORDS), Access::Write)?;
        Ok(Self(pages))
    }

    /// Notes that a flow is there under a key: to be called after it is.
    pub fn note(&self, key: &FlowKey) {
        fence(Ordering::SeqCst);
        for half in Half::ALL {
            self.set(half, key);
        }
    }

    /// Begins to find out anew which flows there are.
    ///
    /// # Errors
    /// The kernel does not say when no program asks the other half any more; that is as it was.
    pub fn rebuild(&self) -> Result<Rebuild<'_>, Error> {
        let half = self.asked().map_or(Half::First, Half::other);
        // It was the one that is asked until the last sweep, and a program that began then may still ask it.
        await_readers()?;
        for word in half.words() {
            self.word(word).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        // Asked after the half was emptied: what begins to copy flows from now on copies those whose bits are gone with it.
        let sees_all = self.word(PAUSED).load(Ordering::SeqCst) == 0;
        Ok(Rebuild {
            filter: self,
            half,
            sees_all,
        })
    }

    /// From now on a [`Rebuild`] that begins does not see all flows, until [`Self::resume`].
    pub(super) fn pause(&self) {
        self.word(PAUSED).store(1, Ordering::SeqCst);
    }

    /// All flows are in the pinned tables again.
    pub(super) fn resume(&self) {
        self.word(PAUSED).store(0, Ordering::SeqCst);
    }

    /// Which half the programs ask, if any.
    pub fn asked(&self) -> Option<Half> {
        Half::from_word(self.word(ASKED).load(Ordering::SeqCst))
    }

    /// How many bits of a half are set.
    pub fn bits(&self, half: Half) -> u32 {
        let words = half.words().map(|word| self.word(word));
        words
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .sum()
    }

    fn set(&self, half: Half, key: &FlowKey) {
        let (word, bit) = half.place(key.digest());
        let word = self.word(word);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "places are within the value, all of which is mapped"
    )]
    fn word(&self, index: u32) -> &AtomicU64 {
        &self.0.words()[index as usize]
    }
}

/// A half of the filter that is being made. If it is not finished, the other one stays.
pub struct Rebuild<'f> {
    filter: &'f FlowFilter,
    half: Half,
    /// No flow is in a table that is not pinned any more.
    sees_all: bool,
}

impl Rebuild<'_> {
    /// Notes a flow that was found.
    pub fn note(&self, key: &FlowKey) {
        self.filter.set(self.half, key);
    }

    /// All flows were noted that the pinned tables had when this began and have still: from now on this half is asked, if there are no others.
    pub fn finish(self) {
        if !self.sees_all {
            return;
        }
        let asked = self.filter.word(ASKED);
        asked.store(self.half as u64, Ordering::SeqCst);
    }
}
