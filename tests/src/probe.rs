//! Real traffic between namespaces, and what became of it.
//!
//! A probe is one attempt from one address to another; every one ends within its timeout. What it reaches is a real socket in the other
//! namespace: [`TcpServer`], [`UdpServer`], or the kernel itself for ping. Sockets are made inside a namespace and used from outside of it.

mod capture;
mod frame;
mod ping;
mod tcp;
mod udp;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, socket_with};

pub use self::capture::{Capture, contains};
pub use self::frame::{send_frame, udp_frame};
pub use self::ping::{ping, ping_with};
pub use self::tcp::{Session, TcpServer, Transfer, connect, transfer};
pub use self::udp::{UdpServer, exchange, receive};
use crate::netns::Netns;

/// Time after which an attempt counts as unanswered: long enough for one repetition of a lost SYN.
pub const TIMEOUT: Duration = Duration::from_millis(1500);

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Connected, or a reply came.
    Answered,
    /// Something said no: a reset, or an ICMP port unreachable.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// Something else went wrong; no expectation is ever this.
    Failed(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => f.write_str("answered"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("timed out"),
            Self::Failed(what) => write!(f, "failed: {what}"),
        }
    }
}

impl Answer {
    /// What an error of a socket means.
    fn from_error(error: &io::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut, WouldBlock};
        let kind = error.kind();
        if kind == ConnectionRefused || kind == ConnectionReset {
            Self::Refused
        } else if kind == WouldBlock || kind == TimedOut {
            Self::Silent
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// A socket of a namespace, bound to an address there (and any port).
fn bound_socket(
    from: &Netns,
    source: IpAddr,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> Result<OwnedFd> {
    let family = if source.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    from.run(|| {
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)
            .with_context(|| format!("making a socket in {}", from.name()))?;
        bind(&socket, &SocketAddr::new(source, 0))
            .with_context(|| format!("binding a socket to {source} in {}", from.name()))?;
        Ok(socket)
    })
}
