//! The configuration in force as text: `fwctl save`.
//!
//! In: the files. Out: the same files without what is not in force: lines that are in error, disabled rules, definitions that a later one
//! replaces, comment lines. What is left stands as it was written, comments behind it too, so that it can be used again as it is:
//! all files in one text, each behind a line `# file: <path>` ([`split`] takes it apart), or one of them.
//!
//! Only firewall files: what guests there are and what their NICs are called is not the firewall's to save. Invariant: the text means the same
//! policy ([`verify`]); a file that cannot be read is never saved as an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::{Compiled, compile};
use crate::config::line::{before_comment, decode, lines};
use crate::config::{CLUSTER_FILE, Sources, VNET_DIRECTORY, guest_file};
use crate::diagnostic::{Diagnostic, Severity};
use crate::inventory::facts::HostFacts;
use crate::policy::{NodePolicy, Policy};

/// Begins the line before each file.
pub const FILE: &str = "# file: ";

/// Why nothing is saved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// What is in force there is not known.
    #[error("{file} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// The text would mean something else.
    #[error("what would be saved does not mean what is in force (this is a bug in fwctl save)")]
    Different,
}

/// The firewall files of a node without what is not in force, by path.
///
/// # Errors
/// A file cannot be read.
pub fn files(
    sources: &Sources,
    facts: &HostFacts,
    now: u64,
) -> Result<BTreeMap<String, String>, SaveError> {
    if let Some((file, reason)) = sources.unreadable.iter().next() {
        return Err(SaveError::Unreadable {
            file: file.clone(),
            reason: reason.clone(),
        });
    }
    let compiled = compile(sources, facts, now);
    let mut found = BTreeMap::new();
    for path in paths(sources, &compiled) {
        if let Some(bytes) = sources.files.get(&path) {
            let text = in_force(&decode(bytes), &path, &compiled.diagnostics);
            found.insert(path, text);
        }
    }
    Ok(found)
}

/// Firewall files that mean something on this node.
fn paths(sources: &Sources, compiled: &Compiled) -> BTreeSet<String> {
    let config = &compiled.config;
    let guests = config.guests.keys().map(|vmid| guest_file(*vmid));
    let vnets = config.vnets.keys();
    let vnets = vnets.map(|name| format!("{VNET_DIRECTORY}/{name}.fw"));
    let own = [CLUSTER_FILE.to_owned(), sources.host_file()];
    own.into_iter().chain(guests).chain(vnets).collect()
}

/// All files as one text.
pub fn join(files: &BTreeMap<String, String>) -> String {
    let files = files.iter();
    let files = files.map(|(path, text)| format!("{FILE}{path}\n{text}"));
    files.collect::<Vec<_>>().join("\n")
}

/// The files of one text.
pub fn split(text: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut path = None;
    for line in text.split_inclusive('\n') {
        if let Some(found) = line.strip_prefix(FILE) {
            path = Some(found.trim().to_owned());
        }
        if let Some(path) = &path {
            let file: &mut String = files.entry(path.clone()).or_default();
            if !line.starts_with(FILE) {
                file.push_str(line);
            }
        }
    }
    files
}

/// Whether saved files mean what is in force.
///
/// # Errors
/// They do not.
pub fn verify(
    sources: &Sources,
    saved: &BTreeMap<String, String>,
    facts: &HostFacts,
    now: u64,
) -> Result<(), SaveError> {
    let mut again = sources.clone();
    for (path, text) in saved {
        let bytes = text.clone().into_bytes();
        again.files.insert(path.clone(), bytes.into());
    }
    let policy = |sources| without_places(compile(sources, facts, now).policy);
    match policy(sources) == policy(&again) {
        true => Ok(()),
        false => Err(SaveError::Different),
    }
}

/// A policy without the lines that its rules stand on.
fn without_places(mut policy: NodePolicy) -> NodePolicy {
    let forget = |policy: &mut Policy| {
        for rule in &mut policy.rules {
            rule.origin.line = None;
        }
    };
    for port in policy.ports.iter_mut().map(Arc::make_mut) {
        let guard = port.guard.iter_mut();
        let all = guard.chain([&mut port.inbound, &mut port.outbound]);
        all.for_each(forget);
    }
    if let Some(host) = &mut policy.host {
        forget(&mut host.inbound);
        forget(&mut host.outbound);
    }
    for forward in &mut policy.forward {
        forget(&mut forward.policy);
    }
    policy
}

