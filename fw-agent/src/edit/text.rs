//! A firewall file as lines of bytes, in which one rule is added, removed or replaced.
//!
//! In: the bytes of a file and which list of rules is meant. Out: other bytes. What is not changed stays byte for byte, also what no parser
//! understands: a line that is wrong is not this module's business.
//!
//! Rules are numbered as they stand in the file, from 1: every line of the list that is neither blank nor a comment, disabled and faulty ones too.
//! Several `[RULES]` sections are one list; of several groups of one name the last is the one that counts.

use std::ops::Range;

use crate::config::line::before_comment;

/// A list of rules in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// `[RULES]`.
    Rules,
    /// `[group name]`, in lower case.
    Group(String),
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Lines with their endings.
    lines: Vec<Vec<u8>>,
}

/// A rule line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number in the list, from 1.
    pub number: usize,
    /// Its line in the file, from 1.
    pub line: u32,
    /// The line without its ending.
    pub text: String,
}

/// Why a change cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The list is shorter.
    #[error("there is no rule {number}: the list has {count}")]
    NoSuchRule {
        /// What was asked for.
        number: usize,
        /// Rules that there are.
        count: usize,
    },
    /// The file has no such group.
    #[error("there is no security group {name:?}")]
    NoSuchGroup {
        /// What was asked for.
        name: String,
    },
    /// A rule is one line.
    #[error("a rule is one line")]
    NotOneLine,
}

impl Text {
    /// Splits the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Self {
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        Self {
            lines: lines.map(<[u8]>::to_vec).collect(),
        }
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    /// The rules of a list.
    ///
    /// # Errors
    /// There is no such group.
    pub fn rules(&self, list: &List) -> Result<Vec<Found>, TextError> {
        let sections = self.sections(list)?;
        let indices = sections.into_iter().flatten();
        let rules = indices.filter(|index| self.is_rule(*index)).zip(1..);
        let rules = rules.map(|(index, number)| Found {
            number,
            line: u32::try_from(index + 1).unwrap_or(u32::MAX),
            text: self.text(index),
        });
        Ok(rules.collect())
    }

    /// Adds a rule behind the last one of its list; `[RULES]` is made if there is none. Answers its line.
    ///
    /// # Errors
    /// There is no such group, or the rule is no line.
    pub fn add(&mut self, list: &List, rule: &str) -> Result<u32, TextError> {
        one_line(rule)?;
        let sections = self.sections(list)?;
        let Some(last) = sections.last() else {
            self.end_last_line();
            if self.lines.last().is_some_and(|line| !line.trim_ascii().is_empty()) {
                self.push("");
            }
            self.push("[RULES]");
            self.push("");
            self.push(rule);
            return Ok(number(self.lines.len()));
        };
        let rules = last.clone().filter(|index| self.is_rule(*index));
        // Behind the header, if the section has no rule.
        let at = rules.last().map_or(last.start, |index| index + 1);
        self.insert_line(at, rule);
        Ok(number(at + 1))
    }

    /// Puts a rule in the place of another, which comes behind it. One more than the last number adds. Answers its line.
    ///
    /// # Errors
    /// There is no such place or group, or the rule is no line.
    pub fn insert(&mut self, list: &List, place: usize, rule: &str) -> Result<u32, TextError> {
        one_line(rule)?;
        let rules = self.rules(list)?;
        if place == rules.len() + 1 {
            return self.add(list, rule);
        }
        let at = self.index(list, place)?;
        self.insert_line(at, rule);
        Ok(number(at + 1))
    }

    /// Removes a rule and answers its text.
    ///
    /// # Errors
    /// There is no such rule or group.
    pub fn remove(&mut self, list: &List, place: usize) -> Result<String, TextError> {
        let at = self.index(list, place)?;
        let text = self.text(at);
        self.lines.remove(at);
        Ok(text)
    }

