//! Batches against a judge that accepts port 22 only.

use etherparse::SlicedPacket;
use fw_common::verdict::{Judgement, Reason, Verdict};

use super::*;
use crate::simulate::Judged;
use crate::simulate::frame::Link;
use crate::simulate::tests::node;

fn answer(input: &[u8]) -> (String, Tally) {
    let mut output = Vec::new();
    let tally = run_batch(
        input,
        &mut output,
        &node(),
        HostAddresses::default(),
        &mut |_, _, frame, _| {
            let ssh = frame.get(36..38) == Some(&[0, 22]);
            let verdict = if ssh { Verdict::Accept } else { Verdict::Drop };
            Judged {
                judgement: Judgement::new(verdict, Reason::Rule),
                tracked: None,
                rule: None,
            }
        },
    )
    .unwrap();
    (String::from_utf8(output).unwrap(), tally)
}

#[test]
fn lines_in_lines_out() {
    let input = concat!(
        r#"{"from": "outside", "to": "vm100", "dport": 22}"#,
        "\n\n",
        "nonsense\r\n",
        r#"{"from": "outside", "to": "vm100", "dport": 23, "expect": "DROP"}"#,
        "\r\n",
        r#"{"from": "outside", "to": "host"}"#,
    );
    let (output, tally) = answer(input.as_bytes());
    let expect = concat!(
        r#"{"verdict":"ACCEPT","reason":"rule","rule":null,"path":[{"port":"tap100i0","direction":"IN","verdict":"ACCEPT","reason":"rule","rule":null,"text":null}]}"#,
        "\n",
        r#"{"error":"expected ident (column 2)","line":3}"#,
        "\n",
        r#"{"verdict":"DROP","reason":"rule","rule":null,"path":[{"port":"tap100i0","direction":"IN","verdict":"DROP","reason":"rule","rule":null,"text":null}]}"#,
        "\n",
        r#"{"verdict":"ACCEPT","reason":"unfiltered","rule":null,"path":[]}"#,
        "\n",
    );
    assert_eq!(output, expect);
    assert_eq!(
        tally,
        Tally {
            outcomes: 3,
            errors: 1
        }
    );
}

#[test]
fn a_line_without_end_is_skipped() {
    let long = |length: usize| {
        let mut line = br#"{"from": "outside", "to": "host"}"#.to_vec();
        line.resize(length, b' ');
        line.push(b'\n');
        line
    };
    let input = [
        long(LINE_LIMIT),
        long(LINE_LIMIT + 1),
        long(3 * LINE_LIMIT),
        long(40),
    ]
    .concat();
    let (output, tally) = answer(&input);
    assert_eq!(
        tally,
        Tally {
            outcomes: 2,
            errors: 2
        }
    );
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].starts_with(r#"{"verdict""#) && lines[3].starts_with(r#"{"verdict""#));
    assert_eq!(
        lines[1],
        r#"{"error":"the line is longer than 65536 bytes","line":2}"#
    );
    assert_eq!(
        answer(&long(3 * LINE_LIMIT)[..3 * LINE_LIMIT]).1,
        Tally {
            outcomes: 0,
            errors: 1
        }
    );
    assert_eq!(answer(b"").1, Tally::default());
}

#[test]
fn bytes_that_are_not_text_are_an_error_of_their_line() {
    let (output, tally) = answer(b"\xff\xfe\n{\"from\": \"\xff\", \"to\": \"host\"}\n\0\n{\"from\":\"outside\",\"to\":\"host\"}\n");
    assert_eq!(
        tally,
        Tally {
            outcomes: 1,
            errors: 3
        },
        "{output}"
    );
}

/// Packets with fields beside those that are read: every protocol, flag combination, ICMP type and kind of place of a larger collection.
#[test]
fn packets_of_a_collection_with_expectations() {
    for line in include_str!("packets.jsonl").lines() {
        let query = Query::parse(line.as_bytes()).unwrap();
        let (source, dest) = ([2; 6], [4; 6]);
        let frame = query.frame(Link { source, dest });
        SlicedPacket::from_ethernet(&frame).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}
