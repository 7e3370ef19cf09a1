//! Lines of rules, one per case.

use super::*;
use crate::config::line::SUPERSET;
use crate::policy::Family;

fn check(list: List, text: &str, expect: Result<&str, &str>) {
    let line = Line::alone(text);
    let found = parse(&line, list, &mut Vec::new());
    let found = found.map(|rule| rule.map_or_else(|| "blank".to_owned(), |rule| describe(&rule)));
    let found = found.map_err(|fault| {
        let start = usize::try_from(fault.span.column.max(1) - 1).unwrap();
        let length = usize::try_from(fault.span.length).unwrap();
        let part: String = text.chars().skip(start).take(length).collect();
        let hint = fault
            .hint
            .map(|hint| format!(" ({hint})"))
            .unwrap_or_default();
        format!("{part}: {}{hint}", fault.message)
    });
    assert_eq!(found.as_deref().map_err(String::as_str), expect, "{text}");
}

fn describe(rule: &RuleLine) -> String {
    let mut out = Vec::new();
    if !rule.enabled {
        out.push("disabled".to_owned());
    }
    match &rule.interface {
        Some(Interface::Net(net, _)) => out.push(format!("net{net}")),
        Some(Interface::Host(name, _)) => out.push(format!("dev {name}")),
        None => {}
    }
    match &rule.action {
        Action::Group { name, .. } => out.push(format!("group {name}")),
        Action::Filter(filter) => {
            out.push(match filter.flow {
                Flow::Local(direction) => format!("{} {}", direction.name(), filter.verdict.name()),
                Flow::Forward => format!("FORWARD {}", filter.verdict.name()),
            });
            out.extend(filter.log.map(|level| format!("log {level}")));
            for (name, spec) in [("source", &filter.source), ("dest", &filter.dest)] {
                match spec {
                    Some(AddressSpec::Set(of)) => out.push(format!("{name} set {}", of.name)),
                    Some(AddressSpec::Alias(of)) => out.push(format!("{name} alias {}", of.name)),
                    Some(AddressSpec::Nets { nets, .. }) => {
                        out.push(format!("{name} {} nets", nets.len()))
                    }
                    None => {}
                }
            }
            out.extend(
                filter
                    .services
                    .iter()
                    .map(describe_service)
                    .filter(|text| !text.is_empty()),
            );
        }
    }
    out.join("; ")
}

fn describe_service(service: &Service) -> String {
    let mut out = Vec::new();
    match service.family {
        Some(Family::V4) => out.push("v4".to_owned()),
        Some(Family::V6) => out.push("v6".to_owned()),
        None => {}
    }
    out.extend(service.protocol.map(|protocol| format!("p{protocol}")));
    for (name, ports) in [("s", &service.sport), ("d", &service.dport)] {
        let ports: Vec<_> = ports
            .iter()
            .map(|(a, b)| {
                if a == b {
                    a.to_string()
                } else {
                    format!("{a}:{b}")
                }
            })
            .collect();
        if !ports.is_empty() {
            out.push(format!("{name}{}", ports.join(",")));
        }
    }
    out.join(" ")
}

#[test]
fn directions_and_actions() {
    let guest = |text, expect| check(List::Guest, text, expect);
    guest("", Ok("blank"));
    guest("  # only a comment", Ok("blank"));
    guest("IN ACCEPT", Ok("IN ACCEPT"));
    guest("\tin\tdrop # x", Ok("IN DROP"));
    guest("out Reject", Ok("OUT REJECT"));
    guest("|IN ACCEPT", Ok("disabled; IN ACCEPT"));
    guest("| IN ACCEPT", Ok("disabled; IN ACCEPT"));
    guest("GROUP Web -i net12", Ok("net12; group web"));
    check(
        List::Host,
        "FORWARD DROP -i vmbr0",
        Ok("dev vmbr0; FORWARD DROP"),
    );
    check(List::Group, "FORWARD ACCEPT", Ok("FORWARD ACCEPT"));
    guest("|", Err("|: the rule is missing"));
    guest(
        "IN",
        Err("IN: an action is missing (for example `IN ACCEPT`, or `GROUP name`)"),
    );
    guest(
        "FORWARD ACCEPT",
        Err("FORWARD: a guest has no FORWARD rules (use IN or OUT)"),
    );
    check(
        List::Host,
        "FORWARD REJECT",
        Err("REJECT: a FORWARD rule cannot reject (use DROP)"),
    );
    guest(
        "SIDEWAYS DROP",
        Err(
            "SIDEWAYS: `SIDEWAYS` is not a direction (a rule begins with IN, OUT, FORWARD or GROUP)",
        ),
    );
    guest("IN DENY", Err("DENY: `DENY` is not an action (use DROP)"));
    guest(
        "IN ACEPT",
        Err("ACEPT: `ACEPT` is not an action (did you mean `ACCEPT`?)"),
    );
    guest(
        "IN ssh",
        Err("ssh: `ssh` is not an action (a macro needs an action: SSH(ACCEPT))"),
    );
    guest(
        "IN SSH(DENY)",
        Err("DENY: `DENY` is not an action (use DROP)"),
    );
    check(
        List::Group,
        "GROUP other",
        Err("GROUP: a security group cannot contain another"),
    );
    guest("GROUP a", Err("a: `a` is not a name of a security group"));
    guest(
        "GROUP web -p tcp",
        Err("tcp: a GROUP line has no option but -i"),
    );
}