    /// Replaces a rule and answers the text of the old one and its line. A comment behind the old one stays, unless the new one has its own.
    ///
    /// # Errors
    /// There is no such rule or group, or the rule is no line.
    pub fn replace(
        &mut self,
        list: &List,
        place: usize,
        rule: &str,
    ) -> Result<(String, u32), TextError> {
        one_line(rule)?;
        let at = self.index(list, place)?;
        let old = self.text(at);
        let comment = old.split_once('#').filter(|_| !rule.contains('#'));
        let rule = match comment {
            Some((_, comment)) => format!("{rule} #{comment}"),
            None => rule.to_owned(),
        };
        let ending = ending(&self.lines[at]).to_vec();
        self.lines[at] = [rule.as_bytes(), &ending].concat();
        Ok((old, number(at + 1)))
    }

    fn index(&self, list: &List, place: usize) -> Result<usize, TextError> {
        let rules = self.rules(list)?;
        let rule = place.checked_sub(1).and_then(|index| rules.get(index));
        let rule = rule.ok_or(TextError::NoSuchRule {
            number: place,
            count: rules.len(),
        })?;
        Ok(rule.line as usize - 1)
    }

    fn text(&self, index: usize) -> String {
        let line = self.lines.get(index).map_or(&[][..], |line| line);
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let text = &line[..line.len() - ending(line).len()];
        String::from_utf8_lossy(text).into_owned()
    }

    fn is_rule(&self, index: usize) -> bool {
        !before_comment(&self.text(index)).is_empty()
    }

    /// The lines behind the headers of a list, up to the next header.
    fn sections(&self, list: &List) -> Result<Vec<Range<usize>>, TextError> {
        let is_header = |index: usize| self.text(index).trim_ascii_start().starts_with('[');
        let headers: Vec<usize> = (0..self.lines.len()).filter(|at| is_header(*at)).collect();
        let ends = headers.iter().skip(1).copied().chain([self.lines.len()]);
        let sections = headers.iter().zip(ends);
        let sections = sections.filter(|(start, _)| is_of(&self.text(**start), list));
        let mut sections: Vec<_> = sections.map(|(start, end)| start + 1..end).collect();
        if let List::Group(name) = list {
            let last = sections.pop();
            let last = last.ok_or_else(|| TextError::NoSuchGroup { name: name.clone() })?;
            sections = vec![last];
        }
        Ok(sections)
    }

    fn insert_line(&mut self, at: usize, text: &str) {
        if at == self.lines.len() {
            self.end_last_line();
        }
        let line = [text.as_bytes(), self.ending()].concat();
        self.lines.insert(at, line);
    }

    fn push(&mut self, text: &str) {
        self.insert_line(self.lines.len(), text);
    }

    fn end_last_line(&mut self) {
        let ending = self.ending();
        if let Some(last) = self.lines.last_mut().filter(|line| !line.ends_with(b"\n")) {
            last.extend_from_slice(ending);
        }
    }

    /// How lines of this file end.
    fn ending(&self) -> &'static [u8] {
        match self.lines.first() {
            Some(line) if line.ends_with(b"\r\n") => b"\r\n",
            Some(_) | None => b"\n",
        }
    }
}

