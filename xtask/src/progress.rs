//! Running the programs that a command consists of, with their progress on screen.
//!
//! In: a step's name and a program. On screen: on a terminal a spinner with the program's last line of output, elsewhere a plain line at the
//! start and at the end. The whole output goes to the step's log below `target/xtask/`; when the program fails, the log's end is shown and
//! its path is in the error. Everything is written to standard error, so that standard output stays the programs' own.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workspace::Workspace;

/// Lines of a failed program's output that are shown.
const SHOWN_LINES: usize = 40;

/// Runs a program as a step; `log` names its log file.
pub fn run(workspace: &Workspace, step: &str, log: &str, command: &mut Command) -> Result<()> {
    let path = workspace.log(log)?;
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let started = Instant::now();
    let spinner = Spinner::start(step);
    let output = Mutex::new(Output {
        log: file,
        last: VecDeque::new(),
    });

    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    thread::scope(|scope| {
        for stream in streams.into_iter().flatten() {
            scope.spawn(|| copy_lines(stream, &output, &spinner));
        }
    });
    let status = child
        .wait()
        .with_context(|| format!("waiting for {}", command.get_program().display()))?;

    if status.success() {
        spinner.done(started.elapsed());
        return Ok(());
    }
    spinner.failed();
    show_end(&output, &path);
    bail!(
        "{step}: {status}; the whole output is in {}",
        path.display()
    )
}

/// Runs a program whose output is the result: it goes straight to the screen.
pub fn run_visible(step: &str, command: &mut Command) -> Result<()> {
    eprintln!("→ {step}");
    let status = command
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{step}: {status}");
    }
    Ok(())
}

/// A step whose program is run elsewhere.
pub struct Step {
    spinner: Spinner,
    started: Instant,
}

impl Step {
    /// Shows that it begins.
    pub fn start(step: &str) -> Self {
        Self {
            spinner: Spinner::start(step),
            started: Instant::now(),
        }
    }

    /// Shows what it does now.
    pub fn say(&self, line: &str) {
        self.spinner.line(line);
    }

    /// Shows how it ended.
    pub fn end(self, well: bool) {
        match well {
            true => self.spinner.done(self.started.elapsed()),
            false => self.spinner.failed(),
        }
    }
}

/// A line that says that something is there.
pub fn present(what: &str, detail: &str) {
    eprintln!("✓ {what:<22} {detail}");
}

/// The end of an output and where all of it goes.
struct Output {
    log: File,
    last: VecDeque<String>,
}

fn copy_lines(stream: Box<dyn Read + Send>, output: &Mutex<Output>, spinner: &Spinner) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    // A line may be no UTF-8 and the last one may lack its end; a read error ends the copy as the end of the stream does.
    while reader
        .read_until(b'\n', &mut bytes)
        .is_ok_and(|count| count > 0)
    {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        spinner.line(&line);
        let Ok(mut output) = output.lock() else {
            return;
        };
        if writeln!(output.log, "{line}").is_err() {
            // The log is a convenience; a full disk shows in the program's own failure.
            continue;
        }
        output.last.push_back(line);
        if output.last.len() > SHOWN_LINES {
            output.last.pop_front();
        }
    }
}

fn show_end(output: &Mutex<Output>, path: &Path) {
    eprintln!("--- end of {}", path.display());
    if let Ok(output) = output.lock() {
        for line in &output.last {
            eprintln!("{line}");
        }
    }
    eprintln!("---");
}

/// A step's line on screen.
struct Spinner {
    step: String,
    bar: Option<ProgressBar>,
}

impl Spinner {
    fn start(step: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(step.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("… {step}");
        }
        Self {
            step: step.to_owned(),
            bar,
        }
    }

    fn line(&self, line: &str) {
        if let Some(bar) = &self.bar
            && !line.is_empty()
        {
            bar.set_message(line.to_owned());
        }
    }

    fn done(&self, elapsed: Duration) {
        self.clear();
        eprintln!("✓ {:<22} {:.1} s", self.step, elapsed.as_secs_f64());
    }

    fn failed(&self) {
        self.clear();
        eprintln!("✗ {}", self.step);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
