//! The packet pipeline's tables in plain memory, filled from a [`MapImage`].
//!
//! What the kernel does with maps, `fwctl simulate` and the host tests do with this. One thread at a time (`&Memory` is not `Sync`).

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fw_common::ban::{Ban, V4_BITS};
use fw_common::early::Stations;
use fw_common::event::{FlowEvent, FlowNews};
use fw_common::flow::{Flow, FlowKey, FlowRef};
use fw_common::ledger::{Frame, Ledger};
use fw_common::limit::Bucket;
use fw_common::maps::classes::LINEAGE;
use fw_common::maps::{
    ANY_VLAN, FragmentKey, FragmentValue, NO_VLAN, Port, PortKey, Settings, Station, counter,
    port_flag,
};
use fw_common::pipeline;
use fw_common::tables::{Tables, Words};
use fw_common::verdict::{Direction, Judgement};
use fw_common::wire::{Address, Headers, IpVersion};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::books::{Books, Logged};
use super::{Classes, HOST, MapImage, PortImage, VlanImage};
use crate::policy::PortId;

type FlowTable = RefCell<HashMap<FlowKey, Box<UnsafeCell<Flow>>>>;

/// One class space.
#[derive(Default)]
struct Tries {
    v4: PrefixMap<Ipv4Net, u32>,
    v6: PrefixMap<Ipv6Net, u32>,
    /// Classes that were there when the space was begun.
    base: u32,
    /// Parents of the others.
    parents: Vec<u32>,
}

impl Tries {
    fn new(classes: &Classes) -> Self {
        Self {
            v4: classes.prefixes.v4.iter().copied().collect(),
            v6: classes.prefixes.v6.iter().copied().collect(),
            base: classes.base,
            parents: classes.parents.clone(),
        }
    }
}

/// Class space of the small sets in [`Memory`].
const SMALL: u32 = 0;
/// That of the big ones.
const BIG: u32 = 1;

/// Where the parts of a class space are in the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlacedSpace {
    /// Class space of the small sets.
    pub(crate) small: u32,
    /// Class space of the big ones.
    pub(crate) big: u32,
    /// First words of the prefilters.
    pub(crate) prefilter: [u32; 2],
}

impl PlacedSpace {
    /// A port that looks addresses up here.
    fn port(self) -> Port {
        Port {
            space: self.small,
            big_space: self.big,
            prefilter: self.prefilter,
            ..Port::default()
        }
    }
}

/// All tables of one node. Ports are numbered from 1 in the order of their identity, in place of interface indices.
#[derive(Default)]
pub struct Memory {
    ports: Vec<(PortId, Port)>,
    /// The host on each interface that has policies of its own, and on all others.
    host: Option<(BTreeMap<Arc<str>, Port>, Port)>,
    arena: Vec<u64>,
    /// Class spaces by number: those of the small and of the big sets.
    spaces: [Tries; 2],
    flows: FlowTable,
    half_open: FlowTable,
    /// Flows that were removed while a reference to them may be in use.
    #[expect(
        clippy::vec_box,
        reason = "references point into the boxes while the vector grows"
    )]
    removed: RefCell<Vec<Box<UnsafeCell<Flow>>>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    /// Flows that both ends have taken part in, at the most; none: no limit.
    room: Option<usize>,
    syn_limits: RefCell<HashMap<Address, Bucket>>,
    settings: Settings,
    /// Bans by prefix, in 128 bits.
    bans: RefCell<BTreeMap<(u128, u32), Ban>>,
    now: Cell<u64>,
    books: Books,
    /// What was told of flows.
    told: RefCell<Vec<FlowEvent>>,
}

impl Memory {
    /// What was told of flows since the last call.
    pub fn take_told(&self) -> Vec<FlowEvent> {
        self.told.take()
    }

