//! The text that `ipset save` writes, as sets of firewall files.
//!
//! In: the file. Out: names by the sets' own names, or why there is none, and the sections. Sets of addresses and networks of one field are taken
//! over, `nomatch` as `!`, timeouts without their time. A name that is none in firewall files gets one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Names;
use super::condition::{bounds, networks};
use super::text::shown;
use crate::config::address::{LONGEST_NAME, family, is_name};

/// Types whose entries are addresses or networks.
const TYPES: [&str; 3] = ["hash:ip", "hash:net", "bitmap:ip"];

/// Sets that were read.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// Names in firewall files by the sets' names.
    pub names: Names,
    /// Entries by the name in firewall files.
    pub entries: BTreeMap<String, Vec<String>>,
    /// Lines that are not taken over as they are, with the reason.
    pub faults: Vec<(u32, String, &'static str)>,
}

impl Sets {
    /// Reads a file.
    pub fn parse(text: &str) -> Self {
        let mut sets = Self::default();
        let mut used = BTreeSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["create", name, kind, ..] => {
                    let known = match TYPES.contains(kind) {
                        true => {
                            let name = own_name(name, &mut used);
                            sets.entries.insert(name.clone(), Vec::new());
                            Ok(name)
                        }
                        false => Err(format!("a set of type {kind} has no counterpart")),
                    };
                    sets.names.insert((*name).to_owned(), known);
                }
                ["add", name, entry, options @ ..] => {
                    if let Err(why) = sets.add(name, entry, options) {
                        sets.faults.push((number, line.to_owned(), why));
                    }
                }
                _ => {
                    let why = "it is not a line that `ipset save` writes";
                    sets.faults.push((number, line.to_owned(), why));
                }
            }
        }
        sets
    }

    fn add(&mut self, name: &str, entry: &str, options: &[&str]) -> Result<(), &'static str> {
        let Some(known) = self.names.get(name) else {
            return Err("no line before it creates the set");
        };
        let Ok(own) = known else {
            // That is told of each rule that uses the set.
            return Ok(());
        };
        let nets = nets(entry).ok_or("the entry is not an address or a network")?;
        if nets.iter().any(|net| net.prefix_len() == 0) {
            return Err("a set cannot hold every address");
        }
        let not = if options.contains(&"nomatch") {
            "!"
        } else {
            ""
        };
        let entries = self.entries.entry(own.clone()).or_default();
        entries.extend(nets.into_iter().map(|net| format!("{not}{}", shown(net))));
        match options.contains(&"timeout") {
            true => Err("the entry stays, without its timeout"),
            false => Ok(()),
        }
    }
}

/// An address, a network or a range.
fn nets(entry: &str) -> Option<Vec<IpNet>> {
    if let Some((first, last)) = entry.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        let of = family(&first.into());
        let ends = (bounds(first.into()).0, bounds(last.into()).0);
        let is_range = of == family(&last.into()) && ends.0 <= ends.1;
        return is_range.then(|| networks(&vec![ends], of));
    }
    let net = entry.parse::<IpNet>().ok();
    let net = net.or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from));
    net.map(|net| vec![net.trunc()])
}

/// A name that firewall files can have and that no other set has.
fn own_name(name: &str, used: &mut BTreeSet<String>) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    let mut own: String = name.to_ascii_lowercase();
    own = own
        .chars()
        .map(|letter| if fits(letter) { letter } else { '_' })
        .collect();
    if !is_name(&own) {
        own = format!("set-{own}");
    }
    own.truncate(LONGEST_NAME - 8);
    let mut candidate = own.clone();
    let mut number = 2;
    // These mean something of their own there.
    while ["management", "blacklist"].contains(&candidate.as_str())
        || !used.insert(candidate.clone())
    {
        candidate = format!("{own}-{number}");
        number += 1;
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_addresses_are_taken_over() {
        let sets = Sets::parse(
            "create Blacklist hash:net family inet hashsize 1024 maxelem 65536\nadd Blacklist 10.0.0.0/8\nadd Blacklist 10.1.0.0/16 nomatch\ncreate 6 hash:ip family inet6\nadd 6 2001:db8::1 timeout 30\ncreate both hash:ip,port family inet\nadd both 1.2.3.4,tcp:80\nadd Blacklist 192.0.2.6-192.0.2.8\nadd none 1.2.3.4\n",
        );
        assert_eq!(sets.names["Blacklist"], Ok("blacklist-2".to_owned()));
        assert_eq!(sets.names["6"], Ok("set-6".to_owned()));
        assert!(sets.names["both"].is_err());
        assert_eq!(
            sets.entries["blacklist-2"],
            ["10.0.0.0/8", "!10.1.0.0/16", "192.0.2.6/31", "192.0.2.8"]
        );
        assert_eq!(sets.entries["set-6"], ["2001:db8::1"]);
        let faults: Vec<_> = sets.faults.iter().map(|(line, ..)| *line).collect();
        assert_eq!(faults, [5, 9]);
    }
}
