//! `fwctl why`: a packet through the programs in force, step by step.
//!
//! The packet is walked over its hops as by `fwctl simulate`, but each hop is judged by the kernel: by the programs, policies, sets, bans and flows that
//! are loaded, not by what the files say. Nothing is changed by that ([`crate::datapath::scratch`]): no flow begins, nothing is counted, logged or
//! sent. What a rule is called is looked up in the files; a rule that is in force and not there any more is said to be that.

mod place;
mod text;

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use fw_common::flow::FlowKey;
use fw_common::maps::{HOST_VMID, Port, port_flag};
use fw_common::verdict::{Direction, Judgement, NO_LOG, NO_RULE, Reason, Verdict};
use fw_common::wire::{self, Headers};
use serde::Serialize;

use self::place::Resolved;
use super::{Outcome, Place};
use crate::compile::{Compiled, compile};
use crate::datapath::flows::{self, Entry};
use crate::datapath::pins::Pins;
use crate::datapath::scratch::{self, Scratch};
use crate::datapath::{Hook, Role, TestPlace};
use crate::inventory::devices::Devices;
use crate::migrate::key_address;
use crate::reconcile::unix_time;
use crate::simulate::query::{Addresses, Fields, Leaf};
use crate::simulate::{Judged, Outcome as Walk, Query, State, Zone, run as walk};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the packet comes from: host, outside, a guest such as 100, vm100 or 100/net1, <bridge>/<port>, or an address.
    from: String,
    /// Where it goes to, likewise.
    to: String,
    /// Protocol and port or ICMP type, such as tcp/22, udp/53, icmp, icmp/8.
    #[arg(default_value = "tcp")]
    service: String,
    /// Source address.
    #[arg(long)]
    source: Option<IpAddr>,
    /// Destination address.
    #[arg(long)]
    dest: Option<IpAddr>,
    /// Source port.
    #[arg(long)]
    sport: Option<u16>,
    /// TCP flags, such as SYN or SYN,ACK.
    #[arg(long)]
    tcp_flags: Option<String>,
    /// Hardware address of the sender.
    #[arg(long)]
    mac_source: Option<String>,
    /// VLAN tag of the frame.
    #[arg(long)]
    vlan: Option<u16>,
    /// Print the rules that the packet met at each hop.
    #[arg(long, short, conflicts_with = "json")]
    verbose: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What the kernel said at one hop, beside the verdict.
