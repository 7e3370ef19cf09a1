//! `fwctl rule`: rules of one file listed, looked for, and edited with the care of [`crate::edit`].

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Outcome, Place, colours, table};
use crate::config::rule::List as Kind;
use crate::config::{CLUSTER_FILE, Sources, VNET_DIRECTORY, guest_file};
use crate::diagnostic::render;
use crate::edit::lock::Lock;
use crate::edit::same::{Meaning, meaning};
use crate::edit::text::{Found, List, Text};
use crate::edit::{check, write};
use crate::reconcile::unix_time;

/// Whose rules: the file, and the list in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileScope {
    /// `cluster.fw`.
    Cluster,
    /// The node's `host.fw`.
    Host,
    /// `<vmid>.fw`.
    Guest(u32),
    /// A security group in `cluster.fw`.
    Group(String),
    /// A VNet's file.
    Vnet(String),
}

impl FromStr for FileScope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected `cluster`, `host`, a guest such as `100`, `group/<name>` or `vnet/<name>`";
        let is_name = |name: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !name.is_empty() && name.bytes().all(fits)
        };
        match (text, text.split_once('/')) {
            ("cluster", _) => Ok(Self::Cluster),
            ("host", _) => Ok(Self::Host),
            (_, Some(("group", name))) if is_name(name) => {
                Ok(Self::Group(name.to_ascii_lowercase()))
            }
            (_, Some(("vnet", name))) if is_name(name) => Ok(Self::Vnet(name.to_owned())),
            (_, Some((_, net))) if net.starts_with("net") => Err(
                "a guest has one file for all its NICs: name the guest, and write `-i netN` in the rule",
            ),
            _ => {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let vmid = text.parse().ok().filter(|vmid| digits && *vmid != 0);
                vmid.map(Self::Guest).ok_or(EXPECTED)
            }
        }
    }
}

impl FileScope {
    /// The file, below the root.
    pub(super) fn file(&self, sources: &Sources) -> String {
        match self {
            // A plain host may have all in one.
            Self::Cluster | Self::Group(_)
                if sources.plain && !sources.files.contains_key(CLUSTER_FILE) =>
            {
                sources.host_file()
            }
            Self::Cluster | Self::Group(_) => CLUSTER_FILE.to_owned(),
            Self::Host => sources.host_file(),
            Self::Guest(vmid) => guest_file(*vmid),
            Self::Vnet(name) => format!("{VNET_DIRECTORY}/{name}.fw"),
        }
    }

    fn list(&self) -> List {
        match self {
            Self::Group(name) => List::Group(name.clone()),
            Self::Cluster | Self::Host | Self::Guest(_) | Self::Vnet(_) => List::Rules,
        }
    }

    /// What may stand in the list.
    fn kind(&self) -> Kind {
        match self {
            Self::Cluster | Self::Host => Kind::Host,
            Self::Guest(_) => Kind::Guest,
            Self::Group(_) => Kind::Group,
            Self::Vnet(_) => Kind::Vnet,
        }
    }

