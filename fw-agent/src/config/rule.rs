//! One line of a `[RULES]` or `[group]` section.
//!
//! In: a [`Line`] and the kind of list it stands in. Out: a [`RuleLine`], or the first [`Fault`] of the line; a faulty line is never enforced.
//! Spellings that `pve-firewall` does not understand but that have only one meaning are accepted and noted.
//!
//! Macros are expanded here, names of addresses and groups are looked up by `policy`, so the order of definitions does not matter.

mod interface;

use std::sync::Arc;

use fw_common::verdict::{Direction, Verdict};

pub use self::interface::Interface;
pub(crate) use self::interface::is_host_interface;
use super::address::{AddressSpec, LONGEST_GROUP, is_name, parse_spec};
use super::closest::did_you_mean;
use super::line::{Fault, Line, Note, Span, before_comment, quote};
use super::macros;
use super::options::log_level;
use super::service::{self, Service, Written};

/// A valid line of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLine {
    /// Line number, from 1.
    pub line: u32,
    /// The line as written, without comment and blanks around it.
    pub text: Arc<str>,
    /// Where `text` stands in the line.
    pub span: Span,
    /// Not disabled by `|`.
    pub enabled: bool,
    /// Only for this interface.
    pub interface: Option<Interface>,
    /// What the line does.
    pub action: Action,
}

/// What a line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `GROUP name`: the rules of a security group stand here.
    Group {
        /// Name in lower case.
        name: Arc<str>,
        /// Where it stands in the line.
        span: Span,
    },
    /// A rule of its own.
    Filter(Filter),
}

/// Which packets a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// `IN` or `OUT`.
    Local(Direction),
    /// `FORWARD`: what the host or a VNet forwards.
    Forward,
}

/// Conditions and verdict of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `IN`, `OUT` or `FORWARD`.
    pub flow: Flow,
    /// `ACCEPT`, `DROP` or `REJECT`.
    pub verdict: Verdict,
    /// Name of the macro, if there is one.
    pub of_macro: Option<&'static str>,
    /// Alternatives of protocol, ports and ICMP type; one without a macro.
    pub services: Vec<Service>,
    /// `-source`.
    pub source: Option<AddressSpec>,
    /// `-dest`.
    pub dest: Option<AddressSpec>,
    /// `-log`: syslog level; none also for `nolog`.
    pub log: Option<u8>,
}

/// The list that a line stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `[RULES]` of a guest.
    Guest,
    /// `[RULES]` of `host.fw` or `cluster.fw`.
    Host,
    /// `[RULES]` of a VNet.
    Vnet,
    /// A security group.
    Group,
}

#[derive(Default)]
struct Options<'a> {
    interface: Option<&'a str>,
    source: Option<&'a str>,
    dest: Option<&'a str>,
    log: Option<&'a str>,
    service: Written<'a>,
}

/// Reads a line; nothing if it is blank. What `pve-firewall` would not accept is added to `notes`.
pub fn parse(
    line: &Line<'_>,
    list: List,
    notes: &mut Vec<Note>,
) -> Result<Option<RuleLine>, Fault> {
    let text = before_comment(line.text);
    if text.is_empty() {
        return Ok(None);
    }
    let (enabled, body) = match text.strip_prefix('|') {
        Some(body) => (false, body),
        None => (true, text),
    };
    let mut words = body.split_ascii_whitespace();
    let Some(direction) = words.next() else {
        return Err(Fault::new(line, text, "the rule is missing"));
    };
    let Some(action) = words.next() else {
        let is_direction = DIRECTIONS
            .iter()
            .any(|known| direction.eq_ignore_ascii_case(known));
        return match is_direction {
            true => Err(Fault::new(line, direction, "an action is missing")
                .hint("for example `IN ACCEPT`, or `GROUP name`".to_owned())),
            false => Err(unknown_direction(line, direction)),
        };
    };
    let is_group = direction.eq_ignore_ascii_case("GROUP");
    let options = parse_options(line, words, notes)?;
    let interface = options
        .interface
        .map(|text| interface::parse(line, text, list, notes))
        .transpose()?;
    let action = if is_group {
        parse_group(line, direction, action, list, &options, notes)?
    } else {
        let flow = parse_flow(line, direction, list)?;
        Action::Filter(parse_filter(line, flow, action, &options, notes)?)
    };
    Ok(Some(RuleLine {
        line: line.number,
        text: text.into(),
        span: line.span(text),
        enabled,
        interface,
        action,
    }))
}