    /// Tables with the contents of `image` and no flows.
    pub fn new(image: &MapImage) -> Self {
        let mut memory = Self {
            arena: vec![0],
            settings: image.settings,
            now: Cell::new(3_600 * 1_000_000_000),
            ..Self::default()
        };
        let mut starts = Vec::new();
        for policy in &image.policies {
            starts.push(memory.arena.len() as u32);
            memory.arena.extend(policy.placed(SMALL, BIG));
        }
        memory.spaces = [&image.space.small, &image.space.big].map(|classes| Tries::new(classes));
        let space = PlacedSpace {
            small: SMALL,
            big: BIG,
            prefilter: image
                .space
                .big
                .prefixes
                .prefilters()
                .map(|words| match words.len() {
                    0 => 0,
                    _ => {
                        let start = memory.arena.len() as u32;
                        memory.arena.extend(words);
                        start
                    }
                }),
        };
        memory.settings.space = space.big;
        memory.settings.prefilter = space.prefilter;
        for ((id, port), slot) in image.ports.iter().zip(1..) {
            let places = Places {
                policy: port.policies.map(|index| starts[index]),
                guard: port.guard.map_or(0, |index| starts[index]),
                vlans: match &port.vlans {
                    VlanImage::None => NO_VLAN,
                    VlanImage::Any => ANY_VLAN,
                    VlanImage::Words(words) => {
                        let start = memory.arena.len() as u32;
                        memory.arena.extend(words);
                        start
                    }
                },
                space,
            };
            let mut value = port_value(*id, port, places, 0);
            value.counters = slot;
            memory.ports.push((*id, value));
        }
        memory.host = image.host.as_ref().map(|host| {
            let value = |pair: &[usize; 2]| Port {
                vmid: HOST.vmid,
                net: HOST.net,
                flags: host.flags | port_flag::HOST,
                vlans: ANY_VLAN,
                policy: pair.map(|index| starts[index]),
                ..space.port()
            };
            let interfaces = host.interfaces.iter();
            let interfaces = interfaces.map(|(name, pair)| (Arc::clone(name), value(pair)));
            (interfaces.collect(), value(&host.elsewhere))
        });
        memory
    }

    /// Replaces the contents by those of another image, as the agent does in the kernel: flows stay, and belong to an older epoch now.
    pub fn replace(&mut self, image: &MapImage) {
        let old = std::mem::replace(self, Self::new(image));
        let epoch = old.ports.iter().map(|(_, port)| port.epoch).max();
        for (_, port) in &mut self.ports {
            port.epoch = epoch.unwrap_or(0).wrapping_add(1);
        }
        self.flows = old.flows;
        self.half_open = old.half_open;
        self.removed = old.removed;
        self.fragments = old.fragments;
        self.room = old.room;
        self.now = old.now;
    }

    /// The host on an interface; none if its firewall is off.
    pub fn host_on(&self, interface: &str) -> Option<&Port> {
        let (interfaces, elsewhere) = self.host.as_ref()?;
        Some(interfaces.get(interface).unwrap_or(elsewhere))
    }

