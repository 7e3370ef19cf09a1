//! CrowdSec's side: the decisions of a LAPI, followed as a bouncer follows them.
//!
//! 1. The first question has all decisions that hold ([`api`]); bans of an earlier run that are none of them any more are lifted. 2. Then, every few
//!    seconds, what is new and what was deleted. 3. A question that fails is asked again, later each time; bans stay meanwhile, and end when they were
//!    to end. If decisions could not be carried out, all are asked for again.
//!
//! Decisions to ban an address (`Ip`) or a prefix (`Range`) are carried out, others (a country, a captcha) are not for a packet filter. When the
//! backend ends its bans stay: they have ends of their own, and the next run begins with what holds then.

mod api;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::Uri;
use ipnet::IpNet;

use self::api::{Api, Decision, Stream};
use super::super::{Outcome, Place, duration};
use super::{Ending, ban, runtime};
use crate::bans::record::{Length, Now, Record, net};
use crate::bans::{Desk, Which};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The LAPI. Without TLS: it is on this machine, or behind something that adds it.
    #[arg(long, default_value = "http://127.0.0.1:8080/")]
    url: Uri,
    /// File with the key that `cscli bouncers add` printed.
    #[arg(long, value_name = "FILE")]
    api_key_file: PathBuf,
    /// Time between questions.
    #[arg(long, value_name = "TIME", value_parser = duration::seconds, default_value = "10s")]
    interval: u64,
    /// The account of its bans.
    #[arg(long, value_name = "NAME", default_value = "crowdsec")]
    by: String,
}

/// The first and the longest time between questions that fail.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

pub(in crate::cli) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let file = &arguments.api_key_file;
    let key =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let api = Api::new(&arguments.url, key.trim())?;
    let interval = Duration::from_secs(arguments.interval.max(1));
    let runtime = runtime()?;
    let mut ending = Ending::listen(&runtime)?;
    let mut desk = place.desk();
    let mut whole = true;
    let mut backoff = BACKOFF[0];
    let mut failing = None;
    loop {
        let asked = runtime.block_on(async {
            tokio::select! {
                () = ending.comes() => None,
                answer = api.decisions(whole) => Some(answer),
            }
        });
        let Some(answer) = asked else {
            break;
        };
        let done = match answer {
            Ok(stream) => {
                let done = carry_out(place, &mut desk, &stream, whole, &arguments.by);
                whole = done.is_err();
                done
            }
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) => Err(error.into()),
        };
        let wait = match done {
            Ok(()) => {
                if failing.take().is_some() {
                    eprintln!("fwctl: {} answers again", arguments.url);
                }
                backoff = BACKOFF[0];
                interval
            }
            Err(error) => {
                let text = format!("{error:#}");
                if failing.as_ref() != Some(&text) {
                    eprintln!("fwctl: {text}; bans stay as they are, and it is tried again");
                    failing = Some(text);
                }
                let wait = backoff;
                backoff = (backoff * 2).min(BACKOFF[1]);
                wait
            }
        };
        let ended = runtime.block_on(async {
            tokio::select! {
                () = ending.comes() => true,
                () = tokio::time::sleep(wait) => false,
            }
        });
        if ended {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// Lifts what was deleted and bans what is new; if these are all decisions, also lifts what is none of them.
fn carry_out(place: &Place, desk: &mut Desk, stream: &Stream, whole: bool, by: &str) -> Result<()> {
    let now = Now::read();
    let mut records: Vec<Record> = stream
        .new
        .iter()
        .filter_map(|decision| record(decision, by, now))
        .collect();
    // Of several decisions on a prefix the longest counts.
    records.sort_by_key(|record| record.lasts);
    let new: BTreeSet<IpNet> = records.iter().map(|record| record.net).collect();
    let mut gone: BTreeSet<IpNet> = stream.deleted.iter().filter_map(prefix).collect();
    if whole {
        let (known, _) = desk.list()?;
        let own = known
            .iter()
            .filter(|ban| ban.record.as_ref().is_some_and(|record| record.by == by));
        gone.extend(own.map(|ban| ban.net));
    }
    let gone: Vec<IpNet> = gone.difference(&new).copied().collect();
    let lifted = match gone.is_empty() {
        true => 0,
        false => desk
            .lift(&Which::Nets(gone, Some(by.to_owned())))?
            .lifted
            .len(),
    };
    let banned = ban(place, desk, records)?;
    if lifted + banned > 0 {
        eprintln!("fwctl: {banned} decisions are enforced, {lifted} bans lifted");
    }
    Ok(())
}

/// Whom a decision is about, if it is one for a packet filter.
fn prefix(decision: &Decision) -> Option<IpNet> {
    let scope = decision.scope.to_ascii_lowercase();
    if decision.kind != "ban" || !["ip", "range"].contains(&scope.as_str()) {
        return None;
    }
    match net(&decision.value) {
        Ok(net) => Some(net),
        Err(error) => {
            eprintln!("fwctl: a decision is left out: {error}");
            None
        }
    }
}

/// The ban that a decision is; none if it is over.
fn record(decision: &Decision, by: &str, now: Now) -> Option<Record> {
    let length = api::duration(&decision.duration);
    if length.is_none() {
        let Decision {
            duration, value, ..
        } = decision;
        eprintln!("fwctl: the decision on {value} is left out: {duration:?} is no duration");
    }
    // The end is of whole seconds: rather a second longer than one shorter.
    let seconds = length?.as_millis().div_ceil(1000);
    let length = Length::Seconds(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?);
    Some(Record::new(
        prefix(decision)?,
        by,
        &decision.scenario,
        length,
        now,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(scope: &str, kind: &str, value: &str, duration: &str) -> Decision {
        Decision {
            duration: duration.into(),
            scope: scope.into(),
            kind: kind.into(),
            value: value.into(),
            scenario: "crowdsecurity/ssh-bf".into(),
        }
    }

    #[test]
    fn decisions_for_a_packet_filter() {
        let now = Now {
            wall: 0,
            monotonic: 0,
        };
        let of = |scope, kind, value, duration| {
            let record = record(&decision(scope, kind, value, duration), "crowdsec", now)?;
            Some(format!(
                "{} {:?} {}",
                record.net, record.lasts, record.reason
            ))
        };
        let ban = |net: &str, until| Some(format!("{net} Until({until}) crowdsecurity/ssh-bf"));
        assert_eq!(
            of("Ip", "ban", "192.0.2.7", "3h59m57s"),
            ban("192.0.2.7/32", 14_397_000)
        );
        assert_eq!(
            of("range", "ban", "192.0.2.0/24", "1.5s"),
            ban("192.0.2.0/24", 2000)
        );
        assert_eq!(
            of("Ip", "ban", "2001:db8::7", "1s"),
            ban("2001:db8::7/128", 1000)
        );
        for (scope, kind, value, duration) in [
            ("Ip", "captcha", "192.0.2.7", "1h"),
            ("Country", "ban", "AQ", "1h"),
            ("Ip", "ban", "nobody", "1h"),
            ("Ip", "ban", "192.0.2.7", "-5m3s"),
            ("Ip", "ban", "192.0.2.7", "soon"),
        ] {
            assert_eq!(
                of(scope, kind, value, duration),
                None,
                "{scope} {kind} {value} {duration}"
            );
        }
    }
}
