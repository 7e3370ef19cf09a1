//! The packet's fields on a log line, from its network header on.
//!
//! In: the EtherType and the bytes behind the link header. Out: `KEY=value` fields and flag words.
//! [`network`] picks `ipv4`, `ipv6` or `arp`; the two former end in `transport`. Other EtherTypes have no fields.
//!
//! A header that is longer than the *packet* ends the fields with `LEN=<bytes> INVALID=LEN`. A header that is only longer than what was
//! *captured* ends them without a word: nothing is wrong with such a packet. Differences from the reference's logger, which is buggy there:
//! ICMPv6 values are read from the header whatever the code, a redirect's gateway is in network order, IPv6 fragment offset and `MF` are
//! those of the header, `PARAMETER=` of ICMPv6 follows the code.

mod arp;
mod ipv4;
mod ipv6;
mod transport;

use std::fmt::Display;
use std::io::Write;

use super::line::NAME_LIMIT;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// Writes the fields of the packet behind a link header.
pub(super) fn network(fields: &mut Fields<'_>, ether_type: u16, packet: Span<'_>) {
    let end = match ether_type {
        IPV4 => ipv4::write(fields, packet),
        IPV6 => ipv6::write(fields, packet),
        ARP => arp::write(fields, packet),
        _ => Ok(()),
    };
    match end {
        Ok(()) | Err(Short::Capture) => {}
        Err(Short::Packet(length)) => {
            fields.value("LEN", length);
            fields.word("INVALID=LEN");
        }
    }
}

/// Why a header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// The packet ends first; this many bytes are left of it.
    Packet(usize),
    /// Only the captured bytes end first.
    Capture,
}

/// Part of a packet: the bytes that were captured of it, and how long it really is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Span<'a> {
    /// `bytes` are the first bytes of something `length` bytes long.
    pub fn new(bytes: &'a [u8], length: usize) -> Self {
        Self {
            bytes: &bytes[..bytes.len().min(length)],
            length,
        }
    }

    /// The captured bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The real length in bytes.
    pub fn length(self) -> usize {
        self.length
    }

    /// The first `N` bytes.
    pub fn head<const N: usize>(self) -> Result<&'a [u8; N], Short> {
        if self.length < N {
            return Err(Short::Packet(self.length));
        }
        self.bytes.first_chunk().ok_or(Short::Capture)
    }

    /// What follows the first `count` bytes; none if the packet ends before.
    pub fn skip(self, count: usize) -> Option<Self> {
        let length = self.length.checked_sub(count)?;
        let bytes = self.bytes.get(count..).unwrap_or(&[]);
        Some(Self { bytes, length })
    }

    /// The same with a real length of at most `length`.
    pub fn at_most(self, length: usize) -> Self {
        Self::new(self.bytes, self.length.min(length))
    }
}

/// Appends fields to a line, each followed by a space.
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    /// The last field was written without its space; one is due if another field follows.
    tight: bool,
}

impl<'a> Fields<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, tight: false }
    }

    /// Text as it is, but for control characters and its length.
    pub fn raw(&mut self, text: &str) {
        self.put(text.bytes(), |byte| byte == b' ' || byte.is_ascii_graphic());
    }

    /// Text in which spaces are not allowed either.
    pub fn clean(&mut self, text: &str) {
        self.put(text.bytes(), |byte| byte.is_ascii_graphic());
    }

    /// `KEY=value`.
    pub fn value(&mut self, key: &str, value: impl Display) {
        self.field(key, format_args!("{value}"));
        self.out.push(b' ');
    }

    /// `KEY=value` that has no space behind it at the end of a line.
    pub fn tight(&mut self, key: &str, value: impl Display) {
        self.field(key, format_args!("{value}"));
        self.tight = true;
    }

    /// `KEY=name` with a name from outside.
    pub fn name(&mut self, key: &str, name: &str) {
        self.field(key, format_args!(""));
        self.clean(name);
        self.out.push(b' ');
    }

    /// A bare word.
    pub fn word(&mut self, word: &str) {
        self.gap();
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b' ');
    }

    /// `KEY=` and colon-separated lower-case hexadecimal bytes.
    pub fn hex<'b>(&mut self, key: &str, bytes: impl IntoIterator<Item = &'b u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.field(key, format_args!(""));
        for (index, byte) in bytes.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b':');
            }
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            self.out.extend_from_slice(&[DIGITS[high], DIGITS[low]]);
        }
        self.out.push(b' ');
    }

    fn field(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        self.gap();
        // Writing to a vector cannot fail.
        write!(self.out, "{key}={value}").ok();
    }

    fn gap(&mut self) {
        if std::mem::take(&mut self.tight) {
            self.out.push(b' ');
        }
    }

    fn put(&mut self, bytes: impl Iterator<Item = u8>, allowed: impl Fn(u8) -> bool) {
        let shown = bytes
            .take(NAME_LIMIT)
            .map(|byte| if allowed(byte) { byte } else { b'?' });
        self.out.extend(shown);
    }
}
