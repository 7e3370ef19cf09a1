//! Layouts and capacities of everything that lives in maps.
//!
//! The agent writes these, the kernel reads them; both see the same `repr(C)` structs without padding. A change of any layout here is a
//! new [`ABI`], and with it a new pin directory.

pub mod capacity;
pub mod classes;
pub mod counter;
pub mod name;
#[cfg(feature = "user")]
mod pod;
pub mod policy;

/// Version of all layouts here, in [`crate::flow`], [`crate::flow_filter`] and [`crate::event`]; the last part of the pin directory's name.
pub const ABI: u32 = 6;

/// Conditions that are not an address, a port or a protocol, packed in one byte per packet.
///
/// A rule looks at some of the bits (`mask`) and wants them to have some value.
pub mod traits {
    /// The destination is a broadcast or multicast address, at layer 2 or 3.
    pub const TO_GROUP: u8 = 1 << 0;
    /// The source is a broadcast or multicast address (a smurf).
    pub const FROM_GROUP: u8 = 1 << 1;
    /// Connection tracking calls the packet INVALID.
    pub const INVALID: u8 = 1 << 2;
    /// Connection tracking calls the packet NEW.
    pub const NEW: u8 = 1 << 3;
    /// TCP whose FIN, SYN, RST and ACK flags are anything but SYN alone.
    pub const NOT_SYN: u8 = 1 << 4;
    /// TCP with a combination of flags that no stack sends (spec: `tcpflags`).
    pub const BAD_TCP_FLAGS: u8 = 1 << 5;
    /// All of them; no packet has others.
    pub const ALL: u8 = (1 << 6) - 1;
}

/// Mark of replies that a hook made itself, so that the hook they come back through knows them. Compared as a whole: guests cannot set
/// marks, and the kernel's own leftovers in the field do not look like it.
pub const HAIRPIN_MARK: u32 = 0x7a11_0001;

/// [`Port::vmid`] of the host; no guest has this number.
pub const HOST_VMID: u32 = 0;

/// What the kernel knows of one device: a guest's NIC, or an interface of the host. Writing this value is what switches the device to new
/// policies. One cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Port {
    /// The NIC's hardware address as in [`crate::wire::Headers::source_mac`]; 0 if not known.
    pub mac: u64,
    /// Guest; 0 is the host.
    pub vmid: u32,
    /// Number of the guest's NIC.
    pub net: u16,
    /// Bits of [`port_flag`].
    pub flags: u16,
    /// First word of the policy in the arena, by [`crate::verdict::Direction`]; 0: none, closed.
    pub policy: [u32; 2],
    /// First word of the policy for what a guest sends in flows whose local address is not checked yet; 0: nothing to check.
    pub guard: u32,
    /// Stands for what `guard` says, never 0: equal numbers, equal guards. A flow remembers the one its local address was checked under.
    pub guard_epoch: u32,
    /// Class space of the small sets that the policies were built against.
    pub space: u32,
    /// Generation of the configuration; flows remember the one they were accepted under.
    pub epoch: u32,
    /// First word of the prefilters of the big sets, IPv4 and IPv6, see [`classes`]; 0: there are no big sets.
    pub prefilter: [u32; 2],
    /// The port's entry in [`name::PORT_COUNTERS`]; that of the host is 0, [`NO_COUNTERS`] is none.
    pub counters: u32,
    /// First of 64 words in the arena that hold a bit per VLAN the NIC may use; [`NO_VLAN`] or [`ANY_VLAN`].
    pub vlans: u32,
    /// Class space of the big sets.
    pub big_space: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Port>() == 64);

/// Words that [`Port::vlans`] points to.
pub const VLAN_WORDS: u32 = 64;
/// Value of [`Port::counters`]: the port is not counted, for there are too many.
pub const NO_COUNTERS: u32 = u32::MAX;
/// Value of [`Port::vlans`]: tagged frames are dropped.
pub const NO_VLAN: u32 = 0;
/// Value of [`Port::vlans`]: any tag may be used.
pub const ANY_VLAN: u32 = u32::MAX;