#[test]
fn options() {
    let guest = |text, expect| check(List::Guest, text, expect);
    guest("IN ACCEPT  -p  tcp   --dport\t22", Ok("IN ACCEPT; p6 d22"));
    guest("IN ACCEPT -p udp -p tcp", Ok("IN ACCEPT; p6"));
    guest(
        "IN ACCEPT -log info -iface net0",
        Ok("net0; IN ACCEPT; log 6"),
    );
    guest("IN ACCEPT -log nolog", Ok("IN ACCEPT"));
    guest(
        "IN ACCEPT -source +Foo -dest dc/Bar",
        Ok("IN ACCEPT; source set foo; dest alias bar"),
    );
    guest(
        "IN ACCEPT -source 10.0.0.1,10.0.0.9",
        Ok("IN ACCEPT; source 2 nets"),
    );
    guest(
        "IN ACCEPT foo",
        Err("foo: `foo` is not an option (an option begins with `-`)"),
    );
    guest(
        "IN ACCEPT -dprot 22",
        Err("-dprot: `-dprot` is not an option (did you mean `-dport`?)"),
    );
    guest(
        "IN ACCEPT -p tcp -dport",
        Err("-dport: -dport has no value"),
    );
    guest("IN ACCEPT -p -dport 22", Err("-p: -p has no value"));
    guest(
        "IN ACCEPT -i eth0",
        Err("eth0: `eth0` is not an interface of a guest (use net0, net1, …)"),
    );
    guest(
        "IN ACCEPT -i net",
        Err("net: `net` is not an interface of a guest (use net0, net1, …)"),
    );
    guest(
        "IN ACCEPT -i net99999",
        Err("net99999: `net99999` is not an interface of a guest (use net0, net1, …)"),
    );
    check(
        List::Host,
        "IN ACCEPT -i my-br0.7",
        Ok("dev my-br0.7; IN ACCEPT"),
    );
    check(
        List::Host,
        "IN ACCEPT -i eth0:x",
        Err("eth0:x: `eth0:x` is not a name of an interface"),
    );
    check(
        List::Group,
        "IN ACCEPT -i net0",
        Err(
            "net0: a rule of a security group cannot name an interface (name it where the group is used)",
        ),
    );
    guest(
        "IN ACCEPT -log loud",
        Err(
            "loud: `loud` is not a log level (emerg alert crit err warning notice info debug nolog)",
        ),
    );
}

#[test]
fn protocols_and_ports() {
    let guest = |text, expect| check(List::Guest, text, expect);
    guest("IN ACCEPT -p 0", Ok("IN ACCEPT"));
    guest("IN ACCEPT -p 58", Ok("IN ACCEPT; p58"));
    guest("IN ACCEPT -p 1", Ok("IN ACCEPT; p1"));
    guest("IN ACCEPT -p icmp", Ok("IN ACCEPT; v4 p1"));
    guest("IN ACCEPT -p ipv6-icmp", Ok("IN ACCEPT; v6 p58"));
    guest("IN ACCEPT -p udplite -dport 5", Ok("IN ACCEPT; p136 d5"));
    guest("IN ACCEPT -p tcp -dport 0", Ok("IN ACCEPT; p6 d0"));
    guest(
        "IN ACCEPT -p tcp -dport https,22,80:90,85:100,101",
        Ok("IN ACCEPT; p6 d22,80:101,443"),
    );
    guest(
        "IN ACCEPT -p tcp -sport 0:65535",
        Ok("IN ACCEPT; p6 s0:65535"),
    );
    guest(
        "IN ACCEPT -p TCP",
        Err("TCP: `TCP` is not a known protocol (did you mean `tcp`?)"),
    );
    guest(
        "IN ACCEPT -p 253",
        Err("253: `253` is not a known protocol"),
    );
    guest("IN ACCEPT -p +6", Err("+6: `+6` is not a known protocol"));
    guest(
        "IN ACCEPT -dport 22",
        Err("22: a port needs a protocol (add `-p tcp` or `-p udp`)"),
    );
    guest(
        "IN ACCEPT -p gre -dport 22",
        Err(
            "22: this protocol has no ports (ports need the protocol tcp, udp, sctp, dccp or udplite)",
        ),
    );
    guest(
        "IN ACCEPT -p tcp -dport 22,",
        Err("22,: an item of the port list is empty"),
    );
    guest(
        "IN ACCEPT -p tcp -dport 90:80",
        Err("90:80: the port range ends before it begins"),
    );
    guest(
        "IN ACCEPT -p tcp -dport 80:",
        Err("80:: `80:` is not a port or a range of ports (0 to 65535)"),
    );
    guest(
        "IN ACCEPT -p tcp -dport 65536",
        Err("65536: `65536` is not a port or a range of ports (0 to 65535)"),
    );
    guest(
        "IN ACCEPT -p tcp -dport 80-90",
        Err(
            "80-90: `80-90` is not a known service of this protocol (a range of ports is written `80:90`)",
        ),
    );
    guest(
        "IN ACCEPT -p udp -dport ssh",
        Err("ssh: `ssh` is not a known service of this protocol"),
    );
}

