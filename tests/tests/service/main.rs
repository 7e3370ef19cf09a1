//! The agent as a service: its control socket, status, cache, logs, service manager and conflicts, with real agents in namespaces.
//!
//! Needs root and built programs: `cargo xtask test`.

mod boot;
mod company;
mod control;
mod logs;
mod manager;
mod metrics;
mod network;
mod packaging;
mod status;
mod systemd;
mod upgrade;
