//! The words of the policy arena, read and written in place.
//!
//! In: the map `ARENA`, one value that is as long as the arena. Out: some of its words, read or written.
//!
//! The pages that the words lie in are mapped for each call: a system call would copy the whole value, and a mapping that stays would count all of it
//! as this process's memory.
//!
//! Each word is written at once, and all of them before whatever this thread asks of the kernel next; what refers to them is written then.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::{MapData, MapInfo, MapType};
use fw_common::maps::{capacity, name};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::param::page_size;

use super::Error;
use super::kernel::failed;

const WORD: usize = size_of::<u64>();

/// Bytes of the map's value.
pub(super) const VALUE_BYTES: u32 = capacity::ARENA * WORD as u32;

/// The arena.
#[derive(Debug)]
pub struct Words(MapData);

impl Words {
    /// The arena in a map.
    ///
    /// # Errors
    /// The map is of another layout.
    pub(super) fn new(map: MapData) -> Result<Self, Error> {
        let info: MapInfo = map
            .info()
            .map_err(failed("read the layout of", name::ARENA))?;
        let kind = info
            .map_type()
            .map_err(failed("read the layout of", name::ARENA))?;
        if (kind, info.value_size()) != (MapType::Array, VALUE_BYTES) {
            return Err(failed_to(
                "handle the words of",
                std::io::ErrorKind::InvalidInput.into(),
            ));
        }
        Ok(Self(map))
    }

    /// Words from `start` on; fewer if the arena ends before.
    ///
    /// # Errors
    /// The kernel does not map them.
    pub fn read(&self, start: u32, length: u32) -> Result<Vec<u64>, Error> {
        let length = length.min(capacity::ARENA.saturating_sub(start));
        let pages = Pages::of(self.0.fd().as_fd(), start, length, ProtFlags::READ)?;
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
            return Err(failed_to(
                "write beyond the words of",
                std::io::ErrorKind::InvalidInput.into(),
            ));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let pages = Pages::of(self.0.fd().as_fd(), start, length, access)?;
        for (place, word) in pages.words().iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
        fence(Ordering::Release);
        Ok(())
    }
}

/// Pages of the arena that are mapped.
struct Pages {
    at: *mut core::ffi::c_void,
    bytes: usize,
    /// Of the first word that is wanted, in words.
    offset: usize,
    length: usize,
}

impl Pages {
    fn of(map: BorrowedFd<'_>, start: u32, length: u32, access: ProtFlags) -> Result<Self, Error> {
        let (start, length) = (start as usize * WORD, length as usize);
        let skipped = start % page_size();
        let bytes = (skipped + length * WORD).next_multiple_of(page_size());
        let mut pages = Self {
            at: core::ptr::null_mut(),
            bytes,
            offset: skipped / WORD,
            length,
        };
        if length > 0 {
            let from = (start - skipped) as u64;
            // SAFETY: a new mapping, at a place of the kernel's choice.
            let mapped = unsafe {
                mmap(
                    core::ptr::null_mut(),
                    bytes,
                    access,
                    MapFlags::SHARED,
                    map,
                    from,
                )
            };
            pages.at = mapped.map_err(|source| failed_to("open the words of", source.into()))?;
        }
        Ok(pages)
    }

    fn words(&self) -> &[AtomicU64] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: mapped as long as this lives, aligned to pages, and `bytes` hold as many words behind `offset`. Others, the kernel too, read and
        // write them whole.
        unsafe {
            let first = self.at.cast::<AtomicU64>().add(self.offset);
            core::slice::from_raw_parts(first, self.length)
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: mapped by `of`, and nothing refers to it any more.
            let unmapped = unsafe { munmap(self.at, self.bytes) };
            if let Err(error) = unmapped {
                tracing::error!("cannot unmap words of the arena: {error}");
            }
        }
    }
}

fn failed_to(verb: &'static str, source: std::io::Error) -> Error {
    Error::Batch {
        verb,
        map: name::ARENA,
        source,
    }
}
