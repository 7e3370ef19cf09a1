//! From frame bytes to [`Headers`]: the only place that reads packets.
//!
//! In: a [`Packet`] (bytes at offsets; nothing is assumed to be linear). Out: one flat [`Headers`], or the [`Reason`] the frame dies of.
//!
//! 1. Ethernet and VLAN tags (offloaded or inline), 2. IPv4, IPv6 with its extension headers, or ARP, 3. TCP, UDP, ICMP and the rest.
//!
//! Invariant: a frame that parses is as long as its headers say, so that what is judged is what the receiver sees. Frames that are
//! neither IP nor ARP parse with `protocol` 0 and no addresses. Checksums are not looked at: at these hooks most are not filled in yet.

mod ip;
mod quoted;
#[cfg(test)]
mod tests;
mod transport;

use crate::conntrack;
use crate::host::Passage;
use crate::maps::Port;
use crate::tables::Tables;
use crate::verdict::{Direction, Reason};

pub use quoted::parse_quoted;

pub use transport::{
    ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST, has_ports,
    tcp_flag, tells_ports,
};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherTypes of VLAN tags: 802.1Q, 802.1ad, and those that switches used for outer tags before it.
pub const ETHERTYPES_VLAN: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];

/// IP protocol numbers that the pipeline knows by name (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
}

/// What [`Packet::PLAIN`] packets that are not plain end with; nobody sees it.
const NOT_PLAIN: Reason = Reason::HeaderChain;

/// Inline VLAN tags that are looked behind; a frame with more is dropped.
const MAX_TAGS: usize = 2;

/// Bits of a tag (TCI) that name the VLAN; the others are priority (IEEE 802.1Q).
const VLAN_MASK: u16 = 0x0fff;

/// A plain record as it stands in a packet: any bytes are a value of it.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and every bit pattern is valid.
pub unsafe trait Wire: Copy {}

// SAFETY: integers and arrays of integers have no padding and no invalid values.
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: as above.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}

/// The bytes of one frame, starting at its Ethernet header.
pub trait Packet {
    /// Only what most packets are is parsed: no VLAN tags, IPv4 options, extension headers or fragments, TCP or UDP. All else is an error, and
    /// must be parsed anew by a way to the bytes without this limit. What does parse has the same [`Headers`] either way.
    const PLAIN: bool = false;

    /// Length of the frame in bytes.
    fn length(&self) -> u32;

    /// The record at `offset` bytes, or none if the frame ends before it does.
    fn load<T: Wire>(&self, offset: u32) -> Option<T>;

    /// The VLAN tag (TCI) that the NIC took out of the frame, if there was one.
    fn offloaded_tag(&self) -> Option<u16>;

    /// Whether the packet is the zone's to judge: always, but at interfaces of the host.
    #[inline(always)]
    fn passage(&self, _direction: Direction, _headers: &Headers) -> Passage {
        Passage::Judged
    }

    /// Index of the interface that the frame came into this host by; 0: the host made it, or nobody knows.
    #[inline(always)]
    fn came_from(&self) -> u32 {
        0
    }

    /// [`parse`], which the kernel puts behind a function boundary so that it is verified once.
    ///
    /// # Errors
    /// As [`parse`].
    #[inline(always)]
    fn parse(&self, headers: &mut Headers) -> Result<(), Reason>
    where
        Self: Sized,
    {
        parse(self, headers)
    }

    /// [`conntrack::related`], behind a function boundary likewise.
    #[inline(always)]
    fn related<T: Tables>(
        &self,
        tables: T,
        port: &Port,
        direction: Direction,
        headers: &Headers,
    ) -> bool
    where
        Self: Sized,
    {
        conntrack::related(self, tables, port, direction, headers)
    }
}

