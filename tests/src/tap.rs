//! Tap devices as QEMU makes them, and a peer that stands for the virtual machine behind one.
//!
//! A VM's NIC is a tap device on the host whose frames some program moves. Here that program is a thread, and the guest's side is a second tap
//! device in the guest's namespace: a guest with a real network stack. Both have `IFF_VNET_HDR` and the offloads of virtio-net, so
//! that frames with unfinished checksums and super-packets of up to 64 KiB cross as they do between QEMU and vhost.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use libc::c_uint;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};

use crate::background::{Background, wait};
use crate::netns::Netns;

/// Longest frame with its header: 64 KiB of IP packet, an Ethernet header with tags, the virtio header.
const LARGEST: usize = 65_536 + 64;

/// Bytes of the virtio header (`struct virtio_net_hdr_mrg_rxbuf`, what QEMU uses).
static VNET_HEADER: libc::c_int = 12;

/// What the far side of a tap device can take unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Nothing: every frame is complete and fits the MTU.
    None,
    /// Checksums and TCP segmentation, v4 and v6 (an older virtio-net).
    Tcp,
    /// Also UDP segmentation (QEMU 8.1 and later, kernel 6.2 and later: [`Self::Tcp`] on an older one).
    TcpUdp,
}

impl Offloads {
    fn flags(self) -> c_uint {
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        match self {
            Self::None => 0,
            Self::Tcp => tcp,
            Self::TcpUdp => tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6,
        }
    }
}

/// A tap device; it exists as long as this handle.
pub struct Tap {
    queue: OwnedFd,
}

impl Tap {
    /// Makes a device in a namespace.
    pub fn new(namespace: &Netns, name: &str, offloads: Offloads) -> Result<Self> {
        namespace
            .run(|| open_device(name, libc::IFF_TAP, offloads))
            .with_context(|| format!("making tap device {name} in {}", namespace.name()))
    }

    /// Makes a device in the namespace of this thread.
    pub fn here(name: &str, offloads: Offloads) -> Result<Self> {
        open_device(name, libc::IFF_TAP, offloads).with_context(|| format!("making tap {name}"))
    }

    /// Makes a tun device instead: a tunnel's, whose packets have no Ethernet header.
    pub fn tun(namespace: &Netns, name: &str, offloads: Offloads) -> Result<Self> {
        namespace
            .run(|| open_device(name, libc::IFF_TUN, offloads))
            .with_context(|| format!("making tun device {name} in {}", namespace.name()))
    }

    /// Sends a complete frame into the device, as the machine behind it does. An error while the device is down.
    pub fn send(&self, frame: &[u8]) -> std::io::Result<()> {
        let mut bytes = vec![0; VNET_HEADER as usize];
        bytes.extend(frame);
        write(&self.queue, &bytes)?;
        Ok(())
    }

    /// The next frame that the device was given for the machine behind it; none if there is none now.
    pub fn receive(&self) -> std::io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; LARGEST];
        match read(&self.queue, &mut bytes[..]) {
            Ok(length) => {
                bytes.truncate(length);
                Ok(Some(bytes.split_off((VNET_HEADER as usize).min(length))))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_device(name: &str, kind: libc::c_int, offloads: Offloads) -> Result<Tap> {
    let queue = open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context("opening /dev/net/tun")?;
    // SAFETY: an ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        bail!("{name} is too long for a device's name");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).context("tap flags")?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(done).context("TUNSETIFF")?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    let done = unsafe {
        libc::ioctl(
            queue.as_raw_fd(),
            libc::TUNSETVNETHDRSZ,
            &raw const VNET_HEADER,
        )
    };
    check(done).context("TUNSETVNETHDRSZ")?;
    let set = |offloads: Offloads| {
        let flags = libc::c_ulong::from(offloads.flags());
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, flags) })
    };
    let refused = |error: &std::io::Error| error.raw_os_error() == Some(libc::EINVAL);
    match set(offloads) {
        // Tap devices take UDP super-packets since kernel 6.2 (`TUN_F_USO4`); QEMU, too, goes on without on an older one.
        Err(error) if refused(&error) && offloads == Offloads::TcpUdp => set(Offloads::Tcp),
        done => done,
    }
    .context("TUNSETOFFLOAD")?;
    Ok(Tap { queue })
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Moves frames between two tap devices until it is dropped, which removes both.
pub struct TapPeer {
    frames: Arc<Frames>,
    _pump: Background,
}

/// How many frames crossed.
#[derive(Default)]
pub struct Frames {
    moved: AtomicU64,
    large: AtomicU64,
    lost: AtomicU64,
}

impl TapPeer {
    /// Starts moving frames.
    pub fn start(host: Tap, guest: Tap) -> Result<Self> {
        let frames = Arc::new(Frames::default());
        let counted = Arc::clone(&frames);
        let pump = Background::start("tap-peer", move |stop| {
            let mut buffer = vec![0; LARGEST];
            let both = [host.queue.as_fd(), guest.queue.as_fd()];
            while wait(stop, &both) {
                let alive = drain(&host.queue, &guest.queue, &mut buffer, &counted)
                    && drain(&guest.queue, &host.queue, &mut buffer, &counted);
                if !alive {
                    return;
                }
            }
        })?;
        Ok(Self {
            frames,
            _pump: pump,
        })
    }

    /// Frames that crossed, either way.
    pub fn moved(&self) -> u64 {
        self.frames.moved.load(Ordering::Relaxed)
    }

    /// Of those, the ones longer than any MTU here: super-packets.
    pub fn large(&self) -> u64 {
        self.frames.large.load(Ordering::Relaxed)
    }

    /// Frames that the receiving device did not take (it was down).
    pub fn lost(&self) -> u64 {
        self.frames.lost.load(Ordering::Relaxed)
    }
}

/// Moves what is there; false once a device is gone.
fn drain(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8], frames: &Frames) -> bool {
    loop {
        let length = match read(from, &mut *buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        match write(to, &buffer[..length]) {
            Ok(_) => {
                frames.moved.fetch_add(1, Ordering::Relaxed);
                if length > 2000 {
                    frames.large.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(Errno::BADFD) => return false,
            Err(_) => {
                frames.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
