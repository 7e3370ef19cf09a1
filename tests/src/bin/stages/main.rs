//! What a change costs, stage by stage: many guests with rules, one of them edited; and a big set with one address more.
//!
//! Prints the processor time of each stage in milliseconds: of the start with nothing known, then the median and the longest over the edits. The maps are
//! pinned in a directory of their own, no device is attached. Needs root, `/sys/fs/bpf` and a release build.

mod tree;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use fw_agent::cache::{Cache, Digests, Kept};
use fw_agent::compile::Compiler;
use fw_agent::config::{Changed, Reader, Sources};
use fw_agent::datapath::plan::plan;
use fw_agent::datapath::{AttachMode, Kernel, State};
use fw_agent::image::MapImage;
use tapwall_tests::kernel::{PinDirectory, apply_to_maps};
use tapwall_tests::processor;
use tapwall_tests::tree::{NODE, facts};

#[derive(Parser)]
struct Arguments {
    /// Guests.
    #[arg(long, default_value_t = 1000)]
    guests: u32,
    /// Rules of each guest.
    #[arg(long, default_value_t = 20)]
    rules: u32,
    /// Entries of the cluster's big set.
    #[arg(long, default_value_t = 0)]
    set: u32,
    /// Edits; of the set if there is one, else of a guest's rule.
    #[arg(long, default_value_t = 20)]
    edits: u32,
    /// Do not wait until the times of the files are certain.
    #[arg(long)]
    no_wait: bool,
    /// Leave the kernel alone: only up to the policies.
    #[arg(long)]
    no_kernel: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let tree = tree::make(arguments.guests, arguments.rules, arguments.set)?;
    let pins = PinDirectory::new();
    let mut kernel = match arguments.no_kernel {
        true => None,
        false => Some(
            Kernel::open(pins.path(), AttachMode::of_this_kernel())
                .context("loading the kernel programs")?,
        ),
    };
    let mut state = State::default();
    let directory = tapwall_tests::tree::temporary_directory("stages")?;
    let mut kept = Kept::new(Cache::new(directory.path(), tree.path(), NODE));
    let mut digests = Digests::default();
    let mut reader = Reader::new(tree.path(), NODE);
    if !arguments.no_wait {
        reader.read(&Changed::Anything)?;
        std::thread::sleep(Duration::from_secs(2));
    }
    let mut compiler = Compiler::default();
    let mut last = Sources::default();
    let mut table: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for edit in 0..=arguments.edits {
        let mut changed = Changed::Anything;
        if edit > 0 {
            let path = tree::edit(
                &tree,
                arguments.guests,
                arguments.rules,
                arguments.set,
                edit,
            )?;
            changed = Changed::Only([path].into());
        }
        let mut times = Vec::new();
        let mut clock = processor::milliseconds();
        let mut lap = |stage| {
            times.push((stage, processor::milliseconds() - clock));
            clock = processor::milliseconds();
        };
        let mut sources = reader.read(&changed)?;
        lap("1 read");
        sources.keep_from(&last);
        lap("2 doubt");
        ensure!(sources != last, "nothing was edited");
        lap("3 compare");
        let (config, node, found) = compiler.resolve(&sources, &facts(NODE), 0);
        lap("4 resolve");
        ensure!(found.is_empty(), "{}", found[0]);
        if let Some(kernel) = &mut kernel {
            let image = MapImage::build(&node);
            lap("6 image");
            let ports = image.ports.values().zip(1 << 20..);
            let devices = ports.map(|(port, index)| (port.device.clone(), index));
            let plan = plan(&mut state, &image, &devices.collect(), |_| false);
            ensure!(plan.no_room.is_empty(), "no room for {:?}", plan.no_room);
            lap("7 plan");
            plan.actions
                .iter()
                .try_for_each(|action| apply_to_maps(kernel, action))?;
            lap("8 apply");
        }
        digests.of(&sources);
        lap("9 digest");
        kept.save(&sources)?;
        lap("a save");
        if edit == 0 {
            println!("start:");
            for (stage, time) in &times {
                println!("{stage:>12} {time:>9.2} ms");
            }
            println!("{:>12} {:>9} KiB", "resident", status("VmRSS:")?);
        } else {
            for (stage, time) in times {
                table.entry(stage).or_default().push(time);
            }
        }
        last = sources;
        drop(config);
    }
    println!("edits:           median   longest");
    for (stage, mut times) in table {
        times.sort_by(f64::total_cmp);
        let longest = times.last().copied().unwrap_or_default();
        println!(
            "{stage:>12} {:>9.2} {longest:>9.2} ms",
            times[times.len() / 2]
        );
    }
    println!("{:>12} {:>9} KiB", "peak", status("VmHWM:")?);
    Ok(())
}

/// A size that the kernel tells of this process, in KiB.
fn status(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.with_context(|| format!("/proc/self/status has no {name}"))?;
    let number = number.trim().trim_end_matches(" kB");
    number.parse().context("understanding a size")
}