    /// The end of the name of the cluster's lock.
    fn lock(&self, node: &str) -> String {
        match self {
            Self::Cluster | Self::Group(_) => "cluster".to_owned(),
            Self::Host => format!("host-{node}"),
            Self::Guest(vmid) => vmid.to_string(),
            Self::Vnet(name) => format!("vnet-{name}"),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// List the rules of a file with their numbers.
    List {
        /// `cluster`, `host`, a guest such as `100`, `group/<name>` or `vnet/<name>`.
        scope: FileScope,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say whether a rule is there (exit code 0) or not, or disabled (1).
    Check {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        written: Written,
    },
    /// Add a rule behind the others.
    Add {
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        written: Written,
    },
    /// Put a rule before another.
    Insert {
        #[command(flatten)]
        how: How,
        /// `cluster`, `host`, a guest such as `100`, `group/<name>` or `vnet/<name>`.
        scope: FileScope,
        /// Number that the rule will have.
        number: usize,
        /// The rule as it stands in the file, such as: IN ACCEPT -p tcp -dport 22
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        rule: Vec<String>,
    },
    /// Remove a rule.
    #[command(visible_alias = "delete")]
    Del {
        #[command(flatten)]
        how: How,
        /// `cluster`, `host`, a guest such as `100`, `group/<name>` or `vnet/<name>`.
        scope: FileScope,
        /// Its number, or the rule as it stands in the file.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        rule: Vec<String>,
    },
    /// Put another rule in a rule's place; a comment behind it stays, unless the new rule has one.
    Replace {
        #[command(flatten)]
        how: How,
        /// `cluster`, `host`, a guest such as `100`, `group/<name>` or `vnet/<name>`.
        scope: FileScope,
        /// Number of the rule.
        number: usize,
        /// The new rule.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        rule: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Written {
    /// `cluster`, `host`, a guest such as `100`, `group/<name>` or `vnet/<name>`.
    scope: FileScope,
    /// The rule as it stands in the file, such as: IN ACCEPT -p tcp -dport 22
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rule: Vec<String>,
}

/// How a file is edited. These options stand before the scope: what follows it is the rule.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Comment behind the rule.
    #[arg(long)]
    comment: Option<String>,
    /// Write the file even if something would newly be wrong with the configuration.
    #[arg(long)]
    force: bool,
    /// Check and print, but write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    match arguments {
        Arguments::List { scope, json } => list(place, scope, *json),
        Arguments::Check { json, written } => find(place, &written.scope, &written.rule, *json),
        Arguments::Add { how, written } => {
            let rule = rule(&written.scope, &written.rule, how)?;
            edit(place, &written.scope, how, |text, list| {
                Ok(Change::new("added", text.add(list, &rule)?, &rule))
            })
        }
        Arguments::Insert {
            how,
            scope,
            number,
            rule: words,
        } => {
            let rule = rule(scope, words, how)?;
            edit(place, scope, how, |text, list| {
                Ok(Change::new(
                    "inserted",
                    text.insert(list, *number, &rule)?,
                    &rule,
                ))
            })
        }
        Arguments::Del {
            how,
            scope,
            rule: words,
        } => edit(place, scope, how, |text, list| {
            let number = number(scope, words, &text.rules(list)?)?;
            let found = text.rules(list)?;
            let line = found
                .get(number.wrapping_sub(1))
                .map_or(0, |rule| rule.line);
            let removed = text.remove(list, number)?;
            Ok(Change::new("removed", line, &removed))
        }),
        Arguments::Replace {
            how,
            scope,
            number,
            rule: words,
        } => {
            let rule = rule(scope, words, how)?;
            edit(place, scope, how, |text, list| {
                let (old, line) = text.replace(list, *number, &rule)?;
                let mut change = Change::new("replaced", line, &rule);
                change.old = Some(old);
                Ok(change)
            })
        }
    }
}

/// What was done to a file.
struct Change {
    verb: &'static str,
    line: u32,
    rule: String,
    old: Option<String>,
}

impl Change {
    fn new(verb: &'static str, line: u32, rule: &str) -> Self {
        Self {
            verb,
            line,
            rule: rule.to_owned(),
            old: None,
        }
    }
}

/// The words of a rule as one line; an error if it is none.
fn rule(scope: &FileScope, words: &[String], how: &How) -> Result<String> {
    let mut text = words.join(" ");
    meant(scope, &text)?;
    if let Some(comment) = &how.comment {
        if text.contains('#') {
            bail!("the rule has a comment already");
        }
        text.push_str(" # ");
        text.push_str(comment.trim());
    }
    Ok(text)
}

fn meant(scope: &FileScope, text: &str) -> Result<Meaning> {
    match meaning(text, scope.kind()) {
        Ok(Some(meaning)) => Ok(meaning),
        Ok(None) => bail!("the rule is missing"),
        Err(fault) => {
            let hint = fault
                .hint
                .map_or_else(String::new, |hint| format!(" ({hint})"));
            bail!("{text:?}: {}{hint}", fault.message)
        }
    }
}

/// The rule that words name: by number, or by what it says.
fn number(scope: &FileScope, words: &[String], rules: &[Found]) -> Result<usize> {
    if let [word] = words
        && let Ok(number) = word.parse()
    {
        return Ok(number);
    }
    let text = words.join(" ");
    let wanted = meant(scope, &text)?;
    let mut same = rules
        .iter()
        .filter(|rule| meaning(&rule.text, scope.kind()).ok().flatten().as_ref() == Some(&wanted));
    let found = same
        .next()
        .with_context(|| format!("there is no rule {text:?}"))?;
    if let Some(other) = same.next() {
        bail!(
            "rules {} and {} are both {text:?}: name one by its number",
            found.number,
            other.number
        );
    }
    Ok(found.number)
}

fn read(sources: &Sources, file: &str) -> Result<Text> {
    if let Some(reason) = sources.unreadable.get(file) {
        bail!("cannot read {file}: {reason}");
    }
    let bytes = sources.files.get(file).map_or(&[][..], |bytes| bytes);
    Ok(Text::parse(bytes))
}

fn list(place: &Place, scope: &FileScope, json: bool) -> Result<Outcome> {
    let sources = place.sources()?;
    let file = scope.file(&sources);
    let rules = read(&sources, &file)?.rules(&scope.list())?;
    let mut out = std::io::stdout().lock();
    if json {
        let rules: Vec<Value> = rules
            .iter()
            .map(|rule| json!({"number": rule.number, "line": rule.line, "text": rule.text}))
            .collect();
        serde_json::to_writer_pretty(&mut out, &json!({"file": file, "rules": rules}))?;
        writeln!(out)?;
        return Ok(Outcome::Done);
    }
    let mut rows = table(["#", "line", "rule"]);
    for rule in rules {
        rows.add_row([rule.number.to_string(), rule.line.to_string(), rule.text]);
    }
    writeln!(out, "{file}\n{rows}")?;
    Ok(Outcome::Done)
}

fn find(place: &Place, scope: &FileScope, words: &[String], json: bool) -> Result<Outcome> {
    let wanted = meant(scope, &words.join(" "))?;
    let sources = place.sources()?;
    let file = scope.file(&sources);
    let rules = read(&sources, &file)?.rules(&scope.list())?;
    let same = |rule: &&Found| {
        let mut meant = meaning(&rule.text, scope.kind()).ok().flatten();
        // A disabled one is told of, but is not there.
        if let Some(meant) = &mut meant {
            meant.enabled = wanted.enabled;
        }
        meant.as_ref() == Some(&wanted)
    };
    let is_enabled =
        |rule: &&Found| rule.text.trim_ascii_start().starts_with('|') != wanted.enabled;
    let candidates: Vec<&Found> = rules.iter().filter(same).collect();
    let exact = candidates.iter().copied().find(is_enabled);
    let found = exact.or(candidates.first().copied());
    let mut out = std::io::stdout().lock();
    match (json, found) {
        (true, found) => {
            let found = found.map(|rule| {
                let enabled = !rule.text.trim_ascii_start().starts_with('|');
                json!({"file": file, "line": rule.line, "number": rule.number, "text": rule.text, "enabled": enabled})
            });
            writeln!(
                out,
                "{}",
                json!({"present": exact.is_some(), "rule": found})
            )?;
        }
        (false, Some(rule)) => {
            let state = if exact.is_some() { "" } else { " (disabled)" };
            writeln!(out, "{file}:{}: {}{state}", rule.line, rule.text)?;
        }
        (false, None) => writeln!(out, "{file} has no such rule")?,
    }
    Ok(match exact {
        Some(_) => Outcome::Done,
        None => Outcome::Diagnostics,
    })
}

/// Changes a file under lock: read, changed, checked, replaced.
fn edit(
    place: &Place,
    scope: &FileScope,
    how: &How,
    change: impl FnOnce(&mut Text, &List) -> Result<Change>,
) -> Result<Outcome> {
    let sources = place.sources()?;
    let (file, node) = (scope.file(&sources), sources.node);
    let path: PathBuf = place.root.join(&file);
    if let FileScope::Vnet(_) = scope
        && let Some(parent) = path.parent().filter(|parent| !parent.is_dir())
    {
        bail!("there is no {}", parent.display());
    }
    let lock = match how.dry_run {
        true => None,
        false => Some(Lock::take(&place.root, &path, &scope.lock(&node))?),
    };
    // Read again: others may have edited while this waited.
    let sources = place.sources()?;
    if let FileScope::Guest(vmid) = scope
        && !sources.files.contains_key(&file)
        && !crate::config::parse(&sources).0.guests.contains_key(vmid)
    {
        bail!("there is no guest {vmid} on node {node}, and no {file}");
    }
    let mut text = read(&sources, &file)?;
    let done = change(&mut text, &scope.list())?;
    let bytes = text.bytes();
    let facts = place.facts()?;
    let now = unix_time();
    let after = check::changed(&sources, &file, &bytes);
    let found = check::new(
        &check::diagnostics(&sources, &facts, now),
        check::diagnostics(&after, &facts, now),
    );
    let refused = !found.is_empty() && !how.force;
    if !refused && !how.dry_run {
        write::replace(&path, &bytes)?;
    }
    drop(lock);
    let mut out = std::io::stdout().lock();
    if how.json {
        let said = json!({
            "done": if refused { "refused" } else { done.verb },
            "written": !refused && !how.dry_run,
            "file": file,
            "line": done.line,
            "rule": done.rule,
            "replaced": done.old,
            "diagnostics": found,
        });
        writeln!(out, "{said}")?;
    } else {
        write!(out, "{}", render(&found, &after, colours()))?;
        let would = if how.dry_run { "would be " } else { "" };
        match (refused, &done.old) {
            (true, _) => writeln!(out, "{file} is not changed: see above, or use --force")?,
            (false, None) => {
                writeln!(
                    out,
                    "{would}{}: {file}:{}: {}",
                    done.verb, done.line, done.rule
                )?;
            }
            (false, Some(old)) => writeln!(
                out,
                "{would}{}: {file}:{}: {old}\n{:>8}: {}",
                done.verb, done.line, "by", done.rule
            )?,
        }
    }
    match (refused, found.is_empty()) {
        (true, _) => bail!("the change would make something wrong that is not now"),
        (false, false) => Ok(Outcome::Diagnostics),
        (false, true) => Ok(Outcome::Done),
    }
}