/// Switches of a [`Port`].
pub mod port_flag {
    /// Frames from the guest must carry its own hardware address.
    pub const MACFILTER: u16 = 1 << 0;
    /// DHCP requests from the guest are exempt from the IP checks.
    pub const DHCP: u16 = 1 << 1;
    /// The policy for what comes in drops blacklisted sources, and some are: running flows are looked at too.
    pub const BLACKLIST: u16 = 1 << 2;
    /// An interface of the host; all of them are one zone, guest 0, NIC 0.
    pub const HOST: u16 = 1 << 8;
    /// Frames of the device have no link header, but begin with the IP header.
    pub const NO_LINK: u16 = 1 << 9;
    /// Flows that were accepted under another epoch are judged again.
    pub const REEVALUATE: u16 = 1 << 15;
    /// The policy for what the guest sends begins with rules for frames that are not IP.
    pub const LAYER2: u16 = 1 << 3;
    /// As [`MACFILTER`], for frames that are not IP.
    pub const MACFILTER_LAYER2: u16 = 1 << 4;
    /// As [`BLACKLIST`], and no log line tells of it.
    pub const QUIET_BLACKLIST: u16 = 1 << 5;
}

/// Names a port in maps that outlive its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortKey {
    /// Guest; 0 is the host.
    pub vmid: u32,
    /// NIC.
    pub net: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<PortKey>() == 8);

impl PortKey {
    /// The port of a flow.
    pub const fn of_flow(key: &crate::flow::FlowKey) -> Self {
        Self {
            vmid: key.vmid,
            net: key.net,
            reserved: 0,
        }
    }
}

/// Key of the LPM tries for IPv4: the class space and the address, both in network order. Prefix lengths count the space's 32 bits.
pub type ClassKeyV4 = [u32; 2];

/// Key of the LPM tries for IPv6, likewise.
pub type ClassKeyV6 = [u32; 5];

/// Bits of a class key that hold the class space.
pub const SPACE_BITS: u32 = 32;

/// Key of the LPM trie of bans: an address as in packets. Prefix lengths of IPv4 count the [`crate::ban::V4_BITS`] in front.
pub type BanKey = [u32; 4];

/// What may be decided at an uplink for the port with some hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Station {
    /// Bits of [`station_flag`].
    pub flags: u32,
}

impl Station {
    /// What may be decided for a port.
    pub const fn of(port: &Port) -> Self {
        let mut flags = 0;
        if port.flags & port_flag::QUIET_BLACKLIST != 0 {
            flags |= station_flag::BLACKLIST;
        }
        if port.flags & port_flag::HOST != 0 {
            flags |= station_flag::HOST;
        }
        Self { flags }
    }

    /// What may be decided if two ports have one address: no more than for either.
    pub const fn both(self, other: Self) -> Self {
        let all = self.flags & other.flags & station_flag::BLACKLIST;
        let any = (self.flags | other.flags) & station_flag::HOST;
        Self { flags: all | any }
    }
}

/// Switches of a [`Station`].
pub mod station_flag {
    /// Its policy drops blacklisted sources, without a log line.
    pub const BLACKLIST: u32 = 1 << 0;
    /// An interface of the host: what is not to one of the host's addresses may be forwarded.
    pub const HOST: u32 = 1 << 1;
}

/// A fragmented datagram of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Guest.
    pub vmid: u32,
    /// NIC.
    pub net: u16,
    /// IP protocol; 0 for IPv6, where only the first fragment tells it.
    pub protocol: u8,
    /// [`crate::verdict::Direction`] as a number.
    pub direction: u8,
    /// Identification field.
    pub id: u32,
    /// Source.
    pub source: crate::wire::Address,
    /// Destination.
    pub dest: crate::wire::Address,
}

const _: () = assert!(size_of::<FragmentKey>() == 44);

/// What the first fragment told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentValue {
    /// Nanoseconds of the coarse clock.
    pub seen: u64,
    /// Source port (or ICMP type).
    pub sport: u16,
    /// Destination port (or ICMP code).
    pub dport: u16,
    /// Echo identifier.
    pub echo_id: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// IP protocol; for IPv6 that of the final header, which later fragments do not tell.
    pub protocol: u8,
    /// Offset of the first byte of the datagram's payload behind all parts that were seen.
    pub end: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FragmentValue>() == 24);

