//! The XDP program of uplinks: drops what needs no look at anything else, see [`early`].
//!
//! Bytes are read with `bpf_xdp_load_bytes`, which works wherever they are: a frame may be spread over several buffers.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::XdpContext;
use fw_common::early::{Stations, early};
use fw_common::ledger::{Frame, Ledger};
use fw_common::maps::{Station, capacity, counter};
use fw_common::tables::Tables;
use fw_common::verdict::Reason;
use fw_common::wire::{self, Address, Headers, Packet, Wire};

use crate::linear::{self, Linear};
use crate::tables::{self, Maps, has_syn};
use crate::{host, stage};

#[map]
static STATIONS: HashMap<u64, Station> = HashMap::with_max_entries(capacity::STATIONS, 0);

/// What arrives at an uplink.
#[xdp(frags)]
pub fn tapwall_uplink(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::of(ctx.ctx);
    let Some(headers) = tables::headers() else {
        return xdp_action::XDP_PASS;
    };
    match early(&frame, Maps, headers) {
        None => xdp_action::XDP_PASS,
        Some(reason) => {
            let size = Frame {
                packets: 1,
                bytes: frame.length(),
                now: Maps.now(),
            };
            Maps.add(reason as u32, size);
            Maps.add(counter::EARLY_DROPS, size);
            xdp_action::XDP_DROP
        }
    }
}

impl Stations for Maps {
    #[inline(always)]
    fn station(&self, mac: u64) -> Option<Station> {
        // SAFETY: the agent replaces whole values, of one word.
        unsafe { STATIONS.get(mac) }.copied()
    }

    #[inline(always)]
    fn is_own(&self, address: &Address) -> bool {
        host::is_own(address)
    }

    #[inline(always)]
    fn has_syn(&self, source: &Address, interval: u64, burst: u32) -> bool {
        has_syn(source, interval, burst)
    }
}

/// A frame at an uplink.
pub struct XdpFrame {
    raw: *mut xdp_md,
}

impl XdpFrame {
    /// The frame of a program's context.
    #[inline(always)]
    pub fn of(raw: *mut xdp_md) -> Self {
        Self { raw }
    }

    /// The part of the frame that lies in one piece from its beginning on.
    #[inline(always)]
    fn linear(&self) -> Linear {
        const START: usize = offset_of!(xdp_md, data);
        const END: usize = offset_of!(xdp_md, data_end);
        // A packet that ends in the linear part ends in the frame: the whole length, for which a helper would have to be asked, is not needed.
        // SAFETY: these are the context's own bounds, and nothing writes to the frame.
        unsafe {
            let start = linear::bound::<_, START>(self.raw);
            let end = linear::bound::<_, END>(self.raw);
            Linear::new(start, end, end.wrapping_sub(start) as u32, None)
        }
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn parse(&self, headers: &mut Headers) -> Result<(), Reason> {
        if wire::parse(&self.linear(), headers).is_ok() {
            return Ok(());
        }
        stage::result(stage::parse_early(self.raw, headers))
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context pointer is valid for the whole run of the program.
        unsafe { bpf_xdp_get_buff_len(self.raw) as u32 }
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        let mut record = MaybeUninit::<T>::uninit();
        let size = size_of::<T>() as u32;
        // SAFETY: `record` has room for `size` bytes.
        let result =
            unsafe { bpf_xdp_load_bytes(self.raw, offset, record.as_mut_ptr().cast(), size) };
        if result != 0 {
            return None;
        }
        // SAFETY: the helper filled all of it, and any bytes make a `T` (see `Wire`).
        Some(unsafe { record.assume_init() })
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<u16> {
        // Tags are still in the frame, or the card keeps them where this program cannot look; the packet behind one is judged alike.
        None
    }
}
