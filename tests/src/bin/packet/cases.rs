//! The cases: configuration, frames, flows, and what must become of the frames.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use fw_common::flow::FlowKey;
use fw_common::maps::Port;
use fw_common::verdict::Reason;
use fw_common::wire::{Address, protocol};
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::tree::ConfigTree;

use crate::bed::{Bed, Hook};
use crate::programs::Spread;

/// One line of the table.
pub struct Case {
    pub name: String,
    /// Index of the bed.
    pub bed: usize,
    pub hook: Hook,
    pub port: Port,
    pub frame: Vec<u8>,
    pub spread: Option<Spread>,
    /// Bans are looked up.
    pub bans: bool,
    pub repeat: u32,
    /// It passes.
    pub passes: bool,
    /// What it is counted under; none if it is not.
    pub reason: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What tells the rules of a policy apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Port,
    Address,
    Set,
}

impl By {
    const ALL: [Self; 3] = [Self::Port, Self::Address, Self::Set];

    const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Address => "address",
            Self::Set => "set",
        }
    }
}

/// Rules of a policy.
const RULES: [u32; 4] = [10, 100, 1_000, 10_000];
/// Prefixes of the blacklist.
pub const BLACKLIST: u32 = 1_000_000;
/// Bans beside the one that is hit.
const BANS: u32 = 10_000;
/// Established flows, as a mask of the bits that tell them apart.
const FLOWS: u32 = (1 << 18) - 1;
/// Of these so many are not made, so that there is room for a few others.
const ROOM: u32 = 64;
/// Sources of new flows, likewise.
const SOURCES: u32 = (1 << 24) - 1;
/// The guest's port of established flows.
const SERVICE: u16 = 22;
/// The other end's port.
const CLIENT: u16 = 40_000;
/// Destination port of the first rule.
const FIRST_PORT: u32 = 10_000;

/// Guests.
const GUEST: [u8; 6] = [0xbc, 0x24, 0x11, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LOGS: u32 = 500;
const UNGUARDED: u32 = 501;
const GUARDED: u32 = 502;

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    const fn guest(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 10)),
        }
    }

    /// The other end with a number.
    const fn peer(self, number: u32) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(10 << 24 | number)),
            Self::V6 => {
                let base = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0).to_bits();
                IpAddr::V6(Ipv6Addr::from_bits(base | number as u128))
            }
        }
    }

    /// Sources of frames, told apart by these bits.
    const fn spread(self, mask: u32) -> Spread {
        match self {
            Self::V4 => Spread {
                offset: 26,
                base: 10 << 24,
                mask,
            },
            Self::V6 => Spread {
                offset: 34,
                base: 0,
                mask,
            },
        }
    }

    /// An address that the blacklist or a ban holds.
    const fn listed(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0x2, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// An address near many that the blacklist holds, but not one of them.
    const fn near(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, 0, 77)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0x2, 7, 0, 0, 0, 0, 1)),
        }
    }
}

/// A guest's number by the rules it has.
fn guest_of(by: By, rules: u32) -> u32 {
    let kind = match by {
        By::Port => 100,
        By::Address => 200,
        By::Set => 300,
    };
    kind + rules.ilog10()
}

/// What the last of so many rules wants.
fn last_port(rules: u32) -> u16 {
    (FIRST_PORT + rules - 1) as u16
}

fn rules(by: By, count: u32) -> String {
    let mut text = String::from("[OPTIONS]\nenable: 1\nmacfilter: 0\n[RULES]\n");
    for number in 0..count {
        let port = FIRST_PORT + number;
        let last = number + 1 == count;
        let [_, _, high, low] = number.to_be_bytes();
        let rule = match (by, last) {
            (By::Port, _) => format!("IN ACCEPT -p tcp -dport {port}"),
            (By::Address, false) if number % 2 == 0 => {
                format!("IN ACCEPT -source 172.16.{high}.{low}")
            }
            (By::Address, false) => format!("IN ACCEPT -source 2001:db8:2::{number:x}"),
            (By::Address, true) => {
                "IN ACCEPT -source 10.0.0.0/8\nIN ACCEPT -source 2001:db8:ffff::/48".to_owned()
            }
            (By::Set, false) => format!(
                "IN ACCEPT -source +dc/s{} -p tcp -dport {port}",
                number % 97
            ),
            (By::Set, true) => format!("IN ACCEPT -source +dc/last -p tcp -dport {port}"),
        };
        text.push_str(&rule);
        text.push('\n');
    }
    text
}

