//! `fwctl simulate`: packets through the real pipeline, without a kernel.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Outcome, Place};
use crate::config::Sources;
use crate::simulate::batch::{HostAddresses, run_batch};
use crate::simulate::pipeline::Pipeline;
use crate::simulate::query::Fields;
use crate::simulate::{Query, run as simulate, text};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Answer each line of a file of JSON objects ("-": standard input) with a line of JSON.
    #[arg(long, value_name = "FILE", exclusive = true)]
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
}

pub(super) fn run(place: &Place, arguments: Arguments) -> Result<Outcome> {
    let sources = place.sources()?;
    let compiled = crate::compile::compile(&sources, crate::reconcile::unix_time());
    let mut pipeline = Pipeline::new(&compiled);
    let mut judge = |port: &_, direction, frame: &_, state| pipeline.judge(port, direction, frame, state);
    let host = host_addresses(&sources);
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
    let json = arguments.json;
    let mut query = query(arguments)?;
    query.set_host_addresses(host.v4, host.v6);
    let outcome = simulate(&query, &compiled.policy, &mut judge)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{}", text::print(&query, &outcome));
    }
    Ok(Outcome::Done)
}