fn parse_flow(line: &Line<'_>, text: &str, list: List) -> Result<Flow, Fault> {
    match text.to_ascii_uppercase().as_str() {
        "IN" | "OUT" if list == List::Vnet => {
            Err(Fault::new(line, text, "a VNet has only FORWARD rules")
                .hint("use FORWARD".to_owned()))
        }
        "IN" => Ok(Flow::Local(Direction::In)),
        "OUT" => Ok(Flow::Local(Direction::Out)),
        "FORWARD" if list != List::Guest => Ok(Flow::Forward),
        "FORWARD" => {
            Err(Fault::new(line, text, "a guest has no FORWARD rules")
                .hint("use IN or OUT".to_owned()))
        }
        _ => Err(unknown_direction(line, text)),
    }
}

const DIRECTIONS: [&str; 4] = ["IN", "OUT", "FORWARD", "GROUP"];

fn unknown_direction(line: &Line<'_>, text: &str) -> Fault {
    Fault::new(line, text, format!("{} is not a direction", quote(text)))
        .hint("a rule begins with IN, OUT, FORWARD or GROUP".to_owned())
}

fn parse_group(
    line: &Line<'_>,
    direction: &str,
    name: &str,
    list: List,
    options: &Options<'_>,
    notes: &mut Vec<Note>,
) -> Result<Action, Fault> {
    if list == List::Group {
        return Err(Fault::new(
            line,
            direction,
            "a security group cannot contain another",
        ));
    }
    if !is_name(name) || name.len() > LONGEST_GROUP {
        return Err(Fault::new(
            line,
            name,
            format!("{} is not a name of a security group", quote(name)),
        ));
    }
    let service = options.service;
    let others = [
        options.source,
        options.dest,
        options.log,
        service.protocol,
        service.sport,
        service.dport,
        service.icmp_type,
    ];
    if let Some(text) = others.into_iter().flatten().next() {
        return Err(Fault::new(line, text, "a GROUP line has no option but -i"));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let message = "the name of a security group has capital letters";
        let hint = format!("write {}", quote(&name.to_ascii_lowercase()));
        notes.push(Fault::new(line, name, message).hint(hint).superset());
    }
    Ok(Action::Group {
        name: name.to_ascii_lowercase().into(),
        span: line.span(name),
    })
}

fn parse_filter(
    line: &Line<'_>,
    flow: Flow,
    action: &str,
    options: &Options<'_>,
    notes: &mut Vec<Note>,
) -> Result<Filter, Fault> {
    let (verdict_text, of_macro) = match action
        .strip_suffix(')')
        .and_then(|text| text.split_once('('))
    {
        Some((name, verdict)) => {
            let of = macros::find(name).ok_or_else(|| {
                Fault::new(line, name, format!("{} is not a macro", quote(name)))
                    .hint(did_you_mean(name, macros::names()))
            })?;
            (verdict, Some(of))
        }
        None => (action, None),
    };
    let verdict = verdict(verdict_text).ok_or_else(|| unknown_action(line, verdict_text))?;
    if verdict_text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let message = "the action is not in capital letters";
        let hint = format!("write {}", verdict.name());
        notes.push(
            Fault::new(line, verdict_text, message)
                .hint(hint)
                .superset(),
        );
    }
    if let Some(of) = of_macro.filter(|of| macros::OURS.contains(&of.name.as_str())) {
        let message = format!("pve-firewall has no macro {}", of.name);
        notes.push(Fault::new(line, action, message).superset());
    }
    if flow == Flow::Forward && verdict == Verdict::Reject {
        return Err(
            Fault::new(line, verdict_text, "a FORWARD rule cannot reject")
                .hint("use DROP".to_owned()),
        );
    }
    let mut spec = |text: Option<&str>| text.map(|text| parse_spec(line, text, notes)).transpose();
    let (source, dest) = (spec(options.source)?, spec(options.dest)?);
    let services = service::parse(line, options.service, of_macro, notes)?;
    let log = match options.log {
        Some(text) => {
            if text.bytes().any(|byte| byte.is_ascii_uppercase()) || text == "warn" {
                let message = "the log level is not one of pve-firewall's words";
                notes.push(Fault::new(line, text, message).superset());
            }
            log_level(text).map_err(|message| Fault::new(line, text, message))?
        }
        None => None,
    };
    Ok(Filter {
        flow,
        verdict,
        of_macro: of_macro.map(|of| of.name.as_str()),
        services,
        source,
        dest,
        log,
    })
}