#[test]
fn icmp_types() {
    let guest = |text, expect| check(List::Guest, text, expect);
    guest(
        "IN ACCEPT -p icmp -icmp-type echo-request",
        Ok("IN ACCEPT; v4 p1 s8"),
    );
    guest(
        "IN ACCEPT -p icmp -icmp-type 3/4",
        Ok("IN ACCEPT; v4 p1 s3 d4"),
    );
    guest("IN ACCEPT -p icmp -dport any", Ok("IN ACCEPT; v4 p1"));
    guest(
        "IN ACCEPT -p icmpv6 -dport 128",
        Ok("IN ACCEPT; v6 p58 s128"),
    );
    guest("IN ACCEPT -p icmp -dport 0", Ok("IN ACCEPT; v4 p1 s0"));
    guest(
        "IN ACCEPT -p icmp -dport 8,0",
        Err("8,0: `8,0` is not an ICMP type"),
    );
    guest(
        "IN ACCEPT -p icmp -icmp-type eco-request",
        Err("eco-request: `eco-request` is not an ICMP type (did you mean `echo-request`?)"),
    );
    guest(
        "IN ACCEPT -p ipv6-icmp -dport 128",
        Err("128: an ICMP type as -dport needs the protocol icmp or icmpv6 (use -icmp-type)"),
    );
    guest(
        "IN ACCEPT -p tcp -icmp-type 8",
        Err("8: an ICMP type needs the protocol icmp or icmpv6 (add `-p icmp` or `-p icmpv6`)"),
    );
    guest(
        "IN ACCEPT -p icmp -icmp-type 8 -dport 8",
        Err("8: a rule cannot have both -dport and -icmp-type"),
    );
    guest("IN ACCEPT -p icmp -sport 8", Err("8: ICMP has no ports"));
}

#[test]
fn macros_and_their_options() {
    let guest = |text, expect| check(List::Guest, text, expect);
    guest("IN sSh(accept)", Ok("IN ACCEPT; p6 d22"));
    guest(
        "IN DNS(DROP) -source 10.0.0.1",
        Ok("IN DROP; source 1 nets; p17 d53; p6 d53"),
    );
    guest("IN Ping(ACCEPT)", Ok("IN ACCEPT; v4 p1 s8; v6 p58 s128"));
    guest("IN Ping(ACCEPT) -p icmp", Ok("IN ACCEPT; v4 p1 s8"));
    guest(
        "OUT SMTPS(REJECT) -p tcp -sport 1024:65535",
        Ok("OUT REJECT; p6 s1024:65535 d465"),
    );
    guest("IN SSH(ACCEPT) -p 6 -dport 22", Ok("IN ACCEPT; p6 d22"));
    guest(
        "IN SSH(ACCEPT) -p tcp -dport 2222",
        Err("2222: macro SSH has another destination port or ICMP type"),
    );
    guest(
        "IN DNS(ACCEPT) -p tcp",
        Err("tcp: macro DNS has another protocol"),
    );
    guest(
        "IN HTTP(ACCEPT) -dport 80",
        Err("80: a port needs a protocol (add `-p tcp` or `-p udp`)"),
    );
    guest(
        "IN Ping(ACCEPT) -p icmp -dport 0",
        Err("0: macro Ping has another source port or ICMP type"),
    );
    guest(
        "IN SHS(ACCEPT)",
        Err("SHS: `SHS` is not a macro (did you mean `SSH`?)"),
    );
    guest("IN ()", Err("(: `` is not a macro"));
}

