//! Lines of a text file, places in them, and what is reported about them.
//!
//! In: the bytes of a file. Out: its lines as text, and [`Diagnostic`]s that point into them. A line ends with a line feed, with or without a
//! carriage return before it; a byte order mark is skipped; bytes that are not UTF-8 are read as U+FFFD and reported once per file.
//!
//! A parser works on sub-slices of a [`Line`], so a place is found from the slice itself ([`Line::span`]); columns are counted in characters
//! only when something is reported or has to be remembered, which keeps parsing linear.

use std::borrow::Cow;
use std::sync::Arc;

use memchr::memchr;

use crate::diagnostic::{Diagnostic, Severity};

/// A place in a line, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First character, from 1; 0 if the whole line is meant.
    pub column: u32,
    /// Number of characters; 0 if the whole line is meant.
    pub length: u32,
}

/// One line of a file.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Number, from 1.
    pub number: u32,
    /// The line without its ending.
    pub text: &'a str,
    /// A carriage return stood before the line feed.
    pub returns: bool,
}

impl<'a> Line<'a> {
    /// A line of text that is no file's.
    pub fn alone(text: &'a str) -> Self {
        Self {
            number: 1,
            text,
            returns: false,
        }
    }
}

impl Line<'_> {
    /// The bytes between two sub-slices of this line, the first of which comes first; none if they are not.
    pub fn between(&self, first: &str, second: &str) -> Option<&str> {
        let base = self.text.as_ptr() as usize;
        let start = (first.as_ptr() as usize + first.len()).wrapping_sub(base);
        let end = (second.as_ptr() as usize).wrapping_sub(base);
        self.text.get(start..end)
    }

    /// Where `part`, a sub-slice of this line, stands in it; for any other slice the whole line.
    pub fn span(&self, part: &str) -> Span {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let is_inside = offset
            .checked_add(part.len())
            .is_some_and(|end| end <= self.text.len());
        let Some(before) = self.text.get(..offset).filter(|_| is_inside) else {
            return Span::default();
        };
        Span {
            column: count(before).saturating_add(1),
            length: count(part).max(1),
        }
    }
}

fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// The text of a file as the parser sees it: without byte order mark, invalid bytes replaced.
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// The lines of a text.
pub fn lines(text: &str) -> Lines<'_> {
    Lines {
        rest: Some(text),
        number: 1,
    }
}

/// The lines of a text from one on.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    /// What follows; none behind the last line.
    rest: Option<&'a str>,
    /// Number of the next line.
    number: u32,
}

impl<'a> Lines<'a> {
    /// What follows.
    pub fn text(&self) -> &'a str {
        self.rest.unwrap_or_default()
    }

    /// Leaves out as many bytes, which are so many whole lines. Answers the number of the first of them.
    pub fn skip_bytes(&mut self, bytes: usize, lines: u32) -> u32 {
        self.rest = self.rest.and_then(|rest| rest.get(bytes..));
        let first = self.number;
        self.number = first.saturating_add(lines);
        first
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let rest = self.rest?;
        let (text, behind) = match memchr(b'\n', rest.as_bytes()) {
            Some(at) => (rest.get(..at)?, rest.get(at + 1..)),
            None => (rest, None),
        };
        self.rest = behind;
        let number = self.number;
        self.number = number.saturating_add(1);
        let line = text.strip_suffix('\r');
        Some(Line {
            number,
            text: line.unwrap_or(text),
            returns: line.is_some(),
        })
    }
}

/// What is wrong with a part of a line; becomes a [`Diagnostic`] when the effect is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub span: Span,
    /// What, one sentence.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault at `part`, a sub-slice of `line`.
    pub fn new(line: &Line<'_>, part: &str, message: impl Into<String>) -> Self {
        Self {
            span: line.span(part),
            message: message.into(),
            hint: None,
        }
    }

    /// The same fault with advice.
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Effect of a line that the reference does not understand but that can mean only one thing.
pub const SUPERSET: &str = "pve-firewall ignores this line, Tapwall enforces it";

