//! Builds images one after the other, each on what is in force, and does nothing twice.
//!
//! In: the policies of a node, and the class spaces in force. Out: a [`MapImage`].
//!
//! 1. The sets become classes. Where addresses only move between sets, and no packet could see one of its addresses before and one after, they move at once, if
//!    whoever calls permits it: no policy and no port changes then. 2. Policies become words; one that says what it said in the last image, of sets that are the
//!    same classes, is not built again, and a port that is the same allocation is not even looked at.
//!
//! Invariant: what is remembered saves time and changes nothing, but for the numbers of rules whose hashes are equal ([`Identities`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use fw_common::verdict::{Direction, Reason};
use rustc_hash::{FxHashMap, FxHashSet};

use super::classes::{Books, Members, Relocation, SetClasses, Settled, Survey};
use super::rules::Identities;
use super::{
    ClassSpace, HOST, HostImage, MapImage, PolicyImage, PortImage, blacklist_flags, directions,
    port_image, vectors,
};
use crate::policy::{AddressSet, HostPolicy, NodePolicy, Policy, PortId, PortPolicy, Rule};

/// What was built before.
#[derive(Debug, Default)]
pub struct Builder {
    /// Has flows that were accepted under other rules judged again.
    reevaluate: bool,
    ports: FxHashMap<PortId, KnownPort>,
    /// The host's policies in the last image.
    host: Vec<Arc<PolicyImage>>,
    /// The rules of both.
    rules: Identities,
    /// Every policy that a known port has, once.
    policies: HashSet<Arc<PolicyImage>>,
    /// Numbers of what sets consist of.
    sets: FxHashMap<SetClasses, u32>,
    /// The number of each set of the last image, by the address of its allocation.
    numbers: FxHashMap<usize, u32>,
    /// Sets that are as they are to be in the spaces of the last image.
    settled: Settled,
    /// What the sets of the last image were.
    last: Option<Surveyed>,
}

/// A set that a rule mentions, and whether as the blacklist.
type Mention = (Arc<AddressSet>, bool);

/// The sets of a node, and what came of them.
#[derive(Debug)]
struct Surveyed {
    /// In the order of ports and rules, the host's at the end.
    mentions: Vec<Mention>,
    space: ClassSpace,
    members: Arc<Members>,
    /// Per set, by its number among `members`, the number of what it consists of.
    numbers: Arc<[u32]>,
}

/// A port as it was built.
#[derive(Debug)]
struct KnownPort {
    policy: Arc<PortPolicy>,
    parts: Vec<KnownPolicy>,
    mentions: Box<[Mention]>,
    /// Without what depends on others: the places of its policies, and whether the blacklist holds anything.
    image: PortImage,
    /// Bits of [`fw_common::maps::port_flag`] if it does.
    blacklist: u16,
}

/// A policy as it was built.
#[derive(Clone, Debug)]
struct KnownPolicy {
    /// What the sets of each rule consist of.
    sets: Vec<[u32; 2]>,
    image: Arc<PolicyImage>,
}

/// In the place of a set's number: there is none.
const NO_SET: u32 = u32::MAX;

/// What sets consist of, of so many kinds that it is better to forget them.
const MANY_SETS: usize = 1 << 18;

impl Builder {
    /// Nothing was built before. `reevaluate`: see [`MapImage::reevaluate`].
    pub fn new(reevaluate: bool) -> Self {
        Self {
            reevaluate,
            ..Self::default()
        }
    }

    /// Builds the image of a node's policies on what is in force. `permits` is asked whether addresses may move at once as the image says: that
    /// is so if the rest of it is in force.
    pub fn build(
        &mut self,
        node: &NodePolicy,
        books: &Books,
        permits: impl FnOnce(&MapImage) -> bool,
    ) -> MapImage {
        if let Some(image) = self.build_on_the_same_sets(node, books) {
            return image;
        }
        let survey = Survey::new(node, books, &self.settled);
        if let Some(relocation) = survey.relocate()
            && let Some(moved) = see(node, &survey, &relocation)
        {
            let mut image = MapImage {
                space: relocation.settlement.space,
                moved,
                ..MapImage::default()
            };
            let members = Arc::new(relocation.settlement.members);
            let numbers = self.fill_anew(&mut image, node, &members);
            if permits(&image) {
                self.settled = relocation.settlement.settled;
                self.remember(node, &image, members, numbers);
                return image;
            }
        }
        let settlement = survey.settle();
        let mut image = MapImage {
            space: settlement.space,
            ..MapImage::default()
        };
        let members = Arc::new(settlement.members);
        let numbers = self.fill_anew(&mut image, node, &members);
        self.settled = settlement.settled;
        self.remember(node, &image, members, numbers);
        image
    }

