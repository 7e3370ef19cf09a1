//! What the sweep of the flow tables costs: the processor time of a pass over a table of N flows of which a share has expired.
//!
//! The maps are pinned in a directory of their own, which is removed at the end. Needs root and `/sys/fs/bpf`.

use anyhow::{Result, ensure};
use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::sweep::{now, sweep};
use fw_agent::datapath::{Action, AttachMode, Kernel};
use fw_common::conntrack::{ANSWERED, SECOND, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Settings, capacity, name};
use tapwall_tests::kernel::PinDirectory;
use tapwall_tests::processor;

use crate::Effort;
use crate::line::Line;
use crate::memory::key;

/// Which share of the flows has expired: all flows by this number; 0 for none.
const CASES: [(&str, u32); 3] = [
    ("no flow has expired", 0),
    ("one in ten has", 10),
    ("every other has", 2),
];

/// Measures passes without and with expired flows.
pub fn run(effort: Effort) -> Result<()> {
    let rounds = effort.rounds(1, 3);
    let mut samples = [const { Vec::new() }; CASES.len()];
    for round in 0..rounds {
        for ((case, one_in), samples) in CASES.iter().zip(&mut samples) {
            eprintln!("sweep: {case}, round {} of {rounds}", round + 1);
            samples.push(measure(*one_in)?);
        }
    }
    for ((case, _), samples) in CASES.iter().zip(samples) {
        // A pass every ten seconds.
        let shares = samples.iter().map(|ms| ms / 10_000.0 * 100.0).collect();
        let flows = capacity::FLOWS as usize;
        let rows = [
            Line::new("sweep", format!("a pass; {case}"), "ms").with(samples),
            Line::new("sweep", format!("share of a core; {case}"), "%").with(shares),
        ];
        for row in rows {
            row.at("flows", flows).print()?;
        }
    }
    Ok(())
}

/// Milliseconds of processor time of a pass over a full table; one flow in `one_in` has expired (0: none).
fn measure(one_in: u32) -> Result<f64> {
    let directory = PinDirectory::new();
    let mut kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel())?;
    kernel.apply(&Action::WriteSettings(Settings {
        tcp_established: 60,
        ..Settings::default()
    }))?;
    let pins = directory.pins();
    let map = pins.hash::<FlowKey, Flow>(name::FLOWS)?;
    let flows = (0..capacity::FLOWS).map(|number| {
        let key = key(100 + number % 100, number);
        let idle = if one_in > 0 && number % one_in == 0 {
            60 * SECOND
        } else {
            0
        };
        let flow = Flow {
            seen: now().saturating_sub(idle),
            state: State::Established as u32 | ANSWERED,
            ..Flow::default()
        };
        (key, flow)
    });
    Batch::of(&map, name::FLOWS)?.write(flows)?;
    let before = processor::milliseconds();
    let swept = sweep(&pins)?;
    let took = processor::milliseconds() - before;
    let due = match one_in {
        0 => 0,
        one_in => u64::from(capacity::FLOWS / one_in),
    };
    ensure!(
        swept.removed >= due,
        "{} of {due} expired flows were removed",
        swept.removed
    );
    Ok(took)
}
