//! The workspace's commands: `cargo xtask <command>`.
//!
//! In: a checkout and whatever the machine has. Out: built programs, test results, the demo. Each command is one file and calls the
//! commands it needs by itself: `demo` builds, `build` sets up. Nothing here knows what a packet is.

mod bench;
mod build;
mod ci;
mod clean;
mod demo;
mod dist;
mod progress;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Setup, build, test and demo of the workspace"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building and testing need; every other command does this by itself
    Setup,
    /// Build the kernel programs, then everything else
    Build {
        /// Optimise the host programs
        #[arg(long)]
        release: bool,
        /// Have the kernel programs tell the agent every verdict, which it logs with RUST_LOG=debug
        #[arg(long, conflicts_with = "release")]
        debug_log: bool,
    },
    /// Run all tests; those with real traffic need root
    Test {
        /// Passed on to `cargo test` (a filter, or `-- --nocapture`)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check the format, lint with warnings denied, then test: what CI runs
    Ci,
    /// Build a node in network namespaces, run traffic through the agent, show what was expected and seen
    Demo {
        /// Leave the node and the agent running
        #[arg(long)]
        keep: bool,
        /// Remove what `--keep` left
        #[arg(long, conflicts_with = "keep")]
        clean: bool,
    },
    /// Measure what Tapwall costs beside other firewalls, in an optimised build; prints tables, writes target/bench
    Bench(bench::Arguments),
    /// Run a node for minutes under traffic, edits, device churn, restarts and kills; prints what was wrong
    Soak {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Run the tests on other kernels, in QEMU; ends with a line `success` or `failure` for each
    Vm {
        /// 6.1, 6.12, 7.3 or all
        #[arg(long, default_value = "all")]
        kernel: String,
        /// Only tests whose full name (suite::module::test) has this in it; may be repeated
        #[arg(long)]
        test: Vec<String>,
        /// Only the small set that `cargo xtask test` runs
        #[arg(long, conflicts_with = "shell")]
        smoke: bool,
        /// A shell in the machine instead of tests
        #[arg(long)]
        shell: bool,
        /// How many machines at a time; each takes a processor and 3 GiB
        #[arg(long, default_value_t = 1)]
        jobs: usize,
    },
    /// Build the Debian package, in target/dist
    Dist {
        /// Instead, build packages of the debug programs, and try them on a machine in namespaces: install, upgrade, remove, purge; lintian, too
        #[arg(long)]
        check: bool,
    },
    /// Remove namespaces and pins that killed tests or demos left behind
    Clean,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Workspace::find().and_then(|workspace| match arguments.command {
        Command::Setup => setup::run(&workspace),
        Command::Build { release, debug_log } => build::run(&workspace, release, debug_log),
        Command::Test { arguments } => test::run(&workspace, &arguments),
        Command::Ci => ci::run(&workspace),
        Command::Demo { keep, clean } => demo::run(&workspace, keep, clean),
        Command::Bench(arguments) => bench::run(&workspace, &arguments),
        Command::Soak { minutes } => soak::run(&workspace, minutes),
        Command::Vm {
            kernel,
            test,
            smoke,
            shell,
            jobs,
        } => vm::run(
            &workspace,
            &vm::Wanted {
                kernels: &[&kernel],
                test: &test,
                smoke,
                shell,
                jobs,
            },
        ),
        Command::Dist { check } => dist::run(&workspace, check),
        Command::Clean => clean::run(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
