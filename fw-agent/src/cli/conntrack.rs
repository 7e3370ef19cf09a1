//! `fwctl conntrack`: the flows of this node, in the pinned tables.
//!
//! Filters that are given must all hold; an address or a port is looked for at both ends. Works without an agent.

mod shown;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use fw_common::conntrack::State;
use fw_common::maps::{PortKey, Settings, name};
use ipnet::IpNet;
use serde_json::json;

use self::shown::{Shown, print};
use super::scope::{self, Scope};
use super::{Outcome, Place, table};
use crate::config::registry;
use crate::datapath::flows::{self, Entry};
use crate::datapath::sweep;
use crate::migrate::{self, address};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// List flows.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Print only their number.
        #[arg(long)]
        count: bool,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget flows: their next packets are judged by the rules.
    Flush {
        #[command(flatten)]
        filter: Filter,
        /// All of them, if no filter is given.
        #[arg(long)]
        all: bool,
        /// Print their number as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say who has the most flows.
    Top {
        #[command(flatten)]
        filter: Filter,
        /// What is counted together.
        #[arg(long, value_enum, default_value_t = By::Guest)]
        by: By,
        /// Rows.
        #[arg(long, short = 'n', default_value_t = 10)]
        rows: usize,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write one guest's flows, for the node that it migrates to.
    Export {
        /// The guest's number.
        vmid: u32,
        /// Where to ("-": standard output).
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Take over flows that another node exported. Flows that are there already stay as they are.
    Import {
        /// Where from ("-": standard input).
        #[arg(default_value = "-")]
        file: PathBuf,
        /// The guest that they must be of.
        #[arg(long)]
        vmid: Option<u32>,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which flows.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Of the host, a guest such as `100`, or one of its NICs such as `100/net0`.
    #[arg(long, short)]
    guest: Option<Scope>,
    /// With this address or network at either end.
    #[arg(long, short, value_parser = network)]
    address: Option<IpNet>,
    /// With this port at either end.
    #[arg(long, short)]
    port: Option<u16>,
    /// In this state, such as ESTABLISHED or SYN_SENT.
    #[arg(long, short, value_parser = state)]
    state: Option<&'static str>,
    /// Of this protocol, by name or number.
    #[arg(long, value_parser = protocol)]
    proto: Option<u8>,
    /// Only those that one end knows of so far.
    #[arg(long)]
    half_open: bool,
}

/// What flows are counted together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// Guest and NIC.
    Guest,
    /// Address of the guest or host.
    Local,
    /// The other end's address.
    Remote,
    /// Protocol and port that was asked for.
    Service,
    /// State.
    State,
}

/// An address or a network.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| {
        let net = text.parse::<IpNet>();
        net.map(|net| net.trunc()).map_err(|error| {
            format!("{error}: expected an address or a network such as 192.0.2.0/24")
        })
    })
}

/// Names of all states.
fn states() -> impl Iterator<Item = &'static str> {
    (0..=11).map(|number| State::from_u32(number).name())
}

fn state(text: &str) -> Result<&'static str, String> {
    let found = states().find(|name| name.eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("states are {}", states().collect::<Vec<_>>().join(", ")))
}

/// A protocol by name or number.
pub(super) fn protocol(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().or_else(|| registry::protocol(text));
    number.ok_or_else(|| "expected a protocol such as tcp, or its number".to_owned())
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Self {
            guest,
            address,
            port,
            state,
            proto,
            half_open,
        } = self;
        guest.is_none()
            && address.is_none()
            && port.is_none()
            && state.is_none()
            && proto.is_none()
            && !half_open
    }

    fn holds(&self, entry: &Entry) -> bool {
        let key = &entry.key;
        let has_ports = has_ports(key.protocol);
        scope::holds(self.guest, PortKey::of_flow(key))
            && self.address.is_none_or(|net| {
                let ends = [&key.local, &key.remote];
                ends.into_iter()
                    .any(|end| net.contains(&address(key.version, end)))
            })
            && self
                .port
                .is_none_or(|port| has_ports && [key.local_port, key.remote_port].contains(&port))
            && self
                .state
                .is_none_or(|state| State::from_u32(entry.flow.state).name() == state)
            && self.proto.is_none_or(|proto| key.protocol == proto)
            && (!self.half_open || !entry.settled)
    }
}

