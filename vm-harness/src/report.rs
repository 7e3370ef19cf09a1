//! What happened on each kernel: told test by test while it happens, and as a table at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::kernels::Line;
use crate::protocol::{Event, Outcome, Verified};

/// What happened on one kernel.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's line.
    pub line: Line,
    /// Its release, once it has booted.
    pub release: String,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that did not, by their full names.
    pub failed: Vec<(String, Outcome)>,
    /// What the verifier said.
    pub verified: Vec<Verified>,
    /// What went wrong besides tests, the machine's own end included.
    pub broken: Vec<String>,
    /// How long it took, all boots together.
    pub took: Duration,
    /// Milliseconds that each run's tests took.
    pub runs: BTreeMap<String, (usize, u64)>,
    /// The test that runs.
    running: Option<String>,
}

impl Report {
    /// Nothing happened yet.
    pub fn new(line: Line) -> Self {
        Self {
            line,
            release: String::new(),
            passed: 0,
            failed: Vec::new(),
            verified: Vec::new(),
            broken: Vec::new(),
            took: Duration::ZERO,
            runs: BTreeMap::new(),
            running: None,
        }
    }

    /// Takes an event in and says what a reader wants to know of it.
    pub fn take(&mut self, event: &Event) {
        let line = self.line.name();
        match event {
            Event::Booted { kernel } => {
                self.release.clone_from(kernel);
                eprintln!("{line}: booted {kernel}");
            }
            Event::Alive | Event::Done => {}
            Event::Verified { rows } => {
                self.verified.clone_from(rows);
                let most = rows.iter().map(|row| row.instructions).max();
                eprintln!(
                    "{line}: {} programs verified, at most {} instructions",
                    rows.len(),
                    most.unwrap_or(0)
                );
            }
            Event::Run { run, tests } if *tests > 0 => eprintln!("{line}: {run}: {tests} tests"),
            Event::Run { .. } => {}
            Event::Started { run, test } => self.running = Some(format!("{run}::{test}")),
            Event::Ended {
                run,
                test,
                outcome,
                milliseconds,
            } => self.ended(run, test, *outcome, *milliseconds),
            Event::Output { of, text } => {
                eprintln!("{line}: --- {of} said:");
                for text in text.trim().lines() {
                    eprintln!("{line}: | {text}");
                }
            }
            Event::Broken { what } => {
                eprintln!("{line}: {what}");
                self.broken.push(what.clone());
            }
        }
    }

    fn ended(&mut self, run: &str, test: &str, outcome: Outcome, milliseconds: u64) {
        let name = format!("{run}::{test}");
        self.running = None;
        let (count, sum) = self.runs.entry(run.to_owned()).or_default();
        *count += 1;
        *sum += milliseconds;
        let word = match outcome {
            Outcome::Ok => {
                self.passed += 1;
                "ok"
            }
            Outcome::Failed => "FAILED",
            Outcome::Timeout => "TIMED OUT",
            Outcome::Crashed => "CRASHED",
        };
        if outcome != Outcome::Ok {
            self.failed.push((name.clone(), outcome));
        }
        let seconds = Duration::from_millis(milliseconds).as_secs_f64();
        eprintln!("{}: {name} ... {word} ({seconds:.1} s)", self.line.name());
    }

    /// Whether any test has ended.
    pub fn has_results(&self) -> bool {
        self.passed + self.failed.len() > 0
    }

    /// Whether any test has begun.
    pub fn has_begun(&self) -> bool {
        self.has_results() || self.running.is_some()
    }

    /// The machine is dead: so is the test that ran.
    pub fn died(&mut self, why: &str) {
        if let Some(test) = self.running.take() {
            self.failed.push((test, Outcome::Crashed));
        }
        self.broken.push(why.to_owned());
    }