    /// The port of a guest's NIC.
    pub fn port_of(&self, id: PortId) -> Option<&Port> {
        let index = self.ports.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.ports[index].1)
    }

    /// Takes another image in place of the one it has; flows, fragments, limits and the clock stay.
    pub fn switch_to(&mut self, image: &MapImage) {
        let old = std::mem::replace(self, Self::new(image));
        self.flows = old.flows;
        self.half_open = old.half_open;
        self.removed = old.removed;
        self.fragments = old.fragments;
        self.syn_limits = old.syn_limits;
        self.now = old.now;
        self.books = old.books;
        self.bans = old.bans;
    }

    /// Judges a frame at a port and counts it, as the kernel programs do.
    pub fn judge(&self, port: &Port, direction: Direction, frame: &[u8]) -> (Judgement, Logged) {
        let judgement = pipeline::judge(&frame, self, port, direction, &mut Headers::default());
        let size = Frame {
            packets: 1,
            bytes: frame.len() as u32,
            now: self.now(),
        };
        let logged = self
            .books
            .enter(port, direction, judgement, size, &self.settings);
        (judgement, logged)
    }

    /// The words of policies and prefilters.
    pub fn arena(&self) -> &[u64] {
        &self.arena
    }

    /// What was counted.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Bans an address with its prefix until a time of [`Tables::now`]; 0: for ever.
    pub fn ban(&self, net: IpNet, until: u64) {
        let (address, length) = ban_prefix(net);
        let ban = Ban {
            until,
            length,
            reason: 0,
        };
        let mut bans = self.bans.borrow_mut();
        bans.insert((number(&address), length), ban);
    }

    /// Moves the clock.
    pub fn advance(&self, nanoseconds: u64) {
        self.now.set(self.now.get() + nanoseconds);
    }

    /// Takes no more than so many flows that both ends have taken part in.
    pub fn limit_flows(&mut self, room: usize) {
        self.room = Some(room);
    }

    /// Times that a flow found no room (the kernel's counter `FLOWS_REFUSED`).
    pub fn refused_flows(&self) -> u64 {
        let counted = self.books.counted();
        let entry = counted.entries.get(&counter::FLOWS_REFUSED);
        entry.map_or(0, |counter| counter.packets)
    }

    /// Forgets all flows, fragments and limits.
    pub fn forget_flows(&mut self) {
        self.flows.get_mut().clear();
        self.half_open.get_mut().clear();
        self.removed.get_mut().clear();
        self.fragments.get_mut().clear();
        self.syn_limits.get_mut().clear();
    }

    /// All flows: those that both ends have taken part in, and the half-open ones.
    pub fn all_flows(&self) -> [Vec<(FlowKey, Flow)>; 2] {
        [&self.flows, &self.half_open].map(|table| {
            let table = table.borrow();
            let flows = table.iter().map(|(key, flow)| {
                // SAFETY: as in `find`.
                (*key, unsafe { FlowRef::new(flow.get()) }.copy())
            });
            flows.collect()
        })
    }

    fn find<'a>(&'a self, table: &'a FlowTable, key: &FlowKey) -> Option<FlowRef<'a>> {
        let table = table.borrow();
        let flow = table.get(key)?.get();
        // SAFETY: the box is only dropped by `forget_flows`, which borrows `self` mutably; all access is through `FlowRef`.
        Some(unsafe { FlowRef::new(flow) })
    }

    fn take_out(&self, table: &FlowTable, key: &FlowKey) {
        if let Some(flow) = table.borrow_mut().remove(key) {
            self.removed.borrow_mut().push(flow);
        }
    }

    fn put_in(&self, table: &FlowTable, key: &FlowKey, flow: &Flow) {
        self.take_out(table, key);
        let flow = Box::new(UnsafeCell::new(*flow));
        table.borrow_mut().insert(*key, flow);
    }
}

/// Where in the maps is what a port refers to.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    /// First words of its policies, by direction.
    pub(crate) policy: [u32; 2],
    /// First word of its guard, or 0.
    pub(crate) guard: u32,
    /// First word of its VLANs, or what stands for none or all.
    pub(crate) vlans: u32,
    /// Its class spaces.
    pub(crate) space: PlacedSpace,
}

/// A port's value in the map `PORTS`.
pub(crate) fn port_value(id: PortId, port: &PortImage, places: Places, epoch: u32) -> Port {
    let Places {
        policy,
        guard,
        vlans,
        space,
    } = places;
    Port {
        mac: port.mac,
        vmid: id.vmid,
        net: id.net,
        flags: port.flags,
        policy,
        guard,
        guard_epoch: port.guard_epoch,
        epoch,
        vlans,
        ..space.port()
    }
}

impl Stations for &Memory {
    fn station(&self, mac: u64) -> Option<Station> {
        let ports = self.ports.iter().map(|(_, port)| port);
        let stations = ports.filter(|port| port.mac == mac).map(Station::of);
        stations.reduce(Station::both)
    }

    /// Of the host there are no hardware addresses here, and so no stations.
    fn is_own(&self, _address: &Address) -> bool {
        false
    }

    fn has_syn(&self, source: &Address, interval: u64, burst: u32) -> bool {
        let limits = self.syn_limits.borrow();
        let bucket = limits.get(source).copied().unwrap_or_default();
        bucket.has(self.now.get(), interval, burst)
    }
}