fn tree(is_listed: bool) -> Result<ConfigTree> {
    let tree = ConfigTree::new()?;
    let mut cluster =
        String::from("[OPTIONS]\nenable: 1\n\n[IPSET last]\n10.0.0.0/8\n2001:db8:ffff::/48\n");
    let mut line = |text: String| cluster.push_str(&text);
    for set in 0..97 {
        line(format!("\n[IPSET s{set}]\n"));
        for member in 0..50 {
            line(format!(
                "172.20.{set}.{member}\n2001:db8:3:{set:x}::{member:x}\n"
            ));
        }
    }
    if is_listed {
        line("\n[IPSET blacklist]\n198.18.0.1\n2001:2::1\n".to_owned());
        for number in 0..BLACKLIST - 2 {
            // An odd multiplier makes every number of 28 bits another one, in no order.
            let scattered = number.wrapping_mul(0x9e3_779b) & 0xfff_ffff;
            let [a, b, c, d] = scattered.to_be_bytes();
            line(match number % 3 {
                0 => format!("{}.{b}.{c}.{d}\n", 16 + a),
                1 => format!("{}.{b}.{c}.{}/28\n", 64 + a, d & 0xf0),
                _ => format!(
                    "24{a:02x}:{:x}:{:x}::/48\n",
                    scattered >> 8 & 0xffff,
                    scattered & 0xff
                ),
            });
        }
    }
    tree.write("firewall/cluster.fw", &cluster)?;
    let guest = |vmid: u32, text: &str| -> Result<()> {
        let mut config = String::from("cores: 2\n");
        writeln!(
            config,
            "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"
        )?;
        tree.write(
            &format!(
                "nodes/{}/qemu-server/{vmid}.conf",
                tapwall_tests::tree::NODE
            ),
            &config,
        )?;
        tree.write_firewall(vmid, text)
    };
    for by in By::ALL {
        for count in RULES {
            if !is_listed || (by == By::Port && count == RULES[0]) {
                guest(guest_of(by, count), &rules(by, count))?;
            }
        }
    }
    let rule = "[RULES]\nIN ACCEPT -p tcp -dport 22\n";
    guest(
        LOGS,
        &format!("[OPTIONS]\nenable: 1\nlog_level_in: info\n{rule}"),
    )?;
    guest(
        UNGUARDED,
        &format!("[OPTIONS]\nenable: 1\nmacfilter: 0\n{rule}"),
    )?;
    let mut guarded =
        format!("[OPTIONS]\nenable: 1\nmacfilter: 1\nipfilter: 0\n{rule}[IPSET ipfilter-net0]\n");
    for number in 0..5 {
        writeln!(
            guarded,
            "192.0.2.{}\n2001:db8:1::{:x}",
            10 + number,
            10 + number
        )?;
    }
    guest(GUARDED, &guarded)?;
    Ok(tree)
}