    /// Whether all is well, of what was asked for.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.broken.is_empty() && self.has_results()
    }

    /// The one line that says it.
    pub fn verdict(&self) -> String {
        let name = self.line.name();
        if self.is_success() {
            return format!("{name}: success");
        }
        let mut why = Vec::new();
        if !self.failed.is_empty() {
            let total = self.passed + self.failed.len();
            let names: Vec<&str> = self.failed.iter().map(|(name, _)| name.as_str()).collect();
            why.push(format!(
                "{} of {total} tests: {}",
                names.len(),
                names.join(", ")
            ));
        }
        why.extend(self.broken.iter().cloned());
        if why.is_empty() {
            why.push("no test ran".to_owned());
        }
        format!("{name}: failure ({})", why.join("; "))
    }
}

/// The tables: what ran where, and the verifier's instructions by program and kernel. In Markdown, so that documentation can hold them.
pub fn tables(reports: &[Report]) -> String {
    let mut text = String::new();
    let header = |first: &str| {
        let columns = reports
            .iter()
            .map(|report| format!("{} ({})", report.line.name(), report.release));
        std::iter::once(first.to_owned())
            .chain(columns)
            .collect::<Vec<_>>()
    };
    let programs: BTreeSet<&str> = reports
        .iter()
        .flat_map(|report| report.verified.iter().map(|row| row.program.as_str()))
        .collect();
    if !programs.is_empty() {
        let mut table = table();
        table.set_header(header("verified instructions"));
        for program in programs {
            let cells = reports.iter().map(|report| {
                let row = report.verified.iter().find(|row| row.program == program);
                row.map_or_else(|| "-".to_owned(), |row| row.instructions.to_string())
            });
            table.add_row(std::iter::once(program.to_owned()).chain(cells));
        }
        text.push_str(&format!("{table}\n\n"));
    }
    let mut table = table();
    table.set_header(header("tests (seconds)"));
    let runs: BTreeSet<&String> = reports
        .iter()
        .flat_map(|report| report.runs.keys())
        .collect();
    for run in runs {
        let cells = reports.iter().map(|report| match report.runs.get(run) {
            Some((count, sum)) => {
                format!("{count} ({:.0})", Duration::from_millis(*sum).as_secs_f64())
            }
            None => "-".to_owned(),
        });
        table.add_row(std::iter::once(run.clone()).chain(cells));
    }
    let totals = reports.iter().map(|report| {
        format!(
            "{} of {} passed ({:.0})",
            report.passed,
            report.passed + report.failed.len(),
            report.took.as_secs_f64()
        )
    });
    table.add_row(std::iter::once("all, with boot".to_owned()).chain(totals));
    text.push_str(&format!("{table}\n"));
    text
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Outcome) -> Event {
        Event::Ended {
            run: "load".into(),
            test: "a".into(),
            outcome,
            milliseconds: 10,
        }
    }

    #[test]
    fn success_needs_results_and_nothing_wrong() {
        let mut report = Report::new(Line::V6_1);
        assert_eq!(report.verdict(), "6.1: failure (no test ran)");
        report.take(&ended(Outcome::Ok));
        assert_eq!(report.verdict(), "6.1: success");
        report.take(&Event::Broken { what: "x".into() });
        assert_eq!(report.verdict(), "6.1: failure (x)");
    }

    #[test]
    fn a_failed_test_is_named() {
        for outcome in [Outcome::Failed, Outcome::Timeout, Outcome::Crashed] {
            let mut report = Report::new(Line::V6_12);
            report.take(&ended(outcome));
            assert_eq!(report.verdict(), "6.12: failure (1 of 1 tests: load::a)");
        }
    }

    #[test]
    fn the_test_during_which_the_machine_died_has_failed() {
        let mut report = Report::new(Line::V7_3);
        report.take(&Event::Started {
            run: "load".into(),
            test: "b".into(),
        });
        report.died("Kernel panic");
        assert_eq!(
            report.verdict(),
            "7.3: failure (1 of 1 tests: load::b; Kernel panic)"
        );
    }
}