    /// The image if all rules mention the very sets that those of the last image did, and its spaces are in force: nothing of them changes.
    fn build_on_the_same_sets(&mut self, node: &NodePolicy, books: &Books) -> Option<MapImage> {
        let last = self.last.as_ref()?;
        let is_same = |(set, listed): (&Arc<AddressSet>, bool), last: &Mention| {
            Arc::ptr_eq(set, &last.0) && listed == last.1
        };
        let mut lasts = last.mentions.iter();
        let mut mentions = self.mentions(node);
        let same = mentions.all(|set| lasts.next().is_some_and(|last| is_same(set, last)));
        drop(mentions);
        if !same || lasts.next().is_some() || !books.are_of(&last.space) {
            return None;
        }
        let mut image = MapImage {
            space: ClassSpace {
                steps: [None, None],
                ..last.space.clone()
            },
            ..MapImage::default()
        };
        let (members, sets) = (Arc::clone(&last.members), Arc::clone(&last.numbers));
        let round = Round {
            moved: FxHashSet::default(),
            sets,
            members: &members,
            places: FxHashMap::default(),
        };
        self.fill(&mut image, node, round);
        Some(image)
    }

    fn remember(
        &mut self,
        node: &NodePolicy,
        image: &MapImage,
        members: Arc<Members>,
        numbers: Arc<[u32]>,
    ) {
        let mentions = self.mentions(node);
        let mentions = mentions.map(|(set, listed)| (Arc::clone(set), listed));
        self.last = Some(Surveyed {
            mentions: mentions.collect(),
            space: image.space.clone(),
            members,
            numbers,
        });
    }

