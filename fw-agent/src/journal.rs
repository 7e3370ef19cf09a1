//! Where the agent's own messages go: to the journal when systemd runs it, else to standard error.
//!
//! `RUST_LOG` selects what is said, as `tracing-subscriber` understands it; without it, everything from `info` on. In the journal, fields of a
//! message are fields of the entry.

use std::os::unix::fs::MetadataExt;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts saying things. Call it once, first.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let filtered = tracing_subscriber::registry().with(filter);
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = stream
        .is_some_and(|stream| is_own_stream(&stream))
        .then(tracing_journald::layer);
    if let Some(Ok(journal)) = journal {
        filtered
            .with(
                journal
                    .with_priority_mappings(priorities())
                    .with_syslog_identifier("tapwall".to_owned()),
            )
            .init();
    } else {
        let stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        filtered.with(stderr).init();
    }
}

/// As journalctl names them: `journalctl -p warning` leaves out what is only information.
fn priorities() -> PriorityMappings {
    PriorityMappings {
        info: Priority::Informational,
        ..PriorityMappings::new()
    }
}

/// Whether standard error is the journal's stream that systemd named (`device:inode`): a redirected one is not.
fn is_own_stream(named: &str) -> bool {
    // By way of /proc, because standard error has no path.
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    is_stream(named, stderr.dev(), stderr.ino())
}

fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let Some((first, second)) = named.split_once(':') else {
        return false;
    };
    first.parse() == Ok(device) && second.parse() == Ok(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_told_by_device_and_inode() {
        let cases = [
            ("9:1234", true),
            ("9:1235", false),
            ("8:1234", false),
            ("", false),
            ("9", false),
            ("9:1234:5", false),
            ("x:1234", false),
        ];
        for (named, expect) in cases {
            assert_eq!(is_stream(named, 9, 1234), expect, "{named:?}");
        }
    }
}
