//! What a change costs once everything is there: one rule of one guest among many, one address of a long set.
//!
//! In: the numbers of guests and of prefixes. Out: on standard output, per change, milliseconds of processor time to build the image, to plan, and to carry the plan
//! out in the kernel, and how many actions the plan has. Policies are made here, so that neither reading nor parsing is in it. Needs root and a BPF file system.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};
use fw_agent::datapath::plan::{Present, next_image, plan_node};
use fw_agent::datapath::{AttachMode, Kernel, State};
use fw_agent::image::Builder;
use fw_agent::policy::{
    AddressSet, GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy,
    Rule, SetEntry, Vlans,
};
use fw_common::verdict::{Reason, Verdict};
use tapwall_tests::kernel::{PinDirectory, apply_to_maps};
use tapwall_tests::processor;

const RULES: u32 = 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| match arguments.next() {
        Some(text) => text
            .parse()
            .with_context(|| format!("`{text}` is no number")),
        None => Ok(default),
    };
    let (guests, prefixes) = (number(1000)?, number(1_000_000)?);
    let mut maps = Maps::open(guests)?;
    let blacklist = scattered(prefixes);
    let list = |extra: &[Ipv4Addr]| {
        let mut set = blacklist.clone();
        set.entries.extend(extra.iter().map(|address| SetEntry {
            net: IpAddr::V4(*address).into(),
            nomatch: false,
        }));
        set.entries.sort_unstable();
        Arc::new(set)
    };
    // What an edit does not concern is the same allocation, as a resolver keeps it.
    let plain = Crowd::new(guests, list(&[]));
    let listed = Crowd::new(guests, list(&[Ipv4Addr::new(198, 51, 100, 7)]));
    maps.step("everything", &plain.node(0))?;
    maps.step("nothing", &plain.node(0))?;
    maps.step("a rule's port", &plain.node(1))?;
    maps.step("a rule's address", &plain.node(2))?;
    maps.step("one address more", &listed.node(2))?;
    maps.step("and less", &plain.node(2))?;
    maps.step("and more", &listed.node(2))?;
    maps.restart()?;
    maps.step("after a restart", &listed.node(2))
}

/// The kernel's maps, on pins of their own, with no device attached.
struct Maps {
    kernel: Kernel,
    state: State,
    builder: Builder,
    present: Present,
    _directory: PinDirectory,
}

impl Maps {
    fn open(guests: u32) -> Result<Self> {
        let directory = PinDirectory::new();
        let devices =
            (0..guests).map(|number| (format!("tap{}i0", 100 + number), (1 << 20) + number));
        Ok(Self {
            kernel: Kernel::open(directory.path(), AttachMode::of_this_kernel())
                .context("loading the kernel programs (this needs root and /sys/fs/bpf)")?,
            state: State::default(),
            builder: Builder::default(),
            present: Present {
                devices: devices.collect(),
                ..Present::default()
            },
            _directory: directory,
        })
    }

    fn step(&mut self, name: &str, node: &NodePolicy) -> Result<()> {
        let start = processor::milliseconds();
        let image = next_image(&mut self.builder, &self.state, node, &self.present);
        let built = processor::milliseconds();
        let plan = plan_node(&mut self.state, &image, &self.present, |_| false);
        let planned = processor::milliseconds();
        for action in &plan.actions {
            apply_to_maps(&mut self.kernel, action)?;
        }
        let applied = processor::milliseconds();
        println!(
            "{name:>20}: build {:8.2} ms, plan {:7.2} ms, kernel {:8.2} ms, {} actions",
            built - start,
            planned - built,
            applied - planned,
            plan.actions.len(),
        );
        Ok(())
    }

    /// As an agent that starts: what the kernel holds is read back.
    fn restart(&mut self) -> Result<()> {
        let start = processor::milliseconds();
        self.state = self.kernel.recover(&self.present.devices)?;
        self.builder = Builder::default();
        println!(
            "{:>20}: {:.2} ms",
            "reading back",
            processor::milliseconds() - start
        );
        Ok(())
    }
}

/// Guests with rules of their own.
struct Crowd {
    blacklist: Arc<AddressSet>,
    /// All but the first.
    others: Vec<Arc<PortPolicy>>,
}

impl Crowd {
    fn new(guests: u32, blacklist: Arc<AddressSet>) -> Self {
        let others = (1..guests).map(|number| port(number, 0, &blacklist));
        Self {
            others: others.collect(),
            blacklist,
        }
    }

    /// The first guest's rules begin with one that differs by `edit`.
    fn node(&self, edit: u32) -> NodePolicy {
        let mut ports = vec![port(0, edit, &self.blacklist)];
        ports.extend_from_slice(&self.others);
        NodePolicy {
            enabled: true,
            ports,
            ..NodePolicy::default()
        }
    }
}

fn port(number: u32, edit: u32, blacklist: &Arc<AddressSet>) -> Arc<PortPolicy> {
    let set = |address: u32| {
        Arc::new(AddressSet {
            entries: vec![SetEntry {
                net: IpAddr::V4(address.into()).into(),
                nomatch: false,
            }],
        })
    };
    let rule = |text: String, source, port, reason, verdict| Rule {
        matches: Matches {
            source,
            dport: vec![(port, port)],
            ..Matches::default()
        },
        verdict,
        reason,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Rule,
            text: text.into(),
        },
    };
    let last = || Rule {
        matches: Matches::default(),
        ..rule("policy".into(), None, 0, Reason::Policy, Verdict::Drop)
    };
    let listed = Some(Arc::clone(blacklist));
    let mut rules = vec![rule(
        "blacklist".into(),
        listed,
        0,
        Reason::Blacklist,
        Verdict::Drop,
    )];
    rules[0].matches.dport.clear();
    if number == 0 {
        let (address, port) = (0x0b00_0000 + edit / 2, 53 + edit as u16);
        rules.push(rule(
            "edited".into(),
            Some(set(address)),
            port,
            Reason::Rule,
            Verdict::Accept,
        ));
    }
    rules.extend((0..RULES).map(|index| {
        let (text, port) = (format!("rule {number} {index}"), 1000 + index as u16);
        let source = Some(set(0x0a00_0000 + number * RULES + index));
        rule(text, source, port, Reason::Rule, Verdict::Accept)
    }));
    rules.push(last());
    Arc::new(PortPolicy {
        port: PortId {
            vmid: 100 + number,
            net: 0,
        },
        kind: GuestKind::Vm,
        mac: None,
        macfilter: false,
        macfilter_layer2: false,
        vlans: Vlans::None,
        dhcp: false,
        inbound: Policy { rules },
        outbound: Policy {
            rules: vec![last()],
        },
        guard: None,
    })
}

/// Distinct addresses and networks in no order.
fn scattered(entries: u32) -> AddressSet {
    let entries = (0..entries).map(|number| {
        // An odd multiplier makes every number of 28 bits another one.
        let scattered = number.wrapping_mul(0x9e3_779b) & 0xfff_ffff;
        SetEntry {
            net: IpAddr::V4((0x1000_0000 + scattered).into()).into(),
            nomatch: false,
        }
    });
    AddressSet {
        entries: entries.collect(),
    }
}