#[derive(Clone, Debug, Serialize)]
struct Step {
    device: String,
    program: &'static str,
    /// What ran here is what runs on the device; null if nothing runs there.
    in_force: Option<bool>,
    /// The flow that the packet belongs to, before it came.
    flow: Option<KnownFlow>,
    /// A flow would have begun.
    begins_flow: bool,
    /// Identity of the rule that decided.
    rule: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct KnownFlow {
    state: &'static str,
    origin: &'static str,
    half_open: bool,
    idle_seconds: u64,
}

#[derive(Serialize)]
struct Said<'a> {
    #[serde(flatten)]
    outcome: &'a Walk<'a>,
    /// One per hop of the path.
    kernel: &'a [Step],
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let pins = place.pins()?;
    let compiled = compile(&place.sources()?, &place.facts()?, unix_time());
    let locals = place::addresses(&scratch::locals(&pins)?);
    let [from, to] = place::resolve(
        [&arguments.from, &arguments.to],
        &compiled.policy,
        &locals,
        &pins,
    )?;
    let query = query(arguments, &from, &to, &locals)?;
    let (source, dest) = match query.addresses() {
        Addresses::V4(source, dest) => (IpAddr::V4(source), IpAddr::V4(dest)),
        Addresses::V6(source, dest) => (IpAddr::V6(source), IpAddr::V6(dest)),
    };
    let ends = [key_address(source), key_address(dest)];
    let known = flows::list(&pins, |entry| {
        let pair = [entry.key.local, entry.key.remote];
        pair == ends || pair == [ends[1], ends[0]]
    })?;
    let devices = devices()?;
    let mut kernel = Kernel {
        scratch: Scratch::open(&pins, &known, &ends[0])?,
        ports: scratch::ports(&pins)?,
        devices,
        compiled: &compiled,
        steps: Vec::new(),
        failed: None,
    };
    let outcome = walk(&query, &compiled.policy, &mut |zone, direction, frame, _: State| {
        kernel.judge(zone, direction, frame)
    })?;
    if let Some(error) = kernel.failed {
        return Err(error);
    }
    if arguments.json {
        let said = Said {
            outcome: &outcome,
            kernel: &kernel.steps,
        };
        println!("{}", serde_json::to_string_pretty(&said)?);
    } else {
        print!("{}", text::print(&query, &outcome, &kernel.steps, arguments.verbose));
    }
    let sound = kernel.steps.iter().all(|step| step.in_force == Some(true));
    Ok(match sound {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}

fn query(
    arguments: &Arguments,
    from: &Resolved,
    to: &Resolved,
    locals: &[IpAddr],
) -> Result<Query> {
    let (protocol, detail) = match arguments.service.split_once('/') {
        Some((protocol, detail)) => (protocol, Some(detail)),
        None => (arguments.service.as_str(), None),
    };
    let detail = detail
        .map(|detail| detail.parse::<u16>())
        .transpose()
        .with_context(|| format!("{:?}: expected a protocol and a port's number, such as tcp/22", arguments.service))?;
    let is_icmp = ["icmp", "icmpv6", "ipv6-icmp", "1", "58"].contains(&protocol);
    fn text<'a>(value: Option<impl ToString>) -> Option<Leaf<'a>> {
        value.map(|value| Leaf::Text(value.to_string().into()))
    }
    fn number<'a>(value: Option<u16>) -> Option<Leaf<'a>> {
        value.map(|value| Leaf::Number(value.into()))
    }
    let fields = Fields {
        from: text(Some(&from.endpoint)),
        to: text(Some(&to.endpoint)),
        proto: text(Some(protocol)),
        source: text(arguments.source.or(from.address)),
        dest: text(arguments.dest.or(to.address)),
        sport: number(arguments.sport),
        dport: number(detail.filter(|_| !is_icmp)),
        icmp_type: number(detail.filter(|_| is_icmp)),
        mac_source: text(arguments.mac_source.as_ref()),
        tcp_flags: text(arguments.tcp_flags.as_ref()),
        vlan: number(arguments.vlan),
        ..Fields::default()
    };
    let mut query = Query::try_from(fields)?;
    let own = |wanted: fn(&IpAddr) -> bool| locals.iter().find(|address| wanted(address)).copied();
    let v4 = own(|address| matches!(address, IpAddr::V4(own) if !own.is_loopback()));
    let v6 = own(|address| {
        matches!(address, IpAddr::V6(own) if !own.is_loopback() && !own.is_unicast_link_local())
    });
    query.set_host_addresses(
        v4.and_then(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }),
        v6.and_then(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }),
    );
    Ok(query)
}

/// The devices of this network namespace.
pub(super) fn devices() -> Result<Devices> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (connection, netlink, _) =
            rtnetlink::new_connection().context("cannot talk to netlink")?;
        tokio::spawn(connection);
        let devices = Devices::list(&netlink).await;
        devices.context("cannot list the devices")
    })
}

/// The judge that asks the kernel.
struct Kernel<'c> {
    scratch: Scratch,
    ports: Vec<(u32, Port)>,
    devices: Devices,
    compiled: &'c Compiled,
    steps: Vec<Step>,
    failed: Option<anyhow::Error>,
}

