//! One log line of one record.
//!
//! ```text
//! <vmid> <level> <chain> <dd/Mon/yyyy:HH:MM:SS> <±zzzz> <message>IN=… OUT=… PHYSIN=… PHYSOUT=… MAC=… <packet's fields> mark=…
//! ```
//!
//! In: a record, the names of its [`LogContext`], its wall-clock time. Out: the line with its newline. Every field is followed by one space,
//! also the last one; the exceptions (UDP's length, a routing header) end the line without one.
//!
//! `MAC=` is the whole link header: destination, source, VLAN tags (one that the NIC had taken out is put back), EtherType. It is left out
//! where a packet has no input interface, as a local packet has no link header in the reference, and where the device has none (its
//! addresses are zero then).
//!
//! Invariant: any record gives exactly one line of at most [`LINE_LIMIT`] bytes without control characters; the cost is linear in the bytes
//! that were captured. Known difference from the reference's logger: a line is never cut at 508 bytes.

use std::io::Write;

use fw_common::event::{Event, HEADER_BYTES};
use jiff::Zoned;

use super::context::LogContext;
use super::fields::{self, Fields, Span};

/// Upper bound of a line's length in bytes: names are cut at [`NAME_LIMIT`], and 128 captured bytes hold at most 16 headers.
pub const LINE_LIMIT: usize = 2048;

/// Bytes of a name (chain, message, interface) that are shown.
pub const NAME_LIMIT: usize = 64;

const VLAN_8021Q: u16 = 0x8100;
const VLAN_8021AD: u16 = 0x88a8;
/// Addresses of the link header that the record of a packet has if the device gives it none.
const NO_LINK: [u8; 12] = [0; 12];

/// Writes one line, newline included.
pub fn format(event: &Event, context: &LogContext<'_>, time: &Zoned) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    format_into(&mut out, event, context, time);
    out
}

/// Appends one line, newline included, to `out`.
pub fn format_into(out: &mut Vec<u8>, event: &Event, context: &LogContext<'_>, time: &Zoned) {
    let level = match event.level {
        level @ 0..=7 => level,
        // What the reference does with a prefix it cannot read.
        _ => 6,
    };
    columns(out, context.vmid, level, &context.chain, time);
    let mut fields = Fields::new(out);
    fields.raw(context.message);
    for (key, name) in [
        ("IN", context.input),
        ("OUT", context.output),
        ("PHYSIN", context.physin),
        ("PHYSOUT", context.physout),
    ] {
        if let Some(name) = name {
            fields.name(key, name);
        }
    }
    let filled = usize::from(event.captured).min(HEADER_BYTES);
    let frame = Span::new(&event.header[..filled], event.length as usize);
    let link = Link::of(frame, (event.tagged != 0).then_some(event.vlan_tci));
    let has_link = link.addresses != NO_LINK;
    if has_link && (context.input.is_some() || context.output.is_none()) {
        link.write(&mut fields);
    }
    if let Some((ether_type, packet)) = link.network {
        fields::network(&mut fields, ether_type, packet);
    }
    if event.mark != 0 {
        fields.value("mark", event.mark);
    }
    out.push(b'\n');
}

/// The columns in front of the message: guest, level, chain and time, each followed by a space.
pub(super) fn columns(out: &mut Vec<u8>, vmid: u32, level: u8, chain: &str, time: &Zoned) {
    // Writing to a vector cannot fail, and these formats know no error.
    write!(out, "{vmid} {level} ").ok();
    Fields::new(out).clean(if chain.is_empty() { "-" } else { chain });
    write!(out, " {} ", time.strftime("%d/%b/%Y:%H:%M:%S %z")).ok();
}

/// The link header, and where it ends.
struct Link<'a> {
    addresses: &'a [u8],
    offloaded: Option<u16>,
    /// Inline tags and the EtherType.
    types: &'a [u8],
    /// EtherType and packet behind the header; none if the frame ends before that.
    network: Option<(u16, Span<'a>)>,
}

impl<'a> Link<'a> {
    fn of(frame: Span<'a>, offloaded: Option<u16>) -> Self {
        let bytes = frame.bytes();
        let (addresses, rest) = bytes.split_at(bytes.len().min(12));
        let mut end = 0;
        let mut network = None;
        while let Some(&[high, low]) = rest.get(end..end + 2) {
            end += 2;
            match u16::from_be_bytes([high, low]) {
                VLAN_8021Q | VLAN_8021AD if rest.len() >= end + 2 => end += 2,
                VLAN_8021Q | VLAN_8021AD => break,
                ether_type => {
                    network = frame.skip(12 + end).map(|packet| (ether_type, packet));
                    break;
                }
            }
        }
        Self {
            addresses,
            offloaded: offloaded.filter(|_| addresses.len() == 12),
            types: &rest[..if end == 0 { rest.len() } else { end }],
            network,
        }
    }

    fn write(&self, fields: &mut Fields<'_>) {
        let tag = self.offloaded.map(|tci| {
            let ([a, b], [c, d]) = (VLAN_8021Q.to_be_bytes(), tci.to_be_bytes());
            [a, b, c, d]
        });
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        if !self.addresses.is_empty() {
            fields.hex(
                "MAC",
                [self.addresses, tag, self.types].into_iter().flatten(),
            );
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
