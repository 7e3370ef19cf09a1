//! Echo requests through the kernel's ping sockets (no raw socket, no `ping` program).
//!
//! The namespace must allow them: `net/ipv4/ping_group_range`, which [`crate::node`] sets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SocketType, ipproto};

use super::udp::receive;
use super::{Answer, bound_socket};
use crate::netns::Netns;

/// Number of the next request of this process.
static SEQUENCE: AtomicU16 = AtomicU16::new(1);

/// Sends one short echo request and waits for its reply.
pub fn ping(from: &Netns, source: IpAddr, to: IpAddr, timeout: Duration) -> Answer {
    ping_with(from, source, to, b"tapwall probe", timeout)
}

/// Sends one echo request with this payload and waits for a reply that has it too.
pub fn ping_with(
    from: &Netns,
    source: IpAddr,
    to: IpAddr,
    payload: &[u8],
    timeout: Duration,
) -> Answer {
    let (protocol, request_type, reply_type) = if to.is_ipv4() {
        (ipproto::ICMP, 8, 0)
    } else {
        (ipproto::ICMPV6, 128, 129)
    };
    let socket = match bound_socket(from, source, SocketType::DGRAM, Some(protocol)) {
        Ok(socket) => UdpSocket::from(socket),
        Err(error) => return Answer::Failed(format!("{error:#}")),
    };
    // The kernel fills in identifier and checksum.
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut request = vec![request_type, 0, 0, 0, 0, 0, sequence[0], sequence[1]];
    request.extend_from_slice(payload);
    if let Err(error) = socket
        .connect(SocketAddr::new(to, 0))
        .and_then(|()| socket.send(&request))
    {
        return Answer::from_error(&error);
    }
    let deadline = Instant::now() + timeout;
    let mut buffer = vec![0; 65_536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Answer::Silent;
        }
        let received = socket
            .set_read_timeout(Some(left))
            .and_then(|()| receive(&socket, &mut buffer));
        match received {
            Ok(length) => {
                let reply = &buffer[..length];
                if reply.first() == Some(&reply_type)
                    && reply.get(6..8) == Some(&sequence)
                    && reply.get(8..) == Some(payload)
                {
                    return Answer::Answered;
                }
            }
            Err(error) => return Answer::from_error(&error),
        }
    }
}