    /// The sets that rules mention. Those of a known port are known.
    fn mentions<'n>(
        &'n self,
        node: &'n NodePolicy,
    ) -> impl Iterator<Item = (&'n Arc<AddressSet>, bool)> {
        let ports = node.ports.iter().flat_map(|port| {
            let known = self.ports.get(&port.port);
            let known = known.filter(|known| Arc::ptr_eq(&known.policy, port));
            let new = known.is_none().then(|| policies(port).flat_map(mentioned));
            let known = known.into_iter().flat_map(|known| &known.mentions);
            let known = known.map(|(set, listed)| (set, *listed));
            known.chain(new.into_iter().flatten())
        });
        let host = node.host.iter();
        let host = host.flat_map(|host| [&host.inbound, &host.outbound]);
        ports.chain(host.flat_map(mentioned))
    }

    /// Everything of an image but its classes, where sets may consist of other ones; answers the number of what each set consists of.
    fn fill_anew(
        &mut self,
        image: &mut MapImage,
        node: &NodePolicy,
        members: &Members,
    ) -> Arc<[u32]> {
        if self.sets.len() > MANY_SETS {
            *self = Self::new(self.reevaluate);
        }
        let sets: Arc<[u32]> = members.all().map(|set| self.number(set)).collect();
        let round = Round {
            moved: self.renumber(members, &sets),
            sets: Arc::clone(&sets),
            members,
            places: FxHashMap::default(),
        };
        self.fill(image, node, round);
        sets
    }

    /// Everything of an image but its classes.
    fn fill(&mut self, image: &mut MapImage, node: &NodePolicy, mut round: Round<'_>) {
        image.settings = node.settings;
        image.flow_capacity = node.flow_capacity;
        let mut ports = FxHashMap::default();
        ports.reserve(node.ports.len());
        for port in &node.ports {
            let known = match self.ports.remove(&port.port) {
                Some(known) if Arc::ptr_eq(&known.policy, port) && round.holds(&known) => {
                    Some(known)
                }
                known => self.port(image, &round, port, known),
            };
            let Some(known) = known else {
                continue;
            };
            let places = known.parts.iter();
            let places: Vec<usize> = places.map(|part| round.place(image, part)).collect();
            let [inbound, outbound, guard @ ..] = places.as_slice() else {
                continue;
            };
            let mut built = known.image.clone();
            built.policies = [*inbound, *outbound];
            built.guard = guard.first().copied();
            if image.space.has_blacklist {
                built.flags |= known.blacklist;
            }
            image.ports.insert(port.port, built);
            ports.insert(port.port, known);
        }
        for gone in std::mem::replace(&mut self.ports, ports).into_values() {
            self.release(&gone.parts);
        }
        let host = std::mem::take(&mut self.host);
        if let Some(host) = &node.host {
            image.host = self.host(image, &mut round, host);
        }
        for policy in host {
            self.rules.release(&policy.rules);
        }
        self.policies.retain(|policy| Arc::strong_count(policy) > 1);
        image.rules = self.rules.table();
        if self.reevaluate {
            image.reevaluate();
        }
    }

    fn number(&mut self, set: &SetClasses) -> u32 {
        if let Some(number) = self.sets.get(set) {
            return *number;
        }
        let next = self.sets.len() as u32;
        self.sets.insert(set.clone(), next);
        next
    }

    /// Notes the number of each set; answers the numbers of sets that have another now, or that are gone. Sets of the same allocation are one only as long as
    /// something holds it, as a known port does its own.
    fn renumber(&mut self, members: &Members, sets: &[u32]) -> FxHashSet<u32> {
        let numbers = members.numbers();
        let numbers: FxHashMap<usize, u32> = numbers
            .map(|(set, number)| (set, sets[number as usize]))
            .collect();
        let before = std::mem::replace(&mut self.numbers, numbers);
        let moved = before
            .into_iter()
            .filter(|(set, number)| self.numbers.get(set) != Some(number));
        moved.map(|(_, number)| number).collect()
    }

    fn release(&mut self, parts: &[KnownPolicy]) {
        for part in parts {
            self.rules.release(&part.image.rules);
        }
    }

    /// Builds what of a port is not as it was; none if some of it cannot be built.
    fn port(
        &mut self,
        image: &mut MapImage,
        round: &Round<'_>,
        port: &Arc<PortPolicy>,
        known: Option<KnownPort>,
    ) -> Option<KnownPort> {
        let directions = directions(port).into_iter();
        let parts = directions.chain(port.guard.iter().map(|guard| (Direction::Out, guard)));
        let old: Vec<&Policy> = known
            .iter()
            .flat_map(|known| policies(&known.policy))
            .collect();
        let mut built = Vec::with_capacity(3);
        let mut complete = true;
        for (index, (direction, policy)) in parts.enumerate() {
            let before = old.get(index).copied();
            let before = before.zip(known.as_ref().and_then(|known| known.parts.get(index)));
            match self.policy(round, policy, before) {
                Ok(part) => built.push(part),
                Err(error) => {
                    image.failures.push((port.port, direction, error));
                    complete = false;
                }
            }
        }
        // Only now: rules that it still has keep their numbers.
        if let Some(known) = known {
            self.release(&known.parts);
        }
        if !complete {
            self.release(&built);
            return None;
        }
        Some(KnownPort {
            policy: Arc::clone(port),
            parts: built,
            mentions: policies(port)
                .flat_map(mentioned)
                .map(|(set, listed)| (Arc::clone(set), listed))
                .collect(),
            image: port_image(port),
            blacklist: blacklist_flags(&port.inbound),
        })
    }

    /// Builds a policy if it is not as it was `before`.
    fn policy(
        &mut self,
        round: &Round<'_>,
        policy: &Policy,
        before: Option<(&Policy, &KnownPolicy)>,
    ) -> Result<KnownPolicy, vectors::PolicyError> {
        let sets = round.sets_of(policy);
        if let Some((old, known)) = before
            && known.sets == sets
            && is_same(old, policy)
        {
            self.rules.keep(&known.image.rules);
            return Ok(known.clone());
        }
        let rules = self.rules.identify(policy);
        let words = match vectors::build(policy, &rules, round.members) {
            Ok(words) => words,
            Err(error) => {
                self.rules.release(&rules);
                return Err(error);
            }
        };
        let built = PolicyImage { words, rules };
        let built = match self.policies.get(&built) {
            Some(known) => Arc::clone(known),
            None => {
                let built = Arc::new(built);
                self.policies.insert(Arc::clone(&built));
                built
            }
        };
        Ok(KnownPolicy { sets, image: built })
    }

    /// Builds the policies of all interfaces of the host; none if one of them fails.
    fn host(
        &mut self,
        image: &mut MapImage,
        round: &mut Round<'_>,
        host: &HostPolicy,
    ) -> Option<HostImage> {
        let elsewhere = self.host_on(image, round, host, "")?;
        let interfaces = host.interfaces().into_iter();
        let interfaces = interfaces.map(|name| {
            let places = self.host_on(image, round, host, &name);
            places.map(|places| (name, places))
        });
        let interfaces = interfaces.collect::<Option<BTreeMap<_, _>>>()?;
        let flags = match image.space.has_blacklist {
            true => blacklist_flags(&host.inbound),
            false => 0,
        };
        Some(HostImage {
            interfaces,
            elsewhere,
            flags,
        })
    }

    fn host_on(
        &mut self,
        image: &mut MapImage,
        round: &mut Round<'_>,
        host: &HostPolicy,
        interface: &str,
    ) -> Option<[usize; 2]> {
        let (inbound, outbound) = host.on(interface);
        let mut places = [0; 2];
        let mut complete = true;
        let directions = [(Direction::In, &inbound), (Direction::Out, &outbound)];
        for (place, (direction, policy)) in places.iter_mut().zip(directions) {
            match self.policy(round, policy, None) {
                Ok(part) => {
                    *place = round.place(image, &part);
                    self.host.push(part.image);
                }
                Err(error) => {
                    image.failures.push((HOST, direction, error));
                    complete = false;
                }
            }
        }
        complete.then_some(places)
    }
}

