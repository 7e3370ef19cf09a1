//! REJECT: the rejected packet is rewritten in place into its answer and sent back where it came from.
//!
//! In: a frame that a policy rejects. Out: the TC action that sends the answer, or none (the caller drops the frame without one).
//!
//! 1. Is an answer due? Never for ICMP, resets, later fragments, groups; and not more often than the limit.
//! 2. TCP: a reset. All else: an ICMP(v6) error that quotes the packet.
//! 3. Mark the answer, so that the hook it comes back through lets it pass once, and redirect it.
//!
//! What goes out to a guest comes in to the host, so the answer leaves by the hook's own device or comes in at it, by the port's side. Frames
//! without a link header are answered where they begin with their IP header.
//!
//! Answers have the addresses of the packet's destination, as if it had answered itself. The layouts are RFC 9293 §3.10.7, RFC 792, RFC 4443.
//!
//! Checksums of packets that a local sender or a virtio guest leaves to the hardware (`CHECKSUM_PARTIAL`): the kernel completes the checksum
//! field at its old place later on. It shows by refusing to cut the frame before that field. A reset then leaves a pseudo-header sum there;
//! an ICMP error quotes the packet with a value that completion does not change.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_redirect};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use fw_common::limit::Bucket;
use fw_common::maps::{HAIRPIN_MARK, Port, counter, port_flag};
use fw_common::verdict::Direction;
use fw_common::wire::tcp_flag::{ACK, FIN, RST, SYN};
use fw_common::wire::{Fragment, Headers, IpVersion, Packet, protocol};

use crate::ledger::count;
use crate::skb::Skb;
use crate::stage;

#[map]
static REJECTS: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(1, 0);

/// Nanoseconds per answer of one CPU in the long run: 1,000 a second (the order of the kernel's `icmp_msgs_per_sec`) …
const INTERVAL: u64 = 1_000_000;
/// … and at once.
const BURST: u32 = 200;

const ETHERNET_BYTES: u32 = 14;
const IPV4_BYTES: u32 = 20;
const IPV6_BYTES: u32 = 40;
const TCP_BYTES: u32 = 20;
const ICMP_BYTES: u32 = 8;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u32 = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: u32 = 6;
/// Words of the longest quote: an IP header with options or extension headers, and eight bytes.
const QUOTE_WORDS: u32 = 32;
/// First 32 bits of an answer's IPv6 header: version 6, no traffic class, no flow label.
const IPV6_FIRST: u32 = 6 << 28;
/// Time to live of answers.
const TTL: u32 = 64;

/// Answers a rejected frame of a port; returns the TC action that sends the answer.
#[inline(always)]
pub fn answer(skb: &Skb, port: &Port, direction: Direction, headers: &Headers) -> Option<i32> {
    let bare = port.flags & port_flag::NO_LINK != 0;
    if !answer_is_due(port.mac, direction, headers) || (bare && !begins_at_network(skb)) {
        return None;
    }
    if !within_limit() {
        count(counter::REJECTS_LIMITED, skb);
        return None;
    }
    match headers.protocol {
        protocol::TCP => reset(skb, headers)?,
        _ => icmp_error(skb, headers)?,
    }
    if !bare {
        swap_macs(skb)?;
    }
    skb.set_mark(HAIRPIN_MARK);
    // The answer goes the other way through the device: what goes out to a guest comes in to the host.
    let host = port.flags & port_flag::HOST != 0;
    let outgoing = match direction {
        Direction::In => !host,
        Direction::Out => host,
    };
    let flags = match outgoing {
        true => u64::from(BPF_F_INGRESS),
        false => 0,
    };
    // SAFETY: the helper checks its arguments.
    Some(unsafe { bpf_redirect(skb.ifindex(), flags) } as i32)
}

/// Whether a frame without a link header is only its packet: some tunnels leave their own headers in front.
#[inline(always)]
fn begins_at_network(skb: &Skb) -> bool {
    skb.load::<[u32; 5]>(0) == skb.bare().load::<[u32; 5]>(0)
}

/// A flooded frame that is not the guest's own is not answered: the answer would teach the bridge a wrong port.
#[inline(always)]
fn answer_is_due(guest_mac: u64, direction: Direction, headers: &Headers) -> bool {
    let foreign = direction == Direction::In && guest_mac != 0 && headers.dest_mac != guest_mac;
    let silent = match headers.protocol {
        protocol::ICMP | protocol::ICMPV6 => true,
        protocol::TCP => headers.tcp_flags & RST != 0,
        _ => false,
    };
    let [first, second, third, last] = headers.source.0.map(u32::from_be);
    // "This network" and loopback; the unspecified address and loopback.
    let nobody = match headers.version {
        IpVersion::V4 => matches!(last >> 24, 0 | 127),
        IpVersion::V6 => (first | second | third) == 0 && last <= 1,
        IpVersion::None => true,
    };
    !foreign
        && !silent
        && !nobody
        && headers.fragment != Fragment::Later
        && !headers.to_group()
        && !headers.from_group()
}

