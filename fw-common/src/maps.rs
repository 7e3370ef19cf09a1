//! Layouts and capacities of everything that lives in maps.
//!
//! The agent writes these, the kernel reads them; both see the same `repr(C)` structs without padding. A change of any layout here is a
//! new [`ABI`], and with it a new pin directory.

/// Version of all layouts in this file and in [`crate::flow`] and [`crate::event`]; the last part of the pin directory's name.
pub const ABI: u32 = 5;

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

/// Name of each map, as in the object file, in the pin directory and for `fwctl map dump`.
pub mod name {
    /// `u32` interface index → [`super::Port`].
    pub const PORTS: &str = "PORTS";
    /// Array of one value, `u64` words: all policies, see [`super::policy`].
    pub const ARENA: &str = "ARENA";
    /// LPM trie: class space and IPv4 prefix → class, see [`super::classes`].
    pub const CLASSES_V4: &str = "CLASSES_V4";
    /// LPM trie: class space and IPv6 prefix → class.
    pub const CLASSES_V6: &str = "CLASSES_V6";
    /// Hash: [`crate::flow::FlowKey`] → [`crate::flow::Flow`] of flows that both ends have taken part in. A full one takes no more and
    /// loses none.
    pub const FLOWS: &str = "FLOWS";
    /// LRU hash likewise: flows that only one end knows of so far. A flood can only evict these.
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// Array of one value, `u64` words: which keys are in neither of them, see [`crate::flow_filter`].
    pub const FLOW_FILTER: &str = "FLOW_FILTER";
    /// LRU hash: [`super::FragmentKey`] → ports of a datagram's first fragment.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Per-CPU array: [`super::Counter`] by [`crate::verdict::Reason`], and those of [`super::counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array: [`super::PortCounters`] by [`super::Port::counters`].
    pub const PORT_COUNTERS: &str = "PORT_COUNTERS";
    /// Per-CPU hash: [`super::RuleKey`] → [`super::Counter`] of rules that have decided something.
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    /// Per-CPU array of one: token bucket of REJECT answers.
    pub const REJECTS: &str = "REJECTS";
    /// Ring buffer of [`crate::event::Event`] and [`crate::event::FlowEvent`].
    pub const EVENTS: &str = "EVENTS";
    /// Hash: [`super::PortKey`] → number (`u64`) of its entries in [`FLOWS`].
    pub const FLOW_USAGE: &str = "FLOW_USAGE";
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";

    /// Hash: hardware address as a number → [`super::Station`].
    pub const STATIONS: &str = "STATIONS";
    /// LPM trie: 128-bit address → [`crate::ban::Ban`].
    pub const BANS: &str = "BANS";
    /// Array of one `u32`: not 0 while [`BANS`] may have entries.
    pub const HAS_BANS: &str = "HAS_BANS";

    /// LRU hash: [`super::RuleKey`] → [`crate::ledger::LogLimit`] of a rule's log lines.
    pub const LOG_LIMITS: &str = "LOG_LIMITS";
    /// LRU hash: source of connection requests (see [`crate::syn_limit`]) → its token bucket.
    pub const SYN_LIMITS: &str = "SYN_LIMITS";

    /// Hash: [`crate::wire::Address`] → 1, the host's own addresses.
    pub const LOCALS: &str = "LOCALS";

    /// All of them.
    pub const ALL: [&str; 21] = [
        PORTS,
        ARENA,
        CLASSES_V4,
        CLASSES_V6,
        FLOWS,
        HALF_OPEN,
        FLOW_FILTER,
        FLOW_USAGE,
        FRAGMENTS,
        COUNTERS,
        PORT_COUNTERS,
        RULE_COUNTERS,
        REJECTS,
        EVENTS,
        STATIONS,
        BANS,
        HAS_BANS,
        LOG_LIMITS,
        SYN_LIMITS,
        LOCALS,
        SETTINGS,
    ];
}

/// How many entries each map takes.
pub mod capacity {
    /// Ports of a node.
    pub const PORTS: u32 = 8192;
    /// Words of the arena (16 MiB): half for policies, half for prefilters (two in use, two that replace them).
    pub const ARENA: u32 = 2 << 20;
    /// Prefixes of one IP version, all class spaces together.
    pub const CLASSES: u32 = 4 << 20;
    /// Stations.
    pub const STATIONS: u32 = PORTS;
    /// Bans.
    pub const BANS: u32 = 1 << 16;
    /// Flows that both ends have taken part in (as `nf_conntrack_max` of the reference).
    pub const FLOWS: u32 = 262_144;
    /// Flows that wait for an answer.
    pub const HALF_OPEN: u32 = 65_536;
    /// Entries of a table for so many flows. The kernel makes as many buckets as the next power of two: one entry more makes them twice as many, so that
    /// of two packets without a flow one less has to look at somebody else's, which is not in the cache.
    pub const fn entries(flows: u32) -> u32 {
        match flows.is_power_of_two() {
            true => flows + 1,
            false => flows,
        }
    }

