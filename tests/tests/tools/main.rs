//! What an administrator reaches for: each verb of `fwctl` against a node with traffic. Needs root.

mod apply;
mod bans;
mod conntrack;
mod diff;
mod errors;
mod guide;
mod import;
mod live;
mod plain;
mod pty;
mod rule;
mod rules;
mod screen;
mod why;

use serde_json::Value;
use tapwall_tests::agent::Agent;

/// What a verb printed, and its exit code.
fn fwctl(agent: &Agent, arguments: &[&str]) -> (String, Option<i32>) {
    let output = agent.fwctl(arguments).expect("fwctl runs");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !matches!(output.status.code(), Some(0)) {
        text.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    (text, output.status.code())
}

/// What a verb printed that ended well.
fn done(agent: &Agent, arguments: &[&str]) -> String {
    let (text, code) = fwctl(agent, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

/// The same as JSON.
fn json(agent: &Agent, arguments: &[&str]) -> Value {
    let text = done(agent, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Lengths of time, and with them the widths of columns, differ from run to run.
fn masked(text: &str) -> String {
    let is_time = |word: &str| {
        let digits = word.trim_end_matches(['s', 'm', 'h', 'd']);
        digits.len() < word.len() && digits.parse::<u64>().is_ok()
    };
    let lines = text.lines().map(|line| {
        let mut words: Vec<&str> = Vec::new();
        for word in line.split_ascii_whitespace() {
            match is_time(word) {
                true if words.last() == Some(&"<time>") => {}
                true => words.push("<time>"),
                false => words.push(word),
            }
        }
        words.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}