/// A remark about something that is enforced, and what was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where and what.
    pub fault: Fault,
    /// What was done.
    pub effect: &'static str,
}

impl Fault {
    /// The remark that the reference would ignore the line.
    pub fn superset(self) -> Note {
        self.effect(SUPERSET)
    }

    /// The remark with another effect.
    pub fn effect(self, effect: &'static str) -> Note {
        Note {
            fault: self,
            effect,
        }
    }
}

/// Collects the diagnostics of one file.
#[derive(Debug)]
pub struct Reporter<'d> {
    file: Arc<str>,
    out: &'d mut Vec<Diagnostic>,
}

impl<'d> Reporter<'d> {
    /// A reporter for `file`.
    pub fn new(file: Arc<str>, out: &'d mut Vec<Diagnostic>) -> Self {
        Self { file, out }
    }

    /// The file that is reported on.
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Something written is not enforced.
    pub fn error(&mut self, line: u32, fault: Fault, effect: &str) {
        self.push(Severity::Error, line, fault, effect);
    }

    /// Everything is enforced, but perhaps not as meant.
    pub fn warning(&mut self, line: u32, fault: Fault, effect: &str) {
        self.push(Severity::Warning, line, fault, effect);
    }

    /// A remark.
    pub fn note(&mut self, line: u32, note: Note) {
        self.warning(line, note.fault, note.effect);
    }

    /// Reports the first byte that is not UTF-8.
    pub fn encoding(&mut self, bytes: &[u8]) {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let Err(error) = std::str::from_utf8(bytes) else {
            return;
        };
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default())
            .chars()
            .count()
            + 1;
        let fault = Fault {
            span: Span {
                column: u32::try_from(column).unwrap_or(u32::MAX),
                length: 1,
            },
            message: "the file is not valid UTF-8".into(),
            hint: None,
        };
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        self.warning(line, fault, "the invalid bytes are read as U+FFFD");
    }

    fn push(&mut self, severity: Severity, line: u32, fault: Fault, effect: &str) {
        self.out.push(Diagnostic {
            file: Arc::clone(&self.file),
            line,
            column: fault.span.column,
            length: fault.span.length,
            severity,
            message: fault.message,
            effect: effect.to_owned(),
            hint: fault.hint,
        });
    }
}

/// `text` in quotes for a message: control characters escaped, at most 60 characters.
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut quoted = String::from("`");
    for (index, char) in text.chars().enumerate() {
        if index == LONGEST {
            quoted.push('…');
            break;
        }
        if char.is_control() {
            quoted.extend(char.escape_default());
        } else {
            quoted.push(char);
        }
    }
    quoted.push('`');
    quoted
}

/// The part of a line before the first `#`, without blanks around it.
pub fn before_comment(text: &str) -> &str {
    text.split('#').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_or_without_carriage_return() {
        let found: Vec<_> = lines("a\r\nb\n\nc\r")
            .map(|line| (line.number, line.text))
            .collect();
        assert_eq!(found, [(1, "a"), (2, "b"), (3, ""), (4, "c")]);
    }

    #[test]
    fn spans_count_characters() {
        let line = Line::alone("ä öö x");
        let part = line.text.split(' ').nth(1).unwrap();
        assert_eq!(
            line.span(part),
            Span {
                column: 3,
                length: 2
            }
        );
        assert_eq!(line.span("elsewhere"), Span::default());
    }

    #[test]
    fn invalid_utf8_is_reported_where_it_first_occurs() {
        let mut found = Vec::new();
        Reporter::new("f".into(), &mut found).encoding(b"ok\nb\xc3\xa4d \xff\xfe");
        assert_eq!((found[0].line, found[0].column), (2, 5));
        assert_eq!(decode(b"\xef\xbb\xbfa\xff"), "a\u{fffd}");
    }
}
