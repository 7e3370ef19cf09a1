//! The `[OPTIONS]` sections: which options each file has, their values, ranges and defaults.
//!
//! In: key and value of one line. Out: a typed [`Setting`] that remembers its line, or a complaint; then the default (or an earlier line) stays.
//! Keys and values are read in any case. A number outside its range is moved to the nearest end and reported.

use fw_common::verdict::Verdict;

use super::closest::did_you_mean;
use super::line::{Fault, Line, quote};
use super::registry;
use super::rule::verdict;

/// An option's value and where it was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// The line that set it; none for a default.
    pub line: Option<u32>,
}

/// `log_ratelimit`: how often one rule is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Off: every match is logged.
    pub enable: bool,
    /// Messages …
    pub count: u32,
    /// … per this many seconds.
    pub seconds: u32,
    /// Messages that may come at once.
    pub burst: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            enable: true,
            count: 1,
            seconds: 1,
            burst: 5,
        }
    }
}

/// A value and, if it is not quite what was written, what became of it.
type Read<T> = Result<(T, Option<String>), String>;

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

            fn set(&mut self, key: &str, value: &str, line: u32) -> Option<Result<Option<String>, String>> {
                match key {
                    $($key => {
                        let read: Read<$type> = $read(value);
                        Some(read.map(|(value, note)| {
                            self.$field = Setting { value, line: Some(line) };
                            note
                        }))
                    })*
                    _ => None,
                }
            }
        }
    };
}

/// The options of one kind of file.
pub trait OptionTable: Default {
    /// The keys.
    const KEYS: &'static [&'static str];

    /// Sets one option: none if there is no such key, else a note about the value, or why it is refused.
    fn set(&mut self, key: &str, value: &str, line: u32) -> Option<Result<Option<String>, String>>;

    /// Reads a line; a note says what became of a value that is not quite right.
    fn read(&mut self, line: &Line<'_>) -> Result<Option<Fault>, Fault> {
        let text = line.text.trim_ascii();
        let Some((key, value)) = text.split_once(':') else {
            return Err(Fault::new(
                line,
                text,
                "an option has the form `name: value`",
            ));
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
            Some(Ok(note)) => Ok(note.map(|note| Fault::new(line, value, note))),
            Some(Err(message)) => {
                let hint = value
                    .contains('#')
                    .then(|| "a line of options cannot have a comment".to_owned());
                Err(
                    Fault::new(line, if value.is_empty() { key } else { value }, message)
                        .hint(hint),
                )
            }
        }
    }
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
        "nf_conntrack_max" nf_conntrack_max: u64 = 262_144, |text| ranged(text, 32_768, u32::MAX.into());
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
        /// Ethernet types that the guest may send besides IPv4 and IPv6; none: all.
        "layer2_protocols" layer2_protocols: Option<Vec<u16>> = None, ethertypes;
    }
}

fn boolean(text: &str) -> Read<bool> {
    let value = switch(text).ok_or_else(|| format!("{} is neither 0 nor 1", quote(text)))?;
    let note =
        (text != "0" && text != "1").then(|| "pve-firewall accepts only 0 and 1 here".to_owned());
    Ok((value, note))
}

/// A boolean as the reference's property strings have it: 0, 1, on, off, yes, no, true, false.
pub fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        Ok(_) | Err(_) => Err(format!("{} is not a number", quote(text))),
    }
}

fn count(text: &str) -> Read<u64> {
    Ok((number(text)?, None))
}

fn count_or(text: &str, if_zero: u64) -> Read<u64> {
    match number(text)? {
        0 => Ok((if_zero, None)),
        number => Ok((number.min(u32::MAX.into()), None)),
    }
}

fn ranged(text: &str, least: u64, most: u64) -> Read<u64> {
    let number = number(text)?;
    let value = number.clamp(least, most);
    let note = (value != number)
        .then(|| format!("{number} is outside {least} to {most}; {value} is used"));
    Ok((value, note))
}

fn policy(text: &str) -> Read<Verdict> {
    verdict(text)
        .map(|verdict| (verdict, None))
        .ok_or_else(|| format!("{} is not ACCEPT, DROP or REJECT", quote(text)))
}

