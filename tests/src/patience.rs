//! How long tests wait for what has to happen: longer where the machine is slow.
//!
//! `TAPWALL_TEST_PATIENCE` is a factor; emulated machines set it. What must *not* happen is waited for as long as ever: such a test would
//! become no better by waiting longer.

use std::time::Duration;

/// A time, multiplied by the factor.
pub fn patience(time: Duration) -> Duration {
    let factor = std::env::var("TAPWALL_TEST_PATIENCE").ok();
    let factor = factor.and_then(|text| text.parse::<u32>().ok());
    time.saturating_mul(factor.unwrap_or(1).max(1))
}
