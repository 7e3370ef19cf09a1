//! What the three ways made of one packet at one hop, and whether they agree.

use fw_common::verdict::{Direction, Reason};

use super::Found;

/// What the three say of one packet at one hop.
pub(super) struct Seen {
    pub(super) host: Found,
    pub(super) model: Option<Found>,
    pub(super) kernel: Option<Found>,
    pub(super) action: Option<i32>,
    pub(super) state: Option<fw_common::conntrack::CtState>,
}

impl Seen {
    /// What all say that were asked, or what each says.
    pub(super) fn agreement(&self, direction: Direction) -> Result<Found, String> {
        let others = [self.model, self.kernel];
        if others.into_iter().flatten().all(|other| other == self.host) {
            return Ok(self.host);
        }
        Err(format!(
            "  they differ ({})\n{}",
            direction.name(),
            self.describe()
        ))
    }

    pub(super) fn describe(&self) -> String {
        let line = |name, found: Option<Found>| match found {
            Some(Found {
                verdict,
                reason,
                rule,
            }) => format!(
                "  {name} {} {} rule {rule:?}\n",
                verdict.name(),
                reason.map_or("unfiltered", Reason::name)
            ),
            None => format!("  {name} not asked\n"),
        };
        [
            line("model   ", self.model),
            line("host    ", Some(self.host)),
            line("kernel  ", self.kernel),
            format!("  state    {:?}, action {:?}\n", self.state, self.action),
        ]
        .concat()
    }
}
