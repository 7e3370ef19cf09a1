//! What goes wrong on a node: damaged and lost files, full maps, lost logs, killed agents, and policies that change faster than anyone edits.
//!
//! Each test makes something fail and looks at real packets, at the status, and at what comes back by itself. Needs root and built programs:
//! `cargo xtask test`.

mod edits;
mod files;
mod flips;
mod full;
mod kills;
mod logs;
mod mounts;
mod policies;
