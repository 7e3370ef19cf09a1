//! Lines of `[ALIASES]` and `[IPSET name]` sections.
//!
//! An alias is `name address`; an entry of a set is an address, a network, a range or an alias, perhaps with `!` before it. Host bits are
//! cleared. A set cannot hold a network of length 0, and no text twice.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{LONGEST_NAME, alias_name, is_name, parse_item, parse_net};
use super::document::{Entry, Member};
use super::line::{Fault, Line, before_comment, quote};

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
pub(super) fn alias(line: &Line<'_>) -> Result<(Arc<str>, IpNet), Fault> {
    let text = before_comment(line.text);
    let mut words = text.split_ascii_whitespace();
    let (Some(name), Some(address), None) = (words.next(), words.next(), words.next()) else {
        return Err(Fault::new(
            line,
            text,
            "an alias has the form `name address`",
        ));
    };
    let name = section_name(line, name, LONGEST_NAME)?;
    let net = parse_net(address).map_err(|message| Fault::new(line, address, message))?;
    Ok((name, net))
}

/// Reads a line of a set; `listed` holds what the set lists already.
pub(super) fn entries(line: &Line<'_>, listed: &mut HashSet<String>) -> Result<Vec<Entry>, Fault> {
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
    let found = if let Some(name) = alias_name(line, token) {
        vec![entry(Member::Alias(Box::new(name)))]
    } else {
        let mut nets = Vec::new();
        parse_item(token, &mut nets).map_err(|message| Fault::new(line, token, message))?;
        if nets.iter().any(|net| net.prefix_len() == 0) {
            return Err(Fault::new(line, token, "a set cannot hold every address")
                .hint("use 0.0.0.0/1 and 128.0.0.0/1 instead".to_owned()));
        }
        nets.into_iter()
            .map(|net| entry(Member::Net(net)))
            .collect()
    };
    let key = token
        .strip_suffix("/32")
        .filter(|text| !text.contains(':'))
        .or_else(|| token.strip_suffix("/128"))
        .unwrap_or(token);
    let fresh = match found.first().map(|entry| &entry.member) {
        Some(Member::Alias(_)) => listed.insert(token.to_ascii_lowercase()),
        Some(Member::Net(_)) | None => listed.insert(key.to_owned()),
    };
    if fresh {
        Ok(found)
    } else {
        Err(Fault::new(
            line,
            token,
            format!("{} is listed in this set already", quote(token)),
        ))
    }
}
