//! The host's interfaces: what arrives at one (hook ingress, direction In) and what leaves by it (hook egress, direction Out).
//!
//! In: a frame at a hook. Out: the TC action. What is the host's at all is decided by `fw_common::host`; here are the context's fields and
//! the kernel's helpers in its terms:
//!
//! - own addresses: the map `LOCALS`, which the agent keeps;
//! - routes: `bpf_fib_lookup`, as if the packet were to be forwarded. It sees the packet before the host translates addresses.
//!
//! Invariant: no mark of ours leaves here, neither to the host's stack nor from a local process to a guest's port.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup as Route};
use aya_ebpf::helpers::bpf_fib_lookup;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TcContext;
use fw_common::host::{Arrival, Frame, ICMP_BYTES, Passage, Surroundings, arrival};
use fw_common::maps::{HAIRPIN_MARK, Port, capacity, port_flag};
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Reason};
use fw_common::wire::{Address, Headers, IpVersion, Packet, Wire};

use crate::enforce;
use crate::ledger::count;
use crate::skb::Skb;
use crate::stage;
use crate::tables::Maps;

#[map]
static LOCALS: HashMap<Address, u32> = HashMap::with_max_entries(capacity::LOCALS, 0);

/// What arrives at an interface of the host.
#[classifier]
pub fn tapwall_host_ingress(ctx: TcContext) -> i32 {
    handle(Skb::of(ctx.skb.skb), Direction::In)
}

/// What leaves by an interface of the host.
#[classifier]
pub fn tapwall_host_egress(ctx: TcContext) -> i32 {
    handle(Skb::of(ctx.skb.skb), Direction::Out)
}

#[inline(always)]
fn handle(skb: Skb, direction: Direction) -> i32 {
    let frame = frame(&skb);
    if frame.mark == HAIRPIN_MARK {
        skb.set_mark(0);
    }
    let untouched = match arrival(direction, &frame) {
        Arrival::OwnReply => Some(Reason::Hairpin),
        Arrival::Untouched => Some(Reason::Forwarded),
        Arrival::Parse => None,
    };
    if let Some(reason) = untouched {
        count(reason as u32, &skb);
        return TC_ACT_UNSPEC;
    }
    let Some(port) = Maps.port(skb.ifindex()) else {
        count(Reason::NoPolicy as u32, &skb);
        return TC_ACT_SHOT;
    };
    let packet = HostSkb {
        skb: &skb,
        bare: port.flags & port_flag::NO_LINK != 0,
    };
    enforce(&packet, &skb, port, direction)
}

#[inline(always)]
fn frame(skb: &Skb) -> Frame {
    Frame {
        pkt_type: skb.pkt_type(),
        mark: skb.mark(),
        tag: skb.offloaded_tag(),
        ifindex: skb.ifindex(),
        ingress_ifindex: skb.ingress_ifindex(),
    }
}

/// A frame at an interface of the host.
struct HostSkb<'a> {
    skb: &'a Skb,
    /// It has no link header.
    bare: bool,
}

impl Packet for HostSkb<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.skb.length()
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        self.skb.load(offset)
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<u16> {
        self.skb.offloaded_tag()
    }

    #[inline(always)]
    fn parse(&self, headers: &mut Headers) -> Result<(), Reason> {
        match self.bare {
            true => stage::result(stage::parse_bare(self.skb.raw(), headers)),
            false => self.skb.parse(headers),
        }
    }

    #[inline(always)]
    fn related<T: Tables>(
        &self,
        _tables: T,
        port: &Port,
        direction: Direction,
        headers: &Headers,
    ) -> bool {
        self.skb.is_related(port, direction, headers, self.bare)
    }

    #[inline(always)]
    fn passage(&self, direction: Direction, headers: &Headers) -> Passage {
        let number = stage::passage(
            self.skb.raw(),
            headers,
            direction as u32,
            u32::from(self.bare),
        );
        Passage::from_u8(number as u8)
    }
}

/// The pipeline's question of a frame, for the stage.
#[inline(always)]
pub fn passage(skb: &Skb, headers: &Headers, direction: Direction, bare: bool) -> Passage {
    let here = Here { skb, bare };
    fw_common::host::passage(direction, &frame(skb), headers, &here)
}

/// The host's addresses and routes, as seen from where a frame is.
struct Here<'a> {
    skb: &'a Skb,
    /// Offsets count from the network header.
    bare: bool,
}

impl Here<'_> {
    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        match self.bare {
            true => self.skb.bare().load(offset),
            false => self.skb.load(offset),
        }
    }
}

/// Whether the agent says that an address is one of the host's own.
#[inline(always)]
pub fn is_own(address: &Address) -> bool {
    // Kernels before 6.3 take a key from the stack, not from a stage's argument.
    let key = black_box(*address);
    // SAFETY: only whether there is an entry matters.
    unsafe { LOCALS.get(key) }.is_some()
}

impl Surroundings for Here<'_> {
    #[inline(always)]
    fn quoted_dest(&self, headers: &Headers) -> Option<Address> {
        let quote = u32::from(headers.l4) + ICMP_BYTES;
        match headers.version {
            IpVersion::V4 => self.load(quote + 16).map(Address::v4),
            IpVersion::V6 => self.load(quote + 24).map(Address),
            IpVersion::None => None,
        }
    }

    #[inline(always)]
    fn is_own(&self, address: &Address) -> bool {
        is_own(address)
    }

    #[inline(always)]
    fn is_routed(&self, headers: &Headers) -> bool {
        /// The kernel's `BPF_FIB_LKUP_RET_*` (`bpf.h`) for a route that leads on, or nowhere: found; blackhole, unreachable, prohibited;
        /// through a tunnel that the helper does not build; to a neighbour that is not known yet; too long for where it leads.
        const ROUTED: [i64; 7] = [0, 1, 2, 3, 6, 7, 8];
        const AF_INET: u8 = 2;
        const AF_INET6: u8 = 10;
        type Words = [u64; size_of::<Route>() / 8];
        const { assert!(size_of::<Words>() == size_of::<Route>()) };
        // Of constants the compiler would make a call of a loop over bytes.
        let mut zeros: Words = [black_box(0); _];
        let pointer = zeros.as_mut_ptr().cast::<Route>();
        // SAFETY: all bytes are zero, which is a value of every field and union member written here; words are aligned as the struct is.
        unsafe {
            (*pointer).ifindex = self.skb.ifindex();
            let source = &raw mut (*pointer).__bindgen_anon_3;
            let dest = &raw mut (*pointer).__bindgen_anon_4;
            match headers.version {
                IpVersion::V4 => {
                    (*pointer).family = AF_INET;
                    ptr::write(source.cast::<u32>(), headers.source.0[3]);
                    ptr::write(dest.cast::<u32>(), headers.dest.0[3]);
                }
                IpVersion::V6 => {
                    (*pointer).family = AF_INET6;
                    ptr::write(source.cast::<[u32; 4]>(), headers.source.0);
                    ptr::write(dest.cast::<[u32; 4]>(), headers.dest.0);
                }
                IpVersion::None => return false,
            }
        }
        let context = self.skb.raw().cast::<c_void>();
        // SAFETY: the context is the hook's, and `pointer` leads to a whole value of the size that is passed.
        let answer = unsafe { bpf_fib_lookup(context, pointer, size_of::<Route>() as i32, 0) };
        ROUTED.contains(&answer)
    }
}
