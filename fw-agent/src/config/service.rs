//! Protocol, ports and ICMP types of a rule: what is left of a packet's description when the addresses are taken away.
//!
//! In: the values of `-p`, `-sport`, `-dport`, `-icmp-type`, and a macro. Out: one [`Service`] per alternative (a macro has several). Names are
//! looked up in [`super::registry`]; nothing here depends on the scope of the rule.
//!
//! A macro's rows fix some of the options; a rule may add what a row lacks, but not contradict it. Rows of a family that the rule's own
//! protocol excludes are left out.

use super::closest::did_you_mean;
use super::icmp::{self, IcmpType};
use super::line::{Fault, Line, Note, quote};
use super::macros::Macro;
use super::registry::{self, ICMP, ICMPV6, WITH_PORTS};
use crate::policy::Family;

/// Ports in a list, a range counting as two, that the reference can take.
const LONGEST_LIST: usize = 15;

/// One alternative of protocol, ports and ICMP type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Only this IP version.
    pub family: Option<Family>,
    /// IP protocol; none: any.
    pub protocol: Option<u8>,
    /// Source ports, any of these ranges; for ICMP types.
    pub sport: Vec<(u16, u16)>,
    /// Destination ports, any of these ranges; for ICMP codes.
    pub dport: Vec<(u16, u16)>,
}

/// What `-p` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Number; 0 is no restriction.
    pub number: u8,
    /// ICMP by name: the family it implies.
    pub icmp: Option<Family>,
}

/// The options of a rule line that concern services, as written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written<'a> {
    /// `-p`.
    pub protocol: Option<&'a str>,
    /// `-sport`.
    pub sport: Option<&'a str>,
    /// `-dport`.
    pub dport: Option<&'a str>,
    /// `-icmp-type`.
    pub icmp_type: Option<&'a str>,
}

/// The alternatives that a rule line describes; at least one.
pub fn parse(
    line: &Line<'_>,
    written: Written<'_>,
    of: Option<&Macro>,
    notes: &mut Vec<Note>,
) -> Result<Vec<Service>, Fault> {
    let protocol = written
        .protocol
        .map(|text| parse_protocol(line, text))
        .transpose()?;
    let own = parse_own(line, written, protocol, notes)?;
    let Some(of) = of else {
        return Ok(vec![own]);
    };
    let mut services = Vec::new();
    for row in &of.rows {
        if let (Some(ours), Some(theirs)) = (own.family, row.family)
            && ours != theirs
        {
            continue;
        }
        services.push(combine(line, written, protocol, &own, row, &of.name)?);
    }
    if services.is_empty() {
        let text = written.protocol.unwrap_or(line.text);
        return Err(Fault::new(
            line,
            text,
            format!("macro {} has nothing for this protocol", of.name),
        ));
    }
    Ok(services)
}

/// Adds a rule's own options to a row of a macro.
fn combine(
    line: &Line<'_>,
    written: Written<'_>,
    protocol: Option<Protocol>,
    own: &Service,
    row: &Service,
    name: &str,
) -> Result<Service, Fault> {
    let conflict = |text: Option<&str>, what: &str| {
        let text = text.unwrap_or(line.text);
        Err(Fault::new(
            line,
            text,
            format!("macro {name} has another {what}"),
        ))
    };
    if let Some(protocol) = protocol
        && row.protocol != Some(protocol.number)
    {
        return conflict(written.protocol, "protocol");
    }
    // A row of ICMP by type has its type in `sport`, so a rule's `-icmp-type` meets it there.
    for (ours, theirs, text, what) in [
        (
            &own.sport,
            &row.sport,
            written.sport.or(written.icmp_type).or(written.dport),
            "source port or ICMP type",
        ),
        (
            &own.dport,
            &row.dport,
            written.dport.or(written.icmp_type),
            "destination port or ICMP type",
        ),
    ] {
        if !ours.is_empty() && !theirs.is_empty() && ours != theirs {
            return conflict(text, what);
        }
    }
    let pick = |ours: &Vec<(u16, u16)>, theirs: &Vec<(u16, u16)>| {
        if theirs.is_empty() {
            ours.clone()
        } else {
            theirs.clone()
        }
    };
    Ok(Service {
        family: row.family.or(own.family),
        protocol: row.protocol,
        sport: pick(&own.sport, &row.sport),
        dport: pick(&own.dport, &row.dport),
    })
}

