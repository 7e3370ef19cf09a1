//! What the tests with the real kernel and real traffic share, and the demo with them.
//!
//! `netns` makes network namespaces, `tap` devices and their far ends, `node` a whole demo node of them; `probe` is real traffic between
//! namespaces; `tree` writes configuration, `agent` runs the agent on it, `vigil` watches flows meanwhile; `booted` is a machine with systemd around all that. Everything is undone when it is dropped, also by a panic.
//! `model` is the reference model of matching, `strategy` makes random policies and packets to compare the pipeline with it; `frame` makes
//! frames of any shape; `installed` finds other people's programs.

pub mod agent;
pub mod background;
pub mod booted;
pub mod conformance;
pub mod counted;
pub mod frame;
pub mod installed;
pub mod kernel;
pub mod lookups;
pub mod model;
pub mod netns;
pub mod node;
pub mod patience;
pub mod probe;
pub mod processor;
pub mod pve;
pub mod scenario;
pub mod shuffle;
pub mod strategy;
pub mod tap;
pub mod tree;
pub mod vigil;
