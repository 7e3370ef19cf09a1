//! The same rules in three languages: Proxmox's, iptables' and nft's.
//!
//! A guest has N rules of which the last two accept what the bench sends; the others are on ports and addresses that it never uses. Every rule is
//! about one port, every second one about one source as well. What no rule accepts is dropped by policy.
//!
//! The other firewalls' rulesets have the shape of what Proxmox's two implementations install, as `docs/performance.md` describes it.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

/// Port that the last rules accept, of TCP and UDP.
pub const OPEN: u16 = 5201;
/// Port that no rule accepts.
pub const CLOSED: u16 = 4999;
/// First port of the rules that never match.
const OTHERS: u16 = 20_000;

/// A condition under which a packet is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    protocol: &'static str,
    port: u16,
    source: Option<Ipv4Addr>,
}

/// `count` rules, the last two of which match the bench's packets.
pub fn rules(count: usize) -> Vec<Rule> {
    let others = (0..count.saturating_sub(2) as u32).map(|number| {
        let [_, _, c, d] = number.to_be_bytes();
        Rule {
            protocol: if number % 2 == 0 { "tcp" } else { "udp" },
            port: OTHERS + (number % 40_000) as u16,
            source: (number % 2 == 1).then(|| Ipv4Addr::new(10, 1, c, d)),
        }
    });
    let last = ["tcp", "udp"].map(|protocol| Rule {
        protocol,
        port: OPEN,
        source: None,
    });
    others.chain(last).collect()
}

/// `count` rules of one guest among many, unlike those of any other. Every second one is on one source.
pub fn rules_of_guest(number: usize, count: usize) -> Vec<Rule> {
    let rules = (0..count).map(|rule| {
        let port = OTHERS as usize + (number * 31 + rule) % 40_000;
        let [_, high, low, _] = (number as u32 * 256).to_be_bytes();
        let source = Ipv4Addr::new(10, 64 + high, low, rule as u8);
        Rule {
            protocol: if rule % 4 < 2 { "tcp" } else { "udp" },
            port: port as u16,
            source: (rule % 2 == 1).then_some(source),
        }
    });
    rules.collect()
}

/// A rule that accepts datagrams to a port.
pub fn open_port(port: u16) -> Rule {
    Rule {
        protocol: "udp",
        port,
        source: None,
    }
}

/// A guest's file for Tapwall.
pub fn firewall(rules: &[Rule]) -> String {
    let mut text = String::from("[OPTIONS]\nenable: 1\npolicy_in: DROP\n\n[RULES]\n");
    for rule in rules {
        let Rule {
            protocol,
            port,
            source,
        } = rule;
        let source = Shown(source.map(|source| format!(" -source {source}")));
        // Writing to a string cannot fail.
        writeln!(text, "IN ACCEPT -p {protocol} -dport {port}{source}").ok();
    }
    text
}

/// A guest NIC and its rules.
pub struct Guest<'r> {
    /// Its device on the host.
    pub device: &'r str,
    /// What is accepted.
    pub rules: &'r [Rule],
}

/// A whole node for `iptables-restore`: forwarded packets, known flows first, a chain per NIC and direction behind physical devices.
pub fn iptables(guests: &[Guest<'_>]) -> String {
    let mut text = String::from(
        "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n\
         :forward -\n:bridge-in -\n:bridge-out -\n:smurfs -\n:smurf-drop -\n:standard-drop -\n",
    );
    for Guest { device, .. } in guests {
        writeln!(text, ":{device}-in -\n:{device}-out -").ok();
    }
    text.push_str(
        "-A FORWARD -j forward\n\
         -A forward -m conntrack --ctstate INVALID -j DROP\n\
         -A forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A forward -m physdev --physdev-is-bridged --physdev-in fwln+ -j bridge-in\n\
         -A forward -m physdev --physdev-is-bridged --physdev-out fwln+ -j bridge-out\n\
         -A bridge-in -m conntrack --ctstate INVALID,NEW -j smurfs\n\
         -A smurfs -s 0.0.0.0/32 -j RETURN\n\
         -A smurfs -m addrtype --src-type BROADCAST -g smurf-drop\n\
         -A smurfs -s 224.0.0.0/4 -g smurf-drop\n\
         -A smurf-drop -j DROP\n\
         -A standard-drop -m addrtype --dst-type BROADCAST -j DROP\n\
         -A standard-drop -m addrtype --dst-type MULTICAST -j DROP\n\
         -A standard-drop -d 224.0.0.0/4 -j DROP\n\
         -A standard-drop -p icmp -m icmp --icmp-type 3/4 -j ACCEPT\n\
         -A standard-drop -p icmp -m icmp --icmp-type 11 -j ACCEPT\n\
         -A standard-drop -m conntrack --ctstate INVALID -j DROP\n\
         -A standard-drop -p udp -m multiport --dports 135,445 -j DROP\n\
         -A standard-drop -p udp -m udp --dport 137:139 -j DROP\n\
         -A standard-drop -p udp -m udp --sport 137 --dport 1024:65535 -j DROP\n\
         -A standard-drop -p tcp -m multiport --dports 135,139,445 -j DROP\n\
         -A standard-drop -p udp -m udp --dport 1900 -j DROP\n\
         -A standard-drop -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP\n\
         -A standard-drop -p udp -m udp --sport 53 -j DROP\n",
    );
    for Guest { device, rules } in guests {
        writeln!(
            text,
            "-A bridge-in -m physdev --physdev-is-bridged --physdev-out {device} -j {device}-in\n\
             -A bridge-out -m physdev --physdev-is-bridged --physdev-in {device} -j {device}-out\n\
             -A {device}-out -p udp -m udp --sport 68 --dport 67 -j ACCEPT\n\
             -A {device}-out -j ACCEPT\n\
             -A {device}-in -p udp -m udp --sport 67 --dport 68 -j ACCEPT"
        )
        .ok();
        for rule in *rules {
            let Rule {
                protocol,
                port,
                source,
            } = rule;
            let source = Shown(source.map(|source| format!(" -s {source}/32")));
            writeln!(
                text,
                "-A {device}-in{source} -p {protocol} -m {protocol} --dport {port} -j ACCEPT"
            )
            .ok();
        }
        writeln!(
            text,
            "-A {device}-in -j standard-drop\n-A {device}-in -j DROP"
        )
        .ok();
    }
    text.push_str("COMMIT\n");
    text
}

/// Who follows flows for nft's bridge family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// The bridge family itself, as proxmox-firewall has it (`CONFIG_NF_CONNTRACK_BRIDGE`).
    Bridge,
    /// Bridge netfilter: the inet family tells the bridge family the state as a packet mark.
    Marks,
}