#[inline(always)]
fn within_limit() -> bool {
    let Some(bucket) = REJECTS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own bucket; programs at these hooks do not interrupt each other.
    unsafe { (*bucket).take(bpf_ktime_get_coarse_ns(), INTERVAL, BURST) }
}

#[inline(always)]
fn swap_macs(skb: &Skb) -> Option<()> {
    let macs: [u16; 6] = skb.load(0)?;
    let [a, b, c, d, e, f] = macs;
    skb.store(0, &[d, e, f, a, b, c])
}

/// Turns a TCP segment into the reset that answers it. The frame's IP options or extension headers go.
#[inline(always)]
fn reset(skb: &Skb, headers: &Headers) -> Option<()> {
    let (l3, l4) = (u32::from(headers.l3), u32::from(headers.l4));
    let tcp: [u32; 4] = skb.load(l4)?;
    let total = match headers.version {
        IpVersion::V4 => l3 + (u32::from_be(skb.load::<u32>(l3)?) & 0xffff),
        IpVersion::V6 => l3 + IPV6_BYTES + (u32::from_be(skb.load::<u32>(l3 + 4)?) >> 16),
        IpVersion::None => return None,
    };
    let tcp_bytes = (u32::from_be(tcp[3]) >> 28) * 4;
    let data = total.saturating_sub(l4 + tcp_bytes);

    let partial = skb.resize(l4 + TCP_CHECKSUM + 1).is_none();
    let new_l4 = l3 + ip_bytes(headers.version);
    // A partial checksum's old field must stay within the frame; behind an answer that is shorter it is padding.
    let end = match partial {
        true => core::cmp::max(new_l4 + TCP_BYTES, l4 + TCP_CHECKSUM + 2),
        false => new_l4 + TCP_BYTES,
    };
    skb.resize(end)?;

    let (sequence, acknowledge, flags) = if headers.tcp_flags & ACK != 0 {
        (tcp[2], 0, RST)
    } else {
        let length = data
            + u32::from(headers.tcp_flags & SYN != 0)
            + u32::from(headers.tcp_flags & FIN != 0);
        let next = u32::from_be(tcp[1]).wrapping_add(length);
        (0, next.to_be(), RST | ACK)
    };
    let ports = tcp[0].rotate_left(16);
    let offset_and_flags = (5 << 28 | u32::from(flags) << 16).to_be();
    let pseudo = pseudo_header(headers, TCP_BYTES, protocol::TCP);
    let checksum = if partial && new_l4 == l4 {
        fold(pseudo)
    } else {
        let words = [ports, sequence, acknowledge, offset_and_flags];
        !fold(words.iter().fold(pseudo, |sum, word| add(sum, *word)))
    };
    store_ip_header(skb, headers, TCP_BYTES, protocol::TCP)?;
    skb.store(
        new_l4,
        &[
            ports,
            sequence,
            acknowledge,
            offset_and_flags,
            u32::from(checksum),
        ],
    )
}

/// Turns a packet into the ICMP or ICMPv6 error that answers it and quotes its headers and eight bytes more.
#[inline(always)]
fn icmp_error(skb: &Skb, headers: &Headers) -> Option<()> {
    let (l3, l4) = (u32::from(headers.l3), u32::from(headers.l4));
    let udp = headers.protocol == protocol::UDP;
    // Destination unreachable: port (UDP) or administratively prohibited.
    let (number, kind, code) = match headers.version {
        IpVersion::V4 => (protocol::ICMP, 3, if udp { 3 } else { 10 }),
        IpVersion::V6 => (protocol::ICMPV6, 1, if udp { 4 } else { 1 }),
        IpVersion::None => return None,
    };
    let payload: [u32; 2] = skb.load(l4)?;
    let partial = udp && skb.resize(l4 + UDP_CHECKSUM + 1).is_none();
    let inline_tag = l3 > ETHERNET_BYTES;
    if partial && inline_tag {
        // What completes the checksum would find its old place within the moved quote.
        return None;
    }
    skb.resize(l4 + ICMP_BYTES)?;
    let mut quoted = payload;
    if partial {
        quoted[1] = with_fixed_point(payload);
    }
    skb.store(l4, &quoted)?;

    let quote = l4 - l3 + ICMP_BYTES;
    let message = ICMP_BYTES + quote;
    let mut sum = match headers.version {
        IpVersion::V6 => pseudo_header(headers, message, number),
        IpVersion::V4 | IpVersion::None => 0,
    };
    let first = (kind << 24 | code << 16) as u32;
    sum = add(sum, first.to_be());
    let mut offset = 0;
    for _ in 0..QUOTE_WORDS {
        if offset >= quote {
            break;
        }
        sum = add(sum, skb.load::<u32>(l3 + offset)?);
        offset += 4;
    }
    if offset < quote {
        return None;
    }

    let gap = ip_bytes(headers.version) + ICMP_BYTES;
    match inline_tag {
        true => stage::result(stage::move_back(skb.raw(), l3, quote, gap)).ok()?,
        false => skb.open_gap(gap as i32)?,
    }
    store_ip_header(skb, headers, message, number)?;
    let checksum = u32::from(!fold(sum));
    let first = first.to_be() | checksum << 16;
    skb.store(l3 + gap - ICMP_BYTES, &[first, 0])
}

