//! When flows are swept: a thread of its own, so that a pass over a full table delays nothing.
//!
//! A pass over 262,144 flows takes about a tenth of a second of one core; once in [`INTERVAL`] that is 1%. Expired flows therefore stay in the table
//! for up to that time, in which they count towards the port's quota.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::datapath::pins::Pins;
use crate::datapath::sweep::sweep;

/// Time between two passes.
const INTERVAL: Duration = Duration::from_secs(10);

/// The thread; it ends when this is dropped.
pub(super) struct Sweeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts sweeping the maps pinned in a directory, now and then every [`INTERVAL`].
    pub(super) fn start(pin_directory: &Path) -> anyhow::Result<Self> {
        let pins = Pins::new(pin_directory);
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(move || {
                let mut failing = false;
                loop {
                    match sweep(&pins) {
                        Ok(swept) => {
                            failing = false;
                            let flows: u64 = swept.flows.values().sum();
                            tracing::debug!(
                                flows,
                                half_open = swept.half_open,
                                removed = swept.removed,
                                returned = swept.returned,
                                "swept the flow tables"
                            );
                        }
                        Err(error) if !failing => {
                            failing = true;
                            tracing::error!("{:#}", anyhow::Error::from(error));
                        }
                        Err(_) => {}
                    }
                    match stopped.recv_timeout(INTERVAL) {
                        Err(RecvTimeoutError::Timeout) => {}
                        Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
            })
            .context("cannot start the thread that sweeps flows")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that sweeps flows panicked");
        }
    }
}
