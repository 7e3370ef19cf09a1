//! Lengths of time as people write and read them: `30d`, `12h`, `90m`, `45s`, `1w 2d`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{Span, SpanRelativeTo};

/// Seconds of a length of time.
///
/// # Errors
/// As [`length`].
pub fn seconds(text: &str) -> Result<u64> {
    Ok(length(text)?.as_secs())
}

/// A length of time; days have 24 hours.
///
/// # Errors
/// The text is none, or one without a fixed length.
pub fn length(text: &str) -> Result<Duration> {
    let span: Span = text
        .parse()
        .with_context(|| format!("{text:?} is no length of time, such as 30d or 12h"))?;
    let length = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .with_context(|| format!("{text:?} has no fixed length"))?;
    ensure!(!length.is_negative(), "{text:?} is negative");
    Ok(length.unsigned_abs())
}

/// A length of time in its two largest units: `3d 4h`, `12s`.
pub fn short(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, unit) in units {
        if parts.len() == 2 {
            break;
        }
        let count = rest / length;
        rest %= length;
        match (count, parts.is_empty()) {
            (0, true) => {}
            (0, false) => break,
            _ => parts.push(format!("{count}{unit}")),
        }
    }
    if parts.is_empty() {
        return "0s".to_owned();
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_and_written() {
        for (text, expect) in [
            ("30d", 2_592_000),
            ("12h", 43_200),
            ("1w", 604_800),
            ("0s", 0),
        ] {
            assert_eq!(seconds(text).ok(), Some(expect), "{text}");
        }
        for text in ["", "30", "-1d", "1mo", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for (length, expect) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3661, "1h 1m"),
            (86_405, "1d"),
        ] {
            assert_eq!(short(length), expect);
        }
    }
}
