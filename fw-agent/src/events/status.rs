//! The log's lines about itself: `0 <level> - <time> <text>`.
//!
//! In: what happened and when. Out: a line with its newline, in the columns of every other line, guest 0 and chain `-`.

use std::fmt;
use std::io::Write;

use fw_common::verdict::Direction;
use jiff::Zoned;

use super::line::columns;

/// Something to say about logging itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// Logging began.
    Started,
    /// Logging ended in good order.
    Stopped,
    /// A signal (`SIGTERM`) asks to end.
    Signal(&'a str),
    /// This many entries were discarded because they came faster than they were read.
    Skipped(u64),
    /// This many entries could not be written, and why.
    Lost(u64, &'a str),
    /// This many packets of a rule were not logged because the rule's limit was reached.
    Suppressed {
        /// Packets.
        count: u64,
        /// Its text.
        rule: &'a str,
        /// Guest of its port; 0 is the host.
        vmid: u32,
        /// NIC of its port.
        net: u16,
        /// Direction of its policy.
        direction: Direction,
    },
    /// Anything else that failed.
    Failed(&'a str),
}

impl Status<'_> {
    /// Syslog level: 5 (notice) for a life's events, 3 (error) for failures.
    pub const fn level(&self) -> u8 {
        match self {
            Self::Started | Self::Stopped | Self::Signal(_) | Self::Suppressed { .. } => 5,
            Self::Skipped(_) | Self::Lost(..) | Self::Failed(_) => 3,
        }
    }

    /// Appends the line, newline included, to `out`. Control characters in a text become `?`.
    pub fn write(&self, out: &mut Vec<u8>, time: &Zoned) {
        columns(out, 0, self.level(), "-", time);
        let start = out.len();
        // Writing to a vector cannot fail.
        write!(out, "{self}").ok();
        for byte in &mut out[start..] {
            if byte.is_ascii_control() {
                *byte = b'?';
            }
        }
        out.push(b'\n');
    }
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("starting firewall logging"),
            Self::Stopped => f.write_str("stopping firewall logging"),
            Self::Signal(name) => write!(f, "received {name}, terminating"),
            Self::Skipped(1) => f.write_str("skipped 1 log entry (queue full)"),
            Self::Skipped(count) => write!(f, "skipped {count} log entries (queue full)"),
            Self::Lost(1, cause) => write!(f, "lost 1 log entry: {cause}"),
            Self::Lost(count, cause) => write!(f, "lost {count} log entries: {cause}"),
            Self::Suppressed {
                count,
                rule,
                vmid,
                net,
                direction,
            } => {
                let noun = if *count == 1 { "entry" } else { "entries" };
                write!(f, "suppressed {count} log {noun} (rate limit) of ")?;
                match vmid {
                    0 => f.write_str("host")?,
                    guest => write!(f, "{guest} net{net}")?,
                }
                write!(f, " {} rule: {rule}", direction.name())
            }
            Self::Failed(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::line::tests::time;

    #[test]
    fn lines() {
        let cases = [
            (
                Status::Started,
                "0 5 - 05/Mar/2026:09:12:44 +0100 starting firewall logging\n",
            ),
            (
                Status::Stopped,
                "0 5 - 05/Mar/2026:09:12:44 +0100 stopping firewall logging\n",
            ),
            (
                Status::Signal("SIGTERM"),
                "0 5 - 05/Mar/2026:09:12:44 +0100 received SIGTERM, terminating\n",
            ),
            (
                Status::Skipped(1),
                "0 3 - 05/Mar/2026:09:12:44 +0100 skipped 1 log entry (queue full)\n",
            ),
            (
                Status::Skipped(20),
                "0 3 - 05/Mar/2026:09:12:44 +0100 skipped 20 log entries (queue full)\n",
            ),
            (
                Status::Lost(2, "disk full"),
                "0 3 - 05/Mar/2026:09:12:44 +0100 lost 2 log entries: disk full\n",
            ),
            (
                Status::Suppressed {
                    count: 1,
                    rule: "IN DROP -p tcp",
                    vmid: 100,
                    net: 2,
                    direction: Direction::In,
                },
                "0 5 - 05/Mar/2026:09:12:44 +0100 suppressed 1 log entry (rate limit) of 100 net2 IN rule: IN DROP -p tcp\n",
            ),
            (
                Status::Suppressed {
                    count: 12,
                    rule: "policy: DROP\n",
                    vmid: 0,
                    net: 0,
                    direction: Direction::Out,
                },
                "0 5 - 05/Mar/2026:09:12:44 +0100 suppressed 12 log entries (rate limit) of host OUT rule: policy: DROP?\n",
            ),
            (
                Status::Failed("a\nb"),
                "0 3 - 05/Mar/2026:09:12:44 +0100 a?b\n",
            ),
        ];
        for (status, expect) in cases {
            let mut out = Vec::new();
            status.write(&mut out, &time());
            assert_eq!(String::from_utf8_lossy(&out), expect);
        }
    }
}
