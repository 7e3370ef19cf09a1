//! Every option: good values, bad values, ranges.

use super::*;

fn check<O: OptionTable + std::fmt::Debug>(
    text: &str,
    shown: &str,
    expect: Result<Option<&str>, &str>,
) {
    let mut options = O::default();
    let found = options.read(&Line {
        number: 7,
        ..Line::alone(text)
    });
    let text_of = |note: Note| format!("{}; {}", note.fault.message, note.effect);
    let found = found
        .map(|notes| {
            notes
                .into_iter()
                .map(text_of)
                .collect::<Vec<_>>()
                .join("\n")
        })
        .map_err(|fault| fault.message);
    let found = found.as_deref().map_err(String::as_str);
    assert_eq!(found, expect.map(Option::unwrap_or_default), "{text}");
    let debug = format!("{options:?}");
    assert!(
        shown.is_empty() || debug.contains(shown),
        "{text}: {shown} not in {debug}"
    );
}

#[test]
fn cluster() {
    let good = |text, shown| check::<ClusterOptions>(text, shown, Ok(None));
    good("enable:1", "enable: Setting { value: 1, line: Some(7) }");
    good(
        "  ENABLE: \t1700000000 ",
        "enable: Setting { value: 1700000000",
    );
    good("ebtables: 0", "ebtables: Setting { value: false");
    good("policy_in: accept", "policy_in: Setting { value: Accept");
    good(
        "policy_forward: REJECT",
        "policy_forward: Setting { value: Reject",
    );
    good(
        "log_ratelimit: burst=7,enable=1,rate=5/minute",
        "RateLimit { enable: true, count: 5, seconds: 60, burst: 7 }",
    );
    good(
        "log_ratelimit: 0",
        "RateLimit { enable: false, count: 1, seconds: 1, burst: 5 }",
    );
    good("log_ratelimit: enable=1,burst=0", "burst: 5");
    check::<ClusterOptions>(
        "log_ratelimit: rate=2",
        "count: 2",
        Ok(Some(
            "a rate limit without `enable` stops every update of pve-firewall; it is taken as on",
        )),
    );
    for (text, expect) in [
        ("enable: -1", "`-1` is not a number"),
        ("enable:", "`` is not a number"),
        (
            "enable: 99999999999999999999",
            "`99999999999999999999` is not a number",
        ),
        ("dhcp: 1", "`dhcp` is not an option of this file"),
        (
            "log_ratelimit: enable=1,rate=0/second",
            "`0/second` is not a rate such as 1/second",
        ),
        (
            "log_ratelimit: enable=1,rate=1/week",
            "`1/week` is not a rate such as 1/second",
        ),
        (
            "log_ratelimit: enable=1,foo=1",
            "`foo` is not a part of a rate limit (enable, rate, burst)",
        ),
    ] {
        check::<ClusterOptions>(text, "", Err(expect));
    }
}

