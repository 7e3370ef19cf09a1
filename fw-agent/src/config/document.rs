//! One firewall file: its sections, line by line.
//!
//! In: the bytes of a file. Out: a [`Document`]; whatever a line says wrong is reported and changes no other line.
//!
//! 1. A line that begins with `[` is a header; a header that is unknown, or not allowed in this kind of file, takes the lines up to the next
//!    good header with it. 2. Repeated `[OPTIONS]`, `[ALIASES]` and `[RULES]` add up; a repeated set or group replaces the earlier one.
//! 3. Names are folded to lower case. Nothing is looked up here, so the order of definitions does not matter.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use super::address::{LONGEST_GROUP, LONGEST_NAME, Name};
use super::entry::{Listed, alias, entries, section_name};
use super::line::{Fault, Line, Lines, Note, Reporter, Span, before_comment, decode, lines, quote};
use super::long_set::{LONG, LongSet, end_of_section};
use super::options::OptionTable;
use super::rule::{self, List, RuleLine};

/// A parsed file; `O` are its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document<O> {
    /// Path of the file, as in [`super::Sources`].
    pub file: Arc<str>,
    /// Whether the file could be read; one that does not exist is readable and empty.
    pub readable: bool,
    /// `[OPTIONS]`.
    pub options: O,
    /// `[ALIASES]` by name.
    pub aliases: BTreeMap<Arc<str>, Alias>,
    /// `[IPSET name]` by name.
    pub sets: BTreeMap<Arc<str>, IpSet>,
    /// `[group name]` by name; only in `cluster.fw`.
    pub groups: BTreeMap<Arc<str>, Group>,
    /// `[RULES]` in order.
    pub rules: Vec<RuleLine>,
}

/// An alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What it stands for, host bits cleared.
    pub net: IpNet,
    /// Where it is defined …
    pub line: u32,
    /// … and in which part of the line.
    pub span: Span,
}

/// A set of addresses as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    /// Line of the header.
    pub line: u32,
    /// Where the header stands in the line.
    pub span: Span,
    /// The entries in order; none if it is a long one.
    pub entries: Vec<Entry>,
    /// A long set without aliases.
    pub long: Option<Arc<LongSet>>,
}

/// An entry of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Line number.
    pub line: u32,
    /// `!`: addresses of this entry are not in the set.
    pub nomatch: bool,
    /// What the entry names.
    pub member: Member,
}

/// What an entry of a set names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A network, host bits cleared; a range is several entries.
    Net(IpNet),
    /// An alias.
    Alias(Box<Name>),
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Line of the header.
    pub line: u32,
    /// Where the header stands in the line.
    pub span: Span,
    /// The rules in order.
    pub rules: Vec<RuleLine>,
}

/// The kind of a file decides which sections it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cluster.fw`.
    Cluster,
    /// `host.fw`.
    Host,
    /// `host.fw` of a plain host, which may hold what else stands in `cluster.fw`.
    Plain,
    /// `<vmid>.fw`.
    Guest,
    /// `sdn/firewall/<vnet>.fw`.
    Vnet,
}

impl Kind {
    /// The kind of list that `[RULES]` is.
    fn rules(self) -> List {
        match self {
            Self::Cluster | Self::Host | Self::Plain => List::Host,
            Self::Guest => List::Guest,
            Self::Vnet => List::Vnet,
        }
    }

