//! Lines of `[ALIASES]` and `[IPSET name]` sections.
//!
//! An alias is `name address`; an entry of a set is an address, a network, a range or an alias, perhaps with `!` before it. Host bits are
//! cleared. A set cannot hold a network of length 0, and no text twice.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{LONGEST_NAME, alias_name, is_name, parse_item, parse_net};
use super::document::{Entry, Member};
use super::line::{Fault, Line, Note, before_comment, quote};

/// Folds the name of a section or an alias, if it is one.
pub(super) fn section_name(line: &Line<'_>, name: &str, longest: usize) -> Result<Arc<str>, Fault> {
    if is_name(name) && name.len() <= longest {
        return Ok(name.to_ascii_lowercase().into());
    }
    let rule = format!(
        "a name is a letter and 1 to {} letters, digits, `-` or `_`",
        longest - 1
    );
    Err(Fault::new(line, name, format!("{} is not a valid name", quote(name))).hint(rule))
}

/// Reads a line of `[ALIASES]`.
pub(super) fn alias(line: &Line<'_>) -> Result<(Arc<str>, IpNet, Option<Note>), Fault> {
    let text = before_comment(line.text);
    let mut words = text.split_ascii_whitespace();
    let (Some(written), Some(address), None) = (words.next(), words.next(), words.next()) else {
        return Err(Fault::new(
            line,
            text,
            "an alias has the form `name address`",
        ));
    };
    let name = section_name(line, written, LONGEST_NAME)?;
    let net = parse_net(address).map_err(|message| Fault::new(line, address, message))?;
    let blanks = line.between(written, address).map_or(1, str::len);
    let note = (blanks != 1).then(|| {
        let message = "more than one blank stands between name and address";
        Fault::new(line, address, message).superset()
    });
    Ok((name, net, note))
}

/// What a set lists already, as written.
#[derive(Debug, Default)]
pub(super) struct Listed<'t> {
    nets: HashSet<&'t str>,
    aliases: HashSet<String>,
    unchecked: bool,
}

impl Listed<'_> {
    /// Nothing counts as listed already.
    pub(super) fn unchecked() -> Self {
        Self {
            unchecked: true,
            ..Self::default()
        }
    }
}

/// Reads a line of a set and appends what it lists to `out`.
pub(super) fn entries<'t>(
    line: &Line<'t>,
    listed: &mut Listed<'t>,
    out: &mut Vec<Entry>,
) -> Result<Option<Note>, Fault> {
    let text = before_comment(line.text);
    let (nomatch, token) = match text.strip_prefix('!') {
        Some(token) => (true, token.trim_ascii_start()),
        None => (false, text),
    };
    if token.is_empty() {
        return Err(Fault::new(line, text, "an address is missing"));
    }
    if token.contains(|char: char| char.is_ascii_whitespace()) {
        return Err(Fault::new(line, token, "a line of a set holds one address")
            .hint("write one address per line".to_owned()));
    }
    let entry = |member| Entry {
        line: line.number,
        nomatch,
        member,
    };
    let twice = || {
        let message = format!("{} is listed in this set already", quote(token));
        Fault::new(line, token, message)
    };
    if let Some(name) = alias_name(line, token) {
        if !listed.unchecked && !listed.aliases.insert(token.to_ascii_lowercase()) {
            return Err(twice());
        }
        out.push(entry(Member::Alias(Box::new(name))));
        return Ok(None);
    }
    let first = out.len();
    let is_range = parse_item(token, |net| out.push(entry(Member::Net(net))))
        .map_err(|message| Fault::new(line, token, message).hint(entry_hint(token)))?;
    let key = token
        .strip_suffix("/32")
        .filter(|text| !text.contains(':'))
        .or_else(|| token.strip_suffix("/128"))
        .unwrap_or(token);
    let is_everything =
        |entry: &Entry| matches!(&entry.member, Member::Net(net) if net.prefix_len() == 0);
    let refused = if out.last().is_some_and(is_everything) {
        let hint = "write its halves instead: 0.0.0.0/1 and 128.0.0.0/1, or ::/1 and 8000::/1";
        Err(Fault::new(line, token, "a set cannot hold every address").hint(hint.to_owned()))
    } else if !listed.unchecked && !listed.nets.insert(key) {
        Err(twice())
    } else {
        Ok(())
    };
    if let Err(fault) = refused {
        out.truncate(first);
        return Err(fault);
    }
    let note = || Fault::new(line, token, "a range stands in a set").superset();
    Ok(is_range.then(note))
}

/// Advice about an entry that is no address.
fn entry_hint(token: &str) -> Option<String> {
    token
        .starts_with('+')
        .then(|| "a set cannot contain another; list its addresses".to_owned())
}
