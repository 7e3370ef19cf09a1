//! The classes' part of a plan: where class spaces and prefilters are, and what has to be written of them.
//!
//! In: the spaces that the kernel holds, and those of an image. Out: where the image's are, and actions: a space as it is (nothing), one that is a step
//! from what is there (single entries), or a new one.
//!
//! Order of a step: 1. bits of the prefilters, 2. parents of new classes, 3. prefixes, inner ones before outer ones, 4. when all ports are switched, marks of
//! the blacklist that are new.
//!
//! Invariant: whoever finds a class in a trie finds its ancestors, and an address in a prefix finds its bit set.

use std::sync::Arc;

use fw_common::maps::classes::{BIG_CLASSES, NO_PREFILTER};
use fw_common::maps::port_flag;

use super::{Action, Plan, Present, State, plan_node, port_id};
use crate::image::{
    Builder, ClassSpace, Classes, MapImage, PlacedSpace, Prefixes, Spaces, Step, add_bits,
};
use crate::policy::NodePolicy;

/// The prefilters of a class space of big sets, IPv4 and IPv6.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// First words; 0: it has no prefixes of that version.
    starts: [u32; 2],
    /// What they hold; nothing if there is none.
    words: [Vec<u64>; 2],
}

impl Filters {
    /// First words and lengths of what is in the arena.
    fn stretches(&self) -> impl Iterator<Item = (u32, u32)> {
        let lengths = self.words.iter().map(|words| words.len() as u32);
        let stretches = self.starts.into_iter().zip(lengths);
        stretches.filter(|(_, length)| *length > 0)
    }
}

/// Where the classes of an image are.
#[derive(Default)]
pub(super) struct Placed {
    pub(super) space: PlacedSpace,
    /// Steps that were taken, small and big.
    steps: [Option<Arc<Step>>; 2],
}

impl Placed {
    /// Contents of sets change by it where they are.
    pub(super) fn is_step(&self) -> bool {
        self.steps.iter().any(Option::is_some)
    }

    /// What is left to be written when all ports are switched.
    pub(super) fn finish(&self, plan: &mut Plan) {
        let spaces = [self.space.small, self.space.big];
        for (space, step) in spaces.into_iter().zip(&self.steps) {
            if let Some(step) = step.as_ref().filter(|step| !step.later.is_empty()) {
                plan.actions.push(Action::WriteEntries {
                    space,
                    lineage: Vec::new(),
                    prefixes: step.later.clone(),
                });
            }
        }
    }
}

impl State {
    /// The class spaces in use, to build the next image on.
    pub fn spaces_in_use(&self) -> Spaces {
        let known = |space: u32| self.spaces.get(&space).cloned().flatten();
        let small = self.ports.values().map(|port| port.space).max();
        let settings = self.settings.iter();
        let settings = settings.map(|settings| (settings.space, settings.prefilter));
        let ports = self.ports.values();
        let ports = ports.map(|port| (port.big_space, port.prefilter));
        let big = settings
            .chain(ports)
            .find(|(_, prefilter)| *prefilter != [0; 2]);
        Spaces {
            small: small.and_then(known),
            big: big.and_then(|(space, _)| known(space)),
        }
    }

    /// Notes the prefilters that were found with a class space. False: they cannot be its, or others were found before.
    pub fn adopt_filters(&mut self, space: u32, starts: [u32; 2], words: [Vec<u64>; 2]) -> bool {
        let Some(Some(classes)) = self.spaces.get(&space) else {
            return false;
        };
        let needed = classes.prefixes.prefilters();
        let covers = |words: &[u64], needed: &[u64]| {
            words.len() >= needed.len()
                && words
                    .iter()
                    .zip(needed)
                    .all(|(word, needed)| needed & !word == 0)
        };
        let pairs = words.iter().zip(&needed);
        let mut pairs = pairs.zip(starts);
        let sound = classes.count() <= BIG_CLASSES
            && pairs.all(|((words, needed), start)| start == NO_PREFILTER || covers(words, needed));
        if !sound || self.filters.contains_key(&space) {
            return false;
        }
        let filters = Filters { starts, words };
        let mut stretches = filters.stretches();
        let claimed = stretches.all(|(start, length)| self.arena.claim(start, length));
        drop(stretches);
        if claimed {
            self.filters.insert(space, filters);
        }
        claimed
    }

    /// Forgets the prefilters of a space that is not used any more; says whether there were any.
    pub(super) fn release_filters(&mut self, space: u32) -> bool {
        let Some(filters) = self.filters.remove(&space) else {
            return false;
        };
        let mut released = false;
        for (start, length) in filters.stretches() {
            self.arena.release(start, length);
            released = true;
        }
        released
    }
}

/// Where the classes of an image are; what is not there yet is written.
pub(super) fn place_space(state: &mut State, space: &ClassSpace, plan: &mut Plan) -> Placed {
    let mut placed = Placed::default();
    let [small, big] = &space.steps;
    (placed.space.small, placed.steps[0]) =
        place_classes(state, &space.small, small.as_ref(), false);
    write(
        state,
        placed.space.small,
        &space.small,
        placed.steps[0].as_deref(),
        plan,
    );
    if space.big.is_empty() {
        return placed;
    }
    (placed.space.big, placed.steps[1]) = place_classes(state, &space.big, big.as_ref(), true);
    placed.space.prefilter = place_filters(
        state,
        placed.space.big,
        &space.big,
        placed.steps[1].as_deref(),
        plan,
    );
    write(
        state,
        placed.space.big,
        &space.big,
        placed.steps[1].as_deref(),
        plan,
    );
    placed
}

