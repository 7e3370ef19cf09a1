//! A set of N prefixes from its file to policies in force.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use fw_agent::config::{self, Sources};
use fw_agent::datapath::plan::{Present, next_image, plan_node};
use fw_agent::datapath::{AttachMode, Kernel, State};
use fw_agent::image::{Builder, MapImage};
use fw_agent::policy::{self, NodePolicy};
use fw_common::maps::name;
use serde::{Deserialize, Serialize};
use tapwall_tests::kernel::{PinDirectory, apply_to_maps};
use tapwall_tests::tree::{ConfigTree, NODE, facts};

use crate::Effort;
use crate::line::Line;

/// Sizes, in prefixes.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// One run. Times in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    entries: usize,
    file_bytes: usize,
    read: f64,
    parse: f64,
    resolve: f64,
    build: f64,
    /// Writing the image to the kernel's maps, none of which hold anything.
    write: f64,
    /// From the files to policies in force.
    total: f64,
    /// The same once more, after an edit that touches a small set and a rule.
    edit: f64,
    /// Of one address more in the set, what is done in the kernel's maps.
    address: f64,
    /// Memory of the kernel's tries, in KiB.
    tries_kib: u64,
    /// Largest resident size of the process, in KiB.
    peak_kib: u64,
}

/// Measures one set in this process.
pub fn measure(entries: usize) -> Result<Measured> {
    let tree = ConfigTree::with_demo_guests()?;
    let text = cluster(entries);
    tree.write("firewall/cluster.fw", &text)?;
    tree.write_firewall(100, &rules("10.0.0.1"))?;
    let file_bytes = text.len();
    drop(text);

    let mut maps = Maps::open()?;
    let start = Instant::now();
    let sources = Sources::read(tree.path(), NODE);
    let read = start.elapsed();
    let (config, diagnostics) = config::parse(&sources);
    let parse = start.elapsed() - read;
    ensure!(diagnostics.is_empty(), "{}", diagnostics[0]);
    let (node, _) = policy::resolve(&config, &facts(NODE), 0);
    let resolve = start.elapsed() - read - parse;
    let image = maps.image(&node);
    let build = start.elapsed() - read - parse - resolve;
    let write = maps.apply(&image)?;
    let spaces = [&image.space.small, &image.space.big];
    let prefixes: usize = spaces.iter().map(|space| space.prefixes.len()).sum();
    ensure!(
        prefixes * 10 > entries * 9,
        "only {prefixes} of {entries} prefixes are in the image"
    );
    let seconds = |duration: Duration| duration.as_secs_f64();
    let tries_kib = maps.tries_kib()?;
    drop((image, node, config, sources));
    tree.write_firewall(100, &rules("10.0.0.0/24"))?;
    let start = Instant::now();
    let (config, _) = config::parse(&Sources::read(tree.path(), NODE));
    let (node, _) = policy::resolve(&config, &facts(NODE), 0);
    let image = maps.image(&node);
    maps.apply(&image)?;
    let edit = start.elapsed();
    drop((image, node, config));
    let text = format!("{}203.0.113.77\n", cluster(entries));
    tree.write("firewall/cluster.fw", &text)?;
    let (config, _) = config::parse(&Sources::read(tree.path(), NODE));
    let (node, _) = policy::resolve(&config, &facts(NODE), 0);
    let image = maps.image(&node);
    let address = maps.apply(&image)?;
    Ok(Measured {
        entries,
        file_bytes,
        read: seconds(read),
        parse: seconds(parse),
        resolve: seconds(resolve),
        build: seconds(build),
        write: seconds(write),
        total: seconds(read + parse + resolve + build + write),
        edit: seconds(edit),
        address: seconds(address),
        tries_kib,
        peak_kib: peak_kib()?,
    })
}

/// Measures all sizes, each run in a process of its own.
pub fn run(effort: Effort) -> Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let sizes = if effort.quick { &SIZES[..3] } else { &SIZES };
    let rounds = effort.rounds(1, 3);
    for &entries in sizes {
        let mut runs = Vec::new();
        for round in 0..rounds {
            eprintln!("set: {entries} prefixes, round {} of {rounds}", round + 1);
            let output = Command::new(&program)
                .args(["set", &entries.to_string()])
                .output()
                .context("running one measurement")?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            runs.push(serde_json::from_slice::<Measured>(&output.stdout)?);
        }
        for (case, unit, what) in COLUMNS {
            let samples = runs.iter().map(what).collect();
            let line = Line::new("set", case, unit).at("prefixes", entries);
            line.with(samples).print()?;
        }
    }
    Ok(())
}

