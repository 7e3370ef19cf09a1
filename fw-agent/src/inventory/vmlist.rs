//! `.vmlist`: which guest is on which node.
//!
//! A guest's files count only on the node that this list names. Without the list (a tree that is no cluster's) every file below the node
//! counts; so it does if the list cannot be read, because the opposite would open the guests.

use std::collections::BTreeMap;

use crate::config::Sources;
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::config::read_json;
use crate::diagnostic::Diagnostic;
use crate::policy::GuestKind;

pub(super) const PATH: &str = ".vmlist";

/// The guests of the cluster.
#[derive(Debug, Default)]
pub(super) struct VmList {
    /// Node and type by number; none if there is no list.
    guests: Option<BTreeMap<u32, (String, String)>>,
}

impl VmList {
    /// Reads the list.
    pub(super) fn parse(sources: &Sources, found: &mut Vec<Diagnostic>) -> Self {
        let Some(list) = read_json(sources, PATH, found) else {
            return Self::default();
        };
        let guests = list.get("ids").and_then(serde_json::Value::as_object);
        let guests = guests.into_iter().flatten().filter_map(|(vmid, guest)| {
            let text = |key| guest.get(key).and_then(serde_json::Value::as_str);
            let kind = text("type").unwrap_or_default().to_owned();
            Some((vmid.parse().ok()?, (text("node")?.to_owned(), kind)))
        });
        Self {
            guests: Some(guests.collect()),
        }
    }

    /// Whether a guest's file of this node counts; if not, that is reported.
    pub(super) fn has(
        &self,
        node: &str,
        vmid: u32,
        kind: GuestKind,
        reporter: &mut Reporter<'_>,
    ) -> bool {
        let Some(guests) = &self.guests else {
            return true;
        };
        let of = match kind {
            GuestKind::Vm => "qemu",
            GuestKind::Container => "lxc",
        };
        let message = match guests.get(&vmid) {
            None => format!("{PATH} has no guest {vmid}"),
            Some((at, _)) if at != node => {
                format!("{PATH} has guest {vmid} on node {}", quote(at))
            }
            Some((_, listed)) if !listed.is_empty() && listed != of => {
                format!("{PATH} has guest {vmid} as {}", quote(listed))
            }
            Some(_) => return true,
        };
        let fault = Fault {
            span: Span::default(),
            message,
            hint: None,
        };
        reporter.warning(0, fault, "the guest is not this node's");
        false
    }
}
