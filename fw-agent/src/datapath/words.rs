//! The words of the policy arena, read and written in place.
//!
//! In: the map `ARENA`, one value that is as long as the arena. Out: some of its words, read or written.
//!
//! The pages that the words lie in are mapped for each call ([`Pages`]): a mapping that stays would count all of it as this process's memory.
//!
//! Each word is written at once, and all of them before whatever this thread asks of the kernel next; what refers to them is written then.

use std::sync::atomic::{Ordering, fence};

use aya::maps::MapData;
use fw_common::maps::{capacity, name};

use super::Error;
use super::pages::{Access, Pages, check_layout, failed_to};

/// Bytes of the map's value.
pub(super) const VALUE_BYTES: u32 = capacity::ARENA * size_of::<u64>() as u32;

/// The arena.
#[derive(Debug)]
pub struct Words(MapData);

impl Words {
    /// The arena in a map.
    ///
    /// # Errors
    /// The map is of another layout.
    pub(super) fn new(map: MapData) -> Result<Self, Error> {
        check_layout(&map, name::ARENA, VALUE_BYTES)?;
        Ok(Self(map))
    }

    /// Words from `start` on; fewer if the arena ends before.
    ///
    /// # Errors
    /// The kernel does not map them.
    pub fn read(&self, start: u32, length: u32) -> Result<Vec<u64>, Error> {
        let length = length.min(capacity::ARENA.saturating_sub(start));
        let pages = Pages::of(&self.0, name::ARENA, (start, length), Access::Read)?;
        let words = pages.words().iter();
        Ok(words.map(|word| word.load(Ordering::Relaxed)).collect())
    }

    /// One word; 0 if the arena has not so many.
    ///
    /// # Errors
    /// The kernel does not map it.
    pub fn get(&self, index: u32) -> Result<u64, Error> {
        Ok(self.read(index, 1)?.first().copied().unwrap_or(0))
    }

    /// Writes words from `start` on.
    ///
    /// # Errors
    /// The arena has not so many, or the kernel does not map them; nothing was written.
    pub fn write(&self, start: u32, words: &[u64]) -> Result<(), Error> {
        let length = u32::try_from(words.len()).unwrap_or(u32::MAX);
        if start
            .checked_add(length)
            .is_none_or(|end| end > capacity::ARENA)
        {
            let source = std::io::ErrorKind::InvalidInput.into();
            return Err(failed_to("write beyond the words of", name::ARENA, source));
        }
        let pages = Pages::of(&self.0, name::ARENA, (start, length), Access::Write)?;
        for (place, word) in pages.words().iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
        fence(Ordering::Release);
        Ok(())
    }
}