/// The lines of a file that are in force.
fn in_force(text: &str, path: &str, diagnostics: &[Diagnostic]) -> String {
    let errors: BTreeSet<u32> = diagnostics
        .iter()
        .filter(|found| &*found.file == path && found.severity == Severity::Error)
        .map(|found| found.line)
        .collect();
    let mut sections: Vec<Section> = Vec::new();
    for line in lines(text) {
        let body = line.text.trim_ascii();
        let is_wrong = errors.contains(&line.number);
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        if body.starts_with('[') {
            sections.push(Section {
                header: body.to_owned(),
                skipped: is_wrong,
                lines: Vec::new(),
            });
        } else if let Some(section) = sections.last_mut()
            && !is_wrong
            && !section.skipped
            && !body.starts_with('|')
        {
            section.lines.push(body.to_owned());
        }
    }
    sections.retain(|section| !section.skipped);
    let mut seen = BTreeSet::new();
    let mut kept: Vec<Section> = Vec::new();
    for mut section in sections.into_iter().rev() {
        match section.kind() {
            // Only the last of a name counts.
            Kind::Named(name) if !seen.insert(name.clone()) => continue,
            Kind::Named(_) | Kind::List => {}
            Kind::Table(is_separator) => {
                let header = section.key();
                let mut lines = Vec::new();
                for line in section.lines.into_iter().rev() {
                    let name = line.split(is_separator).next().unwrap_or_default();
                    let name = name.trim_ascii().to_ascii_lowercase();
                    if seen.insert(format!("{header} {name}")) {
                        lines.push(line);
                    }
                }
                lines.reverse();
                section.lines = lines;
            }
        }
        kept.push(section);
    }
    let sections = kept.into_iter().rev().map(|section| {
        let lines = section.lines.iter().map(|line| format!("{line}\n"));
        format!("{}\n{}", section.header, lines.collect::<String>())
    });
    sections.collect::<Vec<_>>().join("\n")
}

/// A section that is read.
struct Section {
    header: String,
    skipped: bool,
    lines: Vec<String>,
}

/// What repeating a section, or a line in it, means.
enum Kind {
    /// The later section replaces the earlier.
    Named(String),
    /// Sections add up, a later line replaces an earlier with the same text before the separator.
    Table(fn(char) -> bool),
    /// Everything adds up.
    List,
}

impl Section {
    fn key(&self) -> String {
        before_comment(&self.header).to_ascii_lowercase()
    }

    fn kind(&self) -> Kind {
        let key = self.key();
        let words = key.trim_matches(['[', ']']).split_ascii_whitespace();
        match *words.collect::<Vec<_>>() {
            ["options"] => Kind::Table(|char| char == ':'),
            ["aliases"] => Kind::Table(|char| char.is_ascii_whitespace()),
            [keyword, name] => Kind::Named(format!("{keyword} {name}")),
            _ => Kind::List,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "# all of it
[OPTIONS]
enable: 0
enable: 1
log_ratelimit: nonsense

[ALIASES]
local_network 192.0.2.0/24 # here
office 10.0.0.0/8
Office 198.51.100.0/24
[IPSET set]
10.1.0.0/16
[IPSET set]
10.2.0.0/16 # two
10.2.3.300
[FOO]
IN ACCEPT
[RULES]
IN SSH(ACCEPT) -source office # admins
|IN ACCEPT
IN nonsense
[group web]
IN HTTP(ACCEPT)
[rules] # more
IN ACCEPT -source +set
IN ACCEPT -source +missing
GROUP web
";

    fn sources(files: &[(&str, &str)]) -> Sources {
        let files = files.iter();
        Sources {
            node: "n".into(),
            files: files
                .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec().into()))
                .collect(),
            ..Sources::default()
        }
    }

    fn guest() -> (&'static str, &'static str) {
        let nic = "net0: virtio=02:00:00:00:00:01,bridge=vmbr0,firewall=1\n";
        ("nodes/n/qemu-server/100.conf", nic)
    }

    #[test]
    fn what_is_saved_means_the_same_and_has_no_diagnostics() {
        let firewall = "[OPTIONS]\nenable: 1\nipfilter: 1\n[RULES]\nIN DROP -i net0 -log info\nGROUP web\nOUT REJECT -dest +set\n";
        let sources = sources(&[
            (CLUSTER_FILE, CLUSTER),
            ("firewall/100.fw", firewall),
            ("firewall/999.fw", "[RULES]\nIN ACCEPT\n"),
            guest(),
        ]);
        let facts = HostFacts::default();
        let saved = files(&sources, &facts, 0).unwrap();
        verify(&sources, &saved, &facts, 0).unwrap();
        let text = join(&saved);
        assert_eq!(split(&text).keys().count(), 2, "{text}");
        let mut again = sources.clone();
        for (path, text) in split(&text) {
            again.files.insert(path, text.into_bytes().into());
        }
        let (before, after) = (compile(&sources, &facts, 0), compile(&again, &facts, 0));
        assert!(!before.diagnostics.is_empty());
        assert_eq!(
            without_places(before.policy.clone()),
            without_places(after.policy)
        );
        let errors = after.diagnostics.iter();
        let errors = errors.filter(|found| found.severity == Severity::Error);
        assert_eq!(errors.collect::<Vec<_>>(), Vec::<&Diagnostic>::new());
        assert_eq!(before.image.rules, after.image.rules, "counters go on");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_cannot_be_read_is_not_saved() {
        let mut sources = sources(&[guest()]);
        sources
            .unreadable
            .insert("firewall/100.fw".into(), "no".into());
        let expect = SaveError::Unreadable {
            file: "firewall/100.fw".into(),
            reason: "no".into(),
        };
        assert_eq!(files(&sources, &HostFacts::default(), 0), Err(expect));
    }

    #[test]
    fn a_text_that_means_something_else_is_refused() {
        let sources = sources(&[(CLUSTER_FILE, CLUSTER), guest()]);
        let facts = HostFacts::default();
        let mut saved = files(&sources, &facts, 0).unwrap();
        saved.insert(CLUSTER_FILE.into(), "[OPTIONS]\nenable: 1\n".into());
        assert_eq!(
            verify(&sources, &saved, &facts, 0),
            Err(SaveError::Different)
        );
    }
}