fn frame(macs: [[u8; 6]; 2], ends: [IpAddr; 2], ports: [u16; 2], flags: u8) -> Vec<u8> {
    let [source, dest] = ends;
    let segment = Transport::Tcp {
        sport: ports[0],
        dport: ports[1],
        sequence: 1,
        acknowledge: 1,
        flags,
        data: Vec::new(),
    };
    let payload = segment.payload(protocol::TCP, source, dest);
    let [source_mac, dest_mac] = macs;
    Frame {
        dest_mac,
        source_mac,
        tags: Vec::new(),
        body: Body::Ip(Datagram::new(source, dest, protocol::TCP, payload)),
    }
    .bytes()
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn to_guest(source: IpAddr, dest: IpAddr, dport: u16, flags: u8) -> Vec<u8> {
    frame([PEER, GUEST], [source, dest], [CLIENT, dport], flags)
}

fn flow_key(vmid: u32, family: Family, number: u32) -> FlowKey {
    FlowKey {
        vmid,
        net: 0,
        protocol: protocol::TCP,
        version: match family {
            Family::V4 => 4,
            Family::V6 => 6,
        },
        local: Address::from(family.guest()),
        remote: Address::from(family.peer(number)),
        local_port: SERVICE,
        remote_port: CLIENT,
    }
}

/// Makes the beds and says what is run on them. Flows, rules and new flows of either family have a bed of their own; the third has the blacklist.
pub fn make(other: Option<&Path>) -> Result<(Vec<Bed>, Vec<Case>)> {
    let mut beds = Vec::new();
    let mut cases = Vec::new();
    let plain = tree(false)?;
    for (index, family) in Family::ALL.into_iter().enumerate() {
        let bed = Bed::new(&plain, other)?;
        plain_cases(&bed, index, family, &mut cases)?;
        beds.push(bed);
    }
    let bed = Bed::new(&tree(true)?, other)?;
    for family in Family::ALL {
        listed_cases(&bed, beds.len(), family, &mut cases)?;
    }
    beds.push(bed);
    Ok((beds, cases))
}

fn plain_cases(bed: &Bed, index: usize, family: Family, cases: &mut Vec<Case>) -> Result<()> {
    let mut add = |case: Case| {
        cases.push(Case {
            name: format!("{}, {}", case.name, family.name()),
            bed: index,
            ..case
        });
    };
    let few = guest_of(By::Port, RULES[0]);
    let port = bed.port(few)?;
    let (guest, peer) = (family.guest(), family.peer(0));
    let many = (0..=FLOWS - ROOM).map(|number| flow_key(few, family, number));
    bed.establish(&port, many)?;
    let base = |name: &str| Case {
        name: name.to_owned(),
        bed: index,
        hook: Hook::In,
        port,
        frame: to_guest(peer, guest, SERVICE, ACK),
        spread: None,
        bans: false,
        repeat: 100_000,
        passes: true,
        reason: Some(Reason::Established),
    };
    add(base("established, hot"));
    let answer = frame([GUEST, PEER], [guest, peer], [SERVICE, CLIENT], ACK);
    add(Case {
        hook: Hook::Out,
        frame: answer.clone(),
        ..base("established, hot, from the guest")
    });
    for (name, mask) in [("4,096", (1 << 12) - 1), ("262,144", FLOWS)] {
        add(Case {
            spread: Some(family.spread(mask)),
            repeat: 50_000,
            ..base(&format!("established, random of {name} flows"))
        });
    }
    for by in By::ALL {
        for count in RULES {
            add(Case {
                port: bed.port(guest_of(by, count))?,
                frame: to_guest(peer, guest, last_port(count), SYN),
                spread: Some(family.spread(SOURCES)),
                reason: Some(Reason::Rule),
                repeat: 80_000,
                ..base(&format!("new flow, {count} rules by {}", by.name()))
            });
        }
    }
    for count in [RULES[0], RULES[3]] {
        let denied = Case {
            port: bed.port(guest_of(By::Port, count))?,
            frame: to_guest(peer, guest, 9, SYN),
            passes: false,
            reason: Some(Reason::Policy),
            ..base(&format!("dropped by policy, {count} rules"))
        };
        let closed = Case {
            name: format!("dropped without classification, {count} rules"),
            port: Port {
                policy: [0; 2],
                ..denied.port
            },
            reason: Some(Reason::NoPolicy),
            frame: denied.frame.clone(),
            ..denied
        };
        add(denied);
        add(closed);
    }
    add(Case {
        port: bed.port(LOGS)?,
        frame: to_guest(peer, guest, 9, SYN),
        passes: false,
        reason: Some(Reason::Policy),
        ..base("logged drop beyond the rate limit")
    });
    for (name, vmid) in [("without", UNGUARDED), ("with", GUARDED)] {
        let port = bed.port(vmid)?;
        bed.establish(&port, [flow_key(vmid, family, 0)].into_iter())?;
        add(Case {
            hook: Hook::Out,
            port,
            frame: answer.clone(),
            ..base(&format!("established, hot, {name} guards"))
        });
    }
    let nets = (0..BANS).map(|number| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0xcb00_0000 + number)).into(),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(
            (0x2400_u128 << 112) + u128::from(number),
        ))
        .into(),
    });
    bed.ban(nets.chain([family.listed().into()]))?;
    add(Case {
        bans: true,
        ..base("established, hot, 10,000 bans, none hit")
    });
    add(Case {
        bans: true,
        frame: to_guest(family.listed(), guest, SERVICE, ACK),
        passes: false,
        reason: Some(Reason::Ban),
        ..base("ban hit")
    });
    let mac = GUEST
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    bed.station(mac, &port)?;
    for (name, source, passes) in [
        ("hit", family.listed(), false),
        ("not hit", family.peer(0), true),
    ] {
        add(Case {
            hook: Hook::Uplink,
            bans: true,
            frame: to_guest(source, guest, SERVICE, ACK),
            passes,
            reason: (!passes).then_some(Reason::Ban),
            ..base(&format!("XDP, 10,000 bans, {name}"))
        });
    }
    Ok(())
}

