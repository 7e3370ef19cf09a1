//! Threads that end when their handle is dropped.
//!
//! The thread gets the reading end of an event; it waits with `poll` for its own descriptors and for that one, and returns once it is readable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// A running thread; dropping it ends the thread and waits for its end.
pub struct Background {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts a thread. `work` must return when [`wait`] says that it should stop.
    pub fn start(name: &str, work: impl FnOnce(&OwnedFd) + Send + 'static) -> Result<Self> {
        let stop = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .context("making an event")?,
        );
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&seen))
            .with_context(|| format!("starting thread {name}"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            eprintln!("cannot stop a background thread: {error}");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a background thread panicked");
        }
    }
}

/// Waits until one of `sources` is readable (or gone): true to go on, false to stop.
pub fn wait(stop: &OwnedFd, sources: &[BorrowedFd<'_>]) -> bool {
    let mut waiting: Vec<PollFd<'_>> = Vec::with_capacity(sources.len() + 1);
    waiting.push(PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN));
    waiting.extend(
        sources
            .iter()
            .map(|source| PollFd::from_borrowed_fd(*source, PollFlags::IN)),
    );
    loop {
        match poll(&mut waiting, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    waiting[0].revents().is_empty()
}

/// Lets some time pass: true to go on, false to stop.
pub fn pause(stop: &OwnedFd, time: Duration) -> bool {
    let Ok(time) = Timespec::try_from(time) else {
        return false;
    };
    let mut waiting = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    match poll(&mut waiting, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => waiting[0].revents().is_empty(),
        Err(_) => false,
    }
}
