//! Every option: good values, bad values, ranges.

use super::*;

fn check<O: OptionTable + std::fmt::Debug>(
    text: &str,
    shown: &str,
    expect: Result<Option<&str>, &str>,
) {
    let mut options = O::default();
    let found = options.read(&Line { number: 7, text });
    let found = found
        .map(|note| note.map(|note| note.message))
        .map_err(|fault| fault.message);
    let found = found
        .as_ref()
        .map(|note| note.as_deref())
        .map_err(String::as_str);
    assert_eq!(found, expect, "{text}");
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
            "pve-firewall refuses a rate limit without `enable`; it is taken as on",
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
        "nf_conntrack_max: Setting { value: 300000",
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
        "nf_conntrack_max: Setting { value: 32768",
        "7 is outside 32768 to 4294967295; 32768 is used",
    );
    clamped(
        "nf_conntrack_tcp_timeout_syn_recv: 90",
        "syn_recv: Setting { value: 60",
        "90 is outside 30 to 60; 60 is used",
    );
    clamped(
        "tcpflags: on",
        "tcpflags: Setting { value: true",
        "pve-firewall accepts only 0 and 1 here",
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
        "layer2_protocols: ARP,8100,0x88cc,LLDP",
        "layer2_protocols: Setting { value: Some([2054, 33024, 35020])",
    );
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
