//! Cost against what a node has much of: the first packet of a flow and the established one, forwarded to a guest behind the agent's programs, while
//! rules, the prefixes of a set, guests and flows become more.
//!
//! Everything of which one thing grows exists at the same time, a node per size, and is measured in turns, as `traffic::inject` does it.

use anyhow::{Context, Result};
use fw_agent::datapath::pins::Pins;
use tapwall_tests::agent::Agent;
use tapwall_tests::tree::ConfigTree;

use crate::Effort;
use crate::bed::VMID;
use crate::change::members;
use crate::crowd::Crowd;
use crate::line::{Line, Subject};
use crate::memory::fill;
use crate::rules::{OPEN, firewall, rules};
use crate::traffic::inject::{Injector, Packets};

/// Rules where another thing grows.
const FEW_RULES: usize = 10;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grows {
    /// Rules of the guest, the last of which match.
    Rules,
    /// Prefixes of the set that the guest's only rule is about.
    Prefixes,
    /// Guests of the node, each with its own rules.
    Guests,
    /// Flows in the table, of other guests.
    Flows,
}

impl Grows {
    const ALL: [Self; 4] = [Self::Rules, Self::Prefixes, Self::Guests, Self::Flows];

    fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Prefixes => "prefixes",
            Self::Guests => "guests",
            Self::Flows => "flows",
        }
    }

    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Rules => &[10, 100, 1_000, 10_000],
            Self::Prefixes => &[1_000, 10_000, 100_000, 1_000_000],
            Self::Guests => &[10, 100, 1_000],
            Self::Flows => &[1_000, 16_000, 64_000, 256_000],
        }
    }
}

const CASES: [(Packets, &str); 2] = [
    (Packets::First, "first packet of a flow"),
    (Packets::Established, "established packet"),
];

/// A node of one size, and what was measured of it.
struct Place {
    // The agent goes before the namespace it is in.
    _agent: Agent,
    _tree: ConfigTree,
    crowd: Crowd,
    injector: Injector,
    lines: [Line; CASES.len()],
}

impl Place {
    fn new(grows: Grows, size: usize) -> Result<Self> {
        let guests = if grows == Grows::Guests { size } else { 1 };
        let crowd = Crowd::new(guests)?;
        let tree = crowd.tree()?;
        let count = if grows == Grows::Rules {
            size
        } else {
            FEW_RULES
        };
        tree.write_firewall(VMID, &firewall(&rules(count)))?;
        if grows == Grows::Prefixes {
            let rule = format!("IN ACCEPT -p udp -dport {OPEN} -source +large\n");
            let guest = format!("[OPTIONS]\nenable: 1\n[RULES]\n{rule}");
            tree.write_firewall(VMID, &guest)?;
            let mut cluster = String::from("[OPTIONS]\nenable: 1\n[IPSET large]\n");
            for member in members(size) {
                cluster.push_str(&format!("{member}\n"));
            }
            // What the bench sends comes from these.
            cluster.push_str("10.77.0.0/16\n192.0.2.0/24\n");
            tree.write("firewall/cluster.fw", &cluster)?;
        }
        let (agent, _) = crowd.start(&tree)?;
        if grows == Grows::Flows {
            fill(&Pins::new(agent.pin_directory()), u32::try_from(size)?)?;
        }
        let line = |case| {
            let case = format!("{case}, against {}", grows.name());
            Line::new("growth", case, "ns").at(grows.name(), size)
        };
        Ok(Self {
            _agent: agent,
            _tree: tree,
            injector: Injector::new(&crowd.bed, Subject::Tapwall)?,
            crowd,
            lines: CASES.map(|(_, case)| line(case)),
        })
    }
}

/// Measures everything.
pub fn run(effort: Effort) -> Result<()> {
    let rounds = effort.rounds(2, 7);
    for grows in Grows::ALL {
        let sizes = match effort.quick {
            true => &grows.sizes()[..2],
            false => grows.sizes(),
        };
        let name = grows.name();
        eprintln!("growth: nodes with {sizes:?} {name}");
        let places: Result<Vec<Place>> =
            sizes.iter().map(|&size| Place::new(grows, size)).collect();
        let mut places = places?;
        for round in 0..rounds {
            eprintln!("growth: {name}, round {} of {rounds}", round + 1);
            for (number, (packets, _)) in CASES.iter().enumerate() {
                for place in &mut places {
                    let sample =
                        place
                            .injector
                            .measure(&place.crowd.bed, *packets, effort.sample());
                    let line = &mut place.lines[number];
                    let what = || format!("{} at {:?}", line.case, line.size);
                    let sample = sample.with_context(what)?;
                    line.samples.push(sample);
                }
            }
        }
        for number in 0..CASES.len() {
            for place in &places {
                place.lines[number].print()?;
            }
        }
    }
    Ok(())
}
