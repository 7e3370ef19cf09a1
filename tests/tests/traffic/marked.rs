//! Frames that tell themselves apart, and which of them arrive.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tapwall_tests::node::Station;
use tapwall_tests::probe::{Capture, TIMEOUT, contains, send_frame, udp_frame};

/// Rules that the honest datagrams of [`arriving`] need, and one for a server.
pub const RULES: &str = "IN ACCEPT -p udp -dport 9\nIN ACCEPT -p udp -dport 80";

/// Numbers of marks that tell frames apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Bytes that no other frame has.
pub fn mark() -> Vec<u8> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("mark{number:08}").into_bytes()
}

/// A frame with some bytes in it that tell it apart.
pub type Marked<'f> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'f>;

/// Of these frames that a station sends another, the ones that arrive. An honest datagram follows them, and when it is there, they are there
/// too or will not come.
pub fn arriving(from: &Station, to: &Station, frames: &[Marked<'_>]) -> Result<Vec<bool>> {
    let capture = Capture::start(&to.namespace, to.device)?;
    let marks: Vec<Vec<u8>> = frames.iter().map(|_| mark()).collect();
    for (frame, mark) in frames.iter().zip(&marks) {
        send_frame(&from.namespace, from.device, &frame(mark))?;
    }
    let (last, ends) = (mark(), [from, to].map(|station| v4_end(station, 9)));
    let honest = udp_frame(from.mac, to.mac, ends[0], ends[1], &last)?;
    send_frame(&from.namespace, from.device, &honest)?;
    let seen = capture.until(&last, TIMEOUT)?;
    let arrived = |mark: &Vec<u8>| seen.iter().any(|frame| contains(frame, mark));
    Ok(marks.iter().map(arrived).collect())
}

/// A port of a station's IPv4 address.
pub fn v4_end(station: &Station, port: u16) -> SocketAddrV4 {
    match station.v4_port(port) {
        SocketAddr::V4(end) => end,
        SocketAddr::V6(end) => panic!("{end} is no IPv4 address"),
    }
}
