//! The parts of the bench: which program measures each, and how it is run.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::row::Row;
use crate::progress;
use crate::workspace::Workspace;

/// A part; each has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// What one packet costs in the programs alone
    Packet,
    /// Traffic to a guest beside the other firewalls
    Traffic,
    /// From an edited file to enforcement, beside the other firewalls
    Change,
    /// Memory of the agent and of the maps on a full node
    Memory,
    /// Cost against rules, sets, guests and flows
    Growth,
    /// A set from its file to policies in force
    Set,
    /// The sweep of the flow tables
    Sweep,
}

impl Part {
    /// In the order in which they run.
    pub const ALL: [Self; 7] = [
        Self::Packet,
        Self::Traffic,
        Self::Change,
        Self::Memory,
        Self::Growth,
        Self::Set,
        Self::Sweep,
    ];

    /// Name of the part, of its table and of its rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Traffic => "traffic",
            Self::Change => "change",
            Self::Memory => "memory",
            Self::Growth => "growth",
            Self::Set => "set",
            Self::Sweep => "sweep",
        }
    }

    /// What its table says.
    pub fn title(self) -> &'static str {
        match self {
            Self::Packet => "One packet in the programs",
            Self::Traffic => "Traffic from outside to a guest over a bridge",
            Self::Change => "Changes, from the file to enforcement",
            Self::Memory => "Memory of a full node",
            Self::Growth => "Growth",
            Self::Set => "A set, from its file to policies in force",
            Self::Sweep => "The sweep of the flow tables",
        }
    }

    /// The subject whose medians the others' are divided by.
    pub fn baseline(self) -> Option<&'static str> {
        match self {
            Self::Packet => Some("empty"),
            Self::Traffic => Some("none"),
            Self::Change => Some("iptables"),
            Self::Memory | Self::Growth | Self::Set | Self::Sweep => None,
        }
    }

    /// The program and its first arguments.
    fn program(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Packet => ("packet", &[]),
            Self::Traffic => ("bench", &["traffic"]),
            Self::Change => ("bench", &["change"]),
            Self::Memory => ("bench", &["memory"]),
            Self::Growth => ("bench", &["growth"]),
            Self::Set => ("bench", &["set"]),
            Self::Sweep => ("bench", &["sweep"]),
        }
    }

    /// Runs the program and returns its rows. What it says beside them goes to the log of the step.
    pub fn measure(
        self,
        workspace: &Workspace,
        quick: bool,
        rounds: Option<usize>,
    ) -> Result<Vec<Row>> {
        let (program, arguments) = self.program();
        let mut command = Command::new(workspace.programs(true).join(program));
        command.args(arguments);
        if quick {
            command.arg("--quick");
        }
        if let Some(rounds) = rounds {
            command.args(["--rounds", &rounds.to_string()]);
        }
        let path = workspace.log(&format!("bench-{}", self.name()))?;
        let mut log =
            File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let step = progress::Step::start(&format!("bench {}", self.name()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let errors = child.stderr.take().context("the program's errors")?;
        let output = child.stdout.take().context("the program's output")?;
        let rows = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_rows(BufReader::new(output)));
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                step.say(&line);
                // The log is a convenience; a full disk shows elsewhere.
                writeln!(log, "{line}").unwrap_or_default();
            }
            reader.join()
        });
        let status = child.wait()?;
        step.end(status.success());
        if !status.success() {
            let said = std::fs::read_to_string(&path).unwrap_or_default();
            let end: Vec<&str> = said.lines().rev().take(20).collect();
            for line in end.iter().rev() {
                eprintln!("{line}");
            }
            bail!("{program}: {status}; all it said is in {}", path.display());
        }
        let Ok(rows) = rows else {
            bail!("reading the rows of {program} panicked");
        };
        let rows = rows?;
        ensure!(!rows.is_empty(), "{program} printed no row");
        for row in &rows {
            ensure!(
                row.table == self.name() && !row.samples.is_empty(),
                "{program} printed this row: {row:?}"
            );
        }
        Ok(rows)
    }
}

/// The rows among the lines of an output; the others are for readers.
fn read_rows(output: impl BufRead) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in output.lines() {
        let line = line.context("reading rows")?;
        if line.starts_with('{') {
            let row = serde_json::from_str(&line);
            rows.push(row.with_context(|| format!("understanding {line}"))?);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_lines_that_are_objects() {
        let output = "a table\n{\"table\":\"packet\",\"case\":\"a\",\"subject\":\"empty\",\"unit\":\"ns\",\"samples\":[1,2.5]}\n\
            {\"table\":\"set\",\"case\":\"b\",\"subject\":\"tapwall\",\"size\":{\"of\":\"rules\",\"count\":10},\"unit\":\"ms\",\"samples\":[3]}\n";
        let rows = read_rows(output.as_bytes()).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].samples, [1.0, 2.5]);
        assert_eq!(rows[0].size, None);
        assert_eq!(rows[1].size.as_ref().unwrap().count, 10);
        assert!(read_rows("{\"table\":1}\n".as_bytes()).is_err());
    }
}
