//! All pure stages in a row: from the bytes of the files to the image of the maps.
//!
//! A [`Compiler`] compiles one configuration after another. What it remembers of the last one saves time and changes no result: a file that is
//! the same is not parsed again, and a guest of whom nothing changed keeps its policies, as the same `Arc`.

use crate::config::{CLUSTER_FILE, Config, Parser, Sources};
use crate::diagnostic::{Diagnostic, Severity};
use crate::image::MapImage;
use crate::inventory::facts::HostFacts;
use crate::policy::localnet::{self, LocalNetwork};
use crate::policy::{NodePolicy, Resolver};

/// What the files mean, at every stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What the administrator wrote.
    pub config: Config,
    /// What it means.
    pub policy: NodePolicy,
    /// What goes into the maps.
    pub image: MapImage,
    /// What is wrong with the files, in the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses, resolves and builds, on nothing. `now`: UNIX time in seconds, for the cluster's self-expiring `enable`.
pub fn compile(sources: &Sources, facts: &HostFacts, now: u64) -> Compiled {
    Compiler::default().compile(sources, facts, now, MapImage::build)
}

/// Compiles one configuration after another, and remembers what does not change between them.
#[derive(Debug, Default)]
pub struct Compiler {
    parser: Parser,
    resolver: Resolver,
}

impl Compiler {
    /// As [`compile`], which gives equal results if `build`, which makes the image, does.
    pub fn compile(
        &mut self,
        sources: &Sources,
        facts: &HostFacts,
        now: u64,
        build: impl FnOnce(&NodePolicy) -> MapImage,
    ) -> Compiled {
        let (config, policy, diagnostics) = self.resolve(sources, facts, now);
        let image = build(&policy);
        Compiled {
            config,
            policy,
            image,
            diagnostics,
        }
    }

    /// All but the last stage: what the files mean, and what is wrong with them.
    pub fn resolve(
        &mut self,
        sources: &Sources,
        facts: &HostFacts,
        now: u64,
    ) -> (Config, NodePolicy, Vec<Diagnostic>) {
        let (mut config, mut diagnostics) = self.parser.parse(sources);
        let local = localnet::detect(&config, facts);
        config.local_network = Some(local.network());
        let (policy, found) = self.resolver.resolve(&config, facts, now);
        diagnostics.extend(found);
        if policy.enabled && policy.host.is_some() && local.alias.or(local.detected).is_none() {
            diagnostics.push(unknown_network(local));
        }
        diagnostics.sort();
        diagnostics.dedup();
        (config, policy, diagnostics)
    }
}

fn unknown_network(local: LocalNetwork) -> Diagnostic {
    let message = match local.address {
        Some(address) => format!("the network of this node's address {address} is not known"),
        None => "the address of this node is not known".into(),
    };
    Diagnostic {
        file: CLUSTER_FILE.into(),
        line: 0,
        column: 0,
        length: 0,
        severity: Severity::Warning,
        message,
        effect: format!("{} stands for `local_network`", localnet::UNKNOWN),
        hint: Some("define the alias `local_network`, from which the node may be managed".into()),
    }
}

#[cfg(test)]
mod tests;
