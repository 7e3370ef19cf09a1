//! The options of a rule that say which packets it is for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Reader, States};
use crate::config::registry::{ICMP, ICMPV6, TCP, protocol};
use crate::import::condition::{Addresses, Condition, Ports, bounds};
use crate::lint::ranges::{Ranges, difference, everything, intersection};
use crate::policy::Family;

/// Matches whose options are read here.
pub(super) const MODULES: [&str; 17] = [
    "tcp",
    "udp",
    "udplite",
    "sctp",
    "dccp",
    "icmp",
    "icmp6",
    "multiport",
    "state",
    "conntrack",
    "comment",
    "limit",
    "iprange",
    "mac",
    "set",
    "addrtype",
    "standard",
];

/// What `--syn` is in the saved form.
const SYN: [&str; 2] = ["FIN,SYN,RST,ACK", "SYN"];

/// The addresses that every station of an IPv4 network listens to.
const BROADCAST: (u128, u128) = (0xffff_ffff, 0xffff_ffff);

/// Which end of a packet.
#[derive(Clone, Copy)]
enum End {
    Source,
    Dest,
}

impl Reader<'_> {
    /// Reads one option.
    pub(super) fn matches(&mut self, option: &str, is_negated: bool) {
        match option {
            "-p" => self.protocol(is_negated),
            "-i" | "-o" => self.interface(is_negated),
            "-s" => self.network(End::Source, is_negated),
            "-d" => self.network(End::Dest, is_negated),
            "--sport" | "--sports" => self.ports(&[End::Source], is_negated),
            "--dport" | "--dports" => self.ports(&[End::Dest], is_negated),
            "--ports" => self.ports(&[End::Source, End::Dest], is_negated),
            "--icmp-type" | "--icmpv6-type" => self.icmp(is_negated),
            "--state" | "--ctstate" => self.states(is_negated),
            "--tcp-flags" => self.flags(is_negated),
            "--src-range" => self.range(End::Source, is_negated),
            "--dst-range" => self.range(End::Dest, is_negated),
            "--match-set" => self.set(is_negated),
            "--dst-type" => self.kind(is_negated),
            "--limit" => {
                self.next();
                // A limit on a log is only there to keep the log small, and Tapwall's log has one.
                let is_log =
                    |pair: &[String]| pair[0] == "-j" && (pair[1] == "LOG" || pair[1] == "NFLOG");
                if !self.words.windows(2).any(is_log) {
                    self.missing("rules have no limit of packets".to_owned());
                }
            }
            "--limit-burst" => drop(self.next()),
            "--comment" => self.rule.comment = self.next().map(str::to_owned),
            "--mac-source" => {
                self.missing("rules of the host have no Ethernet addresses".to_owned());
                self.skip();
            }
            "-f" => self.missing("rules for later fragments have no counterpart".to_owned()),
            other => {
                self.missing(format!("`{other}` has no counterpart"));
                self.skip();
            }
        }
    }

    /// Adds a condition, all of whose alternatives are these.
    fn restrict(&mut self, alternatives: &[Condition]) {
        let mut restricted = Vec::new();
        for one in &self.rule.alternatives {
            for other in alternatives {
                match one.and(other) {
                    Ok(both) => restricted.extend(both),
                    Err(_) => {
                        restricted.push(one.clone());
                        let why = "a set and other addresses cannot be combined";
                        if !self.rule.missing.iter().any(|known| known == why) {
                            self.rule.missing.push(why.to_owned());
                        }
                    }
                }
            }
        }
        self.rule.alternatives = restricted;
    }

    /// Adds a condition, or that it must not hold.
    fn add(&mut self, condition: Condition, is_negated: bool) {
        match is_negated {
            true => self.rule.except.push(condition),
            false => self.restrict(&[condition]),
        }
    }

    fn protocol(&mut self, is_negated: bool) {
        let name = self.next().unwrap_or_default();
        let number = name.parse().ok().or_else(|| protocol(name));
        let number = match name {
            "icmpv6" | "ipv6-icmp" => Some(ICMPV6),
            _ => number,
        };
        match number {
            Some(0) => {}
            Some(number) => self.add(
                Condition {
                    protocol: Some(number),
                    ..Condition::default()
                },
                is_negated,
            ),
            None => self.missing(format!("the protocol `{name}` is not known")),
        }
    }

    fn interface(&mut self, is_negated: bool) {
        let name = self.next().unwrap_or_default();
        if name.ends_with('+') {
            return self.missing(format!(
                "`{name}` stands for several interfaces, and a rule names one"
            ));
        }
        if !crate::config::rule::is_host_interface(name) {
            return self.missing(format!("`{name}` cannot be named in a rule"));
        }
        let interface = Some(name.to_owned());
        self.add(
            Condition {
                interface,
                ..Condition::default()
            },
            is_negated,
        );
    }

    fn at(end: End, addresses: Addresses) -> Condition {
        match end {
            End::Source => Condition {
                source: addresses,
                ..Condition::default()
            },
            End::Dest => Condition {
                dest: addresses,
                ..Condition::default()
            },
        }
    }

    fn addresses(&mut self, end: End, ranges: Ranges, is_negated: bool) {
        let addresses = match is_negated {
            true => Addresses::but(&ranges, self.family),
            false => Addresses::of(ranges, self.family),
        };
        match &addresses {
            // `! -s 0.0.0.0/0`
            Addresses::Ranges(none) if none.is_empty() => self.rule.alternatives.clear(),
            Addresses::Any | Addresses::Ranges(_) | Addresses::Set(_) => {
                self.restrict(&[Self::at(end, addresses)]);
            }
        }
    }

    fn network(&mut self, end: End, is_negated: bool) {
        let text = self.next().unwrap_or_default();
        let net = text.parse::<IpNet>().ok();
        let net = net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match net.filter(|net| crate::config::address::family(net) == self.family) {
            Some(net) => self.addresses(end, vec![bounds(net.trunc())], is_negated),
            None => self.missing(format!("`{text}` is not a network that a rule can name")),
        }
    }

    fn range(&mut self, end: End, is_negated: bool) {
        let text = self.next().unwrap_or_default();
        let ends = text.split_once('-').and_then(|(first, last)| {
            let number = |text: &str| Some(bounds(text.parse::<IpAddr>().ok()?.into()).0);
            Some((number(first)?, number(last)?))
        });
        match ends {
            Some((first, last)) if first <= last => {
                self.addresses(end, vec![(first, last)], is_negated);
            }
            Some(_) | None => self.missing(format!("`{text}` is not a range of addresses")),
        }
    }

    fn ports(&mut self, ends: &[End], is_negated: bool) {
        let text = self.next().unwrap_or_default();
        let Some(ports) = ports(text) else {
            return self.missing(format!("`{text}` are not ports"));
        };
        let every = vec![(0, u16::MAX.into())];
        let ports = match is_negated {
            true => difference(&every, &ports),
            false => ports,
        };
        let narrow = |(first, last): &(u128, u128)| {
            Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?))
        };
        let ports: Ports = ports.iter().filter_map(narrow).collect();
        if ports.is_empty() {
            return self.rule.alternatives.clear();
        }
        let condition = |end: &End| match end {
            End::Source => Condition {
                sport: Some(ports.clone()),
                ..Condition::default()
            },
            End::Dest => Condition {
                dport: Some(ports.clone()),
                ..Condition::default()
            },
        };
        let conditions: Vec<Condition> = ends.iter().map(condition).collect();
        match is_negated {
            // None of the ends.
            true => conditions.into_iter().for_each(|one| self.restrict(&[one])),
            false => self.restrict(&conditions),
        }
    }

    fn icmp(&mut self, is_negated: bool) {
        let text = self.next().unwrap_or_default();
        let Some(kind) = crate::config::icmp::parse(text, self.family) else {
            return self.missing(format!("the ICMP type `{text}` is not known"));
        };
        let protocol = match self.family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        let icmp = kind.kind.map(|number| (number, kind.code));
        self.add(
            Condition {
                protocol: Some(protocol),
                icmp,
                ..Condition::default()
            },
            is_negated,
        );
    }

    fn states(&mut self, is_negated: bool) {
        let text = self.next().unwrap_or_default();
        let mut states = States::default();
        for state in text.split(',') {
            match state {
                "NEW" => states.new = true,
                "ESTABLISHED" => states.established = true,
                "RELATED" => states.related = true,
                "INVALID" => states.invalid = true,
                "UNTRACKED" => states.untracked = true,
                other => self.missing(format!("the state `{other}` has no counterpart")),
            }
        }
        if is_negated {
            states = States {
                new: !states.new,
                established: !states.established,
                related: !states.related,
                invalid: !states.invalid,
                untracked: !states.untracked,
            };
        }
        self.rule.states = Some(states);
    }

    fn flags(&mut self, is_negated: bool) {
        let flags = [self.next(), self.next()].map(Option::unwrap_or_default);
        let is_tcp = |one: &Condition| one.protocol == Some(TCP);
        match flags == SYN && !is_negated && self.rule.alternatives.iter().all(is_tcp) {
            true => self.rule.remarks.push(
                "it was for TCP packets that begin a connection; in the middle of an unknown one it holds, too".to_owned(),
            ),
            false => self.missing("rules have no TCP flags".to_owned()),
        }
    }

    fn set(&mut self, is_negated: bool) {
        let name = self.next().unwrap_or_default();
        let direction = self.next().unwrap_or_default();
        let end = match direction {
            "src" => End::Source,
            "dst" => End::Dest,
            other => return self.missing(format!("a set of `{other}` has no counterpart")),
        };
        match self.names.get(name) {
            Some(Ok(name)) => self.add(Self::at(end, Addresses::Set(name.clone())), is_negated),
            Some(Err(why)) => self.missing(format!("the set `{name}`: {why}")),
            None => self.missing(format!(
                "what is in the set `{name}` is not known: give --ipset with the output of `ipset save`"
            )),
        }
    }

    /// The kind of address that a packet is sent to.
    fn kind(&mut self, is_negated: bool) {
        let text = self.next().unwrap_or_default();
        let multicast: (u128, u128) = match self.family {
            Family::V4 => (0xe000_0000, 0xefff_ffff),
            Family::V6 => (0xff << 120, u128::MAX),
        };
        let several = match self.family {
            Family::V4 => vec![multicast, BROADCAST],
            Family::V6 => vec![multicast],
        };
        const NETWORKS: &str = "the broadcast addresses of the host's networks count as its own";
        let ranges = match text {
            "MULTICAST" => vec![multicast],
            "BROADCAST" if self.family == Family::V4 => {
                self.rule.remarks.push(NETWORKS.to_owned());
                vec![BROADCAST]
            }
            "LOCAL" => {
                if self.family == Family::V4 {
                    self.rule.remarks.push(NETWORKS.to_owned());
                }
                difference(&everything(self.family), &several)
            }
            other => {
                return self.missing(format!("the type of address `{other}` has no counterpart"));
            }
        };
        self.addresses(End::Dest, ranges, is_negated);
    }
}

/// Ports and ranges with commas between, ascending and disjoint.
fn ports(text: &str) -> Option<Ranges> {
    let mut ranges = Vec::new();
    for item in text.split(',') {
        let (first, last) = item.split_once(':').unwrap_or((item, item));
        let number = |text: &str, else_: u16| match text {
            "" => Some(else_),
            text => text.parse::<u16>().ok(),
        };
        let (first, last) = (number(first, 0)?, number(last, u16::MAX)?);
        if item.is_empty() || first > last {
            return None;
        }
        ranges.push((u128::from(first), u128::from(last)));
    }
    let every = vec![(0, u16::MAX.into())];
    // What is not outside any of them.
    let mut outside = every.clone();
    for range in ranges {
        outside = difference(&outside, &vec![range]);
    }
    Some(intersection(&every, &difference(&every, &outside)))
}
