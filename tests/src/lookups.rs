//! The maps that classification looks at, in plain memory, filled action by action as the kernel's are.
//!
//! In: the actions of plans. Out: the tables of the pipeline, as far as a port's policies and the classes of addresses go. Whoever asks for more (flows,
//! limits) finds nothing.

use std::collections::BTreeMap;

use fw_agent::datapath::Action;
use fw_agent::image::{Classes, Prefixes};
use fw_common::ban::Ban;
use fw_common::event::FlowNews;
use fw_common::flow::{Flow, FlowKey, FlowRef};
use fw_common::maps::classes::LINEAGE;
use fw_common::maps::{FragmentKey, FragmentValue, Port, Settings};
use fw_common::tables::{Tables, Words};
use fw_common::wire::{Address, IpVersion};
use ipnet::{Ipv4Net, Ipv6Net};

/// The maps.
#[derive(Debug, Default)]
pub struct Lookups {
    /// By interface index.
    pub ports: BTreeMap<u32, Port>,
    arena: BTreeMap<u32, u64>,
    v4: BTreeMap<(u32, Ipv4Net), u32>,
    v6: BTreeMap<(u32, Ipv6Net), u32>,
}

impl Lookups {
    /// Does what an action does to these maps.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::WriteClasses { space, classes } => {
                let lineage = classes.lineage_since(&Classes::default());
                self.write(*space, &lineage, &classes.prefixes);
            }
            Action::WriteEntries {
                space,
                lineage,
                prefixes,
            } => self.write(*space, lineage, prefixes),
            Action::WritePolicy { start, words } | Action::AddBits { start, words } => {
                self.arena.extend((*start..).zip(words.iter().copied()));
            }
            Action::SetPort { ifindex, port, .. } => {
                self.ports.insert(*ifindex, *port);
            }
            Action::RemovePort { ifindex } => {
                self.ports.remove(ifindex);
            }
            Action::RemoveClasses { space, .. } => {
                self.v4.retain(|(number, _), _| number & !LINEAGE != *space);
                self.v6.retain(|(number, _), _| number != space);
            }
            Action::WriteSettings(_)
            | Action::ClearCounters { .. }
            | Action::AddLocals(_)
            | Action::RemoveLocals(_)
            | Action::Attach { .. }
            | Action::Detach { .. }
            | Action::ResizeFlows { .. }
            | Action::FetchFlows
            | Action::SetStation { .. }
            | Action::RemoveStation { .. }
            | Action::AttachUplink { .. }
            | Action::DetachUplink { .. }
            | Action::AwaitReaders => {}
        }
    }

    fn write(&mut self, space: u32, lineage: &[(u32, u32)], prefixes: &Prefixes) {
        for (class, parent) in lineage {
            self.v4.insert((space | LINEAGE, host(*class)), *parent);
        }
        for (net, value) in &prefixes.v4 {
            self.v4.insert((space, *net), *value);
        }
        for (net, value) in &prefixes.v6 {
            self.v6.insert((space, *net), *value);
        }
    }

    /// What a class space holds; the default if that makes no sense.
    pub fn space(&self, space: u32) -> Classes {
        let v4 = |wanted: u32| {
            let entries = self
                .v4
                .iter()
                .filter(move |((number, _), _)| *number == wanted);
            entries.map(|((_, net), value)| (*net, *value))
        };
        let v6 = self.v6.iter().filter(|((number, _), _)| *number == space);
        let prefixes = Prefixes {
            v4: v4(space).collect(),
            v6: v6.map(|((_, net), value)| (*net, *value)).collect(),
        };
        let lineage = v4(space | LINEAGE).map(|(net, value)| (u32::from(net.network()), value));
        Classes::with_lineage(prefixes, &lineage.collect()).unwrap_or_default()
    }
}

fn host(number: u32) -> Ipv4Net {
    std::net::Ipv4Addr::from(number).into()
}

/// Words that were written; all others are 0.
#[derive(Clone, Copy)]
struct Arena<'l>(&'l BTreeMap<u32, u64>);

impl Words for Arena<'_> {
    fn word(self, index: u32) -> Option<u64> {
        Some(self.0.get(&index).copied().unwrap_or(0))
    }
}

impl Tables for &Lookups {
    fn port(&self, ifindex: u32) -> Option<&Port> {
        self.ports.get(&ifindex)
    }

    fn words(&self) -> Option<impl Words> {
        Some(Arena(&self.arena))
    }

    fn longest_prefix(&self, space: u32, version: IpVersion, address: &Address) -> u32 {
        let words = address.0.iter();
        let number = words.fold(0, |number, word| {
            number << 32 | u128::from(u32::from_be(*word))
        });
        let found = match version {
            IpVersion::V4 => (0..=32).rev().find_map(|length| {
                let net = Ipv4Net::new((number as u32).into(), length).ok()?.trunc();
                self.v4.get(&(space, net))
            }),
            IpVersion::V6 => (0..=128).rev().find_map(|length| {
                let net = Ipv6Net::new(number.into(), length).ok()?.trunc();
                self.v6.get(&(space, net))
            }),
            IpVersion::None => None,
        };
        found.copied().unwrap_or(0)
    }

    fn has_bans(&self) -> bool {
        false
    }

    fn ban(&self, _address: &Address, _bits: u32) -> Option<Ban> {
        None
    }

    fn flow(&self, _key: &FlowKey) -> Option<FlowRef<'_>> {
        None
    }

    fn half_open(&self, _key: &FlowKey) -> Option<FlowRef<'_>> {
        None
    }

    fn insert_half_open(&self, _key: &FlowKey, _flow: &Flow) -> bool {
        false
    }

    fn establish(&self, _key: &FlowKey, _flow: &Flow) -> bool {
        false
    }

    fn remove_flow(&self, _key: &FlowKey) {}

    fn tell_flow(&self, _key: &FlowKey, _news: FlowNews) {}

    fn remember_fragment(&self, _key: &FragmentKey, _value: &FragmentValue) {}

    fn first_fragment(&self, _key: &FragmentKey) -> Option<FragmentValue> {
        None
    }

    fn take_syn(&self, _source: &Address, _interval: u64, _burst: u32) -> bool {
        true
    }

    fn settings(&self) -> Settings {
        Settings::default()
    }

    fn now(&self) -> u64 {
        0
    }
}