#[test]
fn host() {
    let good = |text, shown| check::<HostOptions>(text, shown, Ok(None));
    good(
        "log_level_in:",
        "log_level_in: Setting { value: None, line: Some(7) }",
    );
    good(
        "log_level_out: Warning",
        "log_level_out: Setting { value: Some(4)",
    );
    good(
        "smurf_log_level: nolog",
        "smurf_log_level: Setting { value: None, line: Some(7)",
    );
    good("nosmurfs: 0", "nosmurfs: Setting { value: false");
    good(
        "nf_conntrack_max: 300000",
        "nf_conntrack_max: Setting { value: 303104",
    );
    good(
        "nf_conntrack_helpers: ftp,SIP,ftp",
        "nf_conntrack_helpers: Setting { value: [\"ftp\", \"sip\"]",
    );
    good(
        "protection_synflood_rate: 0",
        "protection_synflood_rate: Setting { value: 200",
    );
    let clamped = |text, shown, note| check::<HostOptions>(text, shown, Ok(Some(note)));
    clamped(
        "nf_conntrack_max: 7",
        "nf_conntrack_max: Setting { value: 262144",
        "7 is outside 262144 to 2147475456; the nearest value that is possible is used",
    );
    clamped(
        "nf_conntrack_tcp_timeout_syn_recv: 90",
        "syn_recv: Setting { value: 60",
        "90 is outside 30 to 60; the nearest value that is possible is used",
    );
    clamped(
        "tcpflags: on",
        "tcpflags: Setting { value: true",
        "`on` is written instead of 0 or 1; pve-firewall ignores this line, Tapwall enforces it",
    );
    clamped(
        "log_level_in: WARN",
        "log_level_in: Setting { value: Some(4)",
        "the level is named `warning`; pve-firewall ignores this line, Tapwall enforces it",
    );
    clamped(
        "protection_synflood_burst: 99999999999",
        "burst: Setting { value: 4294967295",
        "99999999999 is outside 1 to 4294967295; the nearest value that is possible is used",
    );
    clamped(
        "nf_conntrack_tcp_timeout_established: 5",
        "established: Setting { value: 7875",
        "5 is outside 7875 to 4294967295; the nearest value that is possible is used",
    );
    check::<HostOptions>(
        "ndp: 2",
        "ndp: Setting { value: true, line: None",
        Err("`2` is neither 0 nor 1"),
    );
    check::<HostOptions>(
        "nf_conntrack_helpers: h323",
        "",
        Err(
            "`h323` is not a connection tracking helper (amanda ftp irc netbios-ns pptp sane sip snmp tftp)",
        ),
    );
}

#[test]
fn guest() {
    let good = |text, shown| check::<GuestOptions>(text, shown, Ok(None));
    good("dhcp: 0", "dhcp: Setting { value: false");
    good("ips_queues: 0:3", "ips_queues: Setting { value: (0, 3)");
    good("ips_queues: 5", "ips_queues: Setting { value: (5, 5)");
    good(
        "layer2_protocols: ARP,8100,802_1Q,IPX",
        "layer2_protocols: Setting { value: Some([2054, 33024, 33079])",
    );
    for (text, item) in [
        ("0x88cc,ARP", "0x88cc"),
        ("LLDP,0806", "LLDP"),
        ("0806,arp", "arp"),
        ("0806, ARP", " ARP"),
    ] {
        check::<GuestOptions>(
            &format!("layer2_protocols: {text}"),
            "2054",
            Ok(Some(&format!(
                "pve-firewall cannot read `{item}` here; pve-firewall ignores this line, Tapwall enforces it"
            ))),
        );
    }
    let bad = |text, expect| check::<GuestOptions>(text, "", Err(expect));
    bad(
        "ips_queues: 3:0",
        "the range of queues ends before it begins",
    );
    bad("layer2_protocols: ARP,", "`` is not an Ethernet type");
    bad("macfilter=0", "an option has the form `name: value`");
    bad("policy_in: DENY", "`DENY` is not ACCEPT, DROP or REJECT");
    let defaults = GuestOptions::default();
    assert!(defaults.dhcp.value && defaults.ndp.value && defaults.macfilter.value);
    assert!(!defaults.enable.value && !defaults.radv.value && !defaults.ipfilter.value);
}

#[test]
fn vnet() {
    let good = |text, shown| check::<VnetOptions>(text, shown, Ok(None));
    good("enable: 1", "enable: Setting { value: 1");
    good("policy_forward: DROP", "forward: Setting { value: Drop");
    good(
        "log_level_forward: info",
        "forward: Setting { value: Some(6)",
    );
    let unknown = "`policy_in` is not an option of this file";
    check::<VnetOptions>("policy_in: DROP", "", Err(unknown));
}

#[test]
fn rate_limits_that_stop_the_reference() {
    check::<ClusterOptions>(
        "log_ratelimit: 1,rate=3",
        "count: 3, seconds: 1, burst: 5",
        Ok(Some(
            "a rate without a unit stops every update of pve-firewall; it is taken as a rate per second",
        )),
    );
    check::<ClusterOptions>(
        "Log_RateLimit: 0",
        "enable: false",
        Ok(Some(
            "this option is written in small letters; pve-firewall ignores this line, Tapwall enforces it",
        )),
    );
}
