//! Tapwall's agent: from Proxmox's firewall files to eBPF maps.
//!
//! ```text
//! files, netlink ─read→ text ─parse→ Config ─resolve→ PortPolicy… ─build→ MapImage ─plan→ Plan ─apply→ kernel maps
//! ```
//!
//! `config` is what the admin wrote, `inventory` what exists on this node, `policy` what it means, `lint` what of it was hardly meant, `image` what goes in each map,
//! `datapath` how it gets there, `events` what the kernel said, `reconcile` when.

pub mod arguments;
pub mod bans;
pub mod cache;
pub mod cli;
pub mod compile;
pub mod config;
pub mod conflicts;
pub mod control;
pub mod datapath;
pub mod diagnostic;
pub mod diff;
pub mod duration;
pub mod edit;
pub mod events;
pub mod image;
pub mod import;
pub mod inventory;
pub mod journal;
pub mod lint;
pub mod live;
pub mod metrics;
pub mod migrate;
pub mod notify;
pub mod policy;
pub mod reconcile;
pub mod record;
pub mod sessions;
pub mod settings;
pub mod simulate;
pub mod trial;