/// The service that the options describe without a macro.
fn parse_own(
    line: &Line<'_>,
    written: Written<'_>,
    protocol: Option<Protocol>,
    notes: &mut Vec<Note>,
) -> Result<Service, Fault> {
    let mut service = Service {
        family: protocol.and_then(|protocol| protocol.icmp),
        protocol: protocol
            .map(|protocol| protocol.number)
            .filter(|number| *number != 0),
        ..Service::default()
    };
    let icmp_family = service.family;
    if let Some(text) = written.icmp_type {
        let Some(family) = icmp_family else {
            return Err(
                Fault::new(line, text, "an ICMP type needs the protocol icmp or icmpv6")
                    .hint("add `-p icmp` or `-p icmpv6`".to_owned()),
            );
        };
        if let Some(port) = written.dport {
            return Err(Fault::new(
                line,
                port,
                "a rule cannot have both -dport and -icmp-type",
            ));
        }
        service.set_icmp(parse_icmp(line, text, family)?);
        if text != "0" && !icmp::is_plain_name(text, family) {
            let message = "pve-firewall knows ICMP types only by their names here";
            notes.push(Fault::new(line, text, message).superset());
        }
    }
    if let Some(family) = icmp_family {
        if let Some(text) = written.sport {
            return Err(Fault::new(line, text, "ICMP has no ports"));
        }
        if let Some(text) = written.dport {
            if written.protocol == Some("ipv6-icmp") {
                return Err(Fault::new(
                    line,
                    text,
                    "an ICMP type as -dport needs the protocol icmp or icmpv6",
                )
                .hint("use -icmp-type".to_owned()));
            }
            service.set_icmp(parse_icmp(line, text, family)?);
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number && !icmp::is_plain_name(text, family) {
                let message = "pve-firewall knows ICMP types only by name or number here";
                notes.push(Fault::new(line, text, message).superset());
            }
        }
        return Ok(service);
    }
    for (text, ports) in [
        (written.sport, &mut service.sport),
        (written.dport, &mut service.dport),
    ] {
        let Some(text) = text else { continue };
        let number = match protocol {
            Some(protocol) if WITH_PORTS.contains(&protocol.number) => protocol.number,
            Some(_) => {
                return Err(Fault::new(line, text, "this protocol has no ports")
                    .hint("ports need the protocol tcp, udp, sctp, dccp or udplite".to_owned()));
            }
            None => {
                return Err(Fault::new(line, text, "a port needs a protocol")
                    .hint("add `-p tcp` or `-p udp`".to_owned()));
            }
        };
        *ports = parse_ports(line, text, number)?;
        let slots: usize = text
            .split(',')
            .map(|item| 1 + usize::from(item.contains(':')))
            .sum();
        if slots > LONGEST_LIST {
            let message = format!("the list has more than {LONGEST_LIST} ports");
            notes.push(Fault::new(line, text, message).superset());
        }
        if text == "0" {
            let fault = Fault::new(line, text, "pve-firewall takes port 0 for every port");
            notes.push(fault.effect("Tapwall matches port 0 only"));
        }
    }
    Ok(service)
}

impl Service {
    /// Restricts the service to an ICMP type.
    pub(super) fn set_icmp(&mut self, icmp: IcmpType) {
        self.sport = icmp
            .kind
            .map(|kind| (kind.into(), kind.into()))
            .into_iter()
            .collect();
        self.dport = icmp
            .code
            .map(|code| (code.into(), code.into()))
            .into_iter()
            .collect();
    }
}

/// Reads a protocol's name or number.
pub(super) fn parse_protocol(line: &Line<'_>, text: &str) -> Result<Protocol, Fault> {
    if let Some(number) = registry::protocol(text) {
        let icmp = match number {
            ICMP => Some(Family::V4),
            ICMPV6 => Some(Family::V6),
            _ => None,
        };
        return Ok(Protocol { number, icmp });
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u8>() {
        Ok(number) if digits && registry::protocol_is_listed(number) => {
            Ok(Protocol { number, icmp: None })
        }
        Ok(_) | Err(_) => Err(Fault::new(
            line,
            text,
            format!("{} is not a known protocol", quote(text)),
        )
        .hint(did_you_mean(text, registry::protocol_names()))),
    }
}

fn parse_icmp(line: &Line<'_>, text: &str, family: Family) -> Result<IcmpType, Fault> {
    icmp::parse(text, family).ok_or_else(|| {
        let name = match family {
            Family::V4 => "ICMP",
            Family::V6 => "ICMPv6",
        };
        Fault::new(line, text, format!("{} is not an {name} type", quote(text)))
            .hint(did_you_mean(text, icmp::names(family)))
    })
}

/// Reads a list of ports and ranges; sorted, overlapping ranges joined.
pub(super) fn parse_ports(
    line: &Line<'_>,
    text: &str,
    protocol: u8,
) -> Result<Vec<(u16, u16)>, Fault> {
    let mut ports = Vec::new();
    for item in text.split(',') {
        ports.push(match item.split_once(':') {
            Some((from, to)) => {
                let range = (parse_port(line, item, from)?, parse_port(line, item, to)?);
                if range.0 > range.1 {
                    return Err(Fault::new(
                        line,
                        item,
                        "the port range ends before it begins",
                    ));
                }
                range
            }
            None if item.is_empty() => {
                return Err(Fault::new(line, text, "an item of the port list is empty"));
            }
            None if item.bytes().all(|byte| byte.is_ascii_digit()) => {
                let port = parse_port(line, item, item)?;
                (port, port)
            }
            None => {
                let port = registry::service(item, protocol)
                    .ok_or_else(|| unknown_service(line, item, protocol))?;
                (port, port)
            }
        });
    }
    ports.sort_unstable();
    ports.dedup_by(|next, last| {
        let joins = next.0 <= last.1.saturating_add(1);
        if joins {
            last.1 = last.1.max(next.1);
        }
        joins
    });
    Ok(ports)
}

fn parse_port(line: &Line<'_>, item: &str, text: &str) -> Result<u16, Fault> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits => Ok(port),
        Ok(_) | Err(_) => Err(Fault::new(
            line,
            item,
            format!(
                "{} is not a port or a range of ports (0 to 65535)",
                quote(item)
            ),
        )),
    }
}

fn unknown_service(line: &Line<'_>, item: &str, protocol: u8) -> Fault {
    let fault = Fault::new(
        line,
        item,
        format!("{} is not a known service of this protocol", quote(item)),
    );
    if let Some((from, to)) = item.split_once('-')
        && !from.is_empty()
        && from
            .bytes()
            .chain(to.bytes())
            .all(|byte| byte.is_ascii_digit())
    {
        return fault.hint(format!("a range of ports is written `{from}:{to}`"));
    }
    fault.hint(did_you_mean(item, registry::service_names(protocol)))
}
