//! Name of each map, as in the object file, in the pin directory and for `fwctl map dump`.

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
/// Array of one value: flows that only one end knows of so far, see [`crate::half_open`]. A flood can only overwrite these.
pub const HALF_OPEN: &str = "HALF_OPEN";
/// Array of one value, `u64` words: which keys [`FLOWS`] has not, see [`crate::flow_filter`].
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