    /// Whether the file may define aliases and sets.
    fn has_names(self) -> bool {
        match self {
            Self::Cluster | Self::Plain | Self::Guest => true,
            Self::Host | Self::Vnet => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Section {
    Before,
    Skipped,
    Options,
    Aliases,
    Rules,
    Set(Arc<str>),
    Group(Arc<str>),
}

const RULE_SKIPPED: &str = "the rule is not enforced";
const ENTRY_SKIPPED: &str = "the entry is not in the set";
const SECTION_IS_READ: &str = "pve-firewall ignores this section, Tapwall reads it";
const LINES_SKIPPED: &str = "the lines up to the next section are ignored";

impl<O: OptionTable> Document<O> {
    /// A file that does not exist: every option has its default.
    pub fn empty(file: Arc<str>) -> Self {
        Self {
            file,
            readable: true,
            options: O::default(),
            aliases: BTreeMap::new(),
            sets: BTreeMap::new(),
            groups: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    /// Reads a file.
    pub fn parse(bytes: &[u8], kind: Kind, reporter: &mut Reporter<'_>) -> Self {
        Self::parse_again(&Bytes::copy_from_slice(bytes), kind, None, reporter)
    }

    /// Reads a file that was read before, as `last`. Gives what [`Document::parse`] gives, sooner if most of a long set is the same.
    pub fn parse_again(
        bytes: &Bytes,
        kind: Kind,
        last: Option<&Self>,
        reporter: &mut Reporter<'_>,
    ) -> Self {
        let mut document = Self::empty(Arc::clone(reporter.file()));
        reporter.encoding(bytes);
        let text = decode(bytes);
        let mut section = Section::Before;
        let mut listed = Listed::default();
        let mut had_return = false;
        let mut rest = lines(&text);
        while let Some(line) = rest.next() {
            let body = line.text.trim_ascii();
            if body.is_empty() || body.starts_with('#') {
                continue;
            }
            if body.starts_with('[') {
                if line.returns && !std::mem::replace(&mut had_return, true) {
                    let fault = Fault::new(&line, body, "the lines of this file end with CR LF");
                    reporter.warning(line.number, fault, SECTION_IS_READ);
                }
                section = document.open(&line, body, kind, reporter);
                listed = Listed::default();
                if let (Section::Set(name), Cow::Borrowed(_)) = (&section, &text) {
                    let last = last.and_then(|last| last.sets.get(name)?.long.as_deref());
                    document.long_set(name, bytes, &mut rest, last, reporter);
                }
                continue;
            }
            match &section {
                Section::Before => reporter.error(
                    line.number,
                    Fault::new(&line, body, "the line stands before any section"),
                    "the line is ignored",
                ),
                Section::Skipped => {}
                Section::Options => document.option(&line, reporter),
                Section::Aliases => document.alias(&line, reporter),
                Section::Rules => {
                    document
                        .rules
                        .extend(rule_line(&line, kind.rules(), reporter));
                }
                Section::Group(name) => {
                    let rule = rule_line(&line, List::Group, reporter);
                    document
                        .groups
                        .entry(Arc::clone(name))
                        .or_default()
                        .rules
                        .extend(rule);
                }
                Section::Set(name) => {
                    let set = document.sets.entry(Arc::clone(name)).or_default();
                    match entries(&line, &mut listed, &mut set.entries) {
                        Ok(note) => note
                            .into_iter()
                            .for_each(|note| reporter.note(line.number, note)),
                        Err(fault) => reporter.error(line.number, fault, ENTRY_SKIPPED),
                    }
                }
            }
        }
        document
    }

    /// Reads the lines of a set that has just begun, if they are many, and takes them from `rest`.
    fn long_set(
        &mut self,
        name: &str,
        bytes: &Bytes,
        rest: &mut Lines<'_>,
        last: Option<&LongSet>,
        reporter: &mut Reporter<'_>,
    ) {
        let body = rest.text();
        let body = &body.as_bytes()[..end_of_section(body.as_bytes())];
        if body.len() < LONG {
            return;
        }
        let (Some(long), Some(set)) = (
            LongSet::read(bytes.slice_ref(body), last),
            self.sets.get_mut(name),
        ) else {
            return;
        };
        let first = rest.skip_bytes(body.len(), long.lines());
        for (line, remark) in long.remarks() {
            match remark.clone() {
                Ok(note) => reporter.note(first + line, note),
                Err(fault) => reporter.error(first + line, fault, ENTRY_SKIPPED),
            }
        }
        set.long = Some(Arc::new(long));
    }

    /// Begins the section of a header line.
    fn open(
        &mut self,
        line: &Line<'_>,
        body: &str,
        kind: Kind,
        reporter: &mut Reporter<'_>,
    ) -> Section {
        let mut notes = Vec::new();
        let found = header(line, body, kind, &mut notes);
        notes
            .into_iter()
            .for_each(|note| reporter.note(line.number, note));
        match found {
            Err(fault) => {
                reporter.error(line.number, fault, LINES_SKIPPED);
                Section::Skipped
            }
            Ok(section) => {
                let before = match &section {
                    Section::Set(name) => {
                        let set = IpSet {
                            line: line.number,
                            span: line.span(body),
                            ..IpSet::default()
                        };
                        self.sets.insert(Arc::clone(name), set).map(|set| set.line)
                    }
                    Section::Group(name) => {
                        let group = Group {
                            line: line.number,
                            span: line.span(body),
                            rules: Vec::new(),
                        };
                        self.groups
                            .insert(Arc::clone(name), group)
                            .map(|group| group.line)
                    }
                    Section::Before
                    | Section::Skipped
                    | Section::Options
                    | Section::Aliases
                    | Section::Rules => None,
                };
                if let Some(before) = before {
                    let fault = Fault::new(
                        line,
                        body,
                        format!("this section replaces the one of line {before}"),
                    );
                    reporter.warning(line.number, fault, "only the later section is used");
                }
                section
            }
        }
    }

    fn option(&mut self, line: &Line<'_>, reporter: &mut Reporter<'_>) {
        match self.options.read(line) {
            Ok(notes) => notes
                .into_iter()
                .for_each(|note| reporter.note(line.number, note)),
            Err(fault) => reporter.error(line.number, fault, "the line is ignored"),
        }
    }

    fn alias(&mut self, line: &Line<'_>, reporter: &mut Reporter<'_>) {
        match alias(line) {
            Ok((name, net, note)) => {
                note.into_iter()
                    .for_each(|note| reporter.note(line.number, note));
                if let Some(before) = self.aliases.insert(
                    Arc::clone(&name),
                    Alias {
                        net,
                        line: line.number,
                        span: line.span(line.text.trim_ascii()),
                    },
                ) {
                    let fault = Fault::new(
                        line,
                        line.text.trim_ascii(),
                        format!(
                            "alias {} is defined in line {} already",
                            quote(&name),
                            before.line
                        ),
                    );
                    reporter.warning(line.number, fault, "the later definition is used");
                }
            }
            Err(fault) => reporter.error(line.number, fault, "the alias is not defined"),
        }
    }
}

/// Reads `[KEYWORD]` or `[KEYWORD name]` with perhaps a comment behind it.
fn header(
    line: &Line<'_>,
    whole: &str,
    kind: Kind,
    notes: &mut Vec<Note>,
) -> Result<Section, Fault> {
    let body = before_comment(whole);
    let inner = body
        .strip_prefix('[')
        .and_then(|body| body.strip_suffix(']'));
    let mut words = inner.unwrap_or_default().split_ascii_whitespace();
    let (Some(keyword), name, None) = (words.next(), words.next(), words.next()) else {
        return Err(Fault::new(
            line,
            body,
            format!("{} is not a section", quote(body)),
        ));
    };
    let (section, allowed) = match (keyword.to_ascii_uppercase().as_str(), name) {
        ("OPTIONS", None) => (Section::Options, true),
        ("RULES", None) => (Section::Rules, true),
        ("ALIASES", None) => (Section::Aliases, kind.has_names()),
        ("IPSET", Some(name)) => (
            Section::Set(section_name(line, name, LONGEST_NAME)?),
            kind.has_names(),
        ),
        ("GROUP", Some(name)) => (
            Section::Group(section_name(line, name, LONGEST_GROUP)?),
            matches!(kind, Kind::Cluster | Kind::Plain),
        ),
        _ => {
            let hint = "sections are [OPTIONS], [ALIASES], [IPSET name], [RULES] and [group name]"
                .to_owned();
            return Err(
                Fault::new(line, body, format!("{} is not a section", quote(body))).hint(hint),
            );
        }
    };
    if allowed {
        let inner = inner.unwrap_or_default();
        let plain = if name.is_some() { body } else { whole };
        if inner.trim_ascii() != inner || plain.len() != inner.len() + 2 {
            let fault = match name {
                Some(_) => Fault::new(line, body, "there is a blank inside the brackets"),
                None => Fault::new(line, whole, "a comment or a blank stands in this header"),
            };
            notes.push(fault.effect(SECTION_IS_READ));
        }
        Ok(section)
    } else {
        Err(Fault::new(
            line,
            body,
            format!("{} is not a section of this kind of file", quote(body)),
        ))
    }
}

fn rule_line(line: &Line<'_>, list: List, reporter: &mut Reporter<'_>) -> Option<RuleLine> {
    let mut notes = Vec::new();
    match rule::parse(line, list, &mut notes) {
        Ok(rule) => {
            for note in notes
                .into_iter()
                .filter(|_| rule.as_ref().is_some_and(|rule| rule.enabled))
            {
                reporter.note(line.number, note);
            }
            rule
        }
        Err(fault) => {
            reporter.error(line.number, fault, RULE_SKIPPED);
            None
        }
    }
}

#[cfg(test)]
mod tests;
