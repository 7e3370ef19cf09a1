//! Memory of a full node: the agent's, and that of each map as the kernel counts it.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::flow_filter::FlowFilter;
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::sweep::now;
use fw_common::conntrack::{ANSWERED, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{capacity, name};
use fw_common::wire::{Address, protocol};

use crate::Effort;
use crate::change::members;
use crate::crowd::Crowd;
use crate::line::Line;

/// Measures once.
pub fn run(effort: Effort) -> Result<()> {
    let (guests, entries) = match effort.quick {
        true => (50, 50_000),
        false => (1_000, 1_000_000),
    };
    eprintln!("memory: a node with {guests} guests and a blacklist of {entries}");
    let crowd = Crowd::new(guests)?;
    let tree = crowd.tree()?;
    let mut cluster = String::from("[OPTIONS]\nenable: 1\n[IPSET blacklist]\n");
    for member in members(entries) {
        cluster.push_str(&format!("{member}\n"));
    }
    tree.write("firewall/cluster.fw", &cluster)?;
    drop(cluster);
    let (agent, _) = crowd.start(&tree)?;
    let pins = Pins::new(agent.pin_directory());
    let flows = capacity::FLOWS - 1_000;
    fill(&pins, flows)?;
    eprintln!("memory: {flows} flows are in the table");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let peak: f64 = peak.context("the agent's peak")?.parse()?;
    let row = |case: String| Line::new("memory", case, "MiB").at("guests", guests);
    let resident = agent.memory()? as f64 / 1024.0;
    row("agent, resident".to_owned())
        .with(vec![resident])
        .print()?;
    row("agent, at its peak".to_owned())
        .with(vec![peak / 1024.0])
        .print()?;
    let mut sum = 0.0;
    let mut maps = Vec::new();
    for map in name::ALL {
        let size = size(&pins, map).with_context(|| format!("the size of {map}"))?;
        sum += size;
        maps.push((map, size));
    }
    row("maps, together".to_owned()).with(vec![sum]).print()?;
    for (map, size) in maps {
        // What is not told apart at this precision is no row of its own.
        if size >= 0.1 {
            row(format!("map {map}")).with(vec![size]).print()?;
        }
    }
    Ok(())
}

/// MiB of a map.
fn size(pins: &Pins, name: &str) -> Result<f64> {
    let map = MapData::from_pin(pins.map(name)).context("opening its pin")?;
    let file = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes: f64 = line.context("the kernel tells none")?.trim().parse()?;
    Ok(bytes / f64::from(1 << 20))
}

/// The key of a guest's flow; each number is another one's.
pub fn key(vmid: u32, number: u32) -> FlowKey {
    FlowKey {
        vmid,
        net: 0,
        protocol: protocol::TCP,
        version: 4,
        local: Address::v4(number),
        remote: Address::v4(!number),
        local_port: 22,
        remote_port: (number & 0xffff) as u16,
    }
}

/// Puts flows of guests that there are not into the table.
pub fn fill(pins: &Pins, count: u32) -> Result<()> {
    ensure!(count <= capacity::FLOWS, "the table holds fewer flows");
    let map = pins.hash::<FlowKey, Flow>(name::FLOWS)?;
    let keys = (0..count).map(|number| key(500_000 + number % 1_000, number));
    let keys: Vec<FlowKey> = keys.collect();
    let flow = Flow {
        seen: now(),
        state: State::Established as u32 | ANSWERED,
        ..Flow::default()
    };
    Batch::of(&map, name::FLOWS)?.write(keys.iter().map(|key| (*key, flow)))?;
    let filter = FlowFilter::open(pins)?;
    keys.iter().for_each(|key| filter.note(key));
    Ok(())
}
