//! What exists on this node: guests and their NICs, devices, and the host itself.
//!
//! In: the guests' configuration files. Out: one [`Guest`] per file, in order of its number. A NIC whose line cannot be read counts as
//! firewalled, because the opposite would open it by a typing mistake.

pub mod devices;
pub mod facts;
mod guest;
pub mod host_devices;
pub mod uplinks;
mod vmlist;

use std::net::IpAddr;
use std::sync::Arc;

use self::vmlist::VmList;
use crate::config::line::{Fault, Reporter, Span};
use crate::config::memo::{Input, Memo};
use crate::config::{Sources, lxc_directory, qemu_directory};
use crate::diagnostic::Diagnostic;
use crate::policy::GuestKind;

/// A guest of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its number.
    pub vmid: u32,
    /// VM or container.
    pub kind: GuestKind,
    /// Its configuration file.
    pub file: Arc<str>,
    /// Its NICs in order of their number.
    pub nics: Vec<Nic>,
}

/// A NIC as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// `net0` is 0.
    pub net: u16,
    /// Line of the configuration file.
    pub line: u32,
    /// The NIC is to be filtered.
    pub firewall: bool,
    /// Hardware address, if there is a usable one.
    pub mac: Option<[u8; 6]>,
    /// The bridge it is plugged into.
    pub bridge: Option<String>,
    /// VLAN of an access port.
    pub tag: Option<u16>,
    /// VLANs of a trunk, as inclusive ranges; empty if the NIC is none.
    pub trunks: Vec<(u16, u16)>,
    /// A container's fixed addresses.
    pub addresses: Vec<IpAddr>,
}

/// Reads the guests' files, and remembers what they meant.
#[derive(Debug, Default)]
pub struct Inventory {
    list: Memo<VmList>,
    guests: Memo<Guest>,
}

impl Inventory {
    /// The guests of the node, ordered by number.
    pub fn guests(&mut self, sources: &Sources, found: &mut Vec<Diagnostic>) -> Vec<Arc<Guest>> {
        let vms = sources
            .numbered(&qemu_directory(&sources.node), ".conf")
            .into_iter()
            .map(|entry| (GuestKind::Vm, entry));
        let containers = sources
            .numbered(&lxc_directory(&sources.node), ".conf")
            .into_iter()
            .map(|entry| (GuestKind::Container, entry));
        let of = |path: &str| Input::of(sources, path);
        let list = self
            .list
            .of(vmlist::PATH, [of(vmlist::PATH)], found, |_, found| {
                VmList::parse(sources, found)
            });
        let mut guests: Vec<Arc<Guest>> = Vec::new();
        for (kind, (vmid, (path, bytes))) in vms.chain(containers) {
            let mut reporter = Reporter::new(path.into(), found);
            if !list.has(&sources.node, vmid, kind, &mut reporter) {
                continue;
            }
            let input = [Input::Text(bytes.clone())];
            let guest = self.guests.of(path, input, found, |_, found| {
                guest::parse(bytes, vmid, kind, &mut Reporter::new(path.into(), found))
            });
            guests.push(guest);
        }
        self.list.end_round();
        self.guests.end_round();
        guests.sort_by_key(|guest| guest.vmid);
        guests.dedup_by(|next, first| {
            let same = next.vmid == first.vmid;
            if same {
                let fault = Fault {
                    span: Span::default(),
                    message: format!("{} describes the same guest", first.file),
                    hint: None,
                };
                Reporter::new(Arc::clone(&next.file), found).error(
                    0,
                    fault,
                    "this file is ignored",
                );
            }
            same
        });
        guests
    }
}
