//! The socket buffer as packet bytes. The only code of this crate that touches it.
//!
//! Bytes are read with `bpf_skb_load_bytes`, which works wherever they are: the linear part of a frame can end before its headers do, and
//! with virtio the guest chooses where. Headers of plain packets that do lie in the linear part are read directly ([`Linear`]).

use core::ffi::c_void;
use core::hint::black_box;
use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{
    bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
    bpf_skb_store_bytes,
};
use fw_common::event::HEADER_BYTES;
use fw_common::maps::Port;
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Reason};
use fw_common::wire::{self, Headers, Packet, Wire};

use crate::linear::{self, Linear};
use crate::stage;

/// Bytes of the Ethernet header that records of packets without a link header begin with.
pub const BARE_LINK: u32 = 14;

/// A frame at a TC hook.
pub struct Skb {
    raw: *mut __sk_buff,
}

/// Reads one field of the context by its constant offset.
macro_rules! field {
    ($skb:expr, $name:ident) => {{
        // SAFETY: the context pointer is valid for the whole run of the program.
        unsafe { (*$skb.raw).$name }
    }};
}

impl Skb {
    /// The frame of a program's context.
    #[inline(always)]
    pub fn of(raw: *mut __sk_buff) -> Self {
        Self { raw }
    }

    /// The context again, for a [`stage`].
    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.raw
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self, ifindex)
    }

    #[inline(always)]
    pub fn mark(&self) -> u32 {
        field!(self, mark)
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: as in `field!`; TC programs may write the mark.
        unsafe { (*self.raw).mark = mark }
    }

    /// One of `fw_common::host::pkt_type`.
    #[inline(always)]
    pub fn pkt_type(&self) -> u32 {
        field!(self, pkt_type)
    }

    /// Index of the interface that the packet came in at; 0 if it was made here.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        field!(self, ingress_ifindex)
    }

    /// EtherType of what follows the link header and the tag beside the frame.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        u16::from_be(field!(self, protocol) as u16)
    }

    /// [`stage::related`], of a frame with or without a link header.
    #[inline(always)]
    pub fn is_related(
        &self,
        port: &Port,
        direction: Direction,
        headers: &Headers,
        bare: bool,
    ) -> bool {
        stage::related(self.raw, port, direction as u32, headers, u32::from(bare)) == 1
    }

    /// The part of the frame that lies in one piece from its beginning on.
    #[inline(always)]
    fn linear(&self) -> Linear {
        const START: usize = offset_of!(__sk_buff, data);
        const END: usize = offset_of!(__sk_buff, data_end);
        let tag = self.offloaded_tag();
        // SAFETY: these are the context's own bounds, and nothing writes to a frame while it is parsed.
        unsafe {
            let start = linear::bound::<_, START>(self.raw);
            let end = linear::bound::<_, END>(self.raw);
            Linear::new(start, end, self.length(), tag)
        }
    }

    /// The packet without its link header, of which some devices have none. Where the frame begins then depends on the device.
    #[inline(always)]
    pub fn bare(&self) -> BareSkb<'_> {
        BareSkb { skb: self }
    }

    /// Frames that a super-packet will be cut into. A tap device does not say; then it is told from the lengths, with the least headers that
    /// there can be, so that the last frame may be counted that only the others' headers fill.
    #[inline(always)]
    pub fn segments(&self) -> u32 {
        /// Ethernet, IPv4 and TCP with timestamps.
        const HEADERS: u32 = 14 + 20 + 32;
        match (field!(self, gso_segs), field!(self, gso_size)) {
            (0, 0) => 1,
            (0, size) => {
                let payload = field!(self, len).saturating_sub(HEADERS);
                core::cmp::max(payload.div_ceil(size), 1)
            }
            (segments, _) => segments,
        }
    }

    /// Copies the frame's first `length` bytes to `to`; false if it has fewer.
    ///
    /// # Safety
    /// `to` has room for [`HEADER_BYTES`], and 1 ≤ `length` ≤ [`HEADER_BYTES`].
    #[inline(always)]
    pub unsafe fn copy_head(&self, to: *mut u8, length: u32) -> bool {
        const MASK: u32 = HEADER_BYTES as u32 - 1;
        const { assert!(HEADER_BYTES.is_power_of_two()) };
        // The verifier of kernel 6.1 forgets a bound that was checked on a copy of the register. A mask bounds the register that is passed;
        // the compiler, which knows the range, must not see that it changes nothing.
        let length = (black_box(length).wrapping_sub(1) & MASK) + 1;
        // SAFETY: the caller vouches for `to`.
        unsafe { bpf_skb_load_bytes(self.raw.cast::<c_void>(), 0, to.cast(), length) == 0 }
    }

    /// Writes an Ethernet header without addresses to `to`, and behind it up to 96 bytes of a packet without a link header. Returns how many
    /// bytes that are.
    ///
    /// # Safety
    /// `to` has room for [`HEADER_BYTES`], all zero.
    #[inline(always)]
    pub unsafe fn copy_bare(&self, to: *mut u8) -> u32 {
        const WORDS: u32 = 24;
        const { assert!((BARE_LINK + WORDS * 4) as usize <= HEADER_BYTES) };
        let ethertype = self.protocol().to_be_bytes();
        let mut copied = 0;
        // SAFETY: the caller vouches for `to`, and the last word ends within [`HEADER_BYTES`].
        unsafe {
            to.add(12).cast::<[u8; 2]>().write(ethertype);
            for word in 0..WORDS {
                let Some(bytes) = self.bare().load::<[u8; 4]>(word * 4) else {
                    break;
                };
                let place = to.add((BARE_LINK + word * 4) as usize);
                place.cast::<[u8; 4]>().write(bytes);
                copied += 4;
            }
        }
        BARE_LINK + copied
    }

    /// Overwrites the bytes from `offset` on with `record`.
    #[inline(always)]
    pub fn store<T: Wire>(&self, offset: u32, record: &T) -> Option<()> {
        let from = core::ptr::from_ref(record).cast::<c_void>();
        // SAFETY: `record` is a readable `T` without padding (see `Wire`).
        match unsafe { bpf_skb_store_bytes(self.raw, offset, from, size_of::<T>() as u32, 0) } {
            0 => Some(()),
            _ => None,
        }
    }

    /// Cuts or grows the frame to `length` bytes.
    #[inline(always)]
    pub fn resize(&self, length: u32) -> Option<()> {
        // SAFETY: the helper checks its arguments.
        match unsafe { bpf_skb_change_tail(self.raw, length, 0) } {
            0 => Some(()),
            _ => None,
        }
    }

    /// Opens a gap of `bytes` between the link and the network header.
    #[inline(always)]
    pub fn open_gap(&self, bytes: i32) -> Option<()> {
        /// `BPF_ADJ_ROOM_MAC` of the kernel's `bpf.h`.
        const AT_MAC: u32 = 1;
        // SAFETY: the helper checks its arguments.
        match unsafe { bpf_skb_adjust_room(self.raw, bytes, AT_MAC, 0) } {
            0 => Some(()),
            _ => None,
        }
    }
}

