//! Conformance cases: a configuration and packets with the verdict that the reference implementation gave.
//!
//! A case is one text file. Its parts begin with `=== <path>`, files of a tree laid out like `/etc/pve`; ` (no newline at the end)` behind the
//! path means what it says. The last part is `=== packets`, one new packet per line:
//!
//! ```text
//! outside > host tcp 192.0.2.1 > 172.16.1.2 sport=40000 dport=22 = DROP policy-host-in
//! ```
//!
//! Places, protocol, addresses and fields are those of `fwctl simulate`; behind the verdict stands which step of the reference decided, for
//! information. A line that ends in ` | ACCEPT: <reason>` is one where this firewall differs on purpose: the reason names the decision, and the
//! verdict before it is expected.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use fw_agent::config::Sources;
use fw_agent::simulate::Query;

/// The node that the cases are about.
pub const NODE: &str = "pve1";

/// A case.
#[derive(Debug)]
pub struct Case {
    /// The configuration.
    pub sources: Sources,
    /// The packets.
    pub packets: Vec<Packet>,
}

/// A packet of a case.
#[derive(Debug)]
pub struct Packet {
    /// Line of the file.
    pub line: usize,
    /// The line.
    pub text: String,
    /// The packet.
    pub query: Query,
    /// The verdict to be expected.
    pub expect: String,
}

/// Reads a case.
pub fn read(file: &Path) -> Result<Case> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    parse(&text).with_context(|| format!("in {}", file.display()))
}

fn parse(text: &str) -> Result<Case> {
    let mut case = Case {
        sources: Sources {
            node: NODE.to_owned(),
            ..Sources::default()
        },
        packets: Vec::new(),
    };
    let mut part = None;
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if let Some(header) = line.strip_prefix("=== ") {
            end(&mut case, part.take());
            let header = header.trim_end();
            let name = header.strip_suffix(UNENDED).unwrap_or(header);
            part = Some((name, name.len() < header.len(), String::new()));
            continue;
        }
        let (name, _, contents) = part.as_mut().context("text before the first part")?;
        if *name == "packets" {
            let line = line.trim_end();
            let packet = packet(line, number).with_context(|| format!("line {number}: {line}"))?;
            case.packets.push(packet);
        } else {
            contents.push_str(line);
        }
    }
    end(&mut case, part);
    Ok(case)
}

const UNENDED: &str = " (no newline at the end)";

fn end(case: &mut Case, part: Option<(&str, bool, String)>) {
    if let Some((path, unended, mut contents)) = part.filter(|(path, ..)| *path != "packets") {
        if unended {
            contents.pop();
        }
        let file = (path.to_owned(), contents.into_bytes().into());
        case.sources.files.extend([file]);
    }
}

fn packet(text: &str, line: usize) -> Result<Packet> {
    let (packet, outcome) = text.split_once(" = ").context("` = ` is missing")?;
    let (outcome, ours) = match outcome.split_once(" | ") {
        Some((outcome, ours)) => (outcome, Some(ours.split_once(": ").context("no reason")?.0)),
        None => (outcome, None),
    };
    let expect = ours.or(outcome.split(' ').next()).unwrap_or_default();
    let words: Vec<&str> = packet.split(' ').collect();
    let [from, ">", to, proto, source, ">", dest, fields @ ..] = words.as_slice() else {
        anyhow::bail!("not `from > to proto source > dest`");
    };
    let mut json = String::from("{");
    let named = [
        ("from", *from),
        ("to", *to),
        ("proto", *proto),
        ("source", *source),
        ("dest", *dest),
    ];
    for (key, value) in named {
        write!(json, "{key:?}:{value:?},")?;
    }
    for field in fields {
        let (key, value) = field.split_once('=').context("a field without value")?;
        write!(json, "{key:?}:{value:?},")?;
    }
    json.pop();
    json.push('}');
    Ok(Packet {
        line,
        text: text.to_owned(),
        query: Query::parse(json.as_bytes())?,
        expect: expect.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_packets() {
        let text = "=== a/b (no newline at the end)\nx\ny\n=== c\n\n=== packets\noutside > host tcp 10.0.0.1 > 10.0.0.2 sport=0 tcp_flags=RST = DROP invalid | ACCEPT: why\noutside > host icmp 10.0.0.1 > 10.0.0.2 = DROP z\n";
        let case = parse(text).unwrap();
        let files = case.sources.files.iter();
        let files: Vec<_> = files.map(|(path, bytes)| (&path[..], &bytes[..])).collect();
        assert_eq!(files, [("a/b", &b"x\ny"[..]), ("c", &b"\n"[..])]);
        let packets: Vec<_> = case
            .packets
            .iter()
            .map(|packet| (packet.line, packet.expect.as_str()))
            .collect();
        assert_eq!(packets, [(7, "ACCEPT"), (8, "DROP")]);
        for bad in ["x\n", "=== packets\nx\n", "=== packets\na > b c d = e\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
