//! Values of options: numbers, switches, log levels, lists.
//!
//! Each function reads the text behind the colon. An error says why the value is refused; a note says what became of a value that is not
//! quite right.

use fw_common::verdict::Verdict;

use crate::config::line::quote;
use crate::config::registry;
use crate::config::rule::verdict;

/// A value and, if it is not quite what was written, what became of it.
pub(super) type Read<T> = Result<(T, Option<String>), String>;

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

pub(super) fn count(text: &str) -> Read<u64> {
    Ok((number(text)?, None))
}

pub(super) fn count_or(text: &str, if_zero: u64) -> Read<u64> {
    match number(text)? {
        0 => Ok((if_zero, None)),
        number => Ok((number.min(u32::MAX.into()), None)),
    }
}

pub(super) fn ranged(text: &str, least: u64, most: u64) -> Read<u64> {
    let number = number(text)?;
    let value = number.clamp(least, most);
    let note = (value != number)
        .then(|| format!("{number} is outside {least} to {most}; {value} is used"));
    Ok((value, note))
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

pub(super) fn rate_limit(text: &str) -> Read<RateLimit> {
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
