//! Much data through accepted flows: at the full MTU, in fragments, as super-packets, block by block.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use tapwall_tests::background::{Background, wait};
use tapwall_tests::netns::Netns;
use tapwall_tests::node::Station;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, exchange, ping_with, transfer};
use tapwall_tests::tap::Offloads;

use crate::bed::{Bed, both};

#[test]
fn large_transfers_keep_their_bytes() {
    for offloads in [Offloads::None, Offloads::Tcp, Offloads::TcpUdp] {
        let bed = Bed::with(offloads, "IN ACCEPT -p tcp -dport 5001\n").unwrap();
        let node = &bed.node;
        for (from, to) in [
            (&node.outside, &node.vm),
            (&node.outside, &node.container),
            (&node.vm, &node.container),
            (&node.container, &node.vm),
        ] {
            for address in both(to, 5001) {
                let _server = TcpServer::start(&to.namespace, address).unwrap();
                let source = from.address_like(address.ip());
                transfer(&from.namespace, source, address, 8 << 20)
                    .unwrap_or_else(|error| panic!("{offloads:?} to {address}: {error:#}"));
            }
        }
    }
}

/// Payloads of a datagram: small, the largest that fits an MTU of 1500 over IPv4 and over IPv6, one more, some fragments, the most there is.
const SIZES: [usize; 7] = [1, 1452, 1453, 1472, 1473, 8000, 60_000];

#[test]
fn datagrams_of_every_size_arrive_whole() {
    for offloads in [Offloads::None, Offloads::TcpUdp] {
        let bed = Bed::with(offloads, "IN ACCEPT -p udp -dport 5001\nIN Ping(ACCEPT)\n").unwrap();
        let outside = &bed.node.outside;
        for guest in bed.guests() {
            for to in both(guest, 5001) {
                let _server = UdpServer::start(&guest.namespace, to).unwrap();
                let source = outside.address_like(to.ip());
                for size in SIZES {
                    let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
                    let what = format!("{size} bytes to {to}");
                    let seen = exchange(&outside.namespace, source, to, &payload, TIMEOUT);
                    bed.expect(&what, seen, &Answered);
                    let seen = ping_with(&outside.namespace, source, to.ip(), &payload, TIMEOUT);
                    bed.expect(&format!("echo of {what}"), seen, &Answered);
                }
                // The rule is about a port, which only the first part of a datagram names.
                let other = SocketAddr::new(to.ip(), 5002);
                let _other = UdpServer::start(&guest.namespace, other).unwrap();
                let seen = exchange(&outside.namespace, source, other, &[0; 8000], TIMEOUT);
                bed.expect("fragments to another port", seen, &bed.policy_of(guest));
            }
        }
    }
}

/// Bytes of a block (RFC 1350).
const BLOCK: usize = 512;

/// Waits for a request, and sends `blocks` blocks from a port of its own, each after the last one's acknowledgement.
fn serve_blocks(namespace: &Netns, address: SocketAddr, blocks: u8) -> Background {
    let request = namespace.run(|| Ok(UdpSocket::bind(address)?)).unwrap();
    let transfer = namespace
        .run(|| Ok(UdpSocket::bind(SocketAddr::new(address.ip(), 0))?))
        .unwrap();
    transfer.set_read_timeout(Some(TIMEOUT)).unwrap();
    Background::start("blocks", move |stop| {
        let mut buffer = [0; BLOCK];
        while wait(stop, &[request.as_fd()]) {
            let Ok((_, client)) = request.recv_from(&mut buffer) else {
                continue;
            };
            for block in 0..blocks {
                let sent = transfer.send_to(&[block; BLOCK], client);
                if sent.is_err() || transfer.recv_from(&mut buffer).is_err() {
                    break;
                }
            }
        }
    })
    .unwrap()
}

/// Asks for blocks and acknowledges each to where it came from; how many came.
fn fetch_blocks(from: &Station, server: SocketAddr, timeout: Duration) -> usize {
    let source = SocketAddr::new(from.address_like(server.ip()), 0);
    let socket = from.namespace.run(|| Ok(UdpSocket::bind(source)?)).unwrap();
    socket.set_read_timeout(Some(timeout)).unwrap();
    socket.send_to(b"get", server).unwrap();
    let mut buffer = [0; 2 * BLOCK];
    let mut blocks = 0;
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        assert_eq!(buffer[..length], [blocks as u8; BLOCK]);
        assert_ne!(from.port(), server.port());
        blocks += 1;
        socket.send_to(b"ack", from).unwrap();
        if blocks == usize::from(BLOCKS) {
            break;
        }
    }
    blocks
}

const BLOCKS: u8 = 50;

#[test]
fn a_server_that_answers_from_another_port_needs_no_rule_for_it_only_where_it_may_send() {
    let bed = Bed::new("IN ACCEPT -p udp -dport 69\n").unwrap();
    let outside = &bed.node.outside;
    for guest in bed.guests() {
        for address in both(guest, 69) {
            // The guest's answer is a flow of its own, which its `policy_out` accepts; acknowledgements belong to it.
            let _server = serve_blocks(&guest.namespace, address, BLOCKS);
            let blocks = fetch_blocks(outside, address, TIMEOUT);
            assert_eq!(blocks, usize::from(BLOCKS), "from {address}");
        }
        for address in both(outside, 69) {
            // To the guest the blocks are a flow that no rule of its accepts.
            let _server = serve_blocks(&outside.namespace, address, BLOCKS);
            assert_eq!(fetch_blocks(guest, address, TIMEOUT), 0, "from {address}");
        }
    }
}

#[test]
fn segmented_datagrams_arrive_one_by_one() {
    let bed = Bed::new("IN ACCEPT -p udp -dport 5001\n").unwrap();
    let outside = &bed.node.outside;
    const SEGMENT: usize = 1400;
    for guest in bed.guests() {
        for to in both(guest, 5001) {
            let server = UdpServer::start(&guest.namespace, to).unwrap();
            let source = SocketAddr::new(outside.address_like(to.ip()), 0);
            let socket = outside
                .namespace
                .run(|| Ok(UdpSocket::bind(source)?))
                .unwrap();
            segment(&socket, SEGMENT as u16);
            let payload: Vec<u8> = (0..20 * SEGMENT).map(|at| (at / SEGMENT) as u8).collect();
            socket.send_to(&payload, to).unwrap();
            for part in payload.chunks(SEGMENT) {
                assert!(server.receives(part, TIMEOUT), "part {} to {to}", part[0]);
            }
            let seen = match server.receives(b"nothing of the kind", Duration::ZERO) {
                true => Answered,
                false => Silent,
            };
            assert_eq!(seen, Silent);
        }
    }
}

/// Makes a socket's datagrams be cut into segments of this size by the device (or as late as can be).
fn segment(socket: &UdpSocket, size: u16) {
    let size = libc::c_int::from(size);
    // SAFETY: the option is an int, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
