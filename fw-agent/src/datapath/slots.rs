//! Which entry of `PORT_COUNTERS` belongs to which port.
//!
//! A port keeps its entry as long as it is configured or in the kernel, also while its device is gone (a guest that restarts). Ports that an earlier
//! agent left keep theirs. Entry 0 is the host's. A new owner finds the entry cleared: [`Slots::assign`] says when that is to be done.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::maps::{NO_COUNTERS, capacity};

use crate::image::HOST;
use crate::policy::PortId;

/// Entries in use.
#[derive(Clone, Debug)]
pub struct Slots {
    owners: BTreeMap<PortId, u32>,
    /// Free entries below `next`.
    free: BTreeSet<u32>,
    /// This one and all behind it are free.
    next: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            free: BTreeSet::new(),
            next: 1,
        }
    }
}

impl Slots {
    /// Notes what a port in the kernel uses. An entry that is not its own to have (it is another's, the host's, or does not exist) is not
    /// noted: the port gets one of its own with its next value.
    pub fn adopt(&mut self, port: PortId, slot: u32) {
        if port == HOST || slot == 0 || slot >= capacity::PORT_COUNTERS {
            return;
        }
        if self.owners.contains_key(&port) {
            return;
        }
        if slot >= self.next {
            self.free.extend(self.next..slot);
            self.next = slot + 1;
        } else if !self.free.remove(&slot) {
            return;
        }
        self.owners.insert(port, slot);
    }

    /// The port's entry, and whether it must be cleared first because it was not the port's before. [`NO_COUNTERS`] if there are too many.
    pub fn assign(&mut self, port: PortId) -> (u32, bool) {
        if port == HOST {
            return (0, false);
        }
        if let Some(slot) = self.owners.get(&port) {
            return (*slot, false);
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.next < capacity::PORT_COUNTERS => {
                self.next += 1;
                self.next - 1
            }
            None => return (NO_COUNTERS, false),
        };
        self.owners.insert(port, slot);
        (slot, true)
    }

    /// Frees the entries of ports that are gone.
    pub fn retain(&mut self, keep: impl Fn(PortId) -> bool) {
        let free = &mut self.free;
        self.owners.retain(|port, slot| {
            let stays = keep(*port);
            if !stays {
                free.insert(*slot);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn port(vmid: u32) -> PortId {
        PortId { vmid, net: 0 }
    }

    #[test]
    fn entries_are_stable_and_used_again_only_when_their_port_is_gone() {
        let mut slots = Slots::default();
        assert_eq!(slots.assign(HOST), (0, false));
        assert_eq!(slots.assign(port(100)), (1, true));
        assert_eq!(slots.assign(port(101)), (2, true));
        assert_eq!(slots.assign(port(100)), (1, false));
        slots.retain(|id| id == port(101));
        assert_eq!(slots.assign(port(102)), (1, true));
        assert_eq!(slots.assign(port(101)), (2, false));
        assert_eq!(slots.assign(port(100)), (3, true));
    }

    #[test]
    fn what_an_earlier_agent_left_is_kept_but_never_shared() {
        let mut slots = Slots::default();
        for (vmid, slot) in [
            (100, 5),
            (101, 2),
            (102, 5),
            (103, 0),
            (104, u32::MAX),
            (105, capacity::PORT_COUNTERS),
        ] {
            slots.adopt(port(vmid), slot);
        }
        slots.adopt(HOST, 3);
        assert_eq!(slots.assign(port(100)), (5, false));
        assert_eq!(slots.assign(port(101)), (2, false));
        let others: Vec<u32> = (102..=107).map(|vmid| slots.assign(port(vmid)).0).collect();
        assert_eq!(others, [1, 3, 4, 6, 7, 8]);
    }

    #[test]
    fn too_many_ports_are_not_counted() {
        let mut slots = Slots::default();
        for vmid in 1..capacity::PORT_COUNTERS {
            assert_eq!(slots.assign(port(vmid)), (vmid, true));
        }
        assert_eq!(slots.assign(port(1 << 20)), (NO_COUNTERS, false));
        slots.retain(|id| id != port(7));
        assert_eq!(slots.assign(port(1 << 20)), (7, true));
    }
}
