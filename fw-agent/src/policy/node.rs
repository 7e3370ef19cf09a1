//! What the policies of one node have in common, the host's and the guests'.

use std::sync::Arc;

use super::lines::Groups;
use super::names::Names;
use super::{AddressSet, Rule, SourceLine, standard};
use crate::config::document::Document;
use crate::config::options::{HostOptions, Setting};

/// The node-wide part of the configuration, resolved.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// The cluster's file could be read.
    pub(super) readable: bool,
    /// Frames that are not IP are filtered.
    pub(super) layer2: bool,
    pub(super) host: &'a Document<HostOptions>,
    pub(super) cluster: &'a Names,
    pub(super) groups: &'a Groups,
    /// The cluster's blacklist and the line of its header.
    pub(super) blacklist: Option<(Arc<AddressSet>, Option<SourceLine>)>,
}

impl Node<'_> {
    /// Checks on whatever comes in, to the host or a guest: blacklist, smurfs, TCP flags. `allow_invalid`: packets that connection tracking calls
    /// invalid get this far.
    pub(super) fn checks(&self, allow_invalid: bool) -> Vec<Rule> {
        let options = &self.host.options;
        let mut rules = Vec::new();
        if let Some((set, line)) = &self.blacklist {
            rules.push(standard::blacklist(
                Arc::clone(set),
                options.log_level_in.value,
                line.clone(),
            ));
        }
        if options.nosmurfs.value {
            rules.extend(standard::smurfs(
                allow_invalid,
                options.smurf_log_level.value,
                self.host.line_of(&options.nosmurfs),
            ));
        }
        if options.tcpflags.value {
            rules.push(standard::tcp_flags(
                options.tcp_flags_log_level.value,
                self.host.line_of(&options.tcpflags),
            ));
        }
        rules
    }
}

impl<O> Document<O> {
    /// The line that set an option.
    pub(super) fn line_of<T>(&self, setting: &Setting<T>) -> Option<SourceLine> {
        setting.line.map(|line| SourceLine {
            file: Arc::clone(&self.file),
            line,
        })
    }
}
