//! What the agent does about bans: fills a new map, ends what is over, says what was done, and has cards drop early.
//!
//! Whoever has the pins bans, with or without the agent; it hears of that from the journal, a second later at the most.

use super::{Agent, Options};
use crate::bans::record::shown;
use crate::bans::{Desk, News};
use crate::datapath::Plan;
use crate::datapath::plan::plan_uplinks;

/// Bans that are told one by one of those that come within a second.
const TOLD: usize = 20;

/// Where bans are made, with the map filled if it is new. What fails is said: bans that are lost open nothing that the rules close.
pub(super) fn open(options: &Options) -> Desk {
    let mut desk = Desk::new(&options.pin_directory, &options.state_directory);
    match desk.restore().and_then(|count| {
        desk.catch_up()?;
        Ok(count)
    }) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "bans from before are in force again"),
        Err(error) => tracing::error!(
            "{:#}; bans from before are not in force",
            anyhow::Error::from(error)
        ),
    }
    desk
}

impl Agent {
    /// Removes bans that have ended, says what happened, and has cards drop early.
    pub(super) fn look_after_bans(&mut self) {
        match self.desk.look(&mut self.bans) {
            Ok(news) => tell(&news),
            Err(error) => tracing::error!("{:#}", anyhow::Error::from(error)),
        }
        if self.state_is_unknown || !self.has_bans() {
            return;
        }
        let edge = self.edge();
        let plan = plan_uplinks(&mut self.state, &edge);
        if plan == Plan::default() {
            return;
        }
        let mut degraded = Vec::new();
        self.execute(&plan, &self.devices.indices(), &mut degraded);
        self.record.degraded.extend(degraded);
        self.record.uplinks = self.uplink_records();
        if let Err(error) = self.run_directory.write(&self.record) {
            tracing::error!(%error, "cannot write the record");
        }
    }
}

fn tell(news: &[News]) {
    for one in news.iter().take(TOLD) {
        match one {
            News::Banned(record) => {
                let (net, by, reason) = (shown(record.net), &record.by, &record.reason);
                tracing::info!(by, reason, "{net} is banned {}", record.length());
            }
            News::Lifted(net, by) => tracing::info!(by, "{} is no longer banned", shown(*net)),
            News::Ended(record) => {
                tracing::info!(by = record.by, "the ban of {} has ended", shown(record.net));
            }
        }
    }
    match news.len().saturating_sub(TOLD) {
        0 => {}
        more => tracing::info!("{more} more bans were made, lifted or have ended"),
    }
}