fn level(text: &str) -> Read<Option<u8>> {
    if text.is_empty() {
        return Ok((None, None));
    }
    log_level(text).map(|level| (level, None))
}

/// A syslog level by name; none for `nolog`.
pub fn log_level(text: &str) -> Result<Option<u8>, String> {
    match text.to_ascii_lowercase().as_str() {
        "emerg" => Ok(Some(0)),
        "alert" => Ok(Some(1)),
        "crit" => Ok(Some(2)),
        "err" => Ok(Some(3)),
        "warning" | "warn" => Ok(Some(4)),
        "notice" => Ok(Some(5)),
        "info" => Ok(Some(6)),
        "debug" => Ok(Some(7)),
        "nolog" => Ok(None),
        _ => Err(format!(
            "{} is not a log level (emerg alert crit err warning notice info debug nolog)",
            quote(text)
        )),
    }
}

fn rate_limit(text: &str) -> Read<RateLimit> {
    let mut limit = RateLimit::default();
    let mut enable = None;
    for item in text.split(',') {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key.trim_ascii(), value.trim_ascii()),
            None => ("enable", item.trim_ascii()),
        };
        match key {
            "enable" => {
                enable = Some(
                    switch(value).ok_or_else(|| format!("{} is neither 0 nor 1", quote(value)))?,
                )
            }
            "burst" => {
                limit.burst = match number(value)? {
                    0 => RateLimit::default().burst,
                    burst => u32::try_from(burst).unwrap_or(u32::MAX),
                };
            }
            "rate" => (limit.count, limit.seconds) = rate(value)?,
            _ => {
                return Err(format!(
                    "{} is not a part of a rate limit (enable, rate, burst)",
                    quote(key)
                ));
            }
        }
    }
    let note = enable.is_none().then(|| {
        "pve-firewall refuses a rate limit without `enable`; it is taken as on".to_owned()
    });
    limit.enable = enable.unwrap_or(true);
    Ok((limit, note))
}

fn rate(text: &str) -> Result<(u32, u32), String> {
    let bad = || format!("{} is not a rate such as 1/second", quote(text));
    let (count, unit) = text.split_once('/').unwrap_or((text, "second"));
    let count = u32::try_from(number(count)?)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(bad)?;
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => return Err(bad()),
    };
    Ok((count, seconds))
}

const HELPERS: &[&str] = &[
    "amanda",
    "ftp",
    "irc",
    "netbios-ns",
    "pptp",
    "sane",
    "sip",
    "snmp",
    "tftp",
];

fn helpers(text: &str) -> Read<Vec<String>> {
    let mut found = Vec::new();
    for item in text
        .split(',')
        .map(str::trim_ascii)
        .filter(|item| !item.is_empty())
    {
        let name = item.to_ascii_lowercase();
        if !HELPERS.contains(&name.as_str()) {
            return Err(format!(
                "{} is not a connection tracking helper ({})",
                quote(item),
                HELPERS.join(" ")
            ));
        }
        if !found.contains(&name) {
            found.push(name);
        }
    }
    Ok((found, None))
}

fn queues(text: &str) -> Read<(u16, u16)> {
    let queue = |text: &str| {
        number(text).and_then(|number| {
            u16::try_from(number)
                .ok()
                .ok_or_else(|| format!("{} is not a queue", quote(text)))
        })
    };
    let range = match text.split_once(':') {
        Some((first, last)) => (queue(first)?, queue(last)?),
        None => (queue(text)?, queue(text)?),
    };
    if range.0 <= range.1 {
        Ok((range, None))
    } else {
        Err("the range of queues ends before it begins".into())
    }
}

fn ethertypes(text: &str) -> Read<Option<Vec<u16>>> {
    let mut found = Vec::new();
    for item in text.split(',').map(str::trim_ascii) {
        found.push(
            registry::ethertype(item)
                .ok_or_else(|| format!("{} is not an Ethernet type", quote(item)))?,
        );
    }
    found.sort_unstable();
    found.dedup();
    Ok((Some(found), None))
}
