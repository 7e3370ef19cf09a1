//! The file `cases` of a scenario, line by line.
//!
//! ```text
//! # a comment; also behind a line
//! outside > vm100 tcp 203.0.113.5:40000 > 192.0.2.10:22         => ACCEPT rule firewall/100.fw:7
//! reply tcp_flags=SYN,ACK                                       => ACCEPT established
//! again tcp_flags=ACK data=100                                  => ACCEPT established
//! outside > vm100 udp [2001:db8::5]:1000 > [2001:db8::10]:135   => DROP noise "standard: SMB"
//! reset
//! wait 31
//! change second
//! diagnostics 1
//! ```
//!
//! - A packet, see [`super::packet`], then `=>`, the verdict, the reason (`fw_common::verdict::Reason`, or `unfiltered` if no firewalled NIC saw
//!   it) and, exactly if a line of a file decided, that line. The text of the deciding rule may follow in quotes. Then words: `unanswered`: a
//!   REJECT that gets no answer (else one must have been built); `host-only`: the kernel's test run does not take the frame.
//! - `reset`: all flows and fragments are forgotten. `wait N`: N seconds pass. `change DIRECTORY`: from here on files below it count in place of those
//!   with the same path below the scenario; flows stay.
//! - `diagnostics N`: the configuration has so many (none if not said).

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use fw_common::verdict::{Reason, Verdict};

use super::packet::Change;
use super::{Described, Found};
use crate::kernel::REDIRECT;

/// One line.
#[derive(Debug)]
pub struct Case {
    /// Its number, from 1.
    pub line: usize,
    /// As written.
    pub text: String,
    /// What it says.
    pub step: Step,
}

/// What a line says.
#[derive(Debug)]
pub enum Step {
    /// Forget flows.
    Reset,
    /// Let seconds pass.
    Wait(u64),
    /// Take files of this directory.
    Change(String),
    /// Diagnostics of the configuration.
    Diagnostics(usize),
    /// A packet and what becomes of it.
    Packet(Box<Change>, Expect),
}

/// What becomes of a packet.
#[derive(Clone, Debug)]
pub struct Expect {
    verdict: Verdict,
    reason: Option<Reason>,
    origin: Option<String>,
    text: Option<String>,
    unanswered: bool,
    /// Not for the kernel.
    pub host_only: bool,
}

/// Reads all lines; the first that cannot be read is the error.
pub fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let (said, _comment) = text.split_once('#').unwrap_or((text, ""));
        let said = said.trim();
        if said.is_empty() {
            continue;
        }
        let step = step(said).with_context(|| format!("line {line}: {text}"))?;
        cases.push(Case {
            line,
            text: said.to_owned(),
            step,
        });
    }
    Ok(cases)
}

fn step(said: &str) -> Result<Step> {
    if let Some((packet, expect)) = said.split_once("=>") {
        return Ok(Step::Packet(
            Box::new(packet.parse()?),
            Expect::parse(expect)?,
        ));
    }
    let words: Vec<&str> = said.split_whitespace().collect();
    Ok(match words[..] {
        ["reset"] => Step::Reset,
        ["wait", seconds] => Step::Wait(seconds.parse().context("seconds")?),
        ["change", directory] => Step::Change(directory.to_owned()),
        ["diagnostics", count] => Step::Diagnostics(count.parse().context("a number")?),
        _ => {
            bail!("neither a packet with `=>` nor reset, wait N, change DIRECTORY or diagnostics N")
        }
    })
}

