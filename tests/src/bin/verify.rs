//! What the kernel's verifier says of every program of the object: instructions it went through, and the stack of each function.
//!
//! Prints a table (with `--json` JSON) and fails if a program costs more than [`LIMIT`] instructions. Needs root.
//!
//! 1. Make the maps. 2. Let the process open no more files. 3. Load each program: the verifier accepts it and writes its statistics to the
//!    log, then the kernel finds no number for the program's file. aya shows the verifier's log only of programs that were not loaded.
//!
//! A program that the verifier itself refuses fails otherwise, with its log.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{EbpfLoader, VerifierLogLevel};
use clap::Parser;
use fw_agent::datapath::OBJECT;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

/// Instructions that a program may cost the verifier: well below the million at which it gives up.
const LIMIT: u64 = 400_000;

#[derive(Parser)]
struct Arguments {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// The object of another build than the one the agent embeds.
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
}

/// What the verifier says of one program.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    program: String,
    /// Instructions gone through, on all paths.
    instructions: u64,
    /// Bytes of stack of each function; the verifier itself refuses chains of calls that need more than 512 together.
    stack: Vec<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("verify: a program costs more than {LIMIT} instructions");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("verify: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the table; says whether all programs are within the limit.
fn run(arguments: &Arguments) -> Result<bool> {
    let rows = match &arguments.object {
        None => measure(OBJECT)?,
        Some(path) => {
            let object = std::fs::read(path);
            measure(&object.with_context(|| format!("reading {}", path.display()))?)?
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!(
            "{:<20} {:>12}  {:>5}  stack of each function",
            "program", "instructions", "most"
        );
        for row in &rows {
            let stack: Vec<String> = row.stack.iter().map(u64::to_string).collect();
            println!(
                "{:<20} {:>12}  {:>5}  {}",
                row.program,
                row.instructions,
                row.stack.iter().max().unwrap_or(&0),
                stack.join(" ")
            );
        }
    }
    Ok(rows.iter().all(|row| row.instructions <= LIMIT))
}

fn measure(object: &[u8]) -> Result<Vec<Row>> {
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(object)
        .context("making the maps (this needs root)")?;
    let mut limit = getrlimit(Resource::Nofile);
    // The lowest number that is free: from there on nothing is opened.
    let lowest = std::fs::File::open("/dev/null").context("opening a file")?;
    limit.current = Some(u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&lowest))?);
    drop(lowest);
    setrlimit(Resource::Nofile, limit).context("limiting open files")?;
    let mut rows = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = if let Ok(classifier) = <&mut SchedClassifier>::try_from(&mut *program) {
            classifier.load()
        } else if let Ok(xdp) = <&mut Xdp>::try_from(&mut *program) {
            xdp.load()
        } else {
            bail!("{name} is a program of a kind that is not measured here");
        };
        match loaded {
            Err(ProgramError::LoadError {
                io_error,
                verifier_log,
            }) if io_error.raw_os_error() == Some(libc::EMFILE) => {
                let row = row(name, &verifier_log.to_string());
                rows.push(row.with_context(|| format!("{name}: no statistics in {verifier_log}"))?);
            }
            Err(error) => return Err(error).with_context(|| format!("verifying {name}")),
            Ok(()) => bail!("{name} was loaded in spite of the limit"),
        }
    }
    rows.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(rows)
}

/// Reads `stack depth 8+0+416` and `processed 39750 insns (limit 1000000) …`.
fn row(program: &str, log: &str) -> Option<Row> {
    let mut stack = None;
    let mut instructions = None;
    for line in log.lines() {
        if let Some(depths) = line.strip_prefix("stack depth ") {
            let depths = depths
                .split(['+', ' '])
                .map_while(|depth| depth.parse().ok());
            stack = Some(depths.collect());
        }
        if let Some(rest) = line.strip_prefix("processed ") {
            instructions = rest.split(' ').next().and_then(|count| count.parse().ok());
        }
    }
    Some(Row {
        program: program.to_owned(),
        instructions: instructions?,
        stack: stack?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_the_verifier() {
        let log = "verification time 20 usec\nstack depth 8+0+416\n\
                   processed 39750 insns (limit 1000000) max_states_per_insn 4\n";
        let expect = Row {
            program: "a".to_owned(),
            instructions: 39_750,
            stack: vec![8, 0, 416],
        };
        assert_eq!(row("a", log), Some(expect));
        assert_eq!(row("a", "R1 invalid mem access\n"), None);
    }
}
