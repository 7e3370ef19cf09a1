//! What the kernel programs and the agent agree on.
//!
//! The packet pipeline is written once, here, `no_std` and without allocation, over two traits: [`wire::Packet`] (packet bytes) and
//! [`tables::Tables`] (everything that lives in maps). The kernel crate adapts BPF maps and helpers to the traits; `fwctl simulate`, the
//! host tests and the fuzzers adapt plain memory. A packet therefore has one verdict, wherever it is judged.
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod ban;
pub mod classify;
pub mod conntrack;
pub mod decision;
pub mod early;
pub mod event;
pub mod flow;
pub mod flow_filter;
pub mod fragment;
pub mod guard;
pub mod half_open;
pub mod host;
pub mod ledger;
pub mod limit;
pub mod lineage;
pub mod maps;
pub mod pipeline;
pub mod reevaluate;
pub mod syn_limit;
pub mod tables;
pub mod verdict;
pub mod wire;
