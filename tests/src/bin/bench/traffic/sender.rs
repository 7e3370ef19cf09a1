//! Small datagrams as fast as a packet socket takes them, each of another flow.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, ensure};

/// Sends copies of a frame, each of a flow of its own.
pub struct Sender {
    /// Whether every copy has another source address too, and not only another port.
    pub roams: bool,
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
    random: u64,
}

impl Sender {
    /// Out of a device in the namespace of this thread, `batch` copies at a time. The frame is one that `inject::scattered` made.
    pub fn new(ifindex: u32, frame: Vec<u8>, batch: usize) -> Result<Self> {
        // SAFETY: socket() takes no pointers.
        let number =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(number >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the number is a descriptor that was made just now and that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        // SAFETY: a sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(ifindex)?;
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
        // SAFETY: the address outlives the call, and the length is its own.
        let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        ensure!(done == 0, "{}", std::io::Error::last_os_error());
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Ok(Self {
            roams: true,
            socket,
            frames: vec![frame; batch],
            // Any number that was not used a moment ago.
            random: now.tv_nsec.cast_unsigned() << 32 | now.tv_sec.cast_unsigned(),
        })
    }

    /// Sends one batch.
    pub fn send(&mut self) -> Result<()> {
        for frame in &mut self.frames {
            // A linear congruential generator (Knuth, MMIX).
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let [a, b, c, d, ..] = self.random.to_be_bytes();
            // Source port; low half of the source address; what makes up for it in the header's checksum.
            frame[34..36].copy_from_slice(&[a, b]);
            if !self.roams {
                continue;
            }
            frame[28..30].copy_from_slice(&[c, d]);
            frame[18..20].copy_from_slice(&[!c, !d]);
        }
        let mut parts: Vec<libc::iovec> = self
            .frames
            .iter_mut()
            .map(|frame| libc::iovec {
                iov_base: frame.as_mut_ptr().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: a mmsghdr is plain data for which all zeroes is a valid value.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut sent = 0;
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            // SAFETY: the messages point at the vectors above and these at the frames; all outlive the call.
            let done = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    libc::c_uint::try_from(rest.len())?,
                    0,
                )
            };
            ensure!(done > 0, "sending: {}", std::io::Error::last_os_error());
            sent += usize::try_from(done)?;
        }
        Ok(())
    }
}
