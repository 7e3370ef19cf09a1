//! What arrives at a device, frame by frame, before its stack looks at it.
//!
//! A VLAN tag that the device took out of a frame is not in its bytes; what follows is.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::netns::Netns;

/// Longest frame that is kept whole.
const LONGEST: usize = 4096;

/// Frames of one device since it was made, until it is dropped.
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Listens at a device of a namespace.
    pub fn start(namespace: &Netns, device: &str) -> Result<Self> {
        let index = namespace.ifindex(device)?;
        let every = u16::try_from(libc::ETH_P_ALL).context("every protocol")?;
        namespace.run(|| {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: socket() takes no pointers. Protocol 0: nothing arrives before the socket is bound to its device.
            let number = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
            if number < 0 {
                return Err(std::io::Error::last_os_error()).context("making a packet socket");
            }
            // SAFETY: the number is a descriptor that was made just now and that nothing else owns.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            // SAFETY: a sockaddr_ll is plain data for which all zeroes is a valid value.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family =
                libc::sa_family_t::try_from(libc::AF_PACKET).context("address family")?;
            address.sll_protocol = every.to_be();
            address.sll_ifindex = i32::try_from(index).context("interface index")?;
            let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())
                .context("address size")?;
            // SAFETY: the address outlives the call, and the length is its own.
            let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
            if done < 0 {
                return Err(std::io::Error::last_os_error()).context("binding a packet socket");
            }
            Ok(Self { socket })
        })
    }

    /// The frames up to one that contains `last`, which must come in time.
    pub fn until(&self, last: &[u8], timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let started = Instant::now();
        let mut frames = Vec::new();
        let mut buffer = vec![0; LONGEST];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(length) => {
                    let frame = buffer[..length].to_vec();
                    let found = contains(&frame, last);
                    frames.push(frame);
                    if found {
                        return Ok(frames);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => {
                    let left = timeout.saturating_sub(started.elapsed());
                    let left = Timespec::try_from(left).context("a timeout")?;
                    let mut waiting =
                        [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
                    if poll(&mut waiting, Some(&left)).context("waiting for a frame")? == 0 {
                        bail!("{} frames came, not the last one", frames.len());
                    }
                }
                Err(error) => return Err(error).context("reading a frame"),
            }
        }
    }
}

/// Whether a frame has these bytes in it.
pub fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|part| part == bytes)
}
