//! Pins by bpf(2), where aya has no word for it: which device a pinned link is on, and pins that are gone.
//!
//! A pin has the name that its device had when it was made. Devices are renamed, and deleted and made again under one name; the kernel knows a
//! link's device by its interface index.
//!
//! What is pinned goes when its pin does, unless a process holds it. [`Held`] does that for the agent: if the BPF file system is unmounted under it, the
//! programs stay on their devices, and the pins are made again once there is a file system.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `BPF_OBJ_PIN` of the same `enum bpf_cmd` as the next.
const PIN: libc::c_long = 6;
/// `BPF_OBJ_GET` of `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const OPEN: libc::c_long = 7;
/// `BPF_OBJ_GET_INFO_BY_FD` of the same.
const INFORM: libc::c_long = 15;

/// The part of `union bpf_attr` that opens or makes a pin.
#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of the same union that asks about an object.
#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info` for links of TCX and XDP.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Interface index of the device that a pinned link is on; 0 if the device is gone, none if there is no such pin.
pub(super) fn ifindex(pin: &Path) -> io::Result<Option<u32>> {
    let Some(fd) = open(pin)? else {
        return Ok(None);
    };
    let mut info = LinkInfo::default();
    let mut ask = InfoAttributes {
        fd: fd.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel fills at most `length` bytes of `info`, which it has.
    unsafe { call(INFORM, &mut ask) }?;
    Ok(Some(info.ifindex))
}

/// Opens what is pinned; none if there is no such pin.
fn open(pin: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut open = PinAttributes {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads the attributes and the path, which ends with a zero.
    let fd = match unsafe { call(OPEN, &mut open) } {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What is pinned, held also by this process.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<PathBuf, OwnedFd>);

impl Held {
    /// Holds what is pinned there now, in place of what was.
    pub(super) fn hold(&mut self, pin: PathBuf) -> io::Result<()> {
        match open(&pin)? {
            Some(fd) => self.0.insert(pin, fd),
            None => self.0.remove(&pin),
        };
        Ok(())
    }

    /// Makes pins again that are gone; answers how many.
    pub(super) fn pin_again(&self) -> io::Result<usize> {
        let mut made = 0;
        for (path, fd) in &self.0 {
            if path.exists() {
                continue;
            }
            let path = CString::new(path.as_os_str().as_bytes())?;
            let mut pin = PinAttributes {
                path: path.as_ptr() as u64,
                fd: fd.as_raw_fd().cast_unsigned(),
                flags: 0,
            };
            // SAFETY: the kernel reads the attributes and the path, which ends with a zero.
            unsafe { call(PIN, &mut pin) }?;
            made += 1;
        }
        Ok(made)
    }
}

/// # Safety
/// The addresses in `attributes` are those of memory that the command may read or fill.
unsafe fn call<A>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: bpf(2) reads and writes the attributes, whose size is told, and what the caller vouches for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
