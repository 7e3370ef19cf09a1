//! All pure stages in a row: from the bytes of the files to the image of the maps.

use crate::config::{self, Config, Sources};
use crate::diagnostic::Diagnostic;
use crate::image::MapImage;
use crate::policy::{self, NodePolicy};

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

/// Parses, resolves and builds. `now`: UNIX time in seconds, for the cluster's self-expiring `enable`.
pub fn compile(sources: &Sources, now: u64) -> Compiled {
    let (config, mut diagnostics) = config::parse(sources);
    let (policy, found) = policy::resolve(&config, now);
    diagnostics.extend(found);
    diagnostics.sort();
    diagnostics.dedup();
    let image = MapImage::build(&policy);
    Compiled {
        config,
        policy,
        image,
        diagnostics,
    }
}
