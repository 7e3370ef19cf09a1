//! Which words of the arena are in use: a first-fit allocator.
//!
//! Freed words are handed out again only after [`Arena::settle`]: a program that is running may still read the policy it found in its port.
//! A plan that frees words ends by waiting for those programs; the next one settles.

use std::collections::BTreeMap;

/// Free and used words.
#[derive(Clone, Debug)]
pub struct Arena {
    /// First word and length of every free stretch.
    free: BTreeMap<u32, u32>,
    /// Stretches that are free once no program reads them any more.
    released: Vec<(u32, u32)>,
}

impl Arena {
    /// An arena of `words` words of which the first is never handed out.
    pub fn new(words: u32) -> Self {
        Self {
            free: BTreeMap::from([(1, words - 1)]),
            released: Vec::new(),
        }
    }

    /// Takes `length` words; none if no stretch is that long.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        let (start, free) = self
            .free
            .iter()
            .find(|(_, free)| **free >= length)
            .map(|(start, free)| (*start, *free))?;
        self.free.remove(&start);
        if free > length {
            self.free.insert(start + length, free - length);
        }
        Some(start)
    }

    /// Takes `length` words as far behind as possible: for what is large, so that it does not come to lie between small things.
    pub fn allocate_last(&mut self, length: u32) -> Option<u32> {
        let mut stretches = self.free.iter().rev();
        let (start, free) = stretches.find(|(_, free)| **free >= length)?;
        let last = start + free - length;
        self.claim(last, length).then_some(last)
    }

    /// Marks words as used that an earlier agent allocated; false if some of them are not free.
    pub fn claim(&mut self, start: u32, length: u32) -> bool {
        let Some((first, free)) = self
            .free
            .range(..=start)
            .next_back()
            .map(|(first, free)| (*first, *free))
        else {
            return false;
        };
        let (end, last) = (start.saturating_add(length), first + free);
        if length == 0 || end > last {
            return false;
        }
        self.free.remove(&first);
        if start > first {
            self.free.insert(first, start - first);
        }
        if last > end {
            self.free.insert(end, last - end);
        }
        true
    }

    /// Gives words back; see [`Arena::settle`].
    pub fn release(&mut self, start: u32, length: u32) {
        self.released.push((start, length));
    }

    /// Makes released words available.
    pub fn settle(&mut self) {
        for (mut start, mut length) in std::mem::take(&mut self.released) {
            if let Some((before, free)) = self.free.range(..start).next_back()
                && before + free == start
            {
                (start, length) = (*before, free + length);
                self.free.remove(&start);
            }
            if let Some(free) = self.free.remove(&(start + length)) {
                length += free;
            }
            self.free.insert(start, length);
        }
    }

    /// Words that are not in use.
    pub fn available(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Arena;

    #[test]
    fn released_words_return_whole_and_only_after_settling() {
        let mut arena = Arena::new(100);
        let parts: Vec<u32> = (0..9).map(|_| arena.allocate(11).unwrap()).collect();
        assert_eq!(parts[0], 1);
        assert_eq!(arena.allocate(1), None);
        for part in &parts {
            arena.release(*part, 11);
        }
        assert_eq!(arena.allocate(1), None);
        arena.settle();
        assert_eq!(arena.available(), 99);
        assert_eq!(arena.allocate(99), Some(1));
    }

    #[test]
    fn large_things_stay_apart_from_small_ones() {
        let mut arena = Arena::new(100);
        assert_eq!(arena.allocate_last(40), Some(60));
        assert_eq!(arena.allocate(10), Some(1));
        assert_eq!(arena.allocate_last(40), Some(20));
        assert_eq!(arena.allocate_last(40), None);
        arena.release(60, 40);
        arena.settle();
        assert_eq!(arena.allocate_last(40), Some(60));
        assert_eq!(arena.allocate_last(0), None);
    }

    #[test]
    fn claims_only_what_is_free() {
        let mut arena = Arena::new(100);
        assert!(arena.claim(10, 5));
        assert!(!arena.claim(12, 1));
        assert!(!arena.claim(8, 5));
        assert!(!arena.claim(99, 2));
        assert!(!arena.claim(0, 1));
        assert!(arena.claim(15, 85));
        assert_eq!(arena.available(), 9);
    }
}
