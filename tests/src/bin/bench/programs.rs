//! The bench's own small programs, as instructions.
//!
//! An instruction is eight bytes: operation, registers (source in the high half), offset, immediate (`Documentation/bpf/standardization`).

use anyhow::Result;

use crate::raw::{Counter, Kind, Program};

/// `TC_ACT_UNSPEC`, as an immediate.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;
/// `XDP_PASS`.
const XDP_PASS: i32 = 2;
/// `bpf_get_prandom_u32`.
const RANDOM: i32 = 7;

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

const fn instruction(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (immediate.cast_unsigned() as u64) << 32
}

/// `to = immediate`.
const fn set(to: u8, immediate: i32) -> u64 {
    instruction(0xb7, to, 0, 0, immediate)
}

/// `to = from`.
const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

/// `to = *(u32 *)(from + offset)`.
const fn load_word(to: u8, from: u8, offset: i16) -> u64 {
    instruction(0x61, to, from, offset, 0)
}

/// `*(u16 *)(to + offset) = from`.
const fn store_half(to: u8, offset: i16, from: u8) -> u64 {
    instruction(0x6b, to, from, offset, 0)
}

/// A program at a TC hook that does nothing.
pub fn empty() -> Result<Program> {
    Program::load(Kind::Classifier, &[set(0, NEXT), EXIT])
}

/// Drops every IPv4 packet and counts it.
pub fn sink(counter: &Counter) -> Result<Program> {
    /// `ETH_P_IP` in network order, as `skb->protocol` has it.
    const IPV4: i32 = 0x0800_u16.to_be() as i32;
    let counter = counter.fd();
    Program::load(
        Kind::Classifier,
        &[
            // r2 = skb->protocol
            load_word(2, 1, 16),
            // if r2 != IPV4 goto the last two
            instruction(0x55, 2, 0, 6, IPV4),
            // r1 = the counter's value: two slots, the map's descriptor with BPF_PSEUDO_MAP_VALUE
            instruction(0x18, 1, 2, 0, counter),
            instruction(0, 0, 0, 0, 0),
            set(2, 1),
            // lock *(u64 *)r1 += r2
            instruction(0xdb, 1, 2, 0, 0),
            set(0, SHOT),
            EXIT,
            set(0, NEXT),
            EXIT,
        ],
    )
}

/// An XDP program that passes every frame on as it is.
pub fn pass() -> Result<Program> {
    Program::load(Kind::Xdp, &[set(0, XDP_PASS), EXIT])
}

/// An XDP program that gives every frame another source port and another low half of the source address. The identification takes up what the address
/// changed, so that the header's checksum, made with `0` and `!0` there, stays right.
pub fn scatter() -> Result<Program> {
    Program::load(
        Kind::Xdp,
        &[
            copy(6, 1),
            // call
            instruction(0x85, 0, 0, 0, RANDOM),
            load_word(2, 6, 0),
            load_word(3, 6, 4),
            copy(4, 2),
            // r4 += 36: behind the source port
            instruction(0x07, 4, 0, 0, 36),
            // if r4 > r3 goto the last two
            instruction(0x2d, 4, 3, 5, 0),
            store_half(2, 34, 0),
            // r0 >>= 16
            instruction(0x77, 0, 0, 0, 16),
            store_half(2, 28, 0),
            // r0 ^= 0xffff
            instruction(0xa7, 0, 0, 0, 0xffff),
            store_half(2, 18, 0),
            set(0, XDP_PASS),
            EXIT,
        ],
    )
}
