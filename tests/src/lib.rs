//! What tests of several crates share: the reference model of matching, and random policies and packets to compare it with.

pub mod model;
pub mod strategy;