impl Tracking {
    /// What decides packets of known flows in a chain of the bridge family.
    fn known(self) -> &'static str {
        match self {
            Self::Bridge => {
                "ct state vmap { established : accept, related : accept, invalid : drop }"
            }
            Self::Marks => "meta mark vmap { 1 : accept, 2 : drop }",
        }
    }

    /// What the bridge family's chains need beside them.
    pub fn preamble(self) -> &'static str {
        match self {
            Self::Bridge => "",
            Self::Marks => {
                "table inet states\ndelete table inet states\ntable inet states {\n\
                 \tchain from { type filter hook prerouting priority filter;\n\
                 \t\tct state vmap { established : jump known, related : jump known, invalid : jump bad }\n\t}\n\
                 \tchain known { meta mark set 1; }\n\
                 \tchain bad { meta mark set 2; }\n}\n"
            }
        }
    }
}

/// A ruleset that the kernel takes if its bridge family follows flows.
pub const TRIAL: &str = "table bridge trial { chain a { ct state established accept; }; }\n";

/// A whole node for `nft -f`: bridge family, a map from devices to a chain per guest and direction, known flows first.
pub fn nftables(guests: &[Guest<'_>], tracking: Tracking) -> String {
    let known = tracking.known();
    let mut text =
        String::from("table bridge node\ndelete table bridge node\ntable bridge node {\n");
    for Guest { device, rules } in guests {
        writeln!(
            text,
            "\tchain {device}-out {{\n\
             \t\tmeta protocol arp accept\n\
             \t\t{known}\n\
             \t\tudp sport 68 udp dport 67 accept\n\
             \t\taccept\n\t}}\n\
             \tchain {device}-in {{\n\
             \t\tmeta protocol arp accept\n\
             \t\t{known}\n\
             \t\tudp sport 67 udp dport 68 accept"
        )
        .ok();
        for rule in *rules {
            let Rule {
                protocol,
                port,
                source,
            } = rule;
            let source = Shown(source.map(|source| format!("ip saddr {source} ")));
            writeln!(text, "\t\t{source}{protocol} dport {port} accept").ok();
        }
        writeln!(text, "\t\tdrop\n\t}}").ok();
    }
    for (map, direction) in [("to-guests", "in"), ("from-guests", "out")] {
        let elements: Vec<String> = guests
            .iter()
            .map(|guest| format!("\"{0}\" : goto {0}-{direction}", guest.device))
            .collect();
        writeln!(
            text,
            "\tmap {map} {{ type ifname : verdict; elements = {{ {} }}; }}",
            elements.join(", ")
        )
        .ok();
    }
    // Behind bridge netfilter, whose hook before routing has priority 0.
    text.push_str(
        "\tchain from { type filter hook prerouting priority 10; iifname vmap @from-guests; }\n\
         \tchain to { type filter hook postrouting priority 10; oifname vmap @to-guests; }\n}\n",
    );
    text
}

/// Text or nothing.
struct Shown(Option<String>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_every_rule_and_the_last_ones_match() {
        let rules = rules(10);
        let guests = [Guest {
            device: "veth101i0",
            rules: &rules,
        }];
        let count = |text: &str, word: &str| text.matches(word).count();
        assert_eq!(count(&firewall(&rules), "IN ACCEPT"), 10);
        // One more for DHCP.
        assert_eq!(count(&iptables(&guests), "-A veth101i0-in -p"), 1 + 2 + 4);
        assert_eq!(count(&iptables(&guests), "-A veth101i0-in -s 10.1."), 4);
        for tracking in [Tracking::Bridge, Tracking::Marks] {
            assert_eq!(count(&nftables(&guests, tracking), "dport 2000"), 8);
        }
        let last = ["tcp", "udp"].map(|protocol| format!("-p {protocol} -dport {OPEN}"));
        let text = firewall(&rules);
        let end: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(end[1].contains(&last[0]) && end[0].contains(&last[1]));
    }
}