/// A rule of one port and direction, for its counter and the limit of its log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RuleKey {
    /// Guest.
    pub vmid: u32,
    /// Identity of the rule.
    pub rule: u32,
    /// NIC.
    pub net: u16,
    /// [`crate::verdict::Direction`] as a number.
    pub direction: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<RuleKey>() == 12);

impl RuleKey {
    /// A rule of a port.
    #[inline(always)]
    pub const fn new(port: &Port, direction: crate::verdict::Direction, rule: u32) -> Self {
        Self {
            vmid: port.vmid,
            rule,
            net: port.net,
            direction: direction as u8,
            reserved: 0,
        }
    }

    /// Whose rule it is.
    pub const fn port(&self) -> PortKey {
        PortKey {
            vmid: self.vmid,
            net: self.net,
            reserved: 0,
        }
    }
}

/// What was counted on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets; the segments of a super-packet count singly.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Nanoseconds of the coarse monotonic clock at the last one; 0: never.
    pub last: u64,
}

/// What was counted of one port on one CPU: by [`crate::verdict::Direction`] and [`crate::verdict::Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters(pub [[Counter; 3]; 2]);

const _: () = assert!(size_of::<PortCounters>() == 144);

/// What holds for the whole node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Seconds after which an idle established TCP flow is forgotten.
    pub tcp_established: u32,
    /// Seconds after which a TCP handshake that got an answer but no end is forgotten.
    pub tcp_syn_recv: u32,
    /// Nanoseconds per log line of one rule and port in the long run; 0: no limit.
    pub log_interval: u64,
    /// Log lines of one rule and port at once.
    pub log_burst: u32,
    /// SYNs of one source at once.
    pub syn_burst: u32,
    /// Nanoseconds per SYN of one source in the long run; 0: no limit.
    pub syn_interval: u64,
    /// Established flows that one port may have.
    pub flow_quota: u32,
    /// Class space of the big sets, for decisions that no port is asked for.
    pub space: u32,
    /// First words of its prefilters, IPv4 and IPv6; 0: none.
    pub prefilter: [u32; 2],
    /// Bits of [`settings_flag`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Settings>() == 56);

/// Switches of [`Settings`].
pub mod settings_flag {
    /// The agent is told of each flow that begins or is replaced ([`crate::event::FlowEvent`]).
    pub const LOG_FLOWS: u32 = 1 << 0;
}

impl Default for Settings {
    /// The reference's defaults.
    fn default() -> Self {
        Self {
            tcp_established: 432_000,
            tcp_syn_recv: 60,
            log_interval: crate::conntrack::SECOND,
            log_burst: 5,
            syn_burst: 1000,
            syn_interval: 0,
            flow_quota: capacity::FLOWS / 2,
            space: 0,
            prefilter: [0; 2],
            flags: 0,
            reserved: 0,
        }
    }
}

/// A rule as it stands in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleWord(pub u64);

impl RuleWord {
    /// Packs a rule's identity and consequences.
    pub const fn new(
        rule: u32,
        verdict: crate::verdict::Verdict,
        reason: crate::verdict::Reason,
        log: u8,
    ) -> Self {
        Self(rule as u64 | (verdict as u64) << 32 | (reason as u64) << 40 | (log as u64) << 48)
    }

    /// The judgement that the rule makes; closed if the word is not one that [`RuleWord::new`] makes.
    #[inline(always)]
    pub fn judgement(self) -> crate::verdict::Judgement {
        let Some(reason) = crate::verdict::Reason::from_u8((self.0 >> 40) as u8) else {
            return crate::verdict::Judgement::drop(crate::verdict::Reason::BadPolicy);
        };
        crate::verdict::Judgement {
            verdict: crate::verdict::Verdict::from_u8((self.0 >> 32) as u8),
            reason,
            rule: self.0 as u32,
            log: (self.0 >> 48) as u8,
        }
    }
}
