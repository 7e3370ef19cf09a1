//! Real traffic through the agent: sockets in namespaces, a container's veth device, a VM's tap device.
//!
//! Everything that is tried has a server behind it, so that refusal and silence come from the firewall. Tests run in parallel, each on a node
//! of its own. Needs root and built programs: `cargo xtask test`.

mod bed;
mod blacklist;
mod changes;
mod devices;
mod early;
mod errors;
mod frames;
mod guards;
mod host;
mod host_nat;
mod host_places;
mod marked;
mod newcomers;
mod reports;
mod scopes;
mod topologies;
mod transfers;
mod upgrade;
mod verdicts;
