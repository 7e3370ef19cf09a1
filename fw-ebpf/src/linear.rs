//! The linear part of a frame as packet bytes: read directly, without a call of a helper per header.
//!
//! In: where a context says that the linear part begins and ends. Out: for a plain packet ([`Packet::PLAIN`]) whose headers lie in it the same
//! [`Headers`] as by the helpers. Everything else, above all a frame whose linear part ends before its headers do (with virtio the guest chooses
//! where), is an error here and no verdict: the caller parses the frame once more, by the helpers.
//!
//! Headers stand where they stand, mostly two bytes off their alignment, and the compiler would gather a word of unknown alignment from single
//! bytes. So words are loaded by instructions written out; the verifier holds their addresses against the end of the frame.
//!
//! [`Headers`]: fw_common::wire::Headers

use core::arch::asm;
use core::mem::MaybeUninit;

use fw_common::wire::{Packet, Wire};

/// The linear part of a frame.
pub struct Linear {
    start: usize,
    end: usize,
    length: u32,
    tag: Option<u16>,
}

impl Linear {
    /// # Safety
    /// `start` and `end` are the context's `data` and `data_end` ([`bound`]), and the frame is not changed while this lives.
    #[inline(always)]
    pub unsafe fn new(start: usize, end: usize, length: u32, tag: Option<u16>) -> Self {
        Self {
            start,
            end,
            length,
            tag,
        }
    }
}

/// Reads a bound of the linear part, which stands `AT` bytes behind the beginning of a context. It looks like 32 bits and is an address: 32-bit
/// code, which the compiler would make of it somewhere, is refused.
///
/// # Safety
/// `context` is the program's own, and a bound stands there.
#[inline(always)]
pub unsafe fn bound<C, const AT: usize>(context: *const C) -> usize {
    let bound: usize;
    // SAFETY: the caller vouches for it.
    unsafe {
        asm!("{bound} = *(u32 *)({context} + {at})", bound = out(reg) bound, context = in(reg) context, at = const AT, options(pure, readonly, nostack));
    }
    bound
}

impl Packet for Linear {
    const PLAIN: bool = true;

    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        const WORD: usize = 4;
        const { assert!(size_of::<T>().is_multiple_of(2)) };
        let at = self.start + offset as usize;
        if at + size_of::<T>() > self.end {
            return None;
        }
        let mut record = MaybeUninit::<T>::uninit();
        let to = record.as_mut_ptr().cast::<u8>();
        let words = size_of::<T>() / WORD;
        // SAFETY: all bytes that are read lie before `end`, and `record` has room for as many; the last two make it whole. Any bytes make a `T`
        // (see `Wire`).
        unsafe {
            for word in 0..words {
                let bytes: u64;
                asm!("{bytes} = *(u32 *)({from} + 0)", bytes = out(reg) bytes, from = in(reg) at + word * WORD, options(pure, readonly, nostack));
                to.add(word * WORD)
                    .cast::<u32>()
                    .write_unaligned(bytes as u32);
            }
            if !size_of::<T>().is_multiple_of(WORD) {
                let bytes: u64;
                asm!("{bytes} = *(u16 *)({from} + 0)", bytes = out(reg) bytes, from = in(reg) at + words * WORD, options(pure, readonly, nostack));
                to.add(words * WORD)
                    .cast::<u16>()
                    .write_unaligned(bytes as u16);
            }
            Some(record.assume_init())
        }
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<u16> {
        self.tag
    }
}
