//! What the cluster's communication needs: `corosync.conf` and `.members`.
//!
//! In: the bytes of both files. Out: [`Corosync`] (transport, and each node's address on each link) and the addresses that the cluster file
//! system knows of its members. Both are written by programs, so whatever does not look like what is wanted is passed over in silence.
//!
//! `corosync.conf` consists of `name {`, `key: value` and `}`; only `totem` and the `node`s of `nodelist` are looked at. `ringN_addr` and
//! `linkN_addr` both name the address on link N. An address may be a name; `policy` resolves those.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::line::{decode, lines};

/// `corosync.conf`, as far as a firewall cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corosync {
    /// `totem.transport` in lower case; empty if not given.
    pub transport: String,
    /// `totem.ip_version`: which addresses a name stands for.
    pub ip_version: IpPreference,
    /// The nodes in the order of the file.
    pub nodes: Vec<ClusterNode>,
}

/// Which addresses a name in `corosync.conf` stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpPreference {
    /// `ipv4`.
    OnlyV4,
    /// `ipv6`.
    OnlyV6,
    /// `ipv4-6`.
    V4First,
    /// `ipv6-4`, the default.
    #[default]
    V6First,
}

/// One node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its name; that of its first link's address if it has none of its own.
    pub name: String,
    /// Address or name by link.
    pub links: BTreeMap<u8, LinkAddress>,
}

/// Where a node is on one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// An address, or a name of one.
    pub text: String,
    /// Line of the file.
    pub line: u32,
}

impl Corosync {
    /// Reads `corosync.conf`.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut corosync = Self::default();
        let mut sections: Vec<&str> = Vec::new();
        let mut node = ClusterNode::default();
        let text = decode(bytes);
        for line in lines(&text) {
            let body = line.text.trim_ascii();
            if body.starts_with('#') {
                continue;
            }
            if let Some(name) = body.strip_suffix('{') {
                sections.push(name.trim_ascii_end());
                continue;
            }
            if body == "}" {
                if sections == ["nodelist", "node"] {
                    corosync.nodes.push(std::mem::take(&mut node).named());
                }
                sections.pop();
                continue;
            }
            let Some((key, value)) = body.split_once(':') else {
                continue;
            };
            let (key, value) = (key.trim_ascii(), value.trim_ascii());
            match (sections.as_slice(), key) {
                (["totem"], "transport") => corosync.transport = value.to_ascii_lowercase(),
                (["totem"], "ip_version") => corosync.ip_version = IpPreference::of(value),
                (["nodelist", "node"], "name") => node.name = value.to_owned(),
                (["nodelist", "node"], _) => {
                    if let Some(link) = link_number(key) {
                        let text = value.to_owned();
                        let line = line.number;
                        node.links.insert(link, LinkAddress { text, line });
                    }
                }
                _ => {}
            }
        }
        corosync
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

impl ClusterNode {
    fn named(mut self) -> Self {
        if self.name.is_empty()
            && let Some(first) = self.links.values().next()
        {
            self.name.clone_from(&first.text);
        }
        self
    }
}

impl IpPreference {
    fn of(text: &str) -> Self {
        match text {
            "ipv4" => Self::OnlyV4,
            "ipv6" => Self::OnlyV6,
            "ipv4-6" => Self::V4First,
            _ => Self::V6First,
        }
    }

    /// The address that a name with these addresses stands for.
    pub fn choose(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let find = |wanted: fn(&&IpAddr) -> bool| addresses.iter().find(wanted).copied();
        let v4 = find(|address| address.is_ipv4());
        let v6 = find(|address| address.is_ipv6());
        match self {
            Self::OnlyV4 => v4,
            Self::OnlyV6 => v6,
            Self::V4First => v4.or(v6),
            Self::V6First => v6.or(v4),
        }
    }
}

/// N of `ringN_addr` or `linkN_addr`; corosync has links 0 to 7.
fn link_number(key: &str) -> Option<u8> {
    let number = key.strip_suffix("_addr")?;
    let number = number
        .strip_prefix("ring")
        .or_else(|| number.strip_prefix("link"))?;
    let [digit @ b'0'..=b'7'] = number.as_bytes() else {
        return None;
    };
    Some(digit - b'0')
}

/// Addresses of the cluster's members by name, as `.members` has them.
pub fn members(bytes: &[u8]) -> BTreeMap<String, IpAddr> {
    let parsed = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let list = parsed
        .as_ref()
        .and_then(|members| members.get("nodelist")?.as_object());
    let addresses = list.into_iter().flatten().filter_map(|(name, member)| {
        let address = member.get("ip")?.as_str()?.parse().ok()?;
        Some((name.clone(), address))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_links() {
        let text = "totem {\n  version: 2\n  interface {\n    linknumber: 0\n    transport: no\n  }\n  transport: UDP\n  ip_version: ipv4-6\n}\n\
            nodelist {\n  node {\n    name: a\n    ring0_addr: 10.0.0.1\n    link1_addr: fd00::1\n    ring9_addr: x\n  }\n  node {\n    ring0_addr: b.example\n  }\n}\n\
            # comment {\nlogging {\n}\n}\n}\nring0_addr: stray\n";
        let corosync = Corosync::parse(text.as_bytes());
        assert_eq!(corosync.transport, "udp");
        assert_eq!(corosync.ip_version, IpPreference::V4First);
        let shown: Vec<_> = corosync
            .nodes
            .iter()
            .map(|node| {
                let links = node.links.iter();
                let links = links.map(|(link, at)| format!("{link}={}:{}", at.text, at.line));
                format!("{} {}", node.name, links.collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(
            shown,
            ["a 0=10.0.0.1:13 1=fd00::1:14", "b.example 0=b.example:18"]
        );
        assert_eq!(Corosync::parse(b"\xff{\n}\n{"), Corosync::default());
    }

    #[test]
    fn a_name_stands_for_an_address_of_the_wanted_version() {
        let both: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for (text, both_expect, v4_expect) in [
            ("ipv4", Some("10.0.0.1"), Some("10.0.0.1")),
            ("ipv6", Some("fd00::1"), None),
            ("ipv4-6", Some("10.0.0.1"), Some("10.0.0.1")),
            ("ipv6-4", Some("fd00::1"), Some("10.0.0.1")),
            ("", Some("fd00::1"), Some("10.0.0.1")),
        ] {
            let choose = |addresses: &[IpAddr]| {
                let chosen = IpPreference::of(text).choose(addresses);
                chosen.map(|address| address.to_string())
            };
            assert_eq!(choose(&both).as_deref(), both_expect, "{text}");
            assert_eq!(choose(&both[..1]).as_deref(), v4_expect, "{text}");
        }
    }

    #[test]
    fn members_have_addresses() {
        let text =
            br#"{"nodename":"a","nodelist":{"a":{"id":1,"ip":"10.0.0.1"},"b":{"ip":"no"},"c":{}}}"#;
        let found = members(text);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "10.0.0.1".parse().unwrap())]
        );
        for nothing in [&b""[..], b"{}", b"[]", br#"{"nodelist":7}"#] {
            assert!(members(nothing).is_empty());
        }
    }
}
