//! What a flow remembers of a guard: a number that is the same exactly as long as the guard says the same.
//!
//! The number is a hash of the guard's conditions, sets included, so it needs no state: it is the same after a restart of the agent and for a
//! device that was made again, and it does not change with class spaces, which only say the same in other numbers.

use std::fmt::{self, Write};

use crate::policy::Policy;

/// The number of a guard; never 0.
pub(super) fn epoch(guard: Option<&Policy>) -> u32 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    for rule in guard.into_iter().flat_map(|guard| &guard.rules) {
        if write!(hash, "{:?} {:?};", rule.matches, rule.verdict).is_err() {
            // Writing to a number cannot fail.
        }
    }
    ((hash.0 ^ hash.0 >> 32) as u32).max(1)
}

/// FNV-1a: the same on every build, since flows outlive the agent.
struct Hash(u64);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}
