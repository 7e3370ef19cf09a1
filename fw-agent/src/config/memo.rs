//! What was made of each file last time: a file with the same contents is not parsed again.
//!
//! In: the contents of files. Out: what they mean, as the same [`Arc`] while the contents are the same, with the same diagnostics. Later stages
//! tell by identity what did not change.
//!
//! Invariant: contents decide, nothing else. What is remembered of a file is what parsing it now would give.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Sources;
use crate::diagnostic::Diagnostic;

/// A file as the parsers see it.
#[derive(Clone, Debug)]
pub enum Input {
    /// Its contents.
    Text(Bytes),
    /// There is none.
    Absent,
    /// There may be one, but it cannot be read.
    Unreadable,
}

impl Input {
    /// The file at `path`.
    pub fn of(sources: &Sources, path: &str) -> Self {
        match sources.files.get(path) {
            Some(text) => Self::Text(text.clone()),
            None if sources.is_unreadable(path) => Self::Unreadable,
            None => Self::Absent,
        }
    }
}

impl PartialEq for Input {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => is_same(a, b),
            (Self::Absent, Self::Absent) | (Self::Unreadable, Self::Unreadable) => true,
            (Self::Text(_) | Self::Absent | Self::Unreadable, _) => false,
        }
    }
}

/// Whether two texts are equal; one that is the same memory is not looked at.
pub fn is_same(a: &Bytes, b: &Bytes) -> bool {
    a.len() == b.len() && (a.as_ptr() == b.as_ptr() || a == b)
}

/// What `N` files meant last time.
#[derive(Debug)]
pub struct Parsed<T, const N: usize = 1> {
    /// The files.
    pub input: [Input; N],
    /// What they mean.
    pub value: Arc<T>,
    found: Vec<Diagnostic>,
    round: u64,
}

/// What was made of files, by name.
#[derive(Debug)]
pub struct Memo<T, const N: usize = 1> {
    known: HashMap<String, Parsed<T, N>>,
    round: u64,
}

impl<T, const N: usize> Default for Memo<T, N> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            round: 0,
        }
    }
}

impl<T, const N: usize> Memo<T, N> {
    /// What `parse` makes of the files, and what is wrong with them. It gets what is known of them as they were, if it is called at all.
    pub fn of(
        &mut self,
        name: &str,
        input: [Input; N],
        found: &mut Vec<Diagnostic>,
        parse: impl FnOnce(Option<&Parsed<T, N>>, &mut Vec<Diagnostic>) -> T,
    ) -> Arc<T> {
        let round = self.round;
        if let Some(known) = self.known.get_mut(name)
            && known.input == input
        {
            // The memory of now, so that the old can go and the next comparison is one of addresses.
            known.input = input;
            known.round = round;
            found.extend_from_slice(&known.found);
            return Arc::clone(&known.value);
        }
        let mut reported = Vec::new();
        let value = Arc::new(parse(self.known.get(name), &mut reported));
        found.extend_from_slice(&reported);
        let parsed = Parsed {
            input,
            value: Arc::clone(&value),
            found: reported,
            round,
        };
        self.known.insert(name.to_owned(), parsed);
        value
    }

    /// Ends a round: what nobody asked for in it is forgotten.
    pub fn end_round(&mut self) {
        let round = self.round;
        self.known.retain(|_, parsed| parsed.round == round);
        self.round += 1;
    }
}
