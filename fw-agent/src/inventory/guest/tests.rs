//! `netN` lines of VMs and containers.

use super::*;

fn check(kind: GuestKind, text: &str, expect: &[&str], reports: &[&str]) {
    let mut found = Vec::new();
    let guest = parse(
        text.as_bytes(),
        100,
        kind,
        &mut Reporter::new("f".into(), &mut found),
    );
    let nic = |nic: &Nic| {
        let firewall = if nic.firewall { "firewalled" } else { "open" };
        let mac = nic
            .mac
            .map_or_else(|| "no mac".to_owned(), |mac| format!("{mac:02x?}"));
        let bridge = nic.bridge.as_deref().unwrap_or("-");
        format!("{} {firewall} {mac} {bridge} {:?}", nic.net, nic.addresses)
    };
    assert_eq!(
        guest.nics.iter().map(nic).collect::<Vec<_>>(),
        expect,
        "{text}"
    );
    assert_eq!(
        found.iter().map(ToString::to_string).collect::<Vec<_>>(),
        reports,
        "{text}"
    );
}

#[test]
fn virtual_machines() {
    let vm =
        |text: &str, expect: &[&str], reports: &[&str]| check(GuestKind::Vm, text, expect, reports);
    let mac = "[bc, 24, 11, 00, 00, ac]";
    vm(
        "net0: virtio=BC:24:11:00:00:AC,bridge=vmbr0,firewall=1",
        &[&format!("0 firewalled {mac} vmbr0 []")],
        &[],
    );
    vm(
        "net1: model=e1000e,macaddr=bc:24:11:00:00:ac,firewall=on\r\n",
        &[&format!("1 firewalled {mac} - []")],
        &[],
    );
    vm(
        "net1: virtio,macaddr=bc:24:11:00:00:ac,queues=4",
        &[&format!("1 open {mac} - []")],
        &[],
    );
    vm(
        "# net0: x\nnetx: y\nnet01: y\nnet32: y\n[snap]\nnet0: virtio=BC:24:11:00:00:AC",
        &[],
        &[],
    );
    vm(
        "net0: virtio=BC:24:11:00:00:AC\nnet0: virtio=BC:24:11:00:00:AC,firewall=1",
        &[&format!("0 firewalled {mac} - []")],
        &[],
    );
}

#[test]
fn containers() {
    let ct = |text: &str, expect: &[&str], reports: &[&str]| {
        check(GuestKind::Container, text, expect, reports)
    };
    let head = "net0: name=eth0,hwaddr=BC:24:11:00:00:AC,type=veth,firewall=1,bridge=vmbr1";
    let mac = "[bc, 24, 11, 00, 00, ac]";
    ct(
        &format!("{head},ip=10.0.0.5/24,ip6=fd00::5/64"),
        &[&format!("0 firewalled {mac} vmbr1 [10.0.0.5, fd00::5]")],
        &[],
    );
    ct(
        &format!("{head},ip=dhcp,ip6=auto"),
        &[&format!("0 firewalled {mac} vmbr1 []")],
        &[],
    );
    ct(
        &format!("{head},ip=10.0.0"),
        &[&format!("0 firewalled {mac} vmbr1 []")],
        &["f:1:76: warning: `10.0.0` is not an address; the address is not added to the NIC's own"],
    );
}

#[test]
fn what_cannot_be_read_is_closed() {
    let closed = "the NIC is treated as firewalled";
    let open_mac = "its MAC filter is off";
    for (text, expect, reports) in [
        (
            "net0: virtio=BC:24:11:00:00:AC,firewall=2",
            "0 firewalled [bc, 24, 11, 00, 00, ac] - []",
            format!("f:1:32: warning: `2` is neither 0 nor 1; {closed}"),
        ),
        (
            "net0: foo=BC:24:11:00:00:AC,macaddr=02:00:00:00:00:01",
            "0 firewalled [02, 00, 00, 00, 00, 01] - []",
            format!("f:1:7: warning: `foo` is not a known model; {closed}"),
        ),
        (
            "net0: virtio=02:00:00:00:00:01,junk",
            "0 firewalled [02, 00, 00, 00, 00, 01] - []",
            format!("f:1:32: warning: `junk` cannot be read as key=value; {closed}"),
        ),
        (
            "net0: virtio=02:00:00:00:00:01,firewall=0,firewall=0",
            "0 firewalled [02, 00, 00, 00, 00, 01] - []",
            format!("f:1:43: warning: `firewall` is given twice; {closed}"),
        ),
        (
            "net0: virtio=03:00:00:00:00:01,firewall=1",
            "0 firewalled no mac - []",
            format!(
                "f:1:7: warning: `03:00:00:00:00:01` is not a hardware address of a NIC; {open_mac}"
            ),
        ),
        (
            "net0: virtio,firewall=1",
            "0 firewalled no mac - []",
            format!("f:1:1: warning: net0 has no hardware address; {open_mac}"),
        ),
    ] {
        check(GuestKind::Vm, text, &[expect], &[&reports]);
    }
}

#[test]
fn vlans_of_a_nic() {
    let check = |text: &str, tag: Option<u16>, trunks: &[(u16, u16)], reports: &[&str]| {
        let mut found = Vec::new();
        let line = format!("net0: virtio=BC:24:11:00:00:AC,bridge=vmbr0,{text}");
        let mut reporter = Reporter::new("f".into(), &mut found);
        let guest = parse(line.as_bytes(), 100, GuestKind::Vm, &mut reporter);
        let nic = &guest.nics[0];
        assert_eq!((nic.tag, nic.trunks.as_slice()), (tag, trunks), "{text}");
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, reports, "{text}");
    };
    check("tag=5,trunks=7;10-12", Some(5), &[(7, 7), (10, 12)], &[]);
    for (item, value) in [
        ("tag=4095", "4095"),
        ("tag=0", "0"),
        ("tag=+1", "+1"),
        ("trunks=5-4", "5-4"),
        ("trunks=5;", "5;"),
    ] {
        let report = format!(
            "f:1:45: warning: `{value}` is not a VLAN (1 to 4094); the NIC counts as one without it"
        );
        check(item, None, &[], &[&report]);
    }
}
