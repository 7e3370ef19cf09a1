//! `fwctl import`: rules of another firewall as a firewall file of this one.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Outcome, Place};
use crate::config::{PLAIN_HOST_FILE, Sources};
use crate::diagnostic::{Diagnostic, Severity, render};
use crate::edit::lock::Lock;
use crate::edit::{check, write};
use crate::import::{File, Input, Translation, translate};
use crate::inventory::facts::HostFacts;
use crate::reconcile::unix_time;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Translate the filter table of `iptables-save` to host.fw, and say what is different.
    ///
    /// The file is written with `enable: 0`: read the report first. Exits with 0 if everything is translated and decides the same, with 1 if something
    /// is left out or different.
    IptablesSave(IptablesSave),
}

#[derive(Debug, clap::Args)]
pub(super) struct IptablesSave {
    /// What `iptables-save` printed; `-` is standard input.
    file: PathBuf,
    /// What `ip6tables-save` printed. Without it, IPv6 packets to the host are dropped.
    #[arg(long, value_name = "FILE")]
    ipv6: Option<PathBuf>,
    /// What `ipset save` printed, for rules that name sets.
    #[arg(long, value_name = "FILE")]
    ipset: Option<PathBuf>,
    /// Write the file there, instead of to standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there.
    #[arg(long, requires = "output")]
    force: bool,
    /// Print the report as JSON, to standard output if the file goes elsewhere, else in its place.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    match arguments {
        Arguments::IptablesSave(arguments) => iptables_save(place, arguments),
    }
}

fn iptables_save(place: &Place, arguments: &IptablesSave) -> Result<Outcome> {
    let read = |path: &Path| -> Result<(String, String)> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        match name.as_str() {
            "-" => std::io::stdin().read_to_end(&mut bytes),
            _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
        }
        .with_context(|| format!("cannot read {name}"))?;
        let name = if name == "-" {
            "stdin".to_owned()
        } else {
            name
        };
        Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
    };
    let v4 = read(&arguments.file)?;
    let v6 = arguments.ipv6.as_deref().map(read).transpose()?;
    let sets = arguments.ipset.as_deref().map(read).transpose()?;
    let translation = translate(&Input {
        v4: as_file(&v4),
        v6: v6.as_ref().map(as_file),
        sets: sets.as_ref().map(as_file),
        for_proxmox: !crate::config::is_plain(&place.root),
    })?;
    let found = wrong(&translation);
    let errors = found
        .iter()
        .filter(|found| found.severity == Severity::Error);
    if errors.count() > 0 {
        let sources = sources(&translation);
        eprint!("{}", render(&found, &sources, false));
        bail!("the translation has errors: this is a mistake of fwctl's; nothing is written");
    }
    if let Some(path) = &arguments.output {
        put(place, path, &translation.text, arguments.force)?;
    }
    say(arguments, &translation, &found)?;
    match translation.remarks.is_empty() {
        true => Ok(Outcome::Done),
        false => Ok(Outcome::Diagnostics),
    }
}

fn as_file((name, text): &(String, String)) -> File<'_> {
    File { name, text }
}

/// The translation as the only file of a plain host, turned on.
fn sources(translation: &Translation) -> Sources {
    let text = translation
        .text
        .replacen("\nenable: 0\n", "\nenable: 1\n", 1);
    Sources {
        node: "host".into(),
        plain: true,
        files: [(PLAIN_HOST_FILE.to_owned(), text.into())].into(),
        ..Sources::default()
    }
}

/// What is wrong with the translation, lints included.
fn wrong(translation: &Translation) -> Vec<Diagnostic> {
    let mut found = check::diagnostics(&sources(translation), &HostFacts::default(), unix_time());
    // The others are about this machine, of which nothing is asked here.
    found.retain(|found| &*found.file == PLAIN_HOST_FILE);
    found
}

/// Writes the file, under the lock that every editor of firewall files takes.
fn put(place: &Place, path: &Path, text: &str, force: bool) -> Result<()> {
    let node = place.node.clone();
    let node = node.or_else(|| crate::config::node_name(&place.root));
    let scope = format!("host-{}", node.unwrap_or_default());
    let _lock = Lock::take(&place.root, path, &scope)?;
    let is_there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    if is_there && !force {
        bail!("{} is there: --force replaces it", path.display());
    }
    write::replace(path, text.as_bytes())?;
    Ok(())
}

fn say(arguments: &IptablesSave, translation: &Translation, found: &[Diagnostic]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let text = arguments.output.is_none().then_some(&translation.text);
        let said = json!({
            "rules": translation.rules,
            "remarks": translation.remarks,
            "warnings": found,
            "written": arguments.output,
            "text": text,
        });
        serde_json::to_writer_pretty(&mut out, &said)?;
        writeln!(out)?;
        return Ok(());
    }
    if arguments.output.is_none() {
        write!(out, "{}", translation.text)?;
    }
    let mut report = std::io::stderr().lock();
    for remark in &translation.remarks {
        writeln!(report, "{remark}")?;
    }
    let colours = report.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    write!(report, "{}", render(found, &sources(translation), colours))?;
    let opens = translation
        .remarks
        .iter()
        .filter(|remark| remark.effect.opens);
    let closes = translation
        .remarks
        .iter()
        .filter(|remark| remark.effect.closes);
    writeln!(
        report,
        "{} rules; {} remarks, of which {} open and {} close something",
        translation.rules,
        translation.remarks.len(),
        opens.count(),
        closes.count()
    )?;
    if let Some(path) = &arguments.output {
        writeln!(
            report,
            "written: {}, with `enable: 0`: nothing is filtered by it yet",
            path.display()
        )?;
    }
    Ok(())
}
