//! SIGINT, SIGTERM and SIGHUP end the demo in order: what it made is removed.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Readable once a signal came.
static CAUGHT: OnceLock<OwnedFd> = OnceLock::new();

/// Number of that descriptor, for the handler.
static NUMBER: AtomicI32 = AtomicI32::new(-1);

/// From now on signals are remembered instead of ending the process.
pub fn catch() -> Result<()> {
    let event =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("making an event")?;
    NUMBER.store(CAUGHT.get_or_init(|| event).as_raw_fd(), Ordering::SeqCst);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a sigaction of zeroes is valid (no flags, empty mask); the handler only does what is allowed in one.
        let done = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = remember as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if done < 0 {
            return Err(std::io::Error::last_os_error()).context("catching signals");
        }
    }
    Ok(())
}

/// Whether a signal came.
pub fn caught() -> bool {
    wait_for(Some(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    }))
}

/// Waits for a signal.
pub fn wait() {
    while !wait_for(None) {}
}

fn wait_for(timeout: Option<Timespec>) -> bool {
    let Some(event) = CAUGHT.get() else {
        return false;
    };
    let mut waiting = [PollFd::from_borrowed_fd(event.as_fd(), PollFlags::IN)];
    poll(&mut waiting, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

extern "C" fn remember(_signal: libc::c_int) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: write() is async-signal-safe, the buffer is on this stack; a failed write leaves nothing to do.
    unsafe {
        libc::write(
            NUMBER.load(Ordering::SeqCst),
            one.as_ptr().cast(),
            one.len(),
        );
    }
}
