//! The `[OPTIONS]` sections: which options each file has, their values, ranges and defaults.
//!
//! In: key and value of one line. Out: a typed [`Setting`] that remembers its line, or a complaint; then the default (or an earlier line) stays.
//! Keys and values are read in any case. A number outside its range is moved to the nearest end and reported.

mod value;

use fw_common::verdict::Verdict;

pub use self::value::{RateLimit, Remark, log_level, switch};
use self::value::{
    Read, boolean, count, count_or, ethertypes, flows, helpers, level, own_boolean, policy, queues,
    ranged, rate_limit,
};
use super::closest::did_you_mean;
use super::line::{Fault, Line, Note, quote};

/// An option's value and where it was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// The line that set it; none for a default.
    pub line: Option<u32>,
}

macro_rules! options {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $key:literal $field:ident: $type:ty = $default:expr, $read:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Setting<$type>,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: Setting { value: $default, line: None },)*
                }
            }
        }

        impl OptionTable for $name {
            const KEYS: &'static [&'static str] = &[$($key,)*];

            fn set(&mut self, key: &str, value: &str, line: u32) -> Option<Result<Set, String>> {
                match key {
                    $($key => {
                        let read: Read<$type> = $read(value);
                        Some(read.map(|(value, remark)| {
                            let before = self.$field.line;
                            self.$field = Setting { value, line: Some(line) };
                            Set { remark, before }
                        }))
                    })*
                    _ => None,
                }
            }

            fn fill(&mut self, from: &Self) {
                $(if self.$field.line.is_none() && from.$field.line.is_some() {
                    self.$field = Setting { value: from.$field.value.clone(), line: None };
                })*
            }

            fn lines(&self) -> Vec<(&'static str, u32)> {
                let lines = [$(($key, self.$field.line),)*];
                lines.into_iter().filter_map(|(key, line)| Some((key, line?))).collect()
            }

            fn changes(&self, other: &Self) -> Vec<(&'static str, [Option<u32>; 2])> {
                let fields = [$(($key, self.$field.value != other.$field.value, [self.$field.line, other.$field.line]),)*];
                let fields = fields.into_iter().filter(|(_, differs, _)| *differs);
                fields.map(|(key, _, lines)| (key, lines)).collect()
            }
        }
    };
}

/// The options of one kind of file.
pub trait OptionTable: Default {
    /// The keys.
    const KEYS: &'static [&'static str];

    /// Sets one option: none if there is no such key, else what there is to say, or why the value is refused.
    fn set(&mut self, key: &str, value: &str, line: u32) -> Option<Result<Set, String>>;

    /// Takes over what another file sets and this one does not, without its lines.
    fn fill(&mut self, from: &Self);

    /// The options that a line set, with that line.
    fn lines(&self) -> Vec<(&'static str, u32)>;

    /// The options whose values are others in `other`, with the line that set each here and there.
    fn changes(&self, other: &Self) -> Vec<(&'static str, [Option<u32>; 2])>;

    /// Reads a line; the notes say what became of a value that is not quite right.
    fn read(&mut self, line: &Line<'_>) -> Result<Vec<Note>, Fault> {
        let text = line.text.trim_ascii();
        let Some((key, value)) = text.split_once(':') else {
            let hint = text.split_once('=').map(|(key, value)| {
                format!(
                    "write {}",
                    quote(&format!("{}: {}", key.trim_ascii(), value.trim_ascii()))
                )
            });
            return Err(Fault::new(line, text, "an option has the form `name: value`").hint(hint));
        };
        let value = value.trim_ascii();
        if key.trim_ascii_end() != key {
            return Err(Fault::new(line, key, "there is a blank before the colon")
                .hint("write `name: value`".to_owned()));
        }
        match self.set(&key.to_ascii_lowercase(), value, line.number) {
            None => Err(Fault::new(
                line,
                key,
                format!("{} is not an option of this file", quote(key)),
            )
            .hint(did_you_mean(key, Self::KEYS.iter().copied()))),
            Some(Ok(set)) => Ok(notes(line, key, value, set)),
            Some(Err(message)) => {
                let hint = if value.contains('#') {
                    Some("a line of options cannot have a comment".to_owned())
                } else {
                    value
                        .eq_ignore_ascii_case("DENY")
                        .then(|| "use DROP".to_owned())
                };
                Err(
                    Fault::new(line, if value.is_empty() { key } else { value }, message)
                        .hint(hint),
                )
            }
        }
    }
}

/// What there is to say about an option that was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// The value is not quite right.
    pub remark: Option<Remark>,
    /// The line that had set the option before.
    pub before: Option<u32>,
}

fn notes(line: &Line<'_>, key: &str, value: &str, set: Set) -> Vec<Note> {
    let place = if value.is_empty() { key } else { value };
    let remark = set
        .remark
        .map(|Remark { message, effect }| Fault::new(line, place, message).effect(effect));
    let repeated = set.before.map(|before| {
        let message = format!("{} is set in line {before} already", quote(key));
        Fault::new(line, key, message).effect("the later value is used")
    });
    let folded = (key.eq_ignore_ascii_case("log_ratelimit") && key != "log_ratelimit")
        .then(|| Fault::new(line, key, "this option is written in small letters").superset());
    remark.into_iter().chain(repeated).chain(folded).collect()
}