/// A case of the table: its name, its unit and where its samples are.
type Column = (&'static str, &'static str, fn(&Measured) -> f64);

const COLUMNS: [Column; 10] = [
    ("read", "ms", |run| run.read * 1e3),
    ("parse", "ms", |run| run.parse * 1e3),
    ("resolve", "ms", |run| run.resolve * 1e3),
    ("build", "ms", |run| run.build * 1e3),
    ("write to the kernel", "ms", |run| run.write * 1e3),
    ("file to enforcement", "ms", |run| run.total * 1e3),
    ("a rule edited beside it", "ms", |run| run.edit * 1e3),
    ("one address more, in the kernel", "ms", |run| {
        run.address * 1e3
    }),
    ("tries", "MiB", |run| run.tries_kib as f64 / 1024.0),
    ("peak memory of the process", "MiB", |run| {
        run.peak_kib as f64 / 1024.0
    }),
];

/// A guest's rules: the long set, and a small one.
fn rules(small: &str) -> String {
    format!(
        "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 443 -dest +blacklist\nIN ACCEPT -source {small}\n"
    )
}

/// The kernel's maps, on pins of their own, with no device attached.
struct Maps {
    kernel: Kernel,
    state: State,
    builder: Builder,
    directory: PinDirectory,
}

impl Maps {
    fn open() -> Result<Self> {
        let directory = PinDirectory::new();
        Ok(Self {
            kernel: Kernel::open(directory.path(), AttachMode::of_this_kernel())
                .context("loading the kernel programs (this needs root and /sys/fs/bpf)")?,
            state: State::default(),
            builder: Builder::default(),
            directory,
        })
    }

    /// Two devices that are not there.
    fn present() -> Present {
        let devices = [("tap100i0", 1 << 20), ("veth101i0", (1 << 20) + 1)];
        let devices = devices.map(|(device, index)| (device.to_owned(), index));
        Present {
            devices: devices.into(),
            ..Present::default()
        }
    }

    /// The image as the agent makes it, on what is in force.
    fn image(&mut self, node: &NodePolicy) -> MapImage {
        next_image(&mut self.builder, &self.state, node, &Self::present())
    }

    /// Puts it in force; how long that took.
    fn apply(&mut self, image: &MapImage) -> Result<Duration> {
        let start = Instant::now();
        let plan = plan_node(&mut self.state, image, &Self::present(), |_| false);
        ensure!(plan.no_room.is_empty(), "no room for {:?}", plan.no_room);
        for action in &plan.actions {
            apply_to_maps(&mut self.kernel, action)?;
        }
        Ok(start.elapsed())
    }

    /// What the kernel says the tries take, nodes and all.
    fn tries_kib(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in [name::CLASSES_V4, name::CLASSES_V6] {
            let map = MapData::from_pin(self.directory.pins().map(name))?;
            let file = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            let number = line.context("the kernel tells no size")?;
            bytes += number
                .trim()
                .parse::<u64>()
                .context("understanding a size")?;
        }
        Ok(bytes / 1024)
    }
}

/// A cluster file with one set of distinct prefixes, the blacklist: two thirds IPv4 (single addresses and /28), one third IPv6, a few of each excepted.
fn cluster(entries: usize) -> String {
    let mut text =
        String::from("[OPTIONS]\nenable: 1\n\n[ALIASES]\nlocal_network 198.51.100.0/24\n");
    text.push_str("\n[IPSET blacklist]\n");
    for number in 0..entries as u32 {
        // An odd multiplier makes every number of 28 bits another one, in no order.
        let scattered = number.wrapping_mul(0x9e3_779b) & 0xfff_ffff;
        let mark = if number % 64 == 63 { "!" } else { "" };
        let [_, b, c, d] = scattered.to_be_bytes();
        // Writing to a string cannot fail.
        let line = match number % 3 {
            0 => writeln!(text, "{mark}{}.{b}.{c}.{d}", 16 + (scattered >> 24)),
            1 => writeln!(
                text,
                "{mark}{}.{b}.{c}.{}/28",
                64 + (scattered >> 24),
                d & 0xf0
            ),
            _ => writeln!(
                text,
                "{mark}2001:db8:{:x}:{:x}::/64",
                scattered >> 16,
                scattered & 0xffff
            ),
        };
        line.ok();
    }
    text
}

fn peak_kib() -> Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("/proc/self/status has no VmHWM")?;
    let number = line.trim().trim_end_matches(" kB");
    number.parse().context("understanding VmHWM")
}
