//! `cargo xtask bench packet`: what one packet costs in the kernel programs, in nanoseconds (`BPF_PROG_TEST_RUN`).
//!
//! 1. Maps are filled as the agent fills them ([`bed`], [`cases`]). 2. Every case runs once: what became of the frame must be what the case says.
//! 3. In each round every case runs as each subject, the empty program first, so that all see the same machine. 4. Each case and subject is
//!    printed as a line of JSON; a table of the cost above the empty program, and the targets, go to standard error.
//!
//! The kernel tells the time of a run; what it takes to get there is in the empty program's time too, and taken off round by round.

mod bed;
mod cases;
mod programs;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::bed::{Bed, Subject, time};
use crate::cases::Case;
use crate::report::Row;

#[derive(Parser)]
struct Arguments {
    /// Rounds; each gives one sample per case and subject.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Fewer runs per sample.
    #[arg(long)]
    quick: bool,
    /// Only cases whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// The object of another build, to compare with on the same maps.
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (mut beds, mut cases) = cases::make(arguments.object.as_deref())?;
    cases.retain(|case| case.name.contains(&arguments.only));
    let divisor = if arguments.quick { 4 } else { 1 };
    for case in &cases {
        check(&mut beds[case.bed], case).with_context(|| case.name.clone())?;
    }
    let mut rows: Vec<Row> = Vec::new();
    for case in &cases {
        for subject in beds[case.bed].subjects() {
            rows.push(Row::new(&case.name, *subject));
        }
    }
    for round in 0..=arguments.rounds {
        let mut row = rows.iter_mut();
        for case in &cases {
            let bed = &mut beds[case.bed];
            bed.place(&case.port, case.bans)?;
            for subject in bed.subjects() {
                let nanoseconds = sample(bed, case, *subject, case.repeat / divisor)?;
                let row = row.next().context("a row per case and subject")?;
                // The first round fills caches and tables.
                if round > 0 {
                    row.samples.push(nanoseconds);
                }
            }
        }
    }
    report::print(&rows)
}

/// One sample.
fn sample(bed: &Bed, case: &Case, subject: Subject, repeat: u32) -> Result<u32> {
    use std::os::fd::AsFd;
    let run = bed.program(subject, case.hook, case.spread)?;
    let kind = case.hook.kind();
    let expect = match subject {
        Subject::Empty => kind.pass(),
        Subject::Tapwall | Subject::Other if case.passes => kind.pass(),
        Subject::Tapwall | Subject::Other => kind.drop(),
    };
    time(run.program.as_fd(), case.hook, &case.frame, repeat, expect)
        .with_context(|| case.name.clone())
}

/// Runs the case a few times and looks at what was counted.
fn check(bed: &mut Bed, case: &Case) -> Result<()> {
    const TIMES: u32 = 16;
    bed.place(&case.port, case.bans)?;
    let before = bed.counted()?;
    sample(bed, case, Subject::Tapwall, TIMES)?;
    let now = bed.counted()?;
    for (number, (now, before)) in now.iter().zip(&before).enumerate() {
        let expect = match case.reason {
            Some(reason) if reason as usize == number => u64::from(TIMES),
            Some(_) | None => 0,
        };
        ensure!(
            now - before == expect,
            "reason {number} was counted {} times",
            now - before
        );
    }
    Ok(())
}