/// The class space with these contents: one that is there, one that has them after a step, or a new one.
fn place_classes(
    state: &State,
    classes: &Arc<Classes>,
    step: Option<&Arc<Step>>,
    is_big: bool,
) -> (u32, Option<Arc<Step>>) {
    // One space is never of both, for each changes by itself.
    let with = |wanted: &Arc<Classes>| {
        let spaces = state.spaces.iter();
        let mut spaces = spaces.filter(|(space, _)| state.filters.contains_key(space) == is_big);
        let is_wanted = |known: &Arc<Classes>| Arc::ptr_eq(known, wanted) || known == wanted;
        let found = spaces.find(|(_, known)| known.as_ref().is_some_and(is_wanted));
        found.map(|(space, _)| *space)
    };
    if let Some(space) = with(classes) {
        return (space, None);
    }
    if let Some(step) = step
        && let Some(space) = with(&step.from)
    {
        return (space, Some(Arc::clone(step)));
    }
    let next = state.spaces.keys().next_back().map_or(0, |last| last + 1);
    (next, None)
}

/// Writes what a space lacks.
fn write(
    state: &mut State,
    space: u32,
    classes: &Arc<Classes>,
    step: Option<&Step>,
    plan: &mut Plan,
) {
    match (state.spaces.get(&space), step) {
        (_, Some(step)) => plan.actions.push(Action::WriteEntries {
            space,
            lineage: classes.lineage_since(&step.from),
            prefixes: step.writes.clone(),
        }),
        (None, None) => plan.actions.push(Action::WriteClasses {
            space,
            classes: Arc::clone(classes),
        }),
        (Some(_), None) => return,
    }
    state.spaces.insert(space, Some(Arc::clone(classes)));
}

/// Where the prefilters of a space of big sets are; they are made, or get the bits that they lack.
fn place_filters(
    state: &mut State,
    space: u32,
    classes: &Classes,
    step: Option<&Step>,
    plan: &mut Plan,
) -> [u32; 2] {
    let mut filters = state.filters.remove(&space).unwrap_or_default();
    if let Some(step) = step {
        set_bits(&mut filters, &step.writes, plan);
    }
    let prefixes = &classes.prefixes;
    let counts = [prefixes.v4.len(), prefixes.v6.len()];
    let is_missing =
        |(start, count): (u32, usize)| count > 0 && (start == 0 || start == NO_PREFILTER);
    if filters.starts.into_iter().zip(counts).any(is_missing) {
        for (version, words) in prefixes.prefilters().into_iter().enumerate() {
            let start = &mut filters.starts[version];
            if !is_missing((*start, counts[version])) {
                continue;
            }
            // Without room every address is looked up in the trie.
            *start = match state.arena.allocate_last(words.len() as u32) {
                None => NO_PREFILTER,
                Some(start) => {
                    plan.actions.push(Action::WritePolicy {
                        start,
                        words: words.clone(),
                    });
                    filters.words[version] = words;
                    start
                }
            };
        }
    }
    let starts = filters.starts;
    state.filters.insert(space, filters);
    starts
}

fn set_bits(filters: &mut Filters, prefixes: &Prefixes, plan: &mut Plan) {
    let changed = add_bits(&mut filters.words, prefixes);
    for ((start, words), changed) in filters.starts.iter().zip(&filters.words).zip(changed) {
        let changed: Vec<u32> = changed.into_iter().collect();
        for run in changed.chunk_by(|one, next| one + 1 == *next) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            plan.actions.push(Action::AddBits {
                start: start + first,
                words: words[*first as usize..=*last as usize].to_vec(),
            });
        }
    }
}

/// The image of a node's policies, built on what the kernel holds.
pub fn next_image(
    builder: &mut Builder,
    state: &State,
    node: &NodePolicy,
    present: &Present,
) -> MapImage {
    let spaces = state.spaces_in_use();
    builder.build(node, &spaces, |image| is_in_force(state, image, present))
}

/// Whether everything that an image says is in force, but for addresses that move at once.
fn is_in_force(state: &State, image: &MapImage, present: &Present) -> bool {
    let has = |port| {
        let id = port_id(port);
        match port.flags & port_flag::HOST {
            0 => image.ports.contains_key(&id),
            _ => image.host.is_some(),
        }
    };
    if !image.failures.is_empty() || !state.ports.values().all(has) {
        return false;
    }
    let plan = plan_node(&mut state.clone(), image, present, |_| true);
    let mut actions = plan.actions.iter();
    let is_move = |action: &Action| match action {
        Action::AddBits { .. } | Action::WriteEntries { .. } => true,
        Action::SetPort { ifindex, port, .. } => {
            let known = state.ports.get(ifindex);
            known.is_some_and(|known| {
                let mut known = *known;
                known.epoch = port.epoch;
                known == *port
            })
        }
        Action::WriteClasses { .. }
        | Action::WritePolicy { .. }
        | Action::WriteSettings(_)
        | Action::ClearCounters { .. }
        | Action::AddLocals(_)
        | Action::RemoveLocals(_)
        | Action::Attach { .. }
        | Action::Detach { .. }
        | Action::RemovePort { .. }
        | Action::ResizeFlows { .. }
        | Action::FetchFlows
        | Action::SetStation { .. }
        | Action::RemoveStation { .. }
        | Action::AttachUplink { .. }
        | Action::DetachUplink { .. }
        | Action::AwaitReaders
        | Action::RemoveClasses { .. } => false,
    };
    plan.no_room.is_empty() && actions.all(is_move)
}
