//! A packet as cases write it.
//!
//! ```text
//! <place> > <place> <protocol> <end> > <end> {<field>}      addresses, with :port where the protocol has ports
//! <place> > <place> arp <address> > <address> {<field>}     sender > target
//! <place> > <place> frame <EtherType> {<field>}             neither IP nor ARP; 46 zero bytes
//! <place> > <place> hex <bytes>                             the whole frame
//! again {<field>}                                           the packet written out last
//! reply {<field>}                                           the same flow the other way (TCP: SYN,ACK; echo reply)
//! ```
//!
//! Places are those of `fwctl simulate`; hardware addresses follow from them. Fields:
//!
//! | field | meaning | unless said |
//! |---|---|---|
//! | `tcp_flags=SYN,ACK` | names of flags, or NONE | SYN |
//! | `sequence=5 acknowledge=9` | of TCP | 1000, 1000 |
//! | `quote=udp:[::1]:5>[::2]:6` | the packet that an ICMP error quotes, in place of data; `quote_x=` is its field `x` | none |
//! | `quote_cut=28` | only so many of its bytes are quoted | all |
//! | `icmp_type=8 icmp_code=0 id=7` | of ICMP and ICMPv6 | echo request, 0, 77 |
//! | `target=fe80::10` | of a neighbour message | `data` only |
//! | `data=100` | bytes behind the transport header | 0 |
//! | `mac_source=` `mac_dest=` | Ethernet addresses | the places', a group's |
//! | `arp_mac=` `arp_operation=2` | sender's hardware address, operation | `mac_source`, 1 |
//! | `vlan=10,20` `vlan=0x88a8:10,20` | tags from the outermost | none; 0x8100 |
//! | `fragment=0+` `fragment=64` `fragment_id=9` | offset in bytes, + if more follow; from an offset there is data only | whole; 1 |
//! | `ext=hopbyhop,destination*9` | IPv6 extension headers (also routing, authentication) | none |
//! | `options=8` | bytes of IPv4 options (no operation) | 0 |
//! | `payload=4` | the IP payload is cut to this, lengths agree | whole |
//! | `set=2:ffff` | bytes from an offset behind the Ethernet header (and tags), in hex | none |
//! | `cut=30` | the frame ends after so many bytes | 60 at least |

mod fields;

use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use fw_agent::simulate::Endpoint;

use self::fields::{
    End, QUOTED, end, extensions, fields, flags, group_mac, has_ports, hex, number, protocol_number,
};
use crate::frame::{Body, Datagram, Frame, Part, Transport};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// One packet.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// Where it comes from.
    pub from: Endpoint,
    /// Where it goes to.
    pub to: Endpoint,
    what: What,
    fields: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum What {
    Ip {
        protocol: u8,
        source: End,
        dest: End,
    },
    Arp {
        sender: [u8; 4],
        target: [u8; 4],
    },
    Other(u16),
    Hex(Vec<u8>),
}

/// A packet as written: a whole one, or how it differs from the last.
#[derive(Clone, Debug)]
pub enum Change {
    /// Written out.
    Whole(Sketch),
    /// The last one with these fields.
    Again(Vec<(String, String)>),
    /// The other way, with these fields.
    Reply(Vec<(String, String)>),
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(said: &str) -> Result<Self> {
        let words: Vec<&str> = said.split_whitespace().collect();
        match words[..] {
            ["again", ref rest @ ..] => Ok(Self::Again(fields(rest)?)),
            ["reply", ref rest @ ..] => Ok(Self::Reply(fields(rest)?)),
            [from, ">", to, "hex", bytes] => Sketch::whole(from, to, What::Hex(hex(bytes)?), &[]),
            [from, ">", to, "frame", ethertype, ref rest @ ..] => {
                let ethertype = number(ethertype).context("the EtherType")?;
                Sketch::whole(from, to, What::Other(ethertype), rest)
            }
            [from, ">", to, "arp", sender, ">", target, ref rest @ ..] => {
                let octets = |said: &str| {
                    let address: std::net::Ipv4Addr = said.parse()?;
                    Ok::<_, Error>(address.octets())
                };
                let (sender, target) = (octets(sender)?, octets(target)?);
                Sketch::whole(from, to, What::Arp { sender, target }, rest)
            }
            [from, ">", to, protocol, source, ">", dest, ref rest @ ..] => {
                let protocol = protocol_number(protocol)?;
                let (source, dest) = (end(source, protocol)?, end(dest, protocol)?);
                ensure!(
                    source.address.is_ipv4() == dest.address.is_ipv4(),
                    "addresses of two families"
                );
                let what = What::Ip {
                    protocol,
                    source,
                    dest,
                };
                Sketch::whole(from, to, what, rest)
            }
            _ => bail!("a packet is: from > to protocol source > destination fields"),
        }
    }
}