/// A packet that begins at its network header.
pub struct BareSkb<'a> {
    skb: &'a Skb,
}

impl Packet for BareSkb<'_> {
    /// An upper bound: link and tunnel headers that a device left in front count.
    #[inline(always)]
    fn length(&self) -> u32 {
        self.skb.length()
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        /// `BPF_HDR_START_NET` of the kernel's `bpf.h`.
        const NETWORK: u32 = 1;
        let mut record = MaybeUninit::<T>::uninit();
        // SAFETY: `record` has room for as many bytes.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb.raw.cast::<c_void>(),
                offset,
                record.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                NETWORK,
            )
        };
        if result != 0 {
            return None;
        }
        // SAFETY: the helper filled all of it, and any bytes make a `T` (see `Wire`).
        Some(unsafe { record.assume_init() })
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<u16> {
        None
    }
}

impl Packet for Skb {
    /// Most packets are plain and lie in the linear part; of all others a stage reads the bytes wherever they are.
    #[inline(always)]
    fn parse(&self, headers: &mut Headers) -> Result<(), Reason> {
        if wire::parse(&self.linear(), headers).is_ok() {
            return Ok(());
        }
        stage::result(stage::parse(self.raw, headers))
    }

    /// `tables` are always the kernel's.
    #[inline(always)]
    fn related<T: Tables>(
        &self,
        _tables: T,
        port: &Port,
        direction: Direction,
        headers: &Headers,
    ) -> bool {
        self.is_related(port, direction, headers, false)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        field!(self, len)
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        let mut record = MaybeUninit::<T>::uninit();
        let size = size_of::<T>() as u32;
        // SAFETY: `record` has room for `size` bytes.
        let result = unsafe {
            bpf_skb_load_bytes(
                self.raw.cast::<c_void>(),
                offset,
                record.as_mut_ptr().cast(),
                size,
            )
        };
        if result != 0 {
            return None;
        }
        // SAFETY: the helper filled all of it, and any bytes make a `T` (see `Wire`).
        Some(unsafe { record.assume_init() })
    }

    #[inline(always)]
    fn came_from(&self) -> u32 {
        field!(self, ingress_ifindex)
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<u16> {
        match field!(self, vlan_present) {
            0 => None,
            _ => Some(field!(self, vlan_tci) as u16),
        }
    }
}
