//! How long tests wait for what has to happen, and how often they repeat what they do: longer and less often where the machine is slow.
//!
//! `TAPWALL_TEST_PATIENCE` is a factor; emulated machines set it. What must *not* happen is waited for as long as ever: such a test would
//! become no better by waiting longer. `TAPWALL_TEST_FEWER` divides numbers of repetitions that look for rare differences; emulated machines, which
//! would repeat for hours, set it too.

use std::time::Duration;

/// A time, multiplied by the factor.
pub fn patience(time: Duration) -> Duration {
    time.saturating_mul(factor("TAPWALL_TEST_PATIENCE"))
}

/// A number of repetitions, divided; one at least.
pub fn repetitions(count: u32) -> u32 {
    (count / factor("TAPWALL_TEST_FEWER")).max(1)
}

fn factor(variable: &str) -> u32 {
    let text = std::env::var(variable).ok();
    let factor = text.and_then(|text| text.parse::<u32>().ok());
    factor.unwrap_or(1).max(1)
}
