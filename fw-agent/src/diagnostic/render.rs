//! Diagnostics for people: message, source line with the place underlined, effect and hint.
//!
//! In: diagnostics and the files they are about. Out: text, with colours only if asked. The lines of a file are found once per file, and only
//! the line that is meant is handed to the printer, so that a file full of mistakes is printed in time linear in its size.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};

use super::{Diagnostic, Severity};
use crate::config::Sources;

/// Lines longer than this many bytes are not shown.
const LONGEST_LINE: usize = 512;

/// The diagnostics as text, in the order given; with terminal colours if `colours`.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, colours: bool) -> String {
    let theme = if colours {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let printer = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_width(120);
    let mut texts: BTreeMap<&str, Text<'_>> = BTreeMap::new();
    let mut out = String::new();
    for diagnostic in diagnostics {
        let text = texts
            .entry(&diagnostic.file)
            .or_insert_with(|| Text::new(sources, &diagnostic.file));
        let excerpt = text.excerpt(diagnostic);
        let report = Report {
            diagnostic,
            excerpt,
        };
        if printer.render_report(&mut out, &report).is_err() {
            // The printer cannot show this place: the plain form says where it is.
            out.push_str(&format!("{diagnostic}\n"));
        }
    }
    out
}

/// A file and where its lines begin and end.
struct Text<'a> {
    text: Cow<'a, str>,
    lines: Vec<(usize, usize)>,
}

impl<'a> Text<'a> {
    fn new(sources: &'a Sources, file: &str) -> Self {
        let text = sources.text(file).unwrap_or_default();
        let mut start = 0;
        let line = |line: &str| {
            let end = start + line.trim_end_matches(['\r', '\n']).len();
            let span = (start, end);
            start += line.len();
            span
        };
        let lines = text.split_inclusive('\n').map(line).collect();
        Self { text, lines }
    }

    /// The line that is meant, and which bytes of it.
    fn excerpt(&self, diagnostic: &Diagnostic) -> Option<Excerpt<'_>> {
        let index = usize::try_from(diagnostic.line).ok()?.checked_sub(1)?;
        let (start, end) = *self.lines.get(index)?;
        let line = self
            .text
            .get(start..end)
            .filter(|line| line.len() <= LONGEST_LINE)?;
        let mut places = line.char_indices().map(|(at, _)| at).chain([line.len()]);
        let column = usize::try_from(diagnostic.column).ok()?;
        let (from, to) = match column.checked_sub(1) {
            None => (0, line.len()),
            Some(before) => {
                let from = places.nth(before).unwrap_or(line.len());
                let length = usize::try_from(diagnostic.length).ok()?.max(1);
                (from, places.nth(length - 1).unwrap_or(line.len()))
            }
        };
        Some(Excerpt {
            file: diagnostic.file.to_string(),
            line,
            index,
            span: (from, to - from),
        })
    }
}

/// One line of a file.
#[derive(Debug)]
struct Excerpt<'a> {
    file: String,
    line: &'a str,
    index: usize,
    span: (usize, usize),
}

impl SourceCode for Excerpt<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        if span.offset().saturating_add(span.len()) > self.line.len() {
            return Err(MietteError::OutOfBounds);
        }
        let whole = SourceSpan::from((0, self.line.len()));
        // Without context the printer asks for the place it names, else for the lines it shows, which begin in column 0.
        let column = match before {
            0 => self
                .line
                .get(..span.offset())
                .map_or(0, |before| before.chars().count()),
            _ => 0,
        };
        let contents = MietteSpanContents::new_named(
            self.file.clone(),
            self.line.as_bytes(),
            whole,
            self.index,
            column,
            1,
        );
        Ok(Box::new(contents))
    }
}

#[derive(Debug)]
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    excerpt: Option<Excerpt<'a>>,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.excerpt {
            Some(_) => write!(f, "{}; {}", self.diagnostic.message, self.diagnostic.effect),
            None => write!(f, "{}", self.diagnostic),
        }
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.diagnostic
            .hint
            .as_ref()
            .map(|hint| Box::new(hint) as Box<dyn Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.excerpt
            .as_ref()
            .map(|excerpt| excerpt as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (offset, length) = self.excerpt.as_ref()?.span;
        Some(Box::new(std::iter::once(LabeledSpan::new(
            None, offset, length,
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn rendered(cluster: &[u8]) -> String {
        let mut sources = Sources::default();
        sources
            .files
            .insert("firewall/cluster.fw".into(), cluster.to_vec().into());
        let (_, found) = parse(&sources);
        render(&found, &sources, false)
    }

    #[test]
    fn shows_the_place() {
        let text = "[RULES]\r\n# ä\r\n\tIN SHS(ACCEPT) -source 10.0.0.1 # ä\r\n";
        insta::assert_snapshot!(rendered(text.as_bytes()));
    }

    #[test]
    fn a_line_too_long_to_show_is_named() {
        let long = format!("[RULES]\nIN ACCEPT -source {}\n", "x".repeat(LONGEST_LINE));
        let text = rendered(long.as_bytes());
        assert!(text.contains("firewall/cluster.fw:2:19: error"), "{text}");
        assert!(text.len() < 2 * LONGEST_LINE, "{text}");
    }

    #[test]
    fn colours_only_when_asked() {
        let found = [Diagnostic {
            file: "gone".into(),
            line: 7,
            column: 3,
            length: 2,
            severity: Severity::Warning,
            message: "m".into(),
            effect: "e".into(),
            hint: None,
        }];
        assert!(render(&found, &Sources::default(), true).contains('\u{1b}'));
        assert!(!render(&found, &Sources::default(), false).contains('\u{1b}'));
    }
}
