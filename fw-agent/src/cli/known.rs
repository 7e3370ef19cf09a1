//! What rules and devices are called, for verbs that go on while those come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Place;
use super::why::devices;
use crate::compile::compile;
use crate::config::Sources;
use crate::inventory::facts::HostFacts;
use crate::live::Names;
use crate::reconcile::unix_time;

/// Time between two looks at the files.
const TURN: Duration = Duration::from_secs(2);

/// The names, and what they were made from.
pub(super) struct Known {
    facts: HostFacts,
    sources: Sources,
    names: Arc<Names>,
    looked: Instant,
}

impl Known {
    /// Those of now.
    pub(super) fn read(place: &Place) -> Result<Self> {
        let (facts, sources) = (place.facts()?, place.sources()?);
        let compiled = compile(&sources, &facts, unix_time());
        let names = Names::new(&compiled, devices()?.names());
        Ok(Self {
            facts,
            sources,
            names: Arc::new(names),
            looked: Instant::now(),
        })
    }

    /// Reads again what changed, unless it was looked at a moment ago.
    pub(super) fn refresh(&mut self, place: &Place) -> Result<()> {
        if self.looked.elapsed() < TURN {
            return Ok(());
        }
        self.looked = Instant::now();
        let (sources, devices) = (place.sources()?, devices()?.names());
        if sources != self.sources || self.names.devices() != &devices {
            let compiled = compile(&sources, &self.facts, unix_time());
            self.names = Arc::new(Names::new(&compiled, devices));
            self.sources = sources;
        }
        Ok(())
    }

    pub(super) fn names(&self) -> &Arc<Names> {
        &self.names
    }
}
