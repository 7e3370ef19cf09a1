//! `fwctl completions` and `fwctl man`: what a package installs beside the program, made from the programs' own arguments.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Outcome, examples};
use crate::arguments::Arguments;

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Write one page per verb into this directory, and one for fw-agent, instead of the page of fwctl itself to standard output.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Completions) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut examples::command(),
        "fwctl",
        &mut text,
    );
    std::io::stdout().lock().write_all(&text)?;
    Ok(Outcome::Done)
}

pub(super) fn man(arguments: &Man) -> Result<Outcome> {
    let mut command = examples::command();
    command.build();
    match &arguments.directory {
        None => page(&command, &mut std::io::stdout().lock())?,
        Some(directory) => {
            pages(&command, "fwctl", directory)?;
            pages(&Arguments::command(), "fw-agent", directory)?;
        }
    }
    Ok(Outcome::Done)
}

fn page(command: &clap::Command, out: &mut impl Write) -> Result<()> {
    Ok(clap_mangen::Man::new(command.clone()).render(out)?)
}

/// Writes `<name>.8` and those of the verbs below it.
fn pages(command: &clap::Command, name: &str, directory: &Path) -> Result<()> {
    let path = directory.join(format!("{name}.8"));
    let mut text = Vec::new();
    let titled = command.clone().name(name.to_owned());
    clap_mangen::Man::new(titled)
        .section("8")
        .render(&mut text)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let verbs = command.get_subcommands();
    for verb in verbs.filter(|verb| verb.get_name() != "help") {
        pages(verb, &format!("{name}-{}", verb.get_name()), directory)?;
    }
    Ok(())
}
