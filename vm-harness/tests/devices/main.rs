//! Kinds of device that the machine's own kernel may lack: VLAN devices, bonds, VRFs, tunnels, lossy lines.
//!
//! Every test builds a node in namespaces, runs the agent and sends real traffic through the device. Needs the modules of
//! `vm-harness/src/modules.rs`: run by `cargo xtask vm`, not by `cargo test`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod bed;
mod links;
mod tunnels;
mod vlans;
mod weather;
