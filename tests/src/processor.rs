//! Processor time: what a stage takes of a machine that does other things besides.

use rustix::time::{ClockId, clock_gettime};

/// Processor time of this thread so far, in milliseconds.
pub fn milliseconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
