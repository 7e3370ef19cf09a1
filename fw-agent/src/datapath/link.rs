//! Links by bpf(2), where aya has no word for it: made on a device of which only the interface index is sure, held whether they are pinned or not, and
//! asked which device they are on.
//!
//! A pin has the name that its device had when it was made. Devices are renamed, and deleted and made again under one name; the kernel knows a
//! link's device by its interface index.
//!
//! What is pinned goes when its pin does, unless a process holds it. [`Held`] does that for the agent: if the BPF file system is unmounted under it, the
//! programs stay on their devices, those that come meanwhile are closed too, and all pins are made again once there is a file system.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::attach::Hook;
use super::pins::Pins;

/// `BPF_OBJ_PIN` of the same `enum bpf_cmd` as the next.
const PIN: libc::c_long = 6;
/// `BPF_OBJ_GET` of `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const OPEN: libc::c_long = 7;
/// `BPF_OBJ_GET_INFO_BY_FD` of the same.
const INFORM: libc::c_long = 15;
/// `BPF_LINK_CREATE` of the same.
const CREATE: libc::c_long = 28;
/// `BPF_LINK_UPDATE` of the same.
const UPDATE: libc::c_long = 29;
/// `BPF_LINK_DETACH` of the same.
const DETACH: libc::c_long = 34;
/// `BPF_F_BEFORE` of the same header; relative to nothing: first of all.
const FIRST: u32 = 1 << 3;
/// `XDP_FLAGS_DRV_MODE` (`include/uapi/linux/if_link.h`).
const NATIVE: u32 = 1 << 2;

/// Where on a device a program belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Before all others of a hook.
    Hook(Hook),
    /// In the driver of the network card.
    Card,
}

impl Place {
    /// A value of `enum bpf_attach_type` (`BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`, `BPF_XDP`), and flags.
    const fn attributes(self) -> (u32, u32) {
        match self {
            Self::Hook(Hook::Ingress) => (46, FIRST),
            Self::Hook(Hook::Egress) => (47, FIRST),
            Self::Card => (37, NATIVE),
        }
    }
}

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

/// The part of the same union that makes a link of TCX or XDP.
#[repr(C)]
struct CreateAttributes {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

/// The part of the same union that gives a link another program.
#[repr(C)]
struct UpdateAttributes {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// The part of the same union that takes a link's program off.
#[repr(C)]
struct DetachAttributes {
    link: u32,
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

/// Interface index of the device that a link is on; 0 if the device is gone.
pub(super) fn ifindex(link: &OwnedFd) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let mut ask = InfoAttributes {
        fd: link.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel fills at most `length` bytes of `info`, which it has.
    unsafe { call(INFORM, &mut ask) }?;
    Ok(info.ifindex)
}

/// Attaches a program. In force before this returns: the kernel lets packets through it at once, and then waits for those that are under way. `EEXIST`: the
/// program is there already.
pub(super) fn create(program: BorrowedFd<'_>, ifindex: u32, place: Place) -> io::Result<OwnedFd> {
    let (attach_type, flags) = place.attributes();
    let mut create = CreateAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        ifindex,
        attach_type,
        flags,
        relative: 0,
        padding: 0,
        revision: 0,
    };
    // SAFETY: the attributes have no addresses.
    let fd = unsafe { call(CREATE, &mut create) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a link another program, in one step; false: the link's device is gone, and one of that name that exists now is another.
pub(super) fn update(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<bool> {
    let mut update = UpdateAttributes {
        link: link.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the attributes have no addresses.
    match unsafe { call(UPDATE, &mut update) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::NOLINK.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a link's program off its device, before this returns: a link that nobody holds any more goes some time after. That the device is gone is fine.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut detach = DetachAttributes {
        link: link.as_raw_fd().cast_unsigned(),
    };
    // SAFETY: the attributes have no addresses.
    unsafe { call(DETACH, &mut detach) }.map(drop)
}

/// Pins something under a name that nothing has.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = PinAttributes {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    // SAFETY: the kernel reads the attributes and the path, which ends with a zero.
    unsafe { call(PIN, &mut pin) }.map(drop)
}

/// Opens what is pinned; none if there is no such pin.
pub(super) fn open(pin: &Path) -> io::Result<Option<OwnedFd>> {
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

/// What stands for programs on a device below the pin directory, where it is pinned or will be.
#[derive(Debug)]
pub enum Kept {
    /// A link.
    Link(PathBuf, OwnedFd),
    /// A directory that marks filters, or a qdisc.
    Mark(PathBuf),
}

/// What is pinned, held also by this process.
#[derive(Debug, Default)]
pub(super) struct Held {
    objects: BTreeMap<PathBuf, OwnedFd>,
    marks: BTreeSet<PathBuf>,
    /// Something could not be pinned.
    unpinned: bool,
}

impl Held {
    /// Holds what is pinned there now, in place of what was.
    pub(super) fn hold(&mut self, pin: PathBuf) -> io::Result<()> {
        match open(&pin)? {
            Some(fd) => self.objects.insert(pin, fd),
            None => self.objects.remove(&pin),
        };
        Ok(())
    }

    /// Holds these.
    pub(super) fn keep(&mut self, kept: Vec<Kept>) {
        for kept in kept {
            let (Kept::Link(path, _) | Kept::Mark(path)) = &kept;
            self.unpinned |= !path.exists();
            match kept {
                Kept::Link(path, fd) => drop(self.objects.insert(path, fd)),
                Kept::Mark(path) => drop(self.marks.insert(path)),
            }
        }
    }

    /// Lets go of what stands for a device's programs.
    pub(super) fn let_go(&mut self, pins: &Pins, device: &str) {
        for hook in Hook::ALL {
            self.objects.remove(&pins.link(device, hook));
        }
        self.marks.remove(&pins.filters(device));
        self.marks.remove(&pins.qdisc(device));
    }

    /// Whether everything that is held could be pinned when it was made.
    pub(super) const fn is_pinned(&self) -> bool {
        !self.unpinned
    }

    /// Where a link of a hook on this device is pinned, or is to be, with that link.
    pub(super) fn on(&self, ifindex: u32, hook: Hook) -> io::Result<Option<(&Path, &OwnedFd)>> {
        let suffix = format!("-{}", hook.name());
        for (path, fd) in &self.objects {
            let name = path.file_name().unwrap_or_default();
            if name.as_bytes().ends_with(suffix.as_bytes()) && self::ifindex(fd)? == ifindex {
                return Ok(Some((path, fd)));
            }
        }
        Ok(None)
    }

    /// Makes pins and marks again that are gone; answers how many.
    pub(super) fn pin_again(&mut self) -> io::Result<usize> {
        let mut made = 0;
        for (path, fd) in &self.objects {
            if !path.exists() {
                pin(fd, path)?;
                made += 1;
            }
        }
        for path in &self.marks {
            if !path.exists() {
                std::fs::create_dir(path)?;
                made += 1;
            }
        }
        self.unpinned = false;
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
