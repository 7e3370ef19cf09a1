//! Boots kernels and runs the tests there: what `cargo xtask vm` starts once everything is built.
//!
//! Progress goes to standard error, test by test; standard output is one line `success` or `failure` per kernel, then the tables.
//! Exit codes: 0 all is well, 1 something failed, 2 it could not run.

mod boots;
mod contents;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Parser;
use vm_harness::kernels::{Line, fetch};
use vm_harness::programs::built;
use vm_harness::report::{Report, tables};

use crate::boots::Boots;

#[derive(Parser)]
struct Arguments {
    /// 6.1, 6.12, 7.3 or all; may be repeated.
    #[arg(long, default_value = "all")]
    kernel: Vec<String>,
    /// Only tests whose full name (suite::module::test) has this in it; may be repeated.
    #[arg(long)]
    test: Vec<String>,
    /// Only the small set that every change runs.
    #[arg(long)]
    smoke: bool,
    /// A shell in the machine instead of tests.
    #[arg(long)]
    shell: bool,
    /// How many machines at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Cargo's messages of the build of the tests.
    #[arg(long)]
    messages: PathBuf,
    /// The checkout.
    #[arg(long)]
    root: PathBuf,
    /// Where images and consoles go.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("vm-harness: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let mut lines = Vec::new();
    for name in &arguments.kernel {
        let named = Line::named(name)
            .with_context(|| format!("there is no kernel {name:?}: 6.1, 6.12, 7.3 or all"))?;
        lines.extend(named);
    }
    lines.sort();
    lines.dedup();
    let cache = cache()?;
    let text = fs::read_to_string(&arguments.messages)
        .with_context(|| format!("reading {}", arguments.messages.display()))?;
    let boots = Boots {
        programs: built(&text)?,
        root: arguments.root.clone(),
        out: arguments.out.clone(),
        cache,
        smoke: arguments.smoke,
        filter: arguments.test.clone(),
    };
    fs::create_dir_all(&boots.out).with_context(|| format!("creating {}", boots.out.display()))?;
    if arguments.shell {
        let [line] = lines.as_slice() else {
            bail!("a shell is one machine's: name one kernel");
        };
        let kernel = fetch(&boots.cache, *line)?;
        boots.shell(&kernel)?;
        return Ok(true);
    }
    let mut kernels = Vec::new();
    for line in lines {
        kernels.push(fetch(&boots.cache, line)?);
    }
    let left = Mutex::new(kernels.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let next = || left.lock().ok().and_then(|mut left| left.next());
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some((number, kernel)) = next() {
                    let report = boots.tests(kernel).unwrap_or_else(|error| {
                        let mut report = Report::new(kernel.line);
                        report.died(&format!("{error:#}"));
                        report
                    });
                    if let Ok(mut done) = done.lock() {
                        done.push((number, report));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(number, _)| *number);
    let reports: Vec<Report> = done.into_iter().map(|(_, report)| report).collect();
    print!("{}", tables(&reports));
    for report in &reports {
        println!("{}", report.verdict());
    }
    Ok(reports.len() == kernels.len() && reports.iter().all(Report::is_success))
}

/// Where kernels are kept: outside of any build directory.
fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let cache = base
        .context("neither XDG_CACHE_HOME nor a home directory")?
        .join("tapwall");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    Ok(cache)
}
