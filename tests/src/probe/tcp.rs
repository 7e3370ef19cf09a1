//! TCP: connections, and transfers whose bytes are compared.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::{Answer, bound_socket};
use crate::background::{Background, wait};
use crate::netns::Netns;
use crate::patience::patience;

/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(20);

/// Accepts connections until it is dropped. A client may just connect, or ask for a [`transfer`].
pub struct TcpServer {
    _acceptor: Background,
}

impl TcpServer {
    /// Listens in a namespace.
    pub fn start(namespace: &Netns, address: SocketAddr) -> Result<Self> {
        let listener = namespace.run(|| {
            TcpListener::bind(address)
                .with_context(|| format!("listening on {address} in {}", namespace.name()))
        })?;
        listener
            .set_nonblocking(true)
            .context("setting a listener non-blocking")?;
        let acceptor = Background::start("tcp-server", move |stop| {
            while wait(stop, &[listener.as_fd()]) {
                if let Ok((stream, _)) = listener.accept() {
                    // It ends by itself: every read and write in it is bounded.
                    thread::spawn(move || {
                        if let Err(error) = serve(stream)
                            && error.kind() != io::ErrorKind::UnexpectedEof
                            && error.kind() != io::ErrorKind::ConnectionReset
                        {
                            eprintln!("serving a TCP connection: {error}");
                        }
                    });
                }
            }
        })?;
        Ok(Self {
            _acceptor: acceptor,
        })
    }
}

/// Tries to connect.
pub fn connect(from: &Netns, source: IpAddr, to: SocketAddr, timeout: Duration) -> Answer {
    match open(from, source, to, timeout) {
        Ok(Ok(_)) => Answer::Answered,
        Ok(Err(error)) => Answer::from_error(&error),
        Err(error) => Answer::Failed(format!("{error:#}")),
    }
}

/// Connects: the inner error is the network's, the outer one means that it could not be tried.
fn open(
    from: &Netns,
    source: IpAddr,
    to: SocketAddr,
    timeout: Duration,
) -> Result<io::Result<TcpStream>> {
    let socket = bound_socket(from, source, SocketType::STREAM, None)?;
    rustix::io::ioctl_fionbio(&socket, true).context("setting a socket non-blocking")?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Ok(Err(error.into())),
    }
    let timeout = Timespec::try_from(timeout).context("timeout of a connection")?;
    let mut waiting = [PollFd::new(&socket, PollFlags::OUT)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut waiting, Some(&timeout)));
    if ready.context("waiting for a connection")? == 0 {
        return Ok(Err(io::ErrorKind::TimedOut.into()));
    }
    if let Err(error) = rustix::net::sockopt::socket_error(&socket).context("asking a socket")? {
        return Ok(Err(error.into()));
    }
    rustix::io::ioctl_fionbio(&socket, false).context("setting a socket blocking")?;
    Ok(Ok(TcpStream::from(socket)))
}

/// A finished transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that went each way, every one as it was sent.
    pub bytes: u64,
    /// Both ways together.
    pub elapsed: Duration,
}

/// A connection to a [`TcpServer`] that stays open for several transfers.
pub struct Session {
    stream: TcpStream,
    name: String,
}

impl Session {
    /// Connects.
    pub fn open(from: &Netns, source: IpAddr, to: SocketAddr) -> Result<Self> {
        let name = format!("{source} to {to}");
        let stream =
            open(from, source, to, STALL)?.with_context(|| format!("connecting {name}"))?;
        bound(&stream)?;
        Ok(Self { stream, name })
    }

    /// Sends `bytes` bytes and gets as many back; both ends compare each byte.
    pub fn transfer(&mut self, bytes: u64) -> Result<Transfer> {
        let name = &self.name;
        let started = Instant::now();
        self.stream
            .write_all(&bytes.to_be_bytes())
            .and_then(|()| send_pattern(&mut self.stream, bytes))
            .with_context(|| format!("sending, {name}"))?;
        let mut intact = [0];
        self.stream
            .read_exact(&mut intact)
            .with_context(|| format!("waiting for the other end's comparison, {name}"))?;
        if intact != [1] {
            bail!("other bytes arrived than were sent, {name}");
        }
        if !receive_pattern(&mut self.stream, bytes)
            .with_context(|| format!("receiving, {name}"))?
        {
            bail!("other bytes came back than were sent, {name}");
        }
        Ok(Transfer {
            bytes,
            elapsed: started.elapsed(),
        })
    }
}

/// Connects for one [`Session::transfer`].
pub fn transfer(from: &Netns, source: IpAddr, to: SocketAddr, bytes: u64) -> Result<Transfer> {
    Session::open(from, source, to)?.transfer(bytes)
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    bound(&stream)?;
    loop {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes)?;
        let bytes = u64::from_be_bytes(bytes);
        let intact = receive_pattern(&mut stream, bytes)?;
        stream.write_all(&[u8::from(intact)])?;
        send_pattern(&mut stream, bytes)?;
    }
}

fn bound(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(patience(STALL)))?;
    stream.set_write_timeout(Some(patience(STALL)))
}

fn send_pattern(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    let mut pattern = Pattern::default();
    let mut left = bytes;
    while left > 0 {
        let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        pattern.fill(&mut chunk[..length]);
        stream.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// Whether the bytes that arrive are the pattern. All are read in any case.
fn receive_pattern(stream: &mut TcpStream, bytes: u64) -> io::Result<bool> {
    let mut chunk = vec![0; 64 * 1024];
    let mut expected = vec![0; 64 * 1024];
    let mut pattern = Pattern::default();
    let mut left = bytes;
    let mut intact = true;
    while left > 0 {
        let wanted = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = match stream.read(&mut chunk[..wanted]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pattern.fill(&mut expected[..length]);
        intact &= chunk[..length] == expected[..length];
        left -= length as u64;
    }
    Ok(intact)
}

/// Bytes that do not repeat within any transfer: the high byte of a linear congruential generator (Knuth, MMIX).
struct Pattern(u64);

impl Default for Pattern {
    fn default() -> Self {
        Self(1)
    }
}

impl Pattern {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_be_bytes()[0];
        }
    }
}
