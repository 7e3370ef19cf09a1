//! The ring of half-open flows, from the agent's side ([`fw_common::half_open`]).
//!
//! In: a map of that layout. Out: its flows, read, put there and removed while the programs do the same.

use std::cell::Cell;

use aya::maps::MapData;
use fw_common::flow::{Flow, FlowKey};
use fw_common::half_open::{BYTES, Removal, Shared, WORDS};
use fw_common::maps::name;

use super::Error;
use super::pages::{Access, Pages, check_layout};
use super::pins::Pins;

/// Bytes of the map's value.
pub(super) const VALUE_BYTES: u32 = BYTES;

/// The ring, mapped as long as this lives.
pub struct HalfOpen {
    pages: Pages,
    cursor: Cell<u64>,
}

impl HalfOpen {
    /// The pinned one.
    ///
    /// # Errors
    /// There is none, or its layout is another.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Self::of(&pins.data(name::HALF_OPEN)?)
    }

    /// That of a map.
    ///
    /// # Errors
    /// Its layout is another.
    pub(super) fn of(map: &MapData) -> Result<Self, Error> {
        check_layout(map, name::HALF_OPEN, VALUE_BYTES)?;
        let pages = Pages::of(map, name::HALF_OPEN, (0, WORDS as u32), Access::Write)?;
        Ok(Self {
            pages,
            cursor: Cell::new(0),
        })
    }

    /// The flow under a key.
    pub fn get(&self, key: &FlowKey) -> Option<Flow> {
        self.ring()?.get(key)
    }

    /// Shows `visit` every flow that is there.
    pub fn visit(&self, visit: impl FnMut(&FlowKey, &Flow)) {
        if let Some(ring) = self.ring() {
            ring.visit(visit);
        }
    }

    /// Puts a flow there, over the one under its key if there is any. False: other flows came to the same place at the same time, again and again.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> bool {
        let mut cursor = self.cursor.get();
        let done = self
            .ring()
            .is_some_and(|ring| ring.insert(&mut cursor, key, flow));
        self.cursor.set(cursor);
        done
    }

    /// Writes what is known of a flow that is there; false if it is not.
    pub fn update(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.ring().is_some_and(|ring| ring.update(key, flow))
    }

    /// Removes the flow under a key; whether there was one, and it was this call that removed it.
    pub fn remove(&self, key: &FlowKey) -> bool {
        self.ring().is_some_and(|ring| ring.remove(key))
    }

    /// Removes the flow under a key if `is_over` says so when nobody finds it any more; else it is put back.
    pub fn remove_if(&self, key: &FlowKey, is_over: impl FnOnce(&Flow) -> bool) -> Removal {
        let ring = self.ring();
        ring.map_or(Removal::Gone, |ring| ring.remove_if(key, is_over))
    }

    /// All words are mapped, so that there is one.
    fn ring(&self) -> Option<Shared<'_>> {
        Shared::new(self.pages.words())
    }
}
