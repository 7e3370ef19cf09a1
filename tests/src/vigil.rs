//! Traffic that goes on while something else happens, and what became of it: a flow that is accepted throughout, and one that is forbidden.
//!
//! In: two places and a port. Out: a [`Tally`] at any time. [`Asking`] sends a datagram, waits for its echo and goes on with the next;
//! [`Knocking`] sends datagrams that must never arrive, and counts those that do. Each datagram is numbered, so none is counted twice.
//!
//! Invariant: what could not be sent is not counted as sent, and an answer counts only for the request that it belongs to.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::background::{Background, pause, wait};
use crate::netns::Netns;
use crate::node::Station;
use crate::probe::receive;

/// After so long a request counts as lost.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// What became of the datagrams so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Answered ([`Asking`]) or arrived ([`Knocking`]).
    pub arrived: u64,
    /// Not answered within [`PATIENCE`].
    pub lost: u64,
    /// Longest time that an answer took.
    pub longest: Duration,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    arrived: AtomicU64,
    lost: AtomicU64,
    longest: AtomicU64,
}

impl Counts {
    fn tally(&self) -> Tally {
        // What arrived first: it was sent before.
        let arrived = self.arrived.load(Ordering::SeqCst);
        Tally {
            sent: self.sent.load(Ordering::SeqCst),
            arrived,
            lost: self.lost.load(Ordering::SeqCst),
            longest: Duration::from_nanos(self.longest.load(Ordering::SeqCst)),
        }
    }

    fn took(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.longest.fetch_max(nanos, Ordering::SeqCst);
    }
}

/// From which socket requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// One, throughout: an established flow.
    Same,
    /// Another for each request: each is judged by the rules.
    New,
}

/// Requests and their answers, until it is dropped.
pub struct Asking {
    counts: Arc<Counts>,
    _asker: Background,
    _echo: Background,
}

impl Asking {
    /// Asks a port of a station, with so much time between an answer and the next request.
    pub fn start(
        from: &Station,
        to: &Station,
        port: u16,
        flow: Flow,
        pace: Duration,
    ) -> Result<Self> {
        let server = listen(&to.namespace, port)?;
        let echo = Background::start("echo", move |stop| {
            let mut buffer = [0; 64];
            while wait(stop, &[server.as_fd()]) {
                if let Ok((length, client)) = server.recv_from(&mut buffer)
                    && let Err(error) = server.send_to(&buffer[..length], client)
                {
                    eprintln!("answering a datagram of {client}: {error}");
                }
            }
        })?;
        let counts = Arc::new(Counts::default());
        let told = Arc::clone(&counts);
        let (source, dest) = (from.v4_port(0), to.v4_port(port));
        let inside = open(&from.namespace)?;
        let asker = Background::start("asker", move |stop| {
            let asked = enter(&inside).and_then(|()| ask(stop, source, dest, flow, pace, &told));
            if let Err(error) = asked {
                eprintln!("asking {dest}: {error:#}");
            }
        })?;
        Ok(Self {
            counts,
            _asker: asker,
            _echo: echo,
        })
    }

    /// What became of them so far.
    pub fn tally(&self) -> Tally {
        self.counts.tally()
    }
}

fn ask(
    stop: &OwnedFd,
    source: SocketAddr,
    dest: SocketAddr,
    flow: Flow,
    pace: Duration,
    counts: &Counts,
) -> Result<()> {
    let mut socket = connected(source, dest)?;
    let mut number = 0_u64;
    while pause(stop, pace) {
        if flow == Flow::New {
            socket = connected(source, dest)?;
        }
        number += 1;
        let asked = Instant::now();
        if socket.send(&number.to_be_bytes()).is_err() {
            continue;
        }
        counts.sent.fetch_add(1, Ordering::SeqCst);
        match answered(&socket, number, asked) {
            true => {
                counts.took(asked.elapsed());
                counts.arrived.fetch_add(1, Ordering::SeqCst);
            }
            false => {
                counts.took(PATIENCE);
                counts.lost.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    Ok(())
}

/// Whether the answer to this request comes. Late answers to earlier ones are passed over.
fn answered(socket: &UdpSocket, number: u64, asked: Instant) -> bool {
    let mut buffer = [0; 64];
    loop {
        let left = PATIENCE.saturating_sub(asked.elapsed());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        match receive(socket, &mut buffer) {
            Ok(8) if buffer[..8] == number.to_be_bytes() => return true,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return false,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Datagrams that must not arrive, until it is dropped.
pub struct Knocking {
    counts: Arc<Counts>,
    _knocker: Background,
    _listener: Background,
}

impl Knocking {
    /// Knocks at a port of a station, with so much time between two datagrams, each from another port.
    pub fn start(from: &Station, to: &Station, port: u16, pace: Duration) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let server = listen(&to.namespace, port)?;
        let heard = Arc::clone(&counts);
        let listener = Background::start("listener", move |stop| {
            while wait(stop, &[server.as_fd()]) {
                if server.recv_from(&mut [0; 64]).is_ok() {
                    heard.arrived.fetch_add(1, Ordering::SeqCst);
                }
            }
        })?;
        let told = Arc::clone(&counts);
        let (source, dest) = (from.v4_port(0), to.v4_port(port));
        let inside = open(&from.namespace)?;
        let knocker = Background::start("knocker", move |stop| {
            if let Err(error) = enter(&inside).and_then(|()| knock(stop, source, dest, pace, &told))
            {
                eprintln!("knocking at {dest}: {error:#}");
            }
        })?;
        Ok(Self {
            counts,
            _knocker: knocker,
            _listener: listener,
        })
    }

    /// What became of them so far.
    pub fn tally(&self) -> Tally {
        self.counts.tally()
    }
}

fn knock(
    stop: &OwnedFd,
    source: SocketAddr,
    dest: SocketAddr,
    pace: Duration,
    counts: &Counts,
) -> Result<()> {
    while pause(stop, pace) {
        // An unreachable neighbour is an error of the socket, not of the test.
        if connected(source, dest)?.send(b"knock").is_ok() {
            counts.sent.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

fn open(namespace: &Netns) -> Result<std::fs::File> {
    let path = namespace.path();
    std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))
}

/// Moves this thread into a namespace, for good.
fn enter(namespace: &std::fs::File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering a namespace")
}

fn listen(namespace: &Netns, port: u16) -> Result<UdpSocket> {
    let socket = namespace.run(|| {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("binding port {port} in {}", namespace.name()))
    })?;
    socket
        .set_nonblocking(true)
        .context("setting a socket non-blocking")?;
    Ok(socket)
}

fn connected(source: SocketAddr, dest: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(source).with_context(|| format!("binding {source}"))?;
    socket
        .connect(dest)
        .with_context(|| format!("connecting to {dest}"))?;
    Ok(socket)
}
