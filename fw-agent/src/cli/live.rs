//! `fwctl drops` and `fwctl trace`: verdicts as they are made, or (without `--follow`) what was dropped so far by reason.

use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use fw_common::maps::HOST_VMID;
use fw_common::verdict::Reason;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::conntrack::{network, protocol};
use super::known::Known;
use super::scope::Scope;
use super::{Outcome, Place, colours, duration, table};
use crate::datapath::counters;
use crate::datapath::watch::{Wanted, Watch};
use crate::events::clock::Clock;
use crate::live::{Filter, line};
use crate::policy::PortId;

/// Time between two looks at the clock and the files.
const TURN: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct Drops {
    /// Show drops and rejects as they happen, logged or not, until interrupted.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    live: Live,
}

#[derive(Debug, clap::Args)]
pub(super) struct Live {
    /// Of the host, a guest such as `100`, or one of its NICs such as `100/net0`.
    #[arg(long, short)]
    guest: Option<Scope>,
    /// With this address or network at either end.
    #[arg(long, short, value_parser = network)]
    address: Option<IpNet>,
    /// With this port at either end.
    #[arg(long, short)]
    port: Option<u16>,
    /// Of this protocol, by name or number.
    #[arg(long, value_parser = protocol)]
    proto: Option<u8>,
    /// For this reason.
    #[arg(long, short, value_parser = reason())]
    reason: Option<Reason>,
    /// End after so many.
    #[arg(long, short = 'n', value_name = "COUNT")]
    count: Option<u64>,
    /// End after so long, such as 10s.
    #[arg(long = "for", value_name = "TIME", value_parser = |text: &str| duration::seconds(text).map_err(|error| format!("{error:#}")))]
    time: Option<u64>,
    /// Print as JSON: an object per line, as in the log for programs.
    #[arg(long)]
    json: bool,
}

/// A reason by its name; all names are in the help and in completions.
pub(super) fn reason() -> impl TypedValueParser<Value = Reason> {
    PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.name())).try_map(|name| {
        let mut reasons = Reason::ALL.iter();
        let found = reasons.find(|reason| reason.name() == name).copied();
        found.ok_or("no such reason")
    })
}

pub(super) fn drops(place: &Place, arguments: &Drops) -> Result<Outcome> {
    match arguments.follow {
        true => follow(place, &arguments.live, true),
        false => totals(place, &arguments.live),
    }
}

pub(super) fn trace(place: &Place, arguments: &Live) -> Result<Outcome> {
    follow(place, arguments, false)
}

/// What was dropped, by reason.
fn totals(place: &Place, live: &Live) -> Result<Outcome> {
    let given = live.guest.is_some() || live.address.is_some() || live.port.is_some();
    if given || live.proto.is_some() || live.count.is_some() || live.time.is_some() {
        anyhow::bail!("totals are counted by reason only: use --follow, or `fwctl rules`");
    }
    let found = counters::drops(&place.pins()?)?;
    let found = found
        .into_iter()
        .filter(|(reason, _)| live.reason.is_none_or(|wanted| wanted == *reason));
    let mut out = std::io::stdout().lock();
    let now = crate::datapath::sweep::now();
    let ago = |last: u64| now.saturating_sub(last) / 1_000_000_000;
    if live.json {
        let rows: Vec<Value> = found
            .map(|(reason, sum)| {
                let last = (sum.last != 0).then(|| ago(sum.last));
                json!({"reason": reason.name(), "packets": sum.packets, "bytes": sum.bytes, "last_seconds_ago": last})
            })
            .collect();
        serde_json::to_writer_pretty(&mut out, &rows)?;
        writeln!(out)?;
        return Ok(Outcome::Done);
    }
    let mut rows = table(["packets", "bytes", "last", "reason"]);
    for (reason, sum) in found.filter(|(_, sum)| sum.packets > 0) {
        rows.add_row([
            sum.packets.to_string(),
            sum.bytes.to_string(),
            format!("{} ago", duration::short(ago(sum.last))),
            reason.name().to_owned(),
        ]);
    }
    writeln!(out, "{rows}\nby rules and policies: see `fwctl rules`")?;
    Ok(Outcome::Done)
}

fn follow(place: &Place, live: &Live, drops_only: bool) -> Result<Outcome> {
    let pins = place.pins()?;
    place.remark(&pins, live.guest)?;
    let (vmid, port): (Option<u32>, Option<PortId>) = match live.guest {
        None => (None, None),
        Some(Scope::Host) => (Some(HOST_VMID), None),
        Some(Scope::Guest(vmid)) => (Some(vmid), None),
        Some(Scope::Nic(port)) => (None, Some(port)),
    };
    let wanted = Wanted {
        drops_only,
        vmid,
        port,
        reason: live.reason,
    };
    let filter = Filter {
        address: live.address,
        port: live.port,
        protocol: live.proto,
    };
    let mut watch = Watch::open(&pins, wanted)?;
    let mut known = Known::read(place)?;
    let mut clock = Clock::system();
    let end = live
        .time
        .map(|time| Instant::now() + Duration::from_secs(time));
    let mut left = live.count;
    let colours = colours();
    eprintln!("fwctl: watching");
    loop {
        let mut failed = None;
        clock.refresh();
        let mut out = std::io::stdout().lock();
        let done = watch.next(TURN, |event| {
            if event.suppressed > 0 {
                eprintln!("fwctl: {} more, faster than can be shown", event.suppressed);
            }
            let Some(packet) = known.names().json(&event, &clock.at(event.time_ns)) else {
                return ControlFlow::Continue(());
            };
            if !filter.holds(&packet) {
                return ControlFlow::Continue(());
            }
            let written = match live.json {
                true => writeln!(out, "{packet}"),
                false => writeln!(out, "{}", line(&packet, colours)),
            };
            if let Err(error) = written.and_then(|()| out.flush()) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            left = left.map(|left| left.saturating_sub(1));
            match left {
                Some(0) => ControlFlow::Break(()),
                Some(_) | None => ControlFlow::Continue(()),
            }
        })?;
        drop(out);
        if let Some(error) = failed {
            return match error.kind() == ErrorKind::BrokenPipe {
                true => Ok(Outcome::Done),
                false => Err(error).context("cannot write"),
            };
        }
        match watch.take_lost() {
            0 => {}
            lost => eprintln!("fwctl: {lost} more were lost"),
        }
        let now = Instant::now();
        if done.is_break() || left == Some(0) || end.is_some_and(|end| now >= end) {
            return Ok(Outcome::Done);
        }
        known.refresh(place)?;
    }
}
