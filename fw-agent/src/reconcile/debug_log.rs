//! What kernel programs of a debug build say, as lines of the agent's own log (`RUST_LOG=debug`).
//!
//! Programs as they are shipped say nothing and have no such map. Programs that are loaded anew have a map of their own, and get a reader of
//! their own; the old one ends with the agent.

use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use crate::datapath::Kernel;

/// Reads what the programs say from now on, if they say anything and nobody reads it yet.
pub(super) fn listen(kernel: &mut Kernel) {
    let Some(logger) = kernel.take_debug_log() else {
        return;
    };
    // SAFETY: the logger owns its ring buffer's descriptor and keeps it as long as it lives.
    match unsafe { AsyncFd::register(logger) } {
        Ok(logger) => {
            tracing::warn!("the kernel programs are a debug build: every verdict is logged");
            tokio::spawn(read(logger));
        }
        Err(error) => {
            let (_, error) = error.into_parts();
            tracing::error!(%error, "cannot wait for what the kernel programs say");
        }
    }
}

async fn read(mut logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>) {
    loop {
        match logger.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
            Err(error) => {
                tracing::error!(%error, "cannot wait for what the kernel programs say");
                return;
            }
        }
    }
}
