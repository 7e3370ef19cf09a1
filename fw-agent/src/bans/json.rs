//! Bans as JSON: what `fwctl --json` prints and the control socket answers. Keys are added, never renamed or removed.

use std::time::Duration;

use fw_common::maps::Counter;
use serde_json::{Value, json};

use super::protected::Refusal;
use super::record::{Lasts, Now, Record, shown};
use super::{Lifted, Listed};

/// Whole seconds that are left; a ban with a millisecond left is one.
pub fn seconds(left: Option<Duration>) -> Option<u64> {
    let left = left?.as_millis().div_ceil(1000);
    Some(u64::try_from(left).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970 as text (RFC 3339).
fn time(milliseconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(milliseconds).ok()?).ok()?;
    Some(time.to_string())
}

fn ban(record: &Record, left: Option<Duration>) -> Value {
    json!({
        "address": shown(record.net),
        "by": record.by,
        "reason": record.reason,
        "since": time(record.made),
        "remaining_seconds": seconds(left),
        "forever": record.lasts == Lasts::Forever,
    })
}

/// Bans that were made, and those that were not.
pub fn banned(records: &[Record], refused: &[Refusal], in_force: bool) -> Value {
    let now = Now::read();
    let banned: Vec<Value> = records
        .iter()
        .map(|record| ban(record, record.left(now)))
        .collect();
    json!({"banned": banned, "refused": refused, "enforced": in_force})
}

/// Bans that were lifted.
pub fn lifted(done: &Lifted) -> Value {
    let lifted: Vec<String> = done.lifted.iter().copied().map(shown).collect();
    let held: Vec<Value> = done
        .held
        .iter()
        .map(|(net, by)| json!({"address": shown(*net), "by": by}))
        .collect();
    let missing: Vec<Value> = done
        .missing
        .iter()
        .map(|(net, around)| json!({"address": shown(*net), "in": around.map(shown)}))
        .collect();
    json!({"lifted": lifted, "held": held, "missing": missing})
}

/// Bans in force, and what was dropped because of bans.
pub fn list(bans: &[Listed], dropped: Option<Counter>) -> Value {
    let bans: Vec<Value> = bans
        .iter()
        .map(|listed| match &listed.record {
            Some(record) => ban(record, listed.left),
            None => json!({
                "address": shown(listed.net),
                "by": null,
                "reason": null,
                "since": null,
                "remaining_seconds": seconds(listed.left),
                "forever": listed.left.is_none(),
            }),
        })
        .collect();
    json!({
        "bans": bans,
        "dropped_packets": dropped.map(|counter| counter.packets),
        "dropped_bytes": dropped.map(|counter| counter.bytes),
    })
}
