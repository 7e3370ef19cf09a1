//! Which verdicts are shown, and the line of one.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// What of a packet the probe in the kernel does not look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// With an address of this network at either end.
    pub address: Option<IpNet>,
    /// With this port at either end.
    pub port: Option<u16>,
    /// Of this protocol.
    pub protocol: Option<u8>,
}

impl Filter {
    /// Whether a packet, as the object of the log, is wanted.
    pub fn holds(&self, packet: &Value) -> bool {
        let address = |key: &str| packet[key].as_str()?.parse::<IpAddr>().ok();
        let ends = ["source", "dest"].map(address);
        let ports = ["sport", "dport"].map(|key| packet[key].as_u64());
        self.address
            .is_none_or(|net| ends.iter().flatten().any(|end| net.contains(end)))
            && self
                .port
                .is_none_or(|port| ports.contains(&Some(u64::from(port))))
            && self
                .protocol
                .is_none_or(|protocol| packet["protocol"] == protocol)
    }
}

/// A line for people.
pub fn line(packet: &Value, colours: bool) -> String {
    let text = |key: &str| packet[key].as_str().unwrap_or_default();
    // `2026-01-02T14:03:07.123456+01:00`: the time of day.
    let time = text("time").split_once('T').map_or("", |(_, time)| time);
    let time = time.get(..15).unwrap_or(time);
    let owner = match (&packet["guest"], &packet["nic"]) {
        (Value::Number(guest), Value::Number(nic)) => format!("{guest}/net{nic}"),
        _ => format!("host {}", text("device")),
    };
    let verdict = text("verdict").to_ascii_uppercase();
    let code = match verdict.as_str() {
        "ACCEPT" => 32,
        "REJECT" => 33,
        _ => 31,
    };
    let verdict = match colours {
        true => format!("\x1b[{code}m{verdict:<6}\x1b[0m"),
        false => format!("{verdict:<6}"),
    };
    let direction = text("direction").to_ascii_uppercase();
    let mut line = format!("{time} {verdict} {owner} {direction:<3} {}", packet_text(packet));
    line.push_str("  ");
    line.push_str(text("reason"));
    let rule = &packet["rule"];
    if let (Some(file), Some(number)) = (rule["file"].as_str(), rule["line"].as_u64()) {
        line.push_str(&format!("  {file}:{number}:"));
    }
    if let Some(text) = rule["text"].as_str() {
        line.push_str(if rule["file"].is_null() { "  " } else { " " });
        line.push_str(text);
    }
    line
}

/// Protocol, ends, flags.
fn packet_text(packet: &Value) -> String {
    let protocol = match (&packet["protocol_name"], &packet["protocol"]) {
        (Value::String(name), _) => name.clone(),
        (_, Value::Number(number)) => number.to_string(),
        _ => {
            let ethertype = packet["ethertype"].as_u64();
            return match (ethertype, packet["undecoded"].as_str()) {
                (_, Some(why)) => format!("undecoded ({why})"),
                (Some(ethertype), None) => format!("ethertype {ethertype:04x}"),
                (None, None) => "frame".to_owned(),
            };
        }
    };
    let end = |address: &str, port: &str| {
        let address = packet[address].as_str().unwrap_or("?");
        match packet[port].as_u64() {
            Some(port) if address.contains(':') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
            None => address.to_owned(),
        }
    };
    let mut text = format!("{protocol} {} -> {}", end("source", "sport"), end("dest", "dport"));
    if let Some(flags) = packet["tcp_flags"].as_array() {
        let flags: Vec<&str> = flags.iter().filter_map(Value::as_str).collect();
        text.push_str(&format!(" {}", flags.join(",")));
    }
    if let Some(kind) = packet["icmp_type"].as_u64() {
        text.push_str(&format!(" type {kind}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn packet() -> Value {
        json!({
            "time": "2026-01-02T14:03:07.123456+01:00", "guest": 100, "nic": 0, "device": "tap100i0", "direction": "in",
            "verdict": "drop", "reason": "policy", "rule": {"file": "firewall/100.fw", "line": 3, "text": "policy_in: DROP"},
            "source": "2001:db8::1", "dest": "2001:db8::2", "protocol": 6, "protocol_name": "tcp", "sport": 40000, "dport": 22,
            "tcp_flags": ["SYN"]
        })
    }

    #[test]
    fn lines_name_the_packet_and_the_rule() {
        assert_eq!(
            line(&packet(), false),
            "14:03:07.123456 DROP   100/net0 IN  tcp [2001:db8::1]:40000 -> [2001:db8::2]:22 SYN  policy  firewall/100.fw:3: policy_in: DROP"
        );
        let host = json!({"time": "", "device": "vmbr0", "direction": "out", "verdict": "accept", "reason": "not-ip", "ethertype": 0x806});
        assert_eq!(
            line(&host, true),
            " \u{1b}[32mACCEPT\u{1b}[0m host vmbr0 OUT ethertype 0806  not-ip"
        );
    }

    #[test]
    fn filters_look_at_both_ends() {
        let holds = |address: Option<&str>, port, protocol| {
            let address = address.map(|address| address.parse().unwrap());
            Filter {
                address,
                port,
                protocol,
            }
            .holds(&packet())
        };
        assert!(holds(None, None, None));
        assert!(holds(Some("2001:db8::2/128"), Some(40_000), Some(6)));
        assert!(!holds(Some("2001:db8::3/128"), None, None));
        assert!(!holds(None, Some(23), None));
        assert!(!holds(None, None, Some(17)));
    }
}
