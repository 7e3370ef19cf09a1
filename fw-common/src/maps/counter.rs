//! Entries of [`name::COUNTERS`] behind those of the reasons.

use crate::verdict::REASONS;

/// Events that found no room in the ring buffer.
pub const LOST_EVENTS: u32 = REASONS as u32;
/// Times that a flow found no room in its table. One that should have become established stays half-open, and tries again with each
/// packet.
pub const FLOWS_REFUSED: u32 = REASONS as u32 + 1;
/// REJECT answers that were not sent because there were too many.
pub const REJECTS_LIMITED: u32 = REASONS as u32 + 2;
/// Packets that a rule would have logged beyond its limit.
pub const LOGS_LIMITED: u32 = REASONS as u32 + 3;
/// Tries to promote a half-open flow of a port that has as many flows as [`super::Settings::flow_quota`] lets it.
pub const FLOWS_OVER_QUOTA: u32 = REASONS as u32 + 4;
/// Packets that a rule decided for whose counter there was no room.
pub const RULES_UNCOUNTED: u32 = REASONS as u32 + 5;
/// Packets that were dropped at an uplink; they are counted under their reason too.
pub const EARLY_DROPS: u32 = REASONS as u32 + 6;
/// Entries in all.
pub const ENTRIES: u32 = REASONS as u32 + 7;
