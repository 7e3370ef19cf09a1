//! The macro table: names for common services.
//!
//! Read once from `data/macros.csv`; each row is one alternative of a macro, in order. Invariant: the embedded table parses; a test reads it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::line::Line;
use super::service::{Service, parse_ports, parse_protocol};
use super::{icmp, registry};
use crate::policy::Family;

/// A macro: alternatives under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Macro {
    /// The name as the table has it.
    pub name: String,
    /// The alternatives, in order.
    pub rows: Vec<Service>,
}

/// Macros that `pve-firewall` does not have.
pub(super) const OURS: [&str; 2] = ["HTTP/3", "PBS"];

static MACROS: LazyLock<BTreeMap<String, Macro>> = LazyLock::new(|| {
    let mut macros: BTreeMap<String, Macro> = BTreeMap::new();
    for row in registry::rows(include_str!("../../data/macros.csv")) {
        let entry = macros
            .entry(row[0].to_ascii_lowercase())
            .or_insert_with(|| Macro {
                name: row[0].to_owned(),
                rows: Vec::new(),
            });
        entry
            .rows
            .push(parse_row(&row).expect("macros.csv holds known protocols, ports and ICMP types"));
    }
    macros
});

fn parse_row(row: &csv::StringRecord) -> Option<Service> {
    let (protocol, sport, dport, icmp_type) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
    let line = Line::alone("");
    let protocol = parse_protocol(&line, protocol).ok()?;
    let ports = |text: &str| {
        if text.is_empty() {
            Some(Vec::new())
        } else {
            parse_ports(&line, text, protocol.number).ok()
        }
    };
    let mut service = Service {
        family: match row.get(5)? {
            "any" => None,
            "v4" => Some(Family::V4),
            "v6" => Some(Family::V6),
            _ => return None,
        },
        protocol: Some(protocol.number),
        sport: ports(sport)?,
        dport: ports(dport)?,
    };
    if !icmp_type.is_empty() {
        service.set_icmp(icmp::parse(icmp_type, service.family?)?);
    }
    Some(service)
}

/// A macro by its name, in any case.
pub fn find(name: &str) -> Option<&'static Macro> {
    MACROS.get(&name.to_ascii_lowercase())
}

/// The names of all macros.
pub fn names() -> impl Iterator<Item = &'static str> {
    MACROS.values().map(|entry| entry.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        assert_eq!(names().count(), 88);
        assert_eq!(
            MACROS.values().map(|entry| entry.rows.len()).sum::<usize>(),
            123
        );
        let smb = find("smb").unwrap();
        assert_eq!(smb.rows[0].dport, [(135, 135), (445, 445)]);
        let ping = find("PING").unwrap();
        assert_eq!(
            (ping.rows[0].family, ping.rows[0].sport.as_slice()),
            (Some(Family::V4), [(8, 8)].as_slice())
        );
        assert_eq!(
            (ping.rows[1].family, ping.rows[1].sport.as_slice()),
            (Some(Family::V6), [(128, 128)].as_slice())
        );
        assert!(find("nope").is_none());
    }
}