impl Expect {
    fn parse(said: &str) -> Result<Self> {
        let (said, text) = match said.split_once('"') {
            None => (said.to_owned(), None),
            Some((before, rest)) => {
                let (text, after) = rest.split_once('"').context("a quote without its end")?;
                (format!("{before} {after}"), Some(text.to_owned()))
            }
        };
        let mut words = said.split_whitespace();
        let verdict = match words.next() {
            Some("ACCEPT") => Verdict::Accept,
            Some("DROP") => Verdict::Drop,
            Some("REJECT") => Verdict::Reject,
            other => bail!("{other:?} is no verdict"),
        };
        let name = words
            .next()
            .context("a reason belongs behind the verdict")?;
        let reason = Reason::ALL.iter().find(|reason| reason.name() == name);
        ensure!(
            reason.is_some() || name == "unfiltered",
            "{name} is no reason"
        );
        let mut expect = Self {
            verdict,
            reason: reason.copied(),
            origin: None,
            text,
            unanswered: false,
            host_only: false,
        };
        for word in words {
            match word {
                "unanswered" => expect.unanswered = true,
                "host-only" => expect.host_only = true,
                place if place.contains(".fw:") => expect.origin = Some(place.to_owned()),
                other => bail!("{other} is neither file.fw:line, unanswered nor host-only"),
            }
        }
        Ok(expect)
    }

    /// What a case would say of this.
    pub fn of(found: Found, described: &Described) -> Self {
        Self {
            verdict: found.verdict,
            reason: found.reason,
            origin: described.origin.clone(),
            text: described.text.clone(),
            unanswered: false,
            host_only: false,
        }
    }

    /// Whether that is what the case says.
    pub fn is(&self, found: Found, described: &Described) -> bool {
        self.verdict == found.verdict
            && self.reason == found.reason
            && self.origin == described.origin
            && (self.text.is_none() || self.text == described.text)
    }

    /// Whether a rejected packet was answered as the case says. `action`: none if the kernel was not asked.
    pub fn check_answer(&self, found: Found, action: Option<i32>) -> Result<(), String> {
        let (Verdict::Reject, Some(action)) = (found.verdict, action) else {
            return Ok(());
        };
        match (action == REDIRECT, self.unanswered) {
            (true, false) | (false, true) => Ok(()),
            (true, true) => Err("  it was answered".to_owned()),
            (false, false) => Err("  it was not answered".to_owned()),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason.map_or("unfiltered", Reason::name);
        write!(f, "{} {reason}", self.verdict.name())?;
        if let Some(origin) = &self.origin {
            write!(f, " {origin}")?;
        }
        if let Some(text) = &self.text {
            write!(f, " \"{text}\"")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_cannot_be_read_are_named() {
        for (said, expect) in [
            ("nonsense", "neither a packet"),
            (
                "outside > vm100 tcp 192.0.2.1:1 > 192.0.2.2:2 => MAYBE rule",
                "no verdict",
            ),
            (
                "outside > vm100 tcp 192.0.2.1:1 > 192.0.2.2:2 => DROP because",
                "no reason",
            ),
            (
                "outside > vm100 tcp 192.0.2.1:1 > 192.0.2.2:2 => DROP rule soon",
                "neither file",
            ),
            (
                "outside vm100 tcp 192.0.2.1:1 > 192.0.2.2:2 => DROP rule",
                ">",
            ),
            (
                "outside > vm100 tcp 192.0.2.1 > 192.0.2.2:2 => DROP rule",
                "port",
            ),
            (
                "outside > vm100 foo 192.0.2.1 > 192.0.2.2 => DROP rule",
                "protocol",
            ),
            (
                "outside > vm100 tcp 192.0.2.1:1 > 192.0.2.2:2 x=1 => DROP rule",
                "x",
            ),
        ] {
            let error = format!("{:#}", parse(said).unwrap_err());
            assert!(error.contains(expect), "{said}: {error}");
        }
    }

    #[test]
    fn comments_and_empty_lines_are_no_cases() {
        assert!(parse("\n# a > b => DROP\n   \n").unwrap().is_empty());
    }

    #[test]
    fn what_was_expected_prints_as_written() {
        for said in [
            "DROP noise \"standard: SMB\"",
            "ACCEPT rule firewall/100.fw:7",
            "ACCEPT unfiltered",
        ] {
            assert_eq!(Expect::parse(said).unwrap().to_string(), said);
        }
    }
}
