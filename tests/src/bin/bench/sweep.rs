//! What the sweep of the flow tables costs: the processor time of a pass over a table of N flows of which a share has expired.
//!
//! The maps are pinned in a directory of their own, which is removed at the end. Needs root and `/sys/fs/bpf`.

use std::path::Path;

use anyhow::{Context, Result};
use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::sweep::{now, sweep};
use fw_agent::datapath::{Action, AttachMode, Kernel};
use fw_common::conntrack::{ANSWERED, SECOND, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Settings, capacity, name};
use fw_common::wire::{Address, protocol};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tapwall_tests::kernel::PinDirectory;

/// One pass.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Flows in the table.
    flows: u64,
    /// Of which the pass removed.
    removed: u64,
    /// Processor time of the pass, in milliseconds.
    cpu_ms: f64,
    /// Share of one core with a pass every ten seconds.
    percent_of_a_core: f64,
}

/// Measures passes without and with expired flows.
pub fn run(out: &Path) -> Result<()> {
    let rows = [0, 10, 2].map(measure);
    let rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
    println!(
        "{:>10} {:>10} {:>10} {:>8}",
        "flows", "removed", "cpu ms", "% core"
    );
    for row in &rows {
        println!(
            "{:>10} {:>10} {:>10.1} {:>8.2}",
            row.flows, row.removed, row.cpu_ms, row.percent_of_a_core
        );
    }
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let path = out.join("sweep.json");
    std::fs::write(&path, serde_json::to_string_pretty(&rows)?)
        .with_context(|| format!("writing {}", path.display()))
}

/// A pass over a full table; one flow in `one_in` has expired (0: none).
fn measure(one_in: u32) -> Result<Row> {
    let directory = PinDirectory::new();
    let mut kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel())?;
    kernel.apply(&Action::WriteSettings(Settings {
        tcp_established: 60,
        ..Settings::default()
    }))?;
    let pins = directory.pins();
    let map = pins.hash::<FlowKey, Flow>(name::FLOWS)?;
    let flows = (0..capacity::FLOWS).map(|number| {
        let key = FlowKey {
            vmid: 100 + number % 100,
            net: 0,
            protocol: protocol::TCP,
            version: 4,
            local: Address::v4(number),
            remote: Address::v4(!number),
            local_port: 22,
            remote_port: number as u16,
        };
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
    let before = cpu();
    let swept = sweep(&pins)?;
    let cpu_ms = cpu() - before;
    Ok(Row {
        flows: swept.flows.values().sum::<u64>() + swept.removed,
        removed: swept.removed,
        cpu_ms,
        percent_of_a_core: cpu_ms / 10_000.0 * 100.0,
    })
}

/// Processor time of this thread, in milliseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