options! {
    /// `[OPTIONS]` of `cluster.fw`.
    ClusterOptions {
        /// 0 off, 1 on, else the UNIX time (seconds) from which it is on for at most a minute.
        "enable" enable: u64 = 0, count;
        /// Filter frames that are neither IPv4 nor IPv6.
        "ebtables" ebtables: bool = true, boolean;
        /// Host inbound.
        "policy_in" policy_in: Verdict = Verdict::Drop, policy;
        /// Host outbound.
        "policy_out" policy_out: Verdict = Verdict::Accept, policy;
        /// Forwarded; not enforced.
        "policy_forward" policy_forward: Verdict = Verdict::Accept, policy;
        /// How often a rule is logged.
        "log_ratelimit" log_ratelimit: RateLimit = RateLimit::default(), rate_limit;
    }
}

options! {
    /// `[OPTIONS]` of `host.fw`.
    HostOptions {
        /// Filter the host's own traffic on this node.
        "enable" enable: bool = true, boolean;
        /// Level of the inbound policy's log line, and of blacklist drops.
        "log_level_in" log_level_in: Option<u8> = None, level;
        /// Level of the outbound policy's log line.
        "log_level_out" log_level_out: Option<u8> = None, level;
        /// Level of the forward policy's log line; not enforced.
        "log_level_forward" log_level_forward: Option<u8> = None, level;
        /// Level for packets with impossible TCP flags.
        "tcp_flags_log_level" tcp_flags_log_level: Option<u8> = None, level;
        /// Level for smurfs.
        "smurf_log_level" smurf_log_level: Option<u8> = None, level;
        /// Drop packets from broadcast and multicast addresses.
        "nosmurfs" nosmurfs: bool = true, boolean;
        /// Drop TCP packets with impossible flags.
        "tcpflags" tcpflags: bool = false, boolean;
        /// Accept neighbour discovery for the host.
        "ndp" ndp: bool = true, boolean;
        /// Most flows.
        "nf_conntrack_max" nf_conntrack_max: u64 = 262_144, flows;
        /// Seconds that an idle TCP connection is remembered.
        "nf_conntrack_tcp_timeout_established" nf_conntrack_tcp_timeout_established: u64 = 432_000, |text| ranged(text, 7_875, u32::MAX.into());
        /// Seconds that a half-open TCP connection is remembered.
        "nf_conntrack_tcp_timeout_syn_recv" nf_conntrack_tcp_timeout_syn_recv: u64 = 60, |text| ranged(text, 30, 60);
        /// Do not drop what connection tracking calls invalid, for guests.
        "nf_conntrack_allow_invalid" nf_conntrack_allow_invalid: bool = false, boolean;
        /// Connection tracking helpers by name.
        "nf_conntrack_helpers" nf_conntrack_helpers: Vec<String> = Vec::new(), helpers;
        /// Limit SYN packets per source.
        "protection_synflood" protection_synflood: bool = false, boolean;
        /// SYN packets per second and source.
        "protection_synflood_rate" protection_synflood_rate: u64 = 200, |text| count_or(text, 200);
        /// SYN packets that may come at once.
        "protection_synflood_burst" protection_synflood_burst: u64 = 1_000, |text| count_or(text, 1_000);
        /// Log the beginning and end of flows.
        "log_nf_conntrack" log_nf_conntrack: bool = false, boolean;
        /// The reference's other implementation; no meaning here.
        "nftables" nftables: bool = false, boolean;
        /// No meaning.
        "protection_limit" protection_limit: u64 = 0, count;
    }
}

options! {
    /// `[OPTIONS]` of a VNet.
    VnetOptions {
        /// Filter what passes through this VNet; 0 is off.
        "enable" enable: u64 = 0, count;
        /// Forwarded.
        "policy_forward" policy_forward: Verdict = Verdict::Accept, policy;
        /// Level of the forward policy's log line.
        "log_level_forward" log_level_forward: Option<u8> = None, level;
    }
}

options! {
    /// `[OPTIONS]` of a guest.
    GuestOptions {
        /// Filter this guest.
        "enable" enable: bool = false, boolean;
        /// Accept DHCP ahead of every other check.
        "dhcp" dhcp: bool = true, boolean;
        /// Accept neighbour discovery.
        "ndp" ndp: bool = true, boolean;
        /// The guest may send router advertisements.
        "radv" radv: bool = false, boolean;
        /// Frames must carry the NIC's own hardware address.
        "macfilter" macfilter: bool = true, boolean;
        /// Packets must carry one of the NIC's own addresses.
        "ipfilter" ipfilter: bool = false, boolean;
        /// Inbound.
        "policy_in" policy_in: Verdict = Verdict::Drop, policy;
        /// Outbound.
        "policy_out" policy_out: Verdict = Verdict::Accept, policy;
        /// Not enforced.
        "policy_forward" policy_forward: Verdict = Verdict::Accept, policy;
        /// Level of the inbound policy's log line.
        "log_level_in" log_level_in: Option<u8> = None, level;
        /// Level of the outbound policy's log line.
        "log_level_out" log_level_out: Option<u8> = None, level;
        /// Hand accepted packets to an intrusion prevention system; not supported.
        "ips" ips: bool = false, boolean;
        /// First and last queue of the intrusion prevention system.
        "ips_queues" ips_queues: (u16, u16) = (0, 0), queues;
        /// Drop frames with VLAN tags that the NIC's `trunks` do not list; not an option of the reference.
        "vlan_filter" vlan_filter: bool = true, own_boolean;
        /// Ethernet types that the guest may send besides IPv4 and IPv6; none: all.
        "layer2_protocols" layer2_protocols: Option<Vec<u16>> = None, ethertypes;
    }
}

#[cfg(test)]
mod tests;