impl Kernel<'_> {
    fn judge(&mut self, zone: Zone<'_>, direction: Direction, frame: &[u8]) -> Judged {
        match self.try_judge(zone, direction, frame) {
            Ok(judged) => judged,
            Err(error) => {
                self.failed.get_or_insert(error);
                Judged {
                    judgement: Judgement::drop(Reason::NoPolicy),
                    tracked: None,
                    rule: None,
                }
            }
        }
    }

    fn try_judge(&mut self, zone: Zone<'_>, direction: Direction, frame: &[u8]) -> Result<Judged> {
        let (role, device) = match zone {
            Zone::Guest(port) => (Role::Guest, port.device()),
            Zone::Host { interface, .. } => (Role::Host, interface.to_owned()),
        };
        let hook = match (role, direction) {
            (Role::Guest, Direction::In) | (Role::Host, Direction::Out) => Hook::Egress,
            (Role::Guest, Direction::Out) | (Role::Host, Direction::In) => Hook::Ingress,
        };
        let indices = self.devices.indices();
        let index = indices.get(&device).copied();
        let found = self.ports.iter().find(|(ifindex, _)| Some(*ifindex) == index);
        let Some((ifindex, port)) = found.copied() else {
            bail!("{device} is not there, or is not filtered: see `fwctl status`");
        };
        if port.flags & port_flag::NO_LINK != 0 {
            bail!("{device} has no Ethernet headers: packets there cannot be tried");
        }
        let mut frame = frame.to_vec();
        if let (Role::Host, Direction::In, Some(known)) =
            (role, direction, self.devices.0.get(&device))
        {
            // The kernel tells packets to the host by its own hardware address.
            frame[..6].copy_from_slice(&known.mac.to_be_bytes()[2..]);
        }
        let mut headers = Headers::default();
        let key = wire::parse(&&frame[..], &mut headers).ok();
        let key = key.map(|()| FlowKey::of(&headers, &port, direction));
        let flow = key.map(|key| self.scratch.flow(&key)).transpose()?.flatten();
        let at = TestPlace {
            ifindex,
            ..TestPlace::default()
        };
        let in_force = self.scratch.is_in_force(role, hook)?;
        let seen = self.scratch.run(role, hook, at, &frame)?;
        let rule = seen.rule.map(|key| key.rule);
        self.steps.push(Step {
            device,
            program: hook.program(role),
            in_force,
            flow: flow.map(|entry| known(&entry)),
            begins_flow: seen.begun.is_some(),
            rule: rule.map(|rule| format!("{rule:08x}")),
        });
        let reason = match (seen.reason, seen.verdict) {
            (Some(reason), _) => reason,
            (None, Verdict::Accept) => Reason::Forwarded,
            (None, Verdict::Drop | Verdict::Reject) => Reason::NoPolicy,
        };
        Ok(Judged {
            judgement: Judgement {
                verdict: seen.verdict,
                reason,
                rule: rule.unwrap_or(NO_RULE),
                log: NO_LOG,
            },
            tracked: None,
            rule: rule.and_then(|rule| self.place(zone, direction, rule)),
        })
    }

    /// Where a rule stands in its zone's policy, by the files.
    fn place(&self, zone: Zone<'_>, direction: Direction, rule: u32) -> Option<usize> {
        let image = &self.compiled.image;
        let position = |index: usize| {
            let rules = &image.policies.get(index)?.rules;
            rules.iter().position(|number| *number == rule)
        };
        match zone {
            Zone::Guest(port) => position(image.ports.get(&port.port)?.policies[direction as usize]),
            Zone::Host { policy, interface } => {
                let at = position(image.host.as_ref()?.on(interface)[direction as usize])?;
                policy.applying(interface, direction).nth(at).map(|(place, _)| place)
            }
        }
    }
}

fn known(entry: &Entry) -> KnownFlow {
    KnownFlow {
        state: fw_common::conntrack::State::from_u32(entry.flow.state).name(),
        origin: Direction::from_u8(entry.flow.origin).name(),
        half_open: !entry.settled,
        idle_seconds: crate::datapath::sweep::now().saturating_sub(entry.flow.seen) / 1_000_000_000,
    }
}

/// A guest's local addresses among flows.
fn has_flows(pins: &Pins, address: IpAddr) -> Result<Option<(u32, u16)>> {
    let wanted = key_address(address);
    let mut found = None;
    flows::visit(pins, |entry| {
        if entry.key.vmid != HOST_VMID && entry.key.local == wanted {
            found = Some((entry.key.vmid, entry.key.net));
        }
    })?;
    Ok(found)
}
