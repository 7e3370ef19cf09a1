//! `fwctl simulate`: packets through the real pipeline, without a kernel.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Outcome, Place};
use crate::compile::compile;
use crate::config::Config;
use crate::inventory::facts::HostFacts;
use crate::policy::localnet;
use crate::reconcile::unix_time;
use crate::simulate::batch::{HostAddresses, run_batch};
use crate::simulate::pipeline::Pipeline;
use crate::simulate::query::{Fields, Leaf};
use crate::simulate::{Query, Zone, run as simulate, text};

/// Arguments that describe one packet or how it is printed.
const PACKET: [&str; 16] = [
    "from",
    "to",
    "proto",
    "source",
    "dest",
    "sport",
    "dport",
    "icmp_type",
    "icmp_code",
    "mac_source",
    "dsttype",
    "tcp_flags",
    "vlan",
    "state",
    "json",
    "verbose",
];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Answer each line of a file of JSON objects ("-": standard input) with a line of JSON.
    #[arg(long, value_name = "FILE", conflicts_with_all = PACKET)]
    batch: Option<PathBuf>,
    /// Where the packet comes from: host, outside, vm<ID>, ct<ID>, vm<ID>i<N>, ct<ID>i<N> or <bridge>/<port>.
    #[arg(long, default_value = "outside")]
    from: String,
    /// Where it goes to, likewise.
    #[arg(long, default_value = "host")]
    to: String,
    /// Protocol, by name or number.
    #[arg(long, visible_alias = "protocol", default_value = "tcp")]
    proto: String,
    /// Source address.
    #[arg(long)]
    source: Option<String>,
    /// Destination address.
    #[arg(long)]
    dest: Option<String>,
    /// Source port.
    #[arg(long)]
    sport: Option<u16>,
    /// Destination port.
    #[arg(long)]
    dport: Option<u16>,
    /// ICMP or ICMPv6 type.
    #[arg(long)]
    icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code.
    #[arg(long)]
    icmp_code: Option<u8>,
    /// Hardware address of the sender.
    #[arg(long)]
    mac_source: Option<String>,
    /// Kind of destination: UNICAST, BROADCAST or MULTICAST.
    #[arg(long)]
    dsttype: Option<String>,
    /// TCP flags, such as SYN or SYN,ACK.
    #[arg(long)]
    tcp_flags: Option<String>,
    /// VLAN tag of the frame.
    #[arg(long)]
    vlan: Option<u16>,
    /// Connection-tracking state: NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED.
    #[arg(long)]
    state: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// Print the rules that the packet met at each hop.
    #[arg(long, short, conflicts_with = "json")]
    verbose: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let facts = place.facts()?;
    let compiled = compile(&place.sources()?, &facts, unix_time());
    let mut pipeline = Pipeline::new(&compiled);
    let mut judge = |zone: Zone<'_>, direction, frame: &[u8], state| {
        pipeline.judge(zone, direction, frame, state)
    };
    let host = host_addresses(&compiled.config, &facts);
    if let Some(path) = &arguments.batch {
        let input: Box<dyn Read> = match path.as_os_str() == "-" {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            ),
        };
        let output = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        let input = BufReader::with_capacity(1 << 16, input);
        let tally = run_batch(input, output, &compiled.policy, host, &mut judge)?;
        return Ok(match tally.errors {
            0 => Outcome::Done,
            _ => Outcome::Diagnostics,
        });
    }
    let mut query = query(arguments)?;
    query.set_host_addresses(host.v4, host.v6);
    let outcome = simulate(&query, &compiled.policy, &mut judge)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{}", text::print(&query, &outcome, arguments.verbose));
    }
    Ok(Outcome::Done)
}

fn query(arguments: &Arguments) -> Result<Query> {
    let text = |value: &Option<String>| value.clone().map(|value| Leaf::Text(value.into()));
    fn number<'a>(value: Option<impl Into<i128>>) -> Option<Leaf<'a>> {
        value.map(|value| Leaf::Number(value.into()))
    }
    let fields = Fields {
        from: Some(arguments.from.as_str().into()),
        to: Some(arguments.to.as_str().into()),
        proto: Some(arguments.proto.as_str().into()),
        source: text(&arguments.source),
        dest: text(&arguments.dest),
        sport: number(arguments.sport),
        dport: number(arguments.dport),
        icmp_type: number(arguments.icmp_type),
        icmp_code: number(arguments.icmp_code),
        mac_source: text(&arguments.mac_source),
        dsttype: text(&arguments.dsttype),
        tcp_flags: text(&arguments.tcp_flags),
        vlan: number(arguments.vlan),
        state: text(&arguments.state),
    };
    Ok(Query::try_from(fields)?)
}

/// The node's addresses: defaults of packets from and to the host. Of the version that the node's own address is not, one from its links.
fn host_addresses(config: &Config, facts: &HostFacts) -> HostAddresses {
    let own = localnet::detect(config, facts).address;
    let corosync = config.corosync.as_ref();
    let links = corosync.and_then(|corosync| corosync.node(&config.node));
    let links = links.into_iter().flat_map(|node| node.links.values());
    let links = links.filter_map(|link| link.text.parse().ok());
    let mut addresses = HostAddresses::default();
    for address in own.into_iter().chain(links) {
        match address {
            IpAddr::V4(address) => addresses.v4 = addresses.v4.or(Some(address)),
            IpAddr::V6(address) => addresses.v6 = addresses.v6.or(Some(address)),
        }
    }
    addresses
}
