//! Values of options: numbers, switches, log levels, lists.
//!
//! Each function reads the text behind the colon. An error says why the value is refused; a note says what became of a value that is not
//! quite right.

use fw_common::verdict::Verdict;

use crate::config::line::{SUPERSET, quote};
use crate::config::registry;
use crate::config::rule::verdict;

/// A value and, if it is not quite right, a remark; or why it is refused.
pub(super) type Read<T> = Result<(T, Option<Remark>), String>;

/// What is odd about a value, and what was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// One sentence.
    pub message: String,
    /// What was done.
    pub effect: &'static str,
}

impl Remark {
    /// The reference does not accept the value.
    fn superset(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            effect: SUPERSET,
        }
    }

    /// The value was moved into its range.
    fn clamped(message: String) -> Self {
        Self {
            message,
            effect: "the nearest value that is possible is used",
        }
    }
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

pub(super) fn boolean(text: &str) -> Read<bool> {
    let value = switch(text).ok_or_else(|| format!("{} is neither 0 nor 1", quote(text)))?;
    let remark = (text != "0" && text != "1")
        .then(|| Remark::superset(format!("{} is written instead of 0 or 1", quote(text))));
    Ok((value, remark))
}

/// The value of an option that the reference does not have.
pub(super) fn own_boolean(text: &str) -> Read<bool> {
    let (value, remark) = boolean(text)?;
    let own = || Remark::superset("pve-firewall does not know this option");
    Ok((value, Some(remark.unwrap_or_else(own))))
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

pub(super) fn count(text: &str) -> Read<u64> {
    Ok((number(text)?, None))
}

pub(super) fn count_or(text: &str, if_zero: u64) -> Read<u64> {
    match number(text)? {
        0 => Ok((if_zero, None)),
        _ => ranged(text, 1, u32::MAX.into()),
    }
}

pub(super) fn ranged(text: &str, least: u64, most: u64) -> Read<u64> {
    let number = number(text)?;
    let value = number.clamp(least, most);
    let remark = (value != number)
        .then(|| Remark::clamped(format!("{number} is outside {least} to {most}")));
    Ok((value, remark))
}

/// `nf_conntrack_max`: never below the reference's default, rounded up to whole blocks.
pub(super) fn flows(text: &str) -> Read<u64> {
    const LEAST: u64 = 262_144;
    const BLOCK: u64 = 8_192;
    let (number, remark) = ranged(text, LEAST, (1 << 31) - BLOCK)?;
    Ok((number.next_multiple_of(BLOCK), remark))
}

pub(super) fn policy(text: &str) -> Read<Verdict> {
    verdict(text)
        .map(|verdict| (verdict, None))
        .ok_or_else(|| format!("{} is not ACCEPT, DROP or REJECT", quote(text)))
}

pub(super) fn level(text: &str) -> Read<Option<u8>> {
    if text.is_empty() {
        return Ok((None, None));
    }
    let level = log_level(text)?;
    let remark = text
        .eq_ignore_ascii_case("warn")
        .then(|| Remark::superset("the level is named `warning`"));
    Ok((level, remark))
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

pub(super) fn rate_limit(text: &str) -> Read<RateLimit> {
    let mut limit = RateLimit::default();
    let mut enable = None;
    let mut remark = None;
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
                let (burst, clamped) = count_or(value, RateLimit::default().burst.into())?;
                limit.burst = u32::try_from(burst).unwrap_or(u32::MAX);
                remark = remark.or(clamped);
            }
            "rate" => {
                (limit.count, limit.seconds) = rate(value)?;
                if !value.contains('/') {
                    remark = Some(Remark {
                        message: "a rate without a unit stops every update of pve-firewall".into(),
                        effect: "it is taken as a rate per second",
                    });
                }
            }
            _ => {
                return Err(format!(
                    "{} is not a part of a rate limit (enable, rate, burst)",
                    quote(key)
                ));
            }
        }
    }
    if enable.is_none() {
        remark = Some(Remark {
            message: "a rate limit without `enable` stops every update of pve-firewall".into(),
            effect: "it is taken as on",
        });
    }
    limit.enable = enable.unwrap_or(true);
    Ok((limit, remark))
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

pub(super) fn helpers(text: &str) -> Read<Vec<String>> {
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

pub(super) fn queues(text: &str) -> Read<(u16, u16)> {
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

pub(super) fn ethertypes(text: &str) -> Read<Option<Vec<u16>>> {
    let mut found = Vec::new();
    let mut remark = None;
    for written in text.split(',') {
        let item = written.trim_ascii();
        let Some(number) = registry::ethertype(item) else {
            return Err(format!("{} is not an Ethernet type", quote(item)));
        };
        if !registry::ethertype_is_decimal(written) {
            remark.get_or_insert_with(|| {
                Remark::superset(format!("pve-firewall cannot read {} here", quote(written)))
            });
        }
        found.push(number);
    }
    found.sort_unstable();
    found.dedup();
    Ok((Some(found), remark))
}
