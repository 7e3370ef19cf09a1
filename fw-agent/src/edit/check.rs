//! What a change to a file would newly be wrong with.
//!
//! In: the configuration, and one file's new bytes. Out: the diagnostics (of all stages, lints too) that were not there before. Places shift with
//! lines, so two are the same if they say the same, whatever numbers of lines they mention.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::compile::compile;
use crate::config::Sources;
use crate::diagnostic::{Diagnostic, Severity};
use crate::inventory::facts::HostFacts;
use crate::lint;

/// Everything that is wrong with a configuration.
pub fn diagnostics(sources: &Sources, facts: &HostFacts, now: u64) -> Vec<Diagnostic> {
    let compiled = compile(sources, facts, now);
    let mut found = compiled.diagnostics;
    found.extend(lint::run(&compiled.config, &compiled.policy));
    found.sort();
    found.dedup();
    found
}

/// The configuration with another text of one file.
#[must_use]
pub fn changed(sources: &Sources, file: &str, bytes: &[u8]) -> Sources {
    let mut sources = sources.clone();
    sources
        .files
        .insert(file.to_owned(), Bytes::copy_from_slice(bytes));
    sources
}

/// Those of `after` that are not among `before`.
pub fn new(before: &[Diagnostic], after: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut known: BTreeMap<_, u32> = BTreeMap::new();
    for diagnostic in before {
        *known.entry(key(diagnostic)).or_default() += 1;
    }
    let is_new = |diagnostic: &Diagnostic| match known.get_mut(&key(diagnostic)) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        Some(_) | None => true,
    };
    let mut is_new = is_new;
    after.into_iter().filter(|found| is_new(found)).collect()
}

fn key(diagnostic: &Diagnostic) -> (String, Severity, String) {
    // `line 12` and `:12` are places too.
    let mut message = String::new();
    let mut last = ' ';
    for part in diagnostic.message.split_inclusive([' ', ':']) {
        let digits = part.trim_end_matches([' ', ':', ',', '.']);
        let is_place = message.ends_with("line ") || last == ':';
        last = part.chars().last().unwrap_or(' ');
        match is_place && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => message.push_str("N "),
            false => message.push_str(part),
        }
    }
    (diagnostic.file.to_string(), diagnostic.severity, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_lines_are_not_new() {
        let found = |line, message: &str| Diagnostic {
            file: "firewall/100.fw".into(),
            line,
            column: 0,
            length: 0,
            severity: Severity::Warning,
            message: message.to_owned(),
            effect: "it never matches".to_owned(),
            hint: None,
        };
        let before = [
            found(3, "the rule of line 2 comes before"),
            found(5, "is shadowed by firewall/100.fw:4"),
        ];
        let after = vec![
            found(4, "the rule of line 3 comes before"),
            found(6, "is shadowed by firewall/100.fw:5"),
        ];
        assert_eq!(new(&before, after), []);
        let after = vec![before[0].clone(), before[0].clone()];
        assert_eq!(new(&before, after), [before[0].clone()]);
        let after = vec![found(3, "the rule of line 2 comes too late")];
        assert_eq!(new(&before, after.clone()), after);
    }
}