/// A prefix as bans are looked up by: its first address, and its length in bits of 128.
pub fn ban_prefix(net: IpNet) -> (Address, u32) {
    let length = match net {
        IpNet::V4(_) => V4_BITS + u32::from(net.prefix_len()),
        IpNet::V6(_) => u32::from(net.prefix_len()),
    };
    (net.network().into(), length)
}

/// An address as a number of 128 bits.
fn number(address: &Address) -> u128 {
    let words = address.0.iter();
    words.fold(0, |number, word| {
        number << 32 | u128::from(u32::from_be(*word))
    })
}

impl Tables for &Memory {
    fn port(&self, ifindex: u32) -> Option<&Port> {
        let index = (ifindex as usize).checked_sub(1)?;
        self.ports.get(index).map(|(_, port)| port)
    }

    fn words(&self) -> Option<impl Words> {
        Some(self.arena())
    }

    fn longest_prefix(&self, space: u32, version: IpVersion, address: &Address) -> u32 {
        let Some(tries) = self.spaces.get((space & !LINEAGE) as usize) else {
            return 0;
        };
        if space & LINEAGE != 0 {
            let class = u32::from_be(address.0[3]).checked_sub(tries.base);
            let parent = class.and_then(|class| tries.parents.get(class as usize));
            return parent.map_or(0, |parent| parent + 1);
        }
        let class = match version {
            IpVersion::V4 => {
                let net = Ipv4Net::from(std::net::Ipv4Addr::from(u32::from_be(address.0[3])));
                tries.v4.get_lpm(&net).map(|(_, class)| *class)
            }
            IpVersion::V6 => {
                let net = Ipv6Net::from(std::net::Ipv6Addr::from(number(address)));
                tries.v6.get_lpm(&net).map(|(_, class)| *class)
            }
            IpVersion::None => None,
        };
        class.unwrap_or(0)
    }

    fn has_bans(&self) -> bool {
        !self.bans.borrow().is_empty()
    }

    fn ban(&self, address: &Address, bits: u32) -> Option<Ban> {
        let bans = self.bans.borrow();
        let address = number(address);
        (0..=bits.min(128)).rev().find_map(|length| {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            bans.get(&(address & mask, length)).copied()
        })
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        self.find(&self.flows, key)
    }

    fn half_open(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        self.find(&self.half_open, key)
    }

    fn insert_half_open(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.put_in(&self.half_open, key, flow);
        true
    }

    fn establish(&self, key: &FlowKey, flow: &Flow) -> bool {
        let port = PortKey::of_flow(key);
        let (within_quota, has_room) = {
            let flows = self.flows.borrow();
            let mine = flows.keys().filter(|key| PortKey::of_flow(key) == port);
            let is_full = self.room.is_some_and(|room| flows.len() >= room);
            let is_there = flows.contains_key(key);
            let within_quota = mine.count() < self.settings.flow_quota as usize;
            (within_quota, is_there || !is_full)
        };
        if !within_quota || !has_room {
            let counter = match within_quota {
                true => counter::FLOWS_REFUSED,
                false => counter::FLOWS_OVER_QUOTA,
            };
            self.books.add(counter, Frame::event(self.now()));
            return false;
        }
        self.put_in(&self.flows, key, flow);
        self.take_out(&self.half_open, key);
        true
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.take_out(&self.flows, key);
    }

    fn tell_flow(&self, key: &FlowKey, news: FlowNews) {
        self.told.borrow_mut().push(news.event(key, self.now()));
    }

    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.borrow_mut().insert(*key, *value);
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn take_syn(&self, source: &Address, interval: u64, burst: u32) -> bool {
        let mut limits = self.syn_limits.borrow_mut();
        limits
            .entry(*source)
            .or_default()
            .take(self.now.get(), interval, burst)
    }

    fn settings(&self) -> Settings {
        self.settings
    }

    fn now(&self) -> u64 {
        self.now.get()
    }
}