    /// Ports that have flows; those that are gone may still have some.
    pub const FLOW_USAGE: u32 = 2 * PORTS;
    /// Fragmented datagrams in flight.
    pub const FRAGMENTS: u32 = 4096;
    /// Ports that are counted, and the host.
    pub const PORT_COUNTERS: u32 = PORTS + 1;
    /// Rules of ports that have decided something; memory is taken as they do.
    pub const RULE_COUNTERS: u32 = 1 << 18;
    /// Rules that are being logged.
    pub const LOG_LIMITS: u32 = 16_384;
    /// Addresses of the host. A packet to one that finds no room is told by the routes.
    pub const LOCALS: u32 = 16_384;
    /// Sources of connection requests that are remembered at once.
    pub const SYN_LIMITS: u32 = 131_072;
    /// Bytes of the ring buffer.
    pub const EVENTS: u32 = 1 << 20;
}

/// Entries of [`name::COUNTERS`] behind those of the reasons.
pub mod counter {
    use crate::verdict::REASONS;

    /// Events that found no room in the ring buffer.
    pub const LOST_EVENTS: u32 = REASONS as u32;
    /// Times that a flow found no room in its table. One that should have become established stays half-open, and tries again with each
    /// packet.
    pub const FLOWS_REFUSED: u32 = REASONS as u32 + 1;
    /// REJECT answers that were not sent because there were too many.
    pub const REJECTS_LIMITED: u32 = REASONS as u32 + 2;
    /// Packets that a rule would have logged beyond its limit.
    pub const LOGS_LIMITED: u32 = REASONS as u32 + 3;
    /// Tries to promote a half-open flow of a port that has as many flows as [`super::Settings::flow_quota`] lets it.
    pub const FLOWS_OVER_QUOTA: u32 = REASONS as u32 + 4;
    /// Packets that a rule decided for whose counter there was no room.
    pub const RULES_UNCOUNTED: u32 = REASONS as u32 + 5;
    /// Packets that were dropped at an uplink; they are counted under their reason too.
    pub const EARLY_DROPS: u32 = REASONS as u32 + 6;
    /// Entries in all.
    pub const ENTRIES: u32 = REASONS as u32 + 7;
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

/// Classes of addresses: which sets hold an address, as a number.
///
/// A *small* and a *big* class make one, the big one above the [`SMALL_BITS`](classes::SMALL_BITS) of the small one. Small sets are looked up in a
/// class space of their own. Big sets (the blacklist, and long ones) are in another, behind a *prefilter*: a bitmap of [`PREFILTER_WORDS`] words in the arena,
/// in which a bit is set if any prefix of a big set touches the addresses that share it. Where it is clear the big class is 0, for the price of
/// one cache line.
///
/// Classes are numbered from 0, which is that of all addresses in no set. Those that were made after their space was begun have *parents*, see
/// [`crate::lineage`].
pub mod classes {
    /// Bits of a class that the small sets take.
    pub const SMALL_BITS: u32 = 24;
    /// Small classes at the most.
    pub const SMALL_CLASSES: u32 = 1 << SMALL_BITS;
    /// Big classes at the most.
    pub const BIG_CLASSES: u32 = 1 << (32 - SMALL_BITS);
    /// Set in the number of a class space, it is the space of the parents of its classes: class → parent + 1.
    pub const LINEAGE: u32 = 1 << 31;
    /// In the space of parents under [`LINEAGE`]: number of classes that have none, plus 1.
    pub const BASE: u32 = u32::MAX;
    /// Parents that are asked for in a row.
    pub const MAX_DEPTH: u32 = 8;
    /// Bit of a value in the trie of the big sets: the blacklist holds these addresses. No part of the class.
    pub const BLACKLISTED: u32 = 1 << 31;
    /// Bits of an address that choose its bit in a prefilter.
    pub const PREFILTER_BITS: u32 = 24;
    /// Words of a prefilter.
    pub const PREFILTER_WORDS: u32 = 1 << (PREFILTER_BITS - 6);
    /// In the place of a prefilter's first word: there are big sets, but no room for their prefilter; every address is looked up.
    pub const NO_PREFILTER: u32 = u32::MAX;
    /// Leading bits of an IPv6 address that the prefilter does not look at: they are the same in all global addresses (2000::/3, RFC 4291).
    pub const V6_SKIPPED_BITS: u32 = 3;
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

/// Layout of a policy in the arena, in words from its first.
///
/// ```text
/// 0                 length in words | rules << 32 | bit 48 + field: some rule looks at the field | bit 56 + field: it has a common vector
/// KNOWN             small classes known | big classes known << 32 | bits of a small class << 48
/// SPACES            class space of the small sets | class space of the big ones << 32
/// ENTRIES + field   place of the field's map | top entries << 21 | place of its references << 42
/// HEAD              rule words
/// HEAD + rules      field: reference of the field's common vector; only if there is any
/// map               top entries, and one that has no bit;  blocks, and one that has no bit
///   top entry       bitmap of 32 blocks that have a boundary | number of such blocks before << 32
///   block           bitmap of 32 values that begin an interval | number of boundaries before << 32
/// references        one per interval
/// rule word         rule identity | verdict << 32 | reason << 40 | log level << 48
/// ```
///
/// Of a policy of [`FEW_RULES`](policy::FEW_RULES) or less a reference is the rules that the interval satisfies. Else it is that of a vector:
///
/// ```text
/// reference         bit g: record of group g follows | place of the first record << 32
/// record            bit w: word w of the group follows | for each w, words before it << (8 + 3 w) | place of the first word << 32
/// word              bit r: rule r is satisfied
/// ```
///
/// A group is [`GROUP_WORDS`](policy::GROUP_WORDS) words of 64 rules. Equal runs of records and of words are stored once.
///
/// Rules without a condition on a field are in all its references; where that would take too much room they are in the field's common vector, and the
/// rules that a value satisfies are the union of that and its interval's. A field that no rule looks at has neither.
///
/// A class is, in the maps of source and destination, the small one and above its bits the big one. One that the policy does not know is looked up as
/// its nearest ancestor that it knows ([`crate::lineage`]). A policy that knows one class, 0, makes no difference between classes, and asks for none.
pub mod policy {
    /// Word that says how many classes the policy knows.
    pub const KNOWN: usize = 1;
    /// Word that says where their parents are.
    pub const SPACES: usize = 2;
    /// First of the words that say where the fields' maps are.
    pub const ENTRIES: usize = 3;
    /// Words before the rule words.
    pub const HEAD: usize = ENTRIES + FIELDS;
    /// Bits of a place in an entry, which is less than the words of the arena.
    pub const PLACE_BITS: u32 = 21;

