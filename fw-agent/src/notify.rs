//! What systemd is told: that the firewall is up, that it is being read again, that the loop still turns, that it ends.
//!
//! By the socket in `NOTIFY_SOCKET`; without one nothing is said. The watchdog is fed by the loop itself and by nothing else, so that systemd
//! notices a loop that hangs and starts the agent again; the policy stays in force meanwhile.

use sd_notify::NotifyState;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    ready: bool,
    watched: bool,
    said: String,
    failing: bool,
}

impl Manager {
    /// The one that started this process.
    pub fn of_this_process() -> Self {
        Self {
            watched: sd_notify::watchdog_enabled().is_some(),
            ..Self::default()
        }
    }

    /// The loop has gone round once more, and this is how things are.
    pub fn round(&mut self, status: &str) {
        let mut states = Vec::new();
        if !self.ready {
            states.push(NotifyState::Ready);
        }
        if self.watched {
            states.push(NotifyState::Watchdog);
        }
        if self.said != status {
            self.said = status.to_owned();
            states.push(NotifyState::Status(status));
        }
        self.ready = true;
        self.send(&states);
    }

    /// Everything is about to be read again; the next round says that it was.
    pub fn reloading(&mut self) {
        self.ready = false;
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now().ok());
        self.send(&states);
    }

    /// The agent ends.
    pub fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping]);
    }

    fn send(&mut self, states: &[NotifyState<'_>]) {
        if states.is_empty() {
            return;
        }
        match sd_notify::notify(states) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(%error, "cannot tell the service manager");
            }
            Err(_) => {}
        }
    }
}
