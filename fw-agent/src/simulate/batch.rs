//! A file of queries: JSON lines in, JSON lines out.
//!
//! In: one object per line. Out: for each line, in order, an outcome or `{"error": …, "line": <number from 1>}`; empty lines are passed over. A bad
//! line never ends the run. Memory is bounded by [`LINE_LIMIT`]: the rest of a longer line is skipped.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::{Judge, Query, run};
use crate::policy::NodePolicy;

/// Bytes that a line may have.
pub const LINE_LIMIT: usize = 64 << 10;

/// The node's own addresses: defaults for packets from and to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// How many lines got what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that got an outcome.
    pub outcomes: u64,
    /// Lines that got an error.
    pub errors: u64,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
    line: u64,
}

/// Answers every line of `input`. Errors are those of reading and writing only.
pub fn run_batch(
    mut input: impl BufRead,
    mut output: impl Write,
    node: &NodePolicy,
    host: HostAddresses,
    judge: &mut Judge<'_>,
) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut line = Vec::new();
    for number in 1_u64.. {
        let read = read_line(&mut input, &mut line)?;
        let result = match read {
            Line::End => break,
            Line::Whole if line.trim_ascii().is_empty() => continue,
            Line::Whole => Query::parse(&line).map_err(|error| error.to_string()),
            Line::TooLong => Err(format!("the line is longer than {LINE_LIMIT} bytes")),
        };
        let query = result.map(|mut query| {
            query.set_host_addresses(host.v4, host.v6);
            query
        });
        let result = match &query {
            Ok(query) => run(query, node, judge).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        match result {
            Ok(outcome) => {
                tally.outcomes += 1;
                serde_json::to_writer(&mut output, &outcome)?;
            }
            Err(error) => {
                tally.errors += 1;
                let error = &error;
                let line = number;
                serde_json::to_writer(&mut output, &Failure { error, line })?;
            }
        }
        output.write_all(b"\n")?;
    }
    output.flush()?;
    Ok(tally)
}

enum Line {
    Whole,
    TooLong,
    End,
}

fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let limit = LINE_LIMIT as u64 + 1;
    let count = input.by_ref().take(limit).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Line::Whole);
    }
    match count {
        0 => Ok(Line::End),
        count if count <= LINE_LIMIT => Ok(Line::Whole),
        _ => {
            input.skip_until(b'\n')?;
            Ok(Line::TooLong)
        }
    }
}

#[cfg(test)]
mod tests;