fn listed_cases(bed: &Bed, index: usize, family: Family, cases: &mut Vec<Case>) -> Result<()> {
    let mut add = |case: Case| {
        cases.push(Case {
            name: format!("{}, {}", case.name, family.name()),
            ..case
        });
    };
    let vmid = guest_of(By::Port, RULES[0]);
    let port = bed.port(vmid)?;
    let (guest, peer) = (family.guest(), family.peer(0));
    bed.establish(&port, [flow_key(vmid, family, 0)].into_iter())?;
    let base = |name: &str| Case {
        name: format!("{name}, {BLACKLIST} prefixes"),
        bed: index,
        hook: Hook::In,
        port,
        frame: to_guest(peer, guest, SERVICE, ACK),
        spread: None,
        bans: false,
        repeat: 100_000,
        passes: true,
        reason: Some(Reason::Established),
    };
    let count = RULES[0];
    add(base("established, hot, not in the blacklist"));
    add(Case {
        frame: to_guest(peer, guest, last_port(count), SYN),
        spread: Some(family.spread(SOURCES)),
        repeat: 80_000,
        reason: Some(Reason::Rule),
        ..base(&format!(
            "new flow, {count} rules by port, not in the blacklist"
        ))
    });
    add(Case {
        frame: to_guest(peer, guest, 9, SYN),
        passes: false,
        reason: Some(Reason::Policy),
        ..base(&format!(
            "dropped by policy, {count} rules, not in the blacklist"
        ))
    });
    add(Case {
        frame: to_guest(family.near(), guest, 9, SYN),
        passes: false,
        reason: Some(Reason::Policy),
        ..base("dropped by policy, near an address of the blacklist")
    });
    add(Case {
        frame: to_guest(family.listed(), guest, last_port(count), SYN),
        passes: false,
        reason: Some(Reason::Blacklist),
        ..base("dropped by the blacklist")
    });
    let mac = GUEST
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    bed.station(mac, &port)?;
    for (name, source, passes) in [
        ("in the blacklist", family.listed(), false),
        ("not in the blacklist", family.peer(0), true),
    ] {
        add(Case {
            hook: Hook::Uplink,
            frame: to_guest(source, guest, SERVICE, ACK),
            passes,
            reason: (!passes).then_some(Reason::Blacklist),
            ..base(&format!("XDP, {name}"))
        });
    }
    Ok(())
}
