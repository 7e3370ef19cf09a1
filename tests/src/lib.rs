<<<<<<< HEAD
//! What the tests with the real kernel and real traffic share, and the demo with them.
//!
//! `netns` makes network namespaces, `tap` devices and their far ends, `node` a whole demo node of them; `probe` is real traffic between
//! namespaces; `tree` writes configuration, `agent` runs the agent on it. Everything is undone when it is dropped, also by a panic.

pub mod agent;
pub mod background;
pub mod netns;
pub mod node;
pub mod probe;
pub mod tap;
pub mod tree;
=======
//! What tests of several crates share: the reference model of matching, and random policies and packets to compare it with.

pub mod model;
pub mod strategy;
>>>>>>> wt-c
