//! What the kernel said: from ring-buffer records to lines of the firewall's log.
//!
//! In: [`fw_common::event::Event`] records and the rule that each one names. Out: `/var/log/pve-firewall.log`, in the columns that Proxmox's
//! log views, time-range queries and administrators' scripts split on.
//!
//! 1. [`context`] names what the record only numbers: chain, message, interfaces.
//! 2. [`clock`] turns the record's monotonic time into local wall-clock time.
//! 3. [`mod@line`] and `fields` write the line. They are pure and total: any bytes a guest sends give one line of bounded length.
//!    [`flow`] writes those of [`fw_common::event::FlowEvent`] records.
//! 4. [`json`] writes the same for programs.
//! 5. [`status`] writes the log's lines about itself, [`writer`] appends batches to the file.
//!
//! Reading the ring buffer is in `datapath`; the rate limit is applied in the kernel, before a record is made.

pub mod clock;
pub mod context;
mod fields;
pub mod flow;
pub mod json;
pub mod line;
pub mod status;
pub mod writer;