/// Whether the ports of a flow's key are ports.
fn has_ports(protocol: u8) -> bool {
    use fw_common::wire::protocol::{ICMP, ICMPV6};
    protocol != ICMP && protocol != ICMPV6
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let pins = place.pins()?;
    if let Arguments::List { filter, .. }
    | Arguments::Flush { filter, .. }
    | Arguments::Top { filter, .. } = arguments
    {
        place.remark(&pins, filter.guest)?;
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match arguments {
        Arguments::List {
            filter,
            count,
            json,
        } => {
            let found = flows::list(&pins, |entry| filter.holds(entry))?;
            if *count {
                match json {
                    true => writeln!(out, "{}", json!({"flows": found.len()}))?,
                    false => writeln!(out, "{}", found.len())?,
                }
            } else {
                let settings = pins.array::<Settings>(name::SETTINGS)?.get(&0, 0)?;
                let now = sweep::now();
                let mut shown: Vec<Shown> = found
                    .iter()
                    .map(|entry| Shown::of(entry, &settings, now))
                    .collect();
                shown.sort_unstable();
                print(&mut out, &shown, *json)?;
            }
        }
        Arguments::Flush { filter, all, json } => {
            if filter.is_empty() && !all {
                bail!(
                    "say which flows, by --guest, --address, --port, --state or --proto, or --all"
                );
            }
            let count = flows::remove(&pins, |entry| filter.holds(entry))?;
            match json {
                true => writeln!(out, "{}", json!({"flushed": count}))?,
                false => writeln!(out, "{count} flows are forgotten")?,
            }
        }
        Arguments::Top {
            filter,
            by,
            rows,
            json,
        } => {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            let mut total = 0;
            flows::visit(&pins, |entry| {
                if filter.holds(&entry) {
                    *counts.entry(by.of(&entry)).or_default() += 1;
                    total += 1;
                }
            })?;
            top(&mut out, counts, total, *rows, *json)?;
        }
        Arguments::Export { vmid, file } => {
            let found = flows::list(&pins, |entry| entry.key.vmid == *vmid)?;
            let bytes = migrate::write(*vmid, &found, sweep::now())?;
            match file.as_os_str() == "-" {
                true => out.write_all(&bytes)?,
                false => std::fs::write(file, bytes)
                    .with_context(|| format!("cannot write {}", file.display()))?,
            }
            eprintln!("{} flows of guest {vmid}", found.len());
        }
        Arguments::Import { file, vmid, json } => {
            let mut bytes = Vec::new();
            match file.as_os_str() == "-" {
                true => {
                    std::io::stdin().lock().read_to_end(&mut bytes)?;
                }
                false => {
                    bytes = std::fs::read(file)
                        .with_context(|| format!("cannot read {}", file.display()))?;
                }
            }
            let export = migrate::read(&bytes, sweep::now())?;
            if let Some(wanted) = vmid.filter(|wanted| *wanted != export.vmid) {
                bail!(
                    "these are flows of guest {}, not of guest {wanted}",
                    export.vmid
                );
            }
            let done = flows::insert(&pins, &export.flows)?;
            match json {
                true => writeln!(
                    out,
                    "{}",
                    json!({"guest": export.vmid, "imported": done.inserted, "known": done.known, "refused": done.refused})
                )?,
                false => writeln!(
                    out,
                    "{} flows of guest {}, {} were known, {} found no room",
                    done.inserted, export.vmid, done.known, done.refused
                )?,
            }
            if done.refused > 0 {
                out.flush()?;
                return Ok(Outcome::Diagnostics);
            }
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

impl By {
    fn of(self, entry: &Entry) -> String {
        let key = &entry.key;
        match self {
            Self::Guest => shown::owner(key),
            Self::Local => address(key.version, &key.local).to_string(),
            Self::Remote => address(key.version, &key.remote).to_string(),
            Self::State => State::from_u32(entry.flow.state).name().to_owned(),
            Self::Service => shown::service(entry),
        }
    }
}

fn top(
    out: &mut impl Write,
    counts: BTreeMap<String, u64>,
    total: u64,
    rows: usize,
    json: bool,
) -> Result<()> {
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(rows);
    if json {
        let rows: Vec<_> = counts
            .iter()
            .map(|(name, count)| json!({"name": name, "flows": count}))
            .collect();
        writeln!(out, "{}", json!({"total": total, "top": rows}))?;
        return Ok(());
    }
    let mut lines = table(["flows", "share", "of"]);
    for (name, count) in counts {
        let share = format!("{}%", 100 * count / total.max(1));
        lines.add_row([count.to_string(), share, name]);
    }
    writeln!(out, "{total} flows\n{lines}")?;
    Ok(())
}