impl Packet for &[u8] {
    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        let start = offset as usize;
        let bytes = self.get(start..start.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` holds exactly `size_of::<T>()` bytes, any of which make a `T` (see `Wire`).
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }

    fn offloaded_tag(&self) -> Option<u16> {
        None
    }
}

/// An IP address as it stands in the packet: four words of network-order bytes. IPv4 is `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The IPv4 address whose network-order bytes are `word`.
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), word])
    }

    /// The first byte of the IPv4 address.
    const fn v4_first(&self) -> u32 {
        u32::from_be(self.0[3]) >> 24
    }

    /// The first byte of the IPv6 address.
    const fn v6_first(&self) -> u32 {
        u32::from_be(self.0[0]) >> 24
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(address) => Self::v4(u32::from(address).to_be()),
            core::net::IpAddr::V6(address) => {
                let number = u128::from(address);
                Self([96, 64, 32, 0].map(|shift| ((number >> shift) as u32).to_be()))
            }
        }
    }
}

/// IP version of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IpVersion {
    /// Neither.
    #[default]
    None = 0,
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// Whether a packet is a part of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fragment {
    /// The whole datagram.
    #[default]
    Whole = 0,
    /// Its first part, with the transport header.
    First = 1,
    /// A later part, without.
    Later = 2,
}

/// Everything the pipeline wants to know of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// Ethernet source, as a 48-bit number whose high byte is the address' first.
    pub source_mac: u64,
    /// Ethernet destination likewise.
    pub dest_mac: u64,
    /// IP source (for ARP: the sender's address).
    pub source: Address,
    /// IP destination (for ARP: the target's address).
    pub dest: Address,
    /// ARP sender's hardware address, as `source_mac`.
    pub arp_mac: u64,
    /// Identification of the datagram a fragment belongs to.
    pub fragment_id: u32,
    /// Sequence number of TCP; 0 in a later fragment.
    pub sequence: u32,
    /// Acknowledgement number of TCP, which counts if flag ACK is set; 0 in a later fragment.
    pub acknowledge: u32,
    /// EtherType behind all VLAN tags.
    pub ethertype: u16,
    /// Source port; for ICMP and ICMPv6 the type.
    pub sport: u16,
    /// Destination port; for ICMP and ICMPv6 the code.
    pub dport: u16,
    /// Identifier of an ICMP or ICMPv6 echo.
    pub echo_id: u16,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header.
    pub l4: u16,
    /// VLAN of the outermost tag that names one; 0: untagged, or tagged with a priority only.
    pub vlan: u16,
    /// Of a fragment: offset of its payload in the datagram's.
    pub fragment_start: u16,
    /// Of a fragment: offset behind its payload.
    pub fragment_end: u16,
    /// IP version.
    pub version: IpVersion,
    /// IP protocol; for IPv6 that of the final header.
    pub protocol: u8,
    /// Flags byte of TCP.
    pub tcp_flags: u8,
    /// Part of a datagram?
    pub fragment: Fragment,
    /// 1 if `sport` and `dport` were read from the packet (or from its first fragment).
    pub has_ports: u8,
}

impl Headers {
    /// The destination is a broadcast or multicast address, at layer 2 or 3.
    pub fn to_group(&self) -> bool {
        is_group_mac(self.dest_mac) || is_group(self.version, &self.dest)
    }

    /// The source is a broadcast or multicast IPv4 address, or the frame claims to come from a group.
    pub fn from_group(&self) -> bool {
        is_group(self.version, &self.source)
    }
}

/// The group bit of a hardware address (broadcast has it too).
pub const fn is_group_mac(mac: u64) -> bool {
    mac & (1 << 40) != 0
}

fn is_group(version: IpVersion, address: &Address) -> bool {
    match version {
        IpVersion::None => false,
        IpVersion::V4 => address.v4_first() >> 4 == 0xe || address.0[3] == u32::MAX,
        IpVersion::V6 => address.v6_first() == 0xff,
    }
}

/// Where an IP datagram stands.
#[derive(Clone, Copy)]
struct Span {
    /// Offset of the IP header.
    start: u32,
    /// Offset of the first byte that is surely not the datagram's.
    end: u32,
    /// Only its first bytes are there, at least eight of its transport header.
    is_quote: bool,
}

