//! Frames that no stack would send: a hardware address that is not the NIC's own, for one.

use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use etherparse::PacketBuilder;

use crate::netns::Netns;

/// An Ethernet frame with one UDP datagram.
pub fn udp_frame(
    source_mac: [u8; 6],
    dest_mac: [u8; 6],
    source: SocketAddrV4,
    dest: SocketAddrV4,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(source_mac, dest_mac)
        .ipv4(source.ip().octets(), dest.ip().octets(), 64)
        .udp(source.port(), dest.port());
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut frame, payload)
        .context("building a frame")?;
    Ok(frame)
}

/// Sends a frame as it is out of a device of a namespace.
pub fn send_frame(from: &Netns, device: &str, frame: &[u8]) -> Result<()> {
    let index = from.ifindex(device)?;
    from.run(|| {
        // SAFETY: socket() takes no pointers.
        let number =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if number < 0 {
            return Err(std::io::Error::last_os_error()).context("making a packet socket");
        }
        // SAFETY: the number is a descriptor that was made just now and that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        // SAFETY: a sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family =
            libc::sa_family_t::try_from(libc::AF_PACKET).context("address family")?;
        address.sll_ifindex = i32::try_from(index).context("interface index")?;
        address.sll_halen = 6;
        let size =
            libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).context("address size")?;
        // SAFETY: the frame and the address outlive the call, and the lengths are theirs.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size,
            )
        };
        if usize::try_from(sent) != Ok(frame.len()) {
            bail!(
                "sending a frame out of {device}: {}",
                std::io::Error::last_os_error()
            );
        }
        Ok(())
    })
}