fn ending(line: &[u8]) -> &[u8] {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    &line[text.len()..]
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn one_line(rule: &str) -> Result<(), TextError> {
    match rule.chars().any(char::is_control) {
        true => Err(TextError::NotOneLine),
        false => Ok(()),
    }
}

/// Whether a header line opens a list.
fn is_of(header: &str, list: &List) -> bool {
    let body = before_comment(header);
    let inner = body
        .strip_prefix('[')
        .and_then(|body| body.strip_suffix(']'));
    let mut words = inner.unwrap_or_default().split_ascii_whitespace();
    let (keyword, name, rest) = (words.next(), words.next(), words.next());
    let is = |word: &str| keyword.is_some_and(|keyword| keyword.eq_ignore_ascii_case(word));
    rest.is_none()
        && match (list, name) {
            (List::Rules, None) => is("RULES"),
            (List::Group(wanted), Some(name)) => is("GROUP") && name.eq_ignore_ascii_case(wanted),
            (List::Rules, Some(_)) | (List::Group(_), None) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# head\n[OPTIONS]\nenable: 1\n\n[RULES]\n# ssh\nIN SSH(ACCEPT) # admins\n\n|IN DROP\nIN nonsense\n\n[group web]\nIN HTTP(ACCEPT)\n[rules] # more\nOUT ACCEPT";

    fn text() -> Text {
        Text::parse(FILE.as_bytes())
    }

    fn shown(text: &Text) -> String {
        String::from_utf8(text.bytes()).unwrap()
    }

    #[test]
    fn rules_are_numbered_over_all_sections_with_disabled_and_faulty_ones() {
        let rules = text().rules(&List::Rules).unwrap();
        let found: Vec<_> = rules
            .iter()
            .map(|rule| (rule.number, rule.line, rule.text.as_str()))
            .collect();
        let expect = [
            (1, 7, "IN SSH(ACCEPT) # admins"),
            (2, 9, "|IN DROP"),
            (3, 10, "IN nonsense"),
            (4, 15, "OUT ACCEPT"),
        ];
        assert_eq!(found, expect);
        assert_eq!(text().rules(&List::Group("web".into())).unwrap().len(), 1);
        assert_eq!(
            text().rules(&List::Group("mail".into())),
            Err(TextError::NoSuchGroup { name: "mail".into() })
        );
    }

    #[test]
    fn every_other_byte_stays() {
        let mut file = text();
        assert_eq!(file.insert(&List::Rules, 1, "IN ACCEPT"), Ok(7));
        assert_eq!(
            shown(&file),
            FILE.replace("IN SSH", "IN ACCEPT\nIN SSH")
        );
        assert_eq!(file.remove(&List::Rules, 1), Ok("IN ACCEPT".into()));
        assert_eq!(shown(&file), FILE);

        assert_eq!(file.add(&List::Rules, "IN REJECT"), Ok(16));
        assert_eq!(shown(&file), format!("{FILE}\nIN REJECT\n"));

        let mut file = text();
        file.replace(&List::Rules, 1, "IN DROP").unwrap();
        assert_eq!(shown(&file), FILE.replace("SSH(ACCEPT)", "DROP"));
        file.replace(&List::Rules, 1, "IN DROP # no").unwrap();
        assert_eq!(
            shown(&file),
            FILE.replace("SSH(ACCEPT) # admins", "DROP # no")
        );
        file.add(&List::Group("WEB".into()), "IN HTTPS(ACCEPT)").unwrap();
        assert!(shown(&file).contains("IN HTTP(ACCEPT)\nIN HTTPS(ACCEPT)\n[rules]"));
    }

    #[test]
    fn line_endings_and_missing_sections() {
        for (before, after) in [
            ("", "[RULES]\n\nIN DROP\n"),
            ("[OPTIONS]\nenable: 1", "[OPTIONS]\nenable: 1\n\n[RULES]\n\nIN DROP\n"),
            ("[RULES]\r\nIN ACCEPT\r\n", "[RULES]\r\nIN ACCEPT\r\nIN DROP\r\n"),
            ("[RULES]", "[RULES]\nIN DROP\n"),
            ("[RULES]\n\n# end\n", "[RULES]\nIN DROP\n\n# end\n"),
            ("\u{feff}[RULES]\n\u{e9}\n", "\u{feff}[RULES]\n\u{e9}\nIN DROP\n"),
        ] {
            let mut file = Text::parse(before.as_bytes());
            file.add(&List::Rules, "IN DROP").unwrap();
            assert_eq!(shown(&file), after, "{before:?}");
        }
    }

    #[test]
    fn places_that_there_are_not() {
        let none = |number| Err(TextError::NoSuchRule { number, count: 4 });
        assert_eq!(text().remove(&List::Rules, 0), none(0));
        assert_eq!(text().remove(&List::Rules, 5), none(5));
        assert_eq!(
            text().insert(&List::Rules, 6, "IN DROP"),
            Err(TextError::NoSuchRule { number: 6, count: 4 })
        );
        assert_eq!(text().add(&List::Rules, "IN DROP\n[OPTIONS]"), Err(TextError::NotOneLine));
    }
}
