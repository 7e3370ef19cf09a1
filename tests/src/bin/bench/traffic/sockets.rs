//! What applications see: one TCP stream, TCP connections one after the other, small datagrams that each begin a flow.
//!
//! Everything goes from outside to the guest; what arrived there counts.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::inject::scattered;
use super::sender::Sender;
use crate::bed::{Bed, GUEST};
use crate::rules::OPEN;

/// Bytes of one write to a stream.
const WRITE: usize = 256 << 10;
/// Datagrams of one system call.
const BATCH: usize = 64;
/// Most datagrams of one sample: tables of flows hold the sum over all rounds.
const DATAGRAMS: usize = 20_000;
/// Time without a datagram after which none is on its way any more.
const QUIET: Duration = Duration::from_millis(50);
/// Bytes of the receiver's queue: every datagram of a sample, with what the kernel adds.
static QUEUE: libc::c_int = 64 << 20;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn listen(bed: &Bed) -> Result<TcpListener> {
    bed.guest
        .run(|| Ok(TcpListener::bind(SocketAddr::from((GUEST, OPEN)))?))
}

/// Has this thread run before others: on a machine that has something else to do, a sample would say how long it waited for a processor.
fn favoured() -> Result<()> {
    // SAFETY: setpriority takes no pointers; 0 is this thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    ensure!(
        done == 0,
        "raising the priority: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn connect() -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((GUEST, OPEN)), PATIENCE)
}

/// Gigabits per second of one stream.
pub fn stream(bed: &Bed, time: Duration) -> Result<f64> {
    let listener = listen(bed)?;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            favoured()?;
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; WRITE];
            let mut received = 0;
            let started = Instant::now();
            loop {
                match stream.read(&mut buffer)? {
                    0 => return anyhow::Ok((received, started.elapsed())),
                    length => received += length,
                }
            }
        });
        bed.outside.run(|| {
            favoured()?;
            let mut stream = connect().context("connecting")?;
            let buffer = vec![0; WRITE];
            let started = Instant::now();
            while started.elapsed() < time {
                stream.write_all(&buffer).context("sending")?;
            }
            Ok(())
        })?;
        let (received, elapsed) = receiver
            .join()
            .map_err(|_panic| anyhow!("the receiver panicked"))??;
        Ok(received as f64 * 8.0 / elapsed.as_secs_f64() / 1e9)
    })
}

/// Connections per second: opened, accepted, closed by the guest, one after the other.
pub fn connections(bed: &Bed, time: Duration) -> Result<f64> {
    let listener = listen(bed)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            favoured()?;
            loop {
                let (stream, _) = listener.accept()?;
                if done.load(Ordering::Relaxed) {
                    return anyhow::Ok(());
                }
                drop(stream);
            }
        });
        let rate = bed.outside.run(|| {
            favoured()?;
            let started = Instant::now();
            let mut made = 0_u64;
            let result = loop {
                let elapsed = started.elapsed();
                if elapsed >= time {
                    break Ok(made as f64 / elapsed.as_secs_f64());
                }
                let opened = connect().and_then(|mut stream| {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.read(&mut [0])
                });
                match opened {
                    Ok(_) => made += 1,
                    Err(error) => break Err(error).context("opening a connection"),
                }
            };
            done.store(true, Ordering::Relaxed);
            // The server waits for one more.
            connect().context("opening the last connection")?;
            result
        });
        // Without that connection the server would wait for ever; then its address is gone with the guest, and so is the bench.
        let rate = rate?;
        server
            .join()
            .map_err(|_panic| anyhow!("the server panicked"))??;
        Ok(rate)
    })
}

/// Datagrams per second that reach a socket of the guest, each from another address and port.
pub fn datagrams(bed: &Bed, time: Duration) -> Result<f64> {
    let server = bed.server(OPEN)?;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    // SAFETY: the option is one int, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            server.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const QUEUE).cast(),
            size,
        )
    };
    ensure!(done == 0, "{}", std::io::Error::last_os_error());
    server.set_read_timeout(Some(QUIET))?;
    // How many were sent, once all are.
    let sent = OnceLock::new();
    let all = &sent;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            favoured()?;
            let mut buffer = [0; 64];
            let (mut received, mut last) = (0_usize, Instant::now());
            loop {
                match server.recv(&mut buffer) {
                    Ok(_) => {
                        received += 1;
                        last = Instant::now();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock && all.get().is_none() => {}
                    Err(_) => return anyhow::Ok((received, last)),
                }
                if all.get().is_some_and(|all| received >= *all) {
                    return Ok((received, last));
                }
            }
        });
        let begun = bed.outside.run(|| {
            favoured()?;
            let mut sender = Sender::new(bed.outside.ifindex("eth0")?, scattered(OPEN)?, BATCH)?;
            let begun = Instant::now();
            let mut count = 0;
            while count < DATAGRAMS && begun.elapsed() < time {
                sender.send()?;
                count += BATCH;
            }
            Ok((begun, count))
        });
        let count = begun.as_ref().map_or(0, |(_, count)| *count);
        sent.get_or_init(|| count);
        let (received, last) = receiver
            .join()
            .map_err(|_panic| anyhow!("the receiver panicked"))??;
        let (begun, _) = begun?;
        ensure!(
            received * 100 >= count * 99,
            "{received} of {count} datagrams came through"
        );
        Ok(received as f64 / last.duration_since(begun).as_secs_f64())
    })
}
