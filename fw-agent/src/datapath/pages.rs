//! Words of a map whose only value this process maps: read and written in place, by others and the kernel's programs at the same time.
//!
//! In: a map that was made to be mapped, and which words. Out: these words, as long as [`Pages`] lives. A system call would copy the whole value.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use aya::maps::{MapData, MapInfo, MapType};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::param::page_size;

use super::Error;
use super::kernel::failed;

const WORD: usize = size_of::<u64>();

/// What is done with the words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    /// They are read.
    Read,
    /// Or written.
    Write,
}

/// Pages that are mapped.
pub(super) struct Pages {
    at: *mut core::ffi::c_void,
    bytes: usize,
    /// Of the first word that is wanted, in words.
    offset: usize,
    length: usize,
}

impl Pages {
    /// Of the map's only value `length` words from `start` on; of these there must be as many.
    ///
    /// # Errors
    /// The kernel does not map them.
    pub(super) fn of(
        map: &MapData,
        name: &'static str,
        (start, length): (u32, u32),
        access: Access,
    ) -> Result<Self, Error> {
        let access = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
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
                    map.fd().as_fd(),
                    from,
                )
            };
            pages.at =
                mapped.map_err(|source| failed_to("open the words of", name, source.into()))?;
        }
        Ok(pages)
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
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
                tracing::error!("cannot unmap words of a map: {error}");
            }
        }
    }
}

/// Whether a map is an array whose values have so many bytes.
///
/// # Errors
/// It is not.
pub(super) fn check_layout(map: &MapData, name: &'static str, bytes: u32) -> Result<(), Error> {
    let read = failed("read the layout of", name);
    let info: MapInfo = map.info().map_err(read)?;
    let kind = info
        .map_type()
        .map_err(failed("read the layout of", name))?;
    if (kind, info.value_size()) != (MapType::Array, bytes) {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(failed_to("handle the words of", name, source));
    }
    Ok(())
}

pub(super) fn failed_to(verb: &'static str, map: &'static str, source: std::io::Error) -> Error {
    Error::Batch { verb, map, source }
}
