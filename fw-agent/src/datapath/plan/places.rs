//! Where the words of policies and of sets of VLANs are in the arena: found, and given back.

use std::collections::{BTreeSet, HashMap};

use fw_common::maps::{ANY_VLAN, NO_VLAN, Port};

use super::{Action, Plan, State};
use crate::image::{MapImage, PlacedSpace, Places, PortImage, VlanImage};
use crate::policy::PortId;

/// Where these words are in the arena; none if there is no room for them.
fn place_words(state: &mut State, words: Vec<u64>, plan: &mut Plan) -> Option<u32> {
    if let Some(start) = state.policies.get(&words) {
        return Some(*start);
    }
    let start = state.arena.allocate(words.len() as u32)?;
    state.policies.insert(words.clone(), start);
    plan.actions.push(Action::WritePolicy { start, words });
    Some(start)
}

/// A port of the image whose device exists, and its interface index.
pub(super) type Switch<'i> = (PortId, &'i PortImage, u32);

/// Where the words of an image are in the arena.
#[derive(Default)]
pub(super) struct Starts {
    /// Of each policy; none for those that no port needs now, or for which there was no room.
    policies: Vec<Option<u32>>,
    /// Of each set of VLANs likewise.
    vlans: HashMap<Vec<u64>, u32>,
}

impl Starts {
    /// What a port refers to; none if there was no room for some of it.
    pub(super) fn of(&self, port: &PortImage, space: PlacedSpace) -> Option<Places> {
        let [inbound, outbound] = port.policies.map(|index| self.policies[index]);
        Some(Places {
            policy: [inbound?, outbound?],
            guard: match port.guard {
                None => 0,
                Some(index) => self.policies[index]?,
            },
            vlans: match &port.vlans {
                VlanImage::None => NO_VLAN,
                VlanImage::Any => ANY_VLAN,
                VlanImage::Words(words) => *self.vlans.get(words)?,
            },
            space,
        })
    }
}

/// Finds a place in the arena for everything that ports refer to.
pub(super) fn place_policies(
    state: &mut State,
    image: &MapImage,
    ports: &[Switch<'_>],
    space: PlacedSpace,
    plan: &mut Plan,
) -> Starts {
    let needed = ports
        .iter()
        .flat_map(|(_, port, _)| port.policies.into_iter().chain(port.guard));
    let mut seen = BTreeSet::new();
    let mut starts = Starts {
        policies: vec![None; image.policies.len()],
        ..Starts::default()
    };
    for index in needed.filter(|index| seen.insert(*index)) {
        let words = image.policies[index].placed(space.small, space.big);
        starts.policies[index] = place_words(state, words, plan);
    }
    for (_, port, _) in ports {
        if let VlanImage::Words(words) = &port.vlans
            && let Some(start) = place_words(state, words.clone(), plan)
        {
            starts.vlans.insert(words.clone(), start);
        }
    }
    starts
}

/// First words in the arena of everything that a port refers to; 0, [`ANY_VLAN`] and [`NO_PREFILTER`] among them refer to nothing.
pub fn arena_starts(port: &Port) -> [u32; 6] {
    let ([inbound, outbound], [v4, v6]) = (port.policy, port.prefilter);
    [inbound, outbound, port.guard, port.vlans, v4, v6]
}

/// Drops class spaces, policies and prefilters that nobody refers to.
pub(super) fn release(state: &mut State, plan: &mut Plan) {
    let settings = state.settings.as_slice();
    let ports = || state.ports.values();
    let big = |space, prefilter| (prefilter != [0; 2]).then_some(space);
    let used: BTreeSet<u32> = ports()
        .flat_map(|port| [Some(port.space), big(port.big_space, port.prefilter)])
        .chain(
            settings
                .iter()
                .map(|settings| big(settings.space, settings.prefilter)),
        )
        .flatten()
        .collect();
    let unused: Vec<u32> = state
        .spaces
        .keys()
        .filter(|space| !used.contains(space))
        .copied()
        .collect();
    let starts: BTreeSet<u32> = ports()
        .flat_map(arena_starts)
        .chain(settings.iter().flat_map(|settings| settings.prefilter))
        .collect();
    let arena = &mut state.arena;
    let mut released = false;
    state.policies.retain(|words, start| {
        let keep = starts.contains(start);
        if !keep {
            released = true;
            arena.release(*start, words.len() as u32);
        }
        keep
    });
    for space in &unused {
        released |= state.release_filters(*space);
    }
    if released || !unused.is_empty() {
        plan.actions.push(Action::AwaitReaders);
    }
    for space in unused {
        let classes = state.spaces.remove(&space).flatten();
        plan.actions.push(Action::RemoveClasses { space, classes });
    }
}
