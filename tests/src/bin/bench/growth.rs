//! Cost against what a node has much of: the first packet of a flow and the established one, forwarded to a guest behind the agent's programs, while
//! rules, the prefixes of a set, guests and flows become more. Measured as `traffic::inject` does.

use anyhow::Result;
use fw_agent::datapath::pins::Pins;
use tapwall_tests::agent::Agent;
use tapwall_tests::tree::ConfigTree;

use crate::Effort;
use crate::bed::{Bed, VMID};
use crate::change::members;
use crate::crowd::{Crowd, LIMIT};
use crate::line::{Line, Subject};
use crate::memory::fill;
use crate::rules::{OPEN, firewall, rules};
use crate::traffic::inject::{Injector, Packets};

const RULES: [usize; 4] = [10, 100, 1_000, 10_000];
const PREFIXES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const GUESTS: [usize; 3] = [10, 100, 1_000];
const FLOWS: [usize; 4] = [1_000, 16_000, 64_000, 256_000];

/// Measures everything.
pub fn run(effort: Effort) -> Result<()> {
    let part = |sizes: &'static [usize]| match effort.quick {
        true => &sizes[..2],
        false => sizes,
    };
    against_edits(part(&RULES), part(&PREFIXES), effort)?;
    for &guests in part(&GUESTS) {
        eprintln!("growth: {guests} guests");
        let crowd = Crowd::new(guests)?;
        let tree = crowd.tree()?;
        tree.write_firewall(VMID, &firewall(&rules(20)))?;
        let (_agent, _) = crowd.start(&tree)?;
        measure(&crowd.bed, "guests", guests, effort)?;
    }
    against_flows(part(&FLOWS), effort)
}

/// Against rules of the guest, and against the prefixes of the set that its rule is about.
fn against_edits(counts: &[usize], prefixes: &[usize], effort: Effort) -> Result<()> {
    let bed = Bed::new(Subject::Tapwall, &rules(10))?;
    let (agent, tree) = bed.agent()?;
    for &count in counts {
        eprintln!("growth: {count} rules");
        edit(
            agent,
            tree,
            &format!("firewall/{VMID}.fw"),
            &firewall(&rules(count)),
        )?;
        measure(&bed, "rules", count, effort)?;
    }
    // The bench's own packets come from the last two.
    let rules = format!("IN ACCEPT -p udp -dport {OPEN} -source +large\n");
    let guest = format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}");
    let end = "10.77.0.0/16\n192.0.2.0/24\n";
    for &count in prefixes {
        eprintln!("growth: {count} prefixes");
        let mut cluster = String::from("[OPTIONS]\nenable: 1\n[IPSET large]\n");
        for member in members(count) {
            cluster.push_str(&format!("{member}\n"));
        }
        cluster.push_str(end);
        edit(agent, tree, "firewall/cluster.fw", &cluster)?;
        edit(
            agent,
            tree,
            &format!("firewall/{VMID}.fw"),
            &format!("# {count}\n{guest}"),
        )?;
        measure(&bed, "prefixes", count, effort)?;
    }
    Ok(())
}

/// Against flows of others in the table.
fn against_flows(counts: &[usize], effort: Effort) -> Result<()> {
    let bed = Bed::new(Subject::Tapwall, &rules(10))?;
    let pins = Pins::new(bed.agent()?.0.pin_directory());
    for &count in counts {
        eprintln!("growth: {count} flows");
        fill(&pins, u32::try_from(count)?)?;
        measure(&bed, "flows", count, effort)?;
    }
    Ok(())
}

/// Replaces a file and waits until the agent has carried it out.
fn edit(agent: &Agent, tree: &ConfigTree, file: &str, text: &str) -> Result<()> {
    let before = agent.record()?.map_or(0, |record| record.generation);
    tree.write(file, text)?;
    agent.wait_for(LIMIT, "an edit", |record| record.generation > before)?;
    Ok(())
}

fn measure(bed: &Bed, of: &'static str, count: usize, effort: Effort) -> Result<()> {
    let injector = Injector::new(bed, Subject::Tapwall)?;
    for (packets, case) in [
        (Packets::First, "first packet of a flow"),
        (Packets::Established, "established packet"),
    ] {
        let samples: Result<Vec<f64>> = (0..effort.rounds(2, 5))
            .map(|_| injector.measure(bed, packets, effort.sample()))
            .collect();
        let line = Line::new("growth", format!("{case}, against {of}"), "ns");
        line.at(of, count).with(samples?).print()?;
    }
    Ok(())
}