/// Opens a gap in front of the frame's last `bytes` bytes, which begin at `from`, word by word: the helper that does it at once takes only
/// frames whose outer EtherType is IP.
#[inline(always)]
pub fn move_back(skb: &Skb, from: u32, bytes: u32, gap: u32) -> Option<()> {
    skb.resize(from + bytes + gap)?;
    let mut offset = bytes;
    for _ in 0..QUOTE_WORDS {
        if offset < 4 {
            break;
        }
        offset -= 4;
        let word: u32 = skb.load(from + offset)?;
        skb.store(from + gap + offset, &word)?;
    }
    Some(())
}

/// The second word of a UDP header (length and checksum) with the checksum that completion over just these eight bytes leaves as it is.
///
/// Completion stores `!(x + f)` where the field holds `f` and `x` is the sum of the other words; `f` stays if `2f = !x` in ones' complement.
fn with_fixed_point(udp: [u32; 2]) -> u32 {
    let length = udp[1] & 0xffff;
    let other = fold(add(add(0, udp[0]), length));
    let fixed = (!other).rotate_right(1);
    length | u32::from(fixed) << 16
}

/// Writes the answer's IP header: from the packet's destination to its source.
#[inline(always)]
fn store_ip_header(skb: &Skb, headers: &Headers, payload: u32, number: u8) -> Option<()> {
    let l3 = u32::from(headers.l3);
    match headers.version {
        IpVersion::V4 => {
            let mut words = [
                (4 << 28 | 5 << 24 | (IPV4_BYTES + payload)).to_be(),
                0,
                (TTL << 24 | u32::from(number) << 16).to_be(),
                headers.dest.0[3],
                headers.source.0[3],
            ];
            let sum = words.iter().fold(0, |sum, word| add(sum, *word));
            words[2] |= u32::from(!fold(sum)) << 16;
            skb.store(l3, &words)
        }
        IpVersion::V6 => {
            let [a, b, c, d] = headers.dest.0;
            let [e, f, g, h] = headers.source.0;
            let second = (payload << 16 | u32::from(number) << 8 | TTL).to_be();
            skb.store(l3, &[IPV6_FIRST.to_be(), second, a, b, c, d, e, f, g, h])
        }
        IpVersion::None => None,
    }
}

const fn ip_bytes(version: IpVersion) -> u32 {
    match version {
        IpVersion::V4 => IPV4_BYTES,
        IpVersion::V6 | IpVersion::None => IPV6_BYTES,
    }
}

/// Sum over the pseudo-header; the order of the addresses does not matter to it.
#[inline(always)]
fn pseudo_header(headers: &Headers, length: u32, number: u8) -> u64 {
    let mut sum = add(add(0, length.to_be()), u32::from(number).to_be());
    match headers.version {
        IpVersion::V4 => {
            sum = add(sum, headers.source.0[3]);
            sum = add(sum, headers.dest.0[3]);
        }
        IpVersion::V6 | IpVersion::None => {
            for index in 0..4 {
                sum = add(sum, headers.source.0[index]);
                sum = add(sum, headers.dest.0[index]);
            }
        }
    }
    sum
}

/// Adds a word as it stands in the packet to a ones' complement sum (RFC 1071: byte order does not matter until the result is stored).
const fn add(sum: u64, word: u32) -> u64 {
    sum + word as u64
}

/// Folds a sum to 16 bits, in the byte order of the words that were added.
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}
