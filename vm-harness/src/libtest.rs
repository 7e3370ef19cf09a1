//! What Rust's test programs print, read while they run.
//!
//! In: standard output of a test program with `--test-threads=1`. Out: each test's begin and end, and at the end what failed tests printed. With one
//! thread the name comes before the test runs and its result after it, on the same line. Other text may get between (a program that a test
//! starts may print); it never ends a test.

use crate::protocol::Outcome;

/// A step of a test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A test begins.
    Started(String),
    /// It has ended. None: it was ignored.
    Ended(String, Option<Outcome>),
}

/// Names in the output of `--list --format terse`.
pub fn listed(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// A program's output so far.
#[derive(Default)]
pub struct Stream {
    line: Vec<u8>,
    /// The test that runs.
    current: Option<String>,
    /// All lines that ended no test: the summary is among them.
    other: Vec<String>,
}

impl Stream {
    /// Takes more output; calls back for each step.
    pub fn feed(&mut self, bytes: &[u8], mut step: impl FnMut(Step)) {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
                self.line.clear();
                self.end_line(line, &mut step);
                continue;
            }
            self.line.push(*byte);
            if self.current.is_none()
                && let Some(name) = announced(&self.line)
            {
                self.current = Some(name.clone());
                self.line.clear();
                step(Step::Started(name));
            }
        }
    }

    fn end_line(&mut self, line: String, step: &mut impl FnMut(Step)) {
        let outcome = match line.as_str() {
            "ok" => Some(Some(Outcome::Ok)),
            "FAILED" => Some(Some(Outcome::Failed)),
            other if other == "ignored" || other.starts_with("ignored, ") => Some(None),
            _ => None,
        };
        match (self.current.take(), outcome) {
            (Some(name), Some(outcome)) => step(Step::Ended(name, outcome)),
            (current, _) => {
                self.current = current;
                self.other.push(line);
            }
        }
    }

    /// The test that has begun and not ended.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// What failed tests printed, by their names, once the program has ended.
    pub fn failures(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        let mut inside = false;
        for line in &self.other {
            let header = line
                .strip_prefix("---- ")
                .and_then(|rest| rest.strip_suffix(" stdout ----"));
            if let Some(name) = header {
                found.push((bare(name).to_owned(), String::new()));
                inside = true;
            } else if line == "failures:" {
                inside = false;
            } else if inside && let Some((_, text)) = found.last_mut() {
                text.push_str(line);
                text.push('\n');
            }
        }
        found
    }
}

/// The name in `test NAME ... `.
fn announced(line: &[u8]) -> Option<String> {
    let name = line.strip_prefix(b"test ")?.strip_suffix(b" ... ")?;
    let name = std::str::from_utf8(name).ok()?;
    Some(bare(name).to_owned())
}

/// A name without the note that the test has to panic.
fn bare(name: &str) -> &str {
    name.strip_suffix(" - should panic").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest a::first ... ok\ntest a::second ... noise of a child\nFAILED\n\
        test third - should panic ... ok\ntest fourth ... ignored, for a reason\n\nfailures:\n\n\
        ---- a::second stdout ----\nthread panicked\nat once\n\n\nfailures:\n    a::second\n\ntest result: FAILED. 2 passed;\n";

    #[test]
    fn steps_come_in_order_whatever_the_pieces() {
        let expect = [
            Step::Started("a::first".into()),
            Step::Ended("a::first".into(), Some(Outcome::Ok)),
            Step::Started("a::second".into()),
            Step::Ended("a::second".into(), Some(Outcome::Failed)),
            Step::Started("third".into()),
            Step::Ended("third".into(), Some(Outcome::Ok)),
            Step::Started("fourth".into()),
            Step::Ended("fourth".into(), None),
        ];
        for size in [1, 7, 4096] {
            let (mut stream, mut steps) = (Stream::default(), Vec::new());
            for piece in OUTPUT.as_bytes().chunks(size) {
                stream.feed(piece, |step| steps.push(step));
            }
            assert_eq!(steps, expect, "pieces of {size}");
            let failures = stream.failures();
            assert_eq!(failures.len(), 1);
            assert_eq!(failures[0].0, "a::second");
            assert!(failures[0].1.contains("thread panicked\nat once\n"));
        }
    }

    #[test]
    fn a_test_that_runs_is_known_before_it_ends() {
        let mut stream = Stream::default();
        stream.feed(b"test slow ... ", |_| ());
        assert_eq!(stream.current(), Some("slow"));
    }

    #[test]
    fn names_are_listed() {
        assert_eq!(listed("a::b: test\nc: benchmark\n\n"), ["a::b"]);
    }
}
