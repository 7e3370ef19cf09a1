//! `fwctl save`: the firewall files without what is not in force.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::rule::FileScope;
use super::{Outcome, Place};
use crate::edit::{saved, write};
use crate::reconcile::unix_time;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only the file of `cluster`, `host`, a guest such as `100`, or `vnet/<name>`, without the line that names it [default: all].
    scope: Option<FileScope>,
    /// Write the files below this directory, laid out like /etc/pve, instead of to standard output.
    #[arg(long, value_name = "DIR", conflicts_with = "scope")]
    to: Option<PathBuf>,
    /// Print as JSON: an object of texts by path.
    #[arg(long, conflicts_with = "to")]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let sources = place.sources()?;
    let facts = place.facts()?;
    let now = unix_time();
    let mut files = saved::files(&sources, &facts, now)?;
    saved::verify(&sources, &files, &facts, now)?;
    if let Some(scope) = &arguments.scope {
        let path = scope.file(&sources);
        files.retain(|file, _| *file == path);
        if files.is_empty() {
            bail!("there is no {path}");
        }
    }
    if let Some(directory) = &arguments.to {
        for (path, text) in &files {
            let path = directory.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("cannot make {}", parent.display()))?;
            }
            write::replace(&path, text.as_bytes())?;
        }
        return Ok(Outcome::Done);
    }
    let mut out = std::io::stdout().lock();
    match (arguments.json, arguments.scope.is_some()) {
        (true, _) => {
            serde_json::to_writer_pretty(&mut out, &files)?;
            writeln!(out)?;
        }
        (false, true) => write!(out, "{}", files.into_values().collect::<String>())?,
        (false, false) => write!(out, "{}", saved::join(&files))?,
    }
    Ok(Outcome::Done)
}