/// A verdict's name in any case.
pub fn verdict(text: &str) -> Option<Verdict> {
    [Verdict::Accept, Verdict::Drop, Verdict::Reject]
        .into_iter()
        .find(|verdict| verdict.name().eq_ignore_ascii_case(text))
}

fn unknown_action(line: &Line<'_>, text: &str) -> Fault {
    let fault = Fault::new(line, text, format!("{} is not an action", quote(text)));
    if text.eq_ignore_ascii_case("DENY") {
        return fault.hint("use DROP".to_owned());
    }
    if let Some(of) = macros::find(text) {
        return fault.hint(format!("a macro needs an action: {}(ACCEPT)", of.name));
    }
    let hint = did_you_mean(text, ["ACCEPT", "DROP", "REJECT"]);
    fault.hint(
        hint.unwrap_or_else(|| {
            "use ACCEPT, DROP, REJECT or a macro such as SSH(ACCEPT)".to_owned()
        }),
    )
}

const KEYS: &[&str] = &[
    "-i",
    "-p",
    "-proto",
    "-source",
    "-dest",
    "-sport",
    "-dport",
    "-icmp-type",
    "-log",
];

fn parse_options<'a>(
    line: &Line<'a>,
    mut words: impl Iterator<Item = &'a str>,
    notes: &mut Vec<Note>,
) -> Result<Options<'a>, Fault> {
    let mut options = Options::default();
    // One remark of a kind per line, however often it applies.
    let (mut spaced, mut spelled, mut repeated) = (true, true, false);
    while let Some(word) = words.next() {
        let Some(key) = word.strip_prefix('-') else {
            return Err(
                Fault::new(line, word, format!("{} is not an option", quote(word)))
                    .hint("an option begins with `-`".to_owned()),
            );
        };
        let slot = match key.strip_prefix('-').unwrap_or(key) {
            "i" | "iface" => &mut options.interface,
            "p" | "proto" => &mut options.service.protocol,
            "source" => &mut options.source,
            "dest" => &mut options.dest,
            "sport" => &mut options.service.sport,
            "dport" => &mut options.service.dport,
            "icmp-type" => &mut options.service.icmp_type,
            "log" => &mut options.log,
            _ => {
                return Err(
                    Fault::new(line, word, format!("{} is not an option", quote(word)))
                        .hint(did_you_mean(word, KEYS.iter().copied())),
                );
            }
        };
        if matches!(word, "--i" | "-iface" | "--iface" | "--p") && std::mem::take(&mut spelled) {
            let message = format!("{} is another spelling of the option", quote(word));
            let hint = if word.ends_with('p') {
                "write -p"
            } else {
                "write -i"
            };
            notes.push(
                Fault::new(line, word, message)
                    .hint(hint.to_owned())
                    .superset(),
            );
        }
        let value = words.next().filter(|value| !value.starts_with('-'));
        let value = value.ok_or_else(|| Fault::new(line, word, format!("{word} has no value")))?;
        if line.between(word, value) != Some(" ") && std::mem::take(&mut spaced) {
            let message = "between an option and its value stands something else than one space";
            let hint = format!("write {}", quote(&format!("{word} {value}")));
            notes.push(Fault::new(line, value, message).hint(hint).superset());
        }
        if slot.replace(value).is_some() && !std::mem::replace(&mut repeated, true) {
            let message = format!("{} is given twice", quote(word));
            notes.push(Fault::new(line, word, message).effect("the later value is used"));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests;