#[test]
fn spellings_the_reference_ignores_are_noted() {
    let check = |list, text: &str, expect: &[&str]| {
        let mut notes = Vec::new();
        parse(&Line::alone(text), list, &mut notes).unwrap();
        assert!(notes.iter().all(|note| note.effect == SUPERSET), "{text}");
        let notes: Vec<_> = notes
            .iter()
            .map(|note| format!("{}: {}", note.fault.span.column, note.fault.message))
            .collect();
        assert_eq!(notes, expect, "{text}");
    };
    let guest = |text: &str, expect: &[&str]| check(List::Guest, text, expect);
    guest("IN ACCEPT   -p tcp   -dport 1,2:3,ssh -log info", &[]);
    guest("in\tSSH(ACCEPT)", &[]);
    guest("IN accept", &["4: the action is not in capital letters"]);
    guest(
        "IN SSH(Accept) --iface net0",
        &[
            "16: `--iface` is another spelling of the option",
            "8: the action is not in capital letters",
        ],
    );
    for spelling in ["--i", "-iface"] {
        let note = format!("11: `{spelling}` is another spelling of the option");
        guest(&format!("IN ACCEPT {spelling} net0"), &[&note]);
    }
    guest(
        "IN ACCEPT --p tcp",
        &["11: `--p` is another spelling of the option"],
    );
    guest(
        "IN ACCEPT -p  tcp",
        &["15: between an option and its value stands something else than one space"],
    );
    guest(
        "IN ACCEPT -p\ttcp",
        &["14: between an option and its value stands something else than one space"],
    );
    guest(
        "GROUP Web",
        &["7: the name of a security group has capital letters"],
    );
    guest(
        "IN ACCEPT -source +Foo",
        &["19: the name of a set has capital letters"],
    );
    guest("IN ACCEPT -source Foo", &[]);
    guest(
        "IN ACCEPT -source 10.0.0.5/24",
        &["19: the network has host bits"],
    );
    guest("IN ACCEPT -source 10.0.0.1-10.0.0.9", &[]);
    guest(
        "IN ACCEPT -source 10.0.0.1,10.0.0.3-10.0.0.9",
        &["28: a range stands in a list"],
    );
    guest("IN ACCEPT -p icmp -icmp-type echo-request", &[]);
    guest("IN ACCEPT -p icmp -icmp-type any", &[]);
    guest("IN ACCEPT -p icmp -dport 8", &[]);
    for kind in ["8", "3/4", "info-request", "Echo-Reply"] {
        guest(
            &format!("IN ACCEPT -p icmp -icmp-type {kind}"),
            &["30: pve-firewall knows ICMP types only by their names here"],
        );
    }
    guest(
        "IN ACCEPT -p icmpv6 -dport 1/3",
        &["28: pve-firewall knows ICMP types only by name or number here"],
    );
    guest(
        "IN ACCEPT -p tcp -dport 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15,16",
        &["25: the list has more than 15 ports"],
    );
    guest(
        "IN ACCEPT -p tcp -dport 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15",
        &[],
    );
    for level in ["warn", "INFO"] {
        guest(
            &format!("IN ACCEPT -log {level}"),
            &["16: the log level is not one of pve-firewall's words"],
        );
    }
    guest("IN PBS(ACCEPT)", &["4: pve-firewall has no macro PBS"]);
    guest(
        "IN http/3(ACCEPT)",
        &["4: pve-firewall has no macro HTTP/3"],
    );
    check(List::Host, "IN ACCEPT -i vmbr0.5", &[]);
    check(
        List::Host,
        "IN ACCEPT -i br-lan",
        &["14: the name of the interface has a `-`"],
    );
}

#[test]
fn what_is_read_in_another_way_is_noted() {
    for (text, expect) in [
        (
            "IN ACCEPT -p tcp -dport 0",
            "25: pve-firewall takes port 0 for every port; Tapwall matches port 0 only",
        ),
        (
            "IN ACCEPT -p udp -p tcp",
            "18: `-p` is given twice; the later value is used",
        ),
    ] {
        let mut notes = Vec::new();
        parse(&Line::alone(text), List::Guest, &mut notes).unwrap();
        let note = |note: &Note| {
            let Fault { span, message, .. } = &note.fault;
            format!("{}: {message}; {}", span.column, note.effect)
        };
        assert_eq!(notes.iter().map(note).collect::<Vec<_>>(), [expect]);
    }
}

#[test]
fn rules_of_a_vnet() {
    let vnet = |text, expect| check(List::Vnet, text, expect);
    vnet("FORWARD DROP -p tcp", Ok("FORWARD DROP; p6"));
    vnet("GROUP web", Ok("group web"));
    vnet(
        "IN DROP",
        Err("IN: a VNet has only FORWARD rules (use FORWARD)"),
    );
    vnet(
        "FORWARD DROP -i vmbr0",
        Err("vmbr0: a rule of a VNet cannot name an interface"),
    );
    vnet(
        "FORWARD REJECT",
        Err("REJECT: a FORWARD rule cannot reject (use DROP)"),
    );
}