/// Parses a frame into `headers`, which must be [`Headers::default`].
///
/// # Errors
/// [`Reason::Malformed`] or [`Reason::HeaderChain`]; what `headers` holds then is unspecified.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), Reason> {
    let words: [u16; 7] = packet.load(0).ok_or(Reason::Malformed)?;
    headers.dest_mac = mac48(words[0], words[1], words[2]);
    headers.source_mac = mac48(words[3], words[4], words[5]);
    headers.vlan = packet.offloaded_tag().unwrap_or(0) & VLAN_MASK;
    let mut offset = 12;
    let mut ethertype = u16::from_be(words[6]);
    for _ in 0..MAX_TAGS {
        if P::PLAIN || !ETHERTYPES_VLAN.contains(&ethertype) {
            break;
        }
        let tag: [u16; 2] = packet.load(offset + 2).ok_or(Reason::Malformed)?;
        if headers.vlan == 0 {
            headers.vlan = u16::from_be(tag[0]) & VLAN_MASK;
        }
        offset += 4;
        ethertype = u16::from_be(tag[1]);
    }
    if !P::PLAIN && ETHERTYPES_VLAN.contains(&ethertype) {
        return Err(Reason::HeaderChain);
    }
    parse_network(packet, ethertype, offset + 2, headers)
}

/// Parses a packet of `ethertype` that begins at `l3`, as on devices without a link header, into `headers`, which must be
/// [`Headers::default`] but for hardware addresses.
///
/// # Errors
/// As [`parse`].
#[inline(always)]
pub fn parse_network<P: Packet>(
    packet: &P,
    ethertype: u16,
    l3: u32,
    headers: &mut Headers,
) -> Result<(), Reason> {
    headers.ethertype = ethertype;
    headers.l3 = l3 as u16;
    let span = Span {
        start: l3,
        end: packet.length(),
        is_quote: false,
    };
    match ethertype {
        ETHERTYPE_IPV4 => ip::parse_v4(packet, span, headers),
        ETHERTYPE_IPV6 => ip::parse_v6(packet, span, headers),
        _ if P::PLAIN => Err(NOT_PLAIN),
        ETHERTYPE_ARP => parse_arp(packet, l3, headers),
        _ => Ok(()),
    }
}

/// ARP for IPv4 over Ethernet (RFC 826); other kinds of ARP carry no address that is looked at. Stacks take IEEE 802 for Ethernet (RFC 1042).
fn parse_arp<P: Packet>(packet: &P, offset: u32, headers: &mut Headers) -> Result<(), Reason> {
    const ETHERNET: u16 = 1_u16.to_be();
    const IEEE_802: u16 = 6_u16.to_be();
    const IPV4: u16 = ETHERTYPE_IPV4.to_be();
    const LENGTHS: u16 = 0x0604_u16.to_be();
    let words: [u16; 14] = packet.load(offset).ok_or(Reason::Malformed)?;
    let over_ethernet = words[0] == ETHERNET || words[0] == IEEE_802;
    if over_ethernet && words[1] == IPV4 && words[2] == LENGTHS {
        headers.arp_mac = mac48(words[4], words[5], words[6]);
        headers.source = Address::v4(join(words[7], words[8]));
        headers.dest = Address::v4(join(words[12], words[13]));
    }
    Ok(())
}

/// Two 16-bit words that stand next to each other in a packet, as one 32-bit word.
const fn join(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        (second as u32) << 16 | first as u32
    } else {
        (first as u32) << 16 | second as u32
    }
}

/// A hardware address of three words of a packet as a number, see [`Headers::source_mac`].
pub(crate) const fn mac48(high: u16, middle: u16, low: u16) -> u64 {
    (u16::from_be(high) as u64) << 32
        | (u16::from_be(middle) as u64) << 16
        | u16::from_be(low) as u64
}