impl Change {
    /// Whether it is written out, so that `again` and `reply` mean it from here on.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// The packet it means. `last`: the packet written out last.
    pub fn apply(&self, last: Option<&Sketch>) -> Result<Sketch> {
        let (fields, reply) = match self {
            Self::Whole(sketch) => return Ok(sketch.clone()),
            Self::Again(fields) => (fields, false),
            Self::Reply(fields) => (fields, true),
        };
        let last = last.context("no packet was written out before")?;
        let mut sketch = if reply {
            last.reversed()?
        } else {
            last.clone()
        };
        // What is said last counts.
        sketch.fields.extend(fields.iter().cloned());
        Ok(sketch)
    }
}

impl Sketch {
    fn whole(from: &str, to: &str, what: What, rest: &[&str]) -> Result<Change> {
        let place = |said: &str| {
            said.parse::<Endpoint>()
                .with_context(|| format!("{said} is no place"))
        };
        Ok(Change::Whole(Self {
            from: place(from)?,
            to: place(to)?,
            what,
            fields: fields(rest)?,
        }))
    }

    fn reversed(&self) -> Result<Self> {
        let What::Ip {
            protocol,
            source,
            dest,
        } = self.what
        else {
            bail!("only IP has a reply");
        };
        let mut kept: Vec<(String, String)> = self.fields.clone();
        kept.retain(|(name, _)| matches!(name.as_str(), "id" | "vlan" | "icmp_code"));
        let mut add = |name: &str, value: &str| kept.push((name.to_owned(), value.to_owned()));
        match protocol {
            TCP => add("tcp_flags", "SYN,ACK"),
            ICMP => add("icmp_type", "0"),
            ICMPV6 => add("icmp_type", "129"),
            _ => {}
        }
        Ok(Self {
            from: self.to.clone(),
            to: self.from.clone(),
            what: What::Ip {
                protocol,
                source: dest,
                dest: source,
            },
            fields: kept,
        })
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut said = self.fields.iter().rev();
        said.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    fn number<T: TryFrom<u64>>(&self, name: &str, default: T) -> Result<T> {
        match self.field(name) {
            None => Ok(default),
            Some(said) => number(said).with_context(|| format!("the field {name}")),
        }
    }

    fn mac(&self, name: &str) -> Result<Option<[u8; 6]>> {
        let Some(said) = self.field(name) else {
            return Ok(None);
        };
        let bytes = hex(&said.replace(':', ""))?;
        let mac = bytes.try_into().ok();
        Ok(Some(mac.with_context(|| format!("{said} has six bytes"))?))
    }

    /// Its bytes. `mac`: the hardware address of what is at a place.
    pub fn frame(&self, mac: impl Fn(&Endpoint) -> [u8; 6]) -> Result<Vec<u8>> {
        if let What::Hex(bytes) = &self.what {
            return Ok(bytes.clone());
        }
        let source_mac = match self.mac("mac_source")? {
            Some(mac) => mac,
            None => mac(&self.from),
        };
        let dest_mac = match (self.mac("mac_dest")?, &self.what) {
            (Some(mac), _) => mac,
            (None, What::Ip { dest, .. }) => group_mac(dest.address).unwrap_or(mac(&self.to)),
            (None, What::Arp { .. }) => [0xff; 6],
            (None, What::Other(_) | What::Hex(_)) => mac(&self.to),
        };
        let body = match &self.what {
            What::Ip {
                protocol,
                source,
                dest,
            } => Body::Ip(self.datagram(*protocol, *source, *dest)?),
            What::Arp { sender, target } => Body::Arp {
                operation: self.number("arp_operation", 1)?,
                sender_mac: self.mac("arp_mac")?.unwrap_or(source_mac),
                sender: *sender,
                target: *target,
            },
            What::Other(ethertype) => Body::Other {
                ethertype: *ethertype,
                bytes: vec![0; 46],
            },
            What::Hex(bytes) => return Ok(bytes.clone()),
        };
        let tags = self.tags()?;
        let behind_tags = 14 + tags.len() * 4;
        let frame = Frame {
            dest_mac,
            source_mac,
            tags,
            body,
        };
        let mut bytes = frame.bytes();
        for (_, said) in self.fields.iter().filter(|(name, _)| name == "set") {
            let (offset, value) = said.split_once(':').context("set=OFFSET:HEX")?;
            let start = behind_tags + number::<usize>(offset)?;
            let value = hex(value)?;
            let place = bytes.get_mut(start..start + value.len());
            place
                .context("set: behind the end")?
                .copy_from_slice(&value);
        }
        bytes.truncate(self.number("cut", bytes.len())?);
        Ok(bytes)
    }

    fn tags(&self) -> Result<Vec<(u16, u16)>> {
        let Some(said) = self.field("vlan") else {
            return Ok(Vec::new());
        };
        let (ethertype, tags) = match said.split_once(':') {
            Some((ethertype, tags)) => (number(ethertype)?, tags),
            None => (0x8100, said),
        };
        tags.split(',')
            .map(|tag| Ok((ethertype, number(tag)?)))
            .collect()
    }

    /// The bytes that an ICMP error quotes.
    fn quote(&self) -> Result<Option<Vec<u8>>> {
        let Some(said) = self.field("quote") else {
            return Ok(None);
        };
        let (protocol, ends) = said.split_once(':').context("quote=PROTOCOL:END>END")?;
        let (source, dest) = ends.split_once('>').context("quote=PROTOCOL:END>END")?;
        let protocol = protocol_number(protocol)?;
        let (source, dest) = (end(source, protocol)?, end(dest, protocol)?);
        let fields = self.fields.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(QUOTED)?;
            (name != "cut").then(|| (name.to_owned(), value.clone()))
        });
        let inner = Self {
            from: self.to.clone(),
            to: self.from.clone(),
            what: What::Ip {
                protocol,
                source,
                dest,
            },
            fields: fields.collect(),
        };
        let datagram = inner.datagram(protocol, source, dest)?;
        let mut bytes = datagram.bytes();
        bytes.truncate(self.number("quote_cut", bytes.len())?);
        Ok(Some(bytes))
    }

    fn datagram(&self, protocol: u8, source: End, dest: End) -> Result<Datagram> {
        let part = match self.field("fragment") {
            None => None,
            Some(said) => Some(Part {
                id: self.number("fragment_id", 1)?,
                offset: number(said.trim_end_matches('+'))?,
                more: said.ends_with('+'),
            }),
        };
        let mut data = match self.field("target") {
            None => self.quote()?.unwrap_or_default(),
            Some(said) => said.parse::<std::net::Ipv6Addr>()?.octets().to_vec(),
        };
        data.resize(data.len() + self.number::<usize>("data", 0)?, 0);
        let transport = match protocol {
            _ if part.is_some_and(|part| part.offset > 0) => Transport::Bytes(vec![0; 64]),
            TCP => Transport::Tcp {
                sport: source.port,
                dport: dest.port,
                sequence: self.number("sequence", 1000)?,
                acknowledge: self.number("acknowledge", 1000)?,
                flags: flags(self.field("tcp_flags").unwrap_or("SYN"))?,
                data,
            },
            UDP => Transport::Udp {
                sport: source.port,
                dport: dest.port,
                data,
            },
            ICMP | ICMPV6 => {
                let request = if protocol == ICMP { 8 } else { 128 };
                let id: u16 = self.number("id", 77)?;
                let [high, low] = id.to_be_bytes();
                Transport::Icmp {
                    kind: self.number("icmp_type", request)?,
                    code: self.number("icmp_code", 0)?,
                    word: [high, low, 0, 1],
                    data,
                }
            }
            _ if has_ports(protocol) => Transport::Ports {
                sport: source.port,
                dport: dest.port,
            },
            _ => Transport::Bytes(vec![0; 24]),
        };
        let mut payload = transport.payload(protocol, source.address, dest.address);
        payload.truncate(self.number("payload", payload.len())?);
        Ok(Datagram {
            part,
            options: vec![1; self.number("options", 0)?],
            extensions: self.field("ext").map_or(Ok(Vec::new()), extensions)?,
            ..Datagram::new(source.address, dest.address, protocol, payload)
        })
    }
}
