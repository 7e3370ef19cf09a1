//! Live verdicts as lines for people or for programs: `fwctl drops` and `fwctl trace`.
//!
//! In: records of [`crate::datapath::watch`], and the names of devices and rules. Out: the JSON object of the log for programs
//! ([`crate::events::json`]: the same keys with the same meaning), or a line made from it.
//!
//! ```text
//! 14:03:07.123456 DROP   100/net0 IN  udp 192.0.2.200:40000 -> 192.0.2.100:5000  policy  firewall/100.fw:3: policy_in: DROP
//! ```

mod names;
mod shown;

pub use names::Names;
pub use shown::{Filter, line};