    /// A packet's source class.
    pub const SOURCE: usize = 0;
    /// Its destination class.
    pub const DEST: usize = 1;
    /// Its source port; [`NO_PORT`] if it has none.
    pub const SPORT: usize = 2;
    /// Its destination port likewise; of a frame that is not IP the EtherType.
    pub const DPORT: usize = 3;
    /// Its protocol, plus [`PROTOCOL_V6`] for IPv6; [`NOT_IP`] for a frame that is neither.
    pub const PROTOCOL: usize = 4;
    /// Its [`super::traits`].
    pub const TRAITS: usize = 5;
    /// Number of fields.
    pub const FIELDS: usize = 6;

    /// Added to the protocol number of IPv6 packets.
    pub const PROTOCOL_V6: u32 = 256;
    /// Value of the protocol field of a frame that is not IP. Source and destination are an ARP's sender and target then.
    pub const NOT_IP: u32 = 512;
    /// Value of the port fields of a packet without ports.
    pub const NO_PORT: u32 = 65_536;
    /// Rules of a policy whose references need no vectors, at the most.
    pub const FEW_RULES: u32 = 64;
    /// Groups of a policy at the most.
    pub const GROUPS: u32 = 32;
    /// Words of 64 rules in a group.
    pub const GROUP_WORDS: u32 = 8;
    /// Rules of one policy at the most.
    pub const MAX_RULES: usize = (GROUPS * GROUP_WORDS * 64) as usize;
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

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, plain integers, no padding, size asserted where it is defined.
    unsafe impl aya::Pod for super::Port {}
    // SAFETY: `repr(C)`, four integers.
    unsafe impl aya::Pod for crate::wire::Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FragmentKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FragmentValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::ledger::LogLimit {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RuleKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::flow::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::flow::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::limit::Bucket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::ban::Ban {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Station {}
}