/// What is the same for all policies of one image.
struct Round<'m> {
    members: &'m Members,
    /// Per set of the node, the number of what it consists of.
    sets: Arc<[u32]>,
    /// Numbers of sets that consist of something else than in the last image.
    moved: FxHashSet<u32>,
    /// Places of policies in the image.
    places: FxHashMap<*const PolicyImage, usize>,
}

impl Round<'_> {
    /// Whether the sets of a port are what they were.
    fn holds(&self, port: &KnownPort) -> bool {
        let mut sets = port.parts.iter().flat_map(|part| &part.sets).flatten();
        self.moved.is_empty() || sets.all(|set| !self.moved.contains(set))
    }

    fn sets_of(&self, policy: &Policy) -> Vec<[u32; 2]> {
        let number = |set| self.members.number(set).map(|set| self.sets[set as usize]);
        let rules = policy.rules.iter();
        let sets = rules.map(|rule| {
            [&rule.matches.source, &rule.matches.dest]
                .map(|set| set.as_ref().and_then(number).unwrap_or(NO_SET))
        });
        sets.collect()
    }

    /// The place of a policy among those of the image. Equal policies are one allocation.
    fn place(&mut self, image: &mut MapImage, policy: &KnownPolicy) -> usize {
        let next = image.policies.len();
        let place = self.places.entry(Arc::as_ptr(&policy.image));
        *place.or_insert_with(|| {
            image.policies.push(Arc::clone(&policy.image));
            next
        })
    }
}

fn policies(port: &PortPolicy) -> impl Iterator<Item = &Policy> {
    [&port.inbound, &port.outbound]
        .into_iter()
        .chain(&port.guard)
}

/// The sets that a policy's rules mention.
fn mentioned(policy: &Policy) -> impl Iterator<Item = (&Arc<AddressSet>, bool)> {
    policy.rules.iter().flat_map(|rule| {
        let listed = rule.reason == Reason::Blacklist;
        let sets = [&rule.matches.source, &rule.matches.dest];
        sets.into_iter().flatten().map(move |set| (set, listed))
    })
}

/// Whether two policies say the same, but for the contents of sets.
fn is_same(one: &Policy, other: &Policy) -> bool {
    fn same(one: &Rule, other: &Rule) -> bool {
        let (a, b) = (&one.matches, &other.matches);
        // An absent set and one that no class is in are not the same.
        a.source.is_some() == b.source.is_some()
            && a.dest.is_some() == b.dest.is_some()
            && (a.interface == b.interface && a.not_ip == b.not_ip && a.family == b.family)
            && (a.protocol == b.protocol && a.sport == b.sport && a.dport == b.dport)
            && (a.traits_mask == b.traits_mask && a.traits_value == b.traits_value)
            && (one.verdict == other.verdict && one.reason == other.reason && one.log == other.log)
            && one.origin.kind == other.origin.kind
            && one.origin.text == other.origin.text
    }
    let pairs = one.rules.iter().zip(&other.rules);
    std::ptr::eq(one, other)
        || one.rules.len() == other.rules.len() && pairs.into_iter().all(|(a, b)| same(a, b))
}

/// The ports that look at sets whose addresses move. None if a packet could see more than one of its addresses, or one address more than once, while they do:
/// part of it as it was and part as it is to be.
///
/// One address is written at once, and is not both ends of a packet.
fn see(
    node: &NodePolicy,
    survey: &Survey<'_>,
    relocation: &Relocation,
) -> Option<BTreeSet<PortId>> {
    let holds = |set: &Arc<AddressSet>| {
        let number = survey.number(set);
        number.is_some_and(|number| relocation.moved.contains(&number))
    };
    // How often a policy is looked at for moving addresses.
    let looks = |policy: &Policy| {
        let mut sides = [false; 2];
        for rule in &policy.rules {
            let sets = [&rule.matches.source, &rule.matches.dest];
            for (side, set) in sides.iter_mut().zip(sets) {
                *side = *side || set.as_ref().is_some_and(holds);
            }
        }
        let count = sides.into_iter().filter(|side| *side).count();
        match relocation.is_one {
            true => count.min(1),
            false => count,
        }
    };
    let mut moved = BTreeSet::new();
    for port in &node.ports {
        let inbound = looks(&port.inbound);
        let outbound = looks(&port.outbound) + port.guard.as_ref().map_or(0, looks);
        if inbound > 1 || outbound > 1 {
            return None;
        }
        if inbound + outbound > 0 {
            moved.insert(port.port);
        }
    }
    let host = node.host.iter();
    let mut host = host.flat_map(|host| [&host.inbound, &host.outbound]);
    host.all(|policy| looks(policy) <= 1).then_some(moved)
}
