//! UDP: a datagram and its echo.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::SocketType;

use super::{Answer, bound_socket};
use crate::background::{Background, wait};
use crate::netns::Netns;

/// Sends every datagram back and remembers it, until it is dropped.
pub struct UdpServer {
    received: Arc<Received>,
    _echo: Background,
}

#[derive(Default)]
struct Received {
    payloads: Mutex<Vec<Vec<u8>>>,
    arrived: Condvar,
}

impl UdpServer {
    /// Binds in a namespace.
    pub fn start(namespace: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = namespace.run(|| {
            UdpSocket::bind(address)
                .with_context(|| format!("binding {address} in {}", namespace.name()))
        })?;
        socket
            .set_nonblocking(true)
            .context("setting a socket non-blocking")?;
        let received = Arc::new(Received::default());
        let seen = Arc::clone(&received);
        let echo = Background::start("udp-server", move |stop| {
            let mut buffer = vec![0; 65_536];
            while wait(stop, &[socket.as_fd()]) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let payload = &buffer[..length];
                seen.payloads
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(payload.to_vec());
                seen.arrived.notify_all();
                if let Err(error) = socket.send_to(payload, client) {
                    eprintln!("answering a datagram of {client}: {error}");
                }
            }
        })?;
        Ok(Self {
            received,
            _echo: echo,
        })
    }

    /// Whether a datagram with this payload arrives in time (or has arrived).
    pub fn receives(&self, payload: &[u8], timeout: Duration) -> bool {
        let payloads = self
            .received
            .payloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .received
            .arrived
            .wait_timeout_while(payloads, timeout, |payloads| {
                !payloads.iter().any(|received| received == payload)
            });
        let (payloads, _) = waited.unwrap_or_else(PoisonError::into_inner);
        payloads.iter().any(|received| received == payload)
    }
}

/// Waits for a datagram on a socket with a timeout; a signal (or a pause of the whole process) does not end the wait.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Sends one datagram and waits for its echo.
pub fn exchange(
    from: &Netns,
    source: IpAddr,
    to: SocketAddr,
    payload: &[u8],
    timeout: Duration,
) -> Answer {
    let socket = match bound_socket(from, source, SocketType::DGRAM, None) {
        Ok(socket) => UdpSocket::from(socket),
        Err(error) => return Answer::Failed(format!("{error:#}")),
    };
    let mut buffer = vec![0; 65_536];
    let received = socket
        .connect(to)
        .and_then(|()| socket.set_read_timeout(Some(timeout)))
        .and_then(|()| socket.send(payload))
        .and_then(|_| receive(&socket, &mut buffer));
    match received {
        Ok(length) if buffer[..length] == *payload => Answer::Answered,
        Ok(length) => Answer::Failed(format!(
            "{length} bytes came back, not those that were sent"
        )),
        Err(error) => Answer::from_error(&error),
    }
}
