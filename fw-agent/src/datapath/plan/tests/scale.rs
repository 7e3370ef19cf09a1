//! How much one edit touches among a thousand guests.

use super::*;

const GUESTS: u32 = 1000;
const RULES: u32 = 20;

/// A thousand guests with rules of their own; guest 100 has `edited` in front of them.
fn node(edited: &str) -> MapImage {
    let mut files = vec![
        (
            "firewall/cluster.fw".to_owned(),
            format!("{CLUSTER}[ALIASES]\nlocal_network 192.0.2.0/24\n"),
        ),
        ("nodes/n/lxc/.keep".to_owned(), String::new()),
    ];
    for number in 0..GUESTS {
        let vmid = 100 + number;
        let mut rules = match number {
            0 => edited.to_owned(),
            _ => String::new(),
        };
        for rule in 0..RULES {
            let port = 1 + number * RULES + rule;
            rules += &format!("IN ACCEPT -source +ops -p tcp -dport {port}\n");
        }
        files.push((format!("firewall/{vmid}.fw"), guest(&rules)));
        let [_, _, high, low] = number.to_be_bytes();
        files.push((
            format!("nodes/n/qemu-server/{vmid}.conf"),
            format!("net0: virtio=BC:24:11:01:{high:02X}:{low:02X},bridge=vmbr0,firewall=1"),
        ));
    }
    let sources = Sources {
        node: "n".to_owned(),
        files: files
            .into_iter()
            .map(|(path, text)| (path, text.into_bytes().into()))
            .collect(),
        ..Sources::default()
    };
    let compiled = compile(&sources, &HostFacts::default(), 0);
    assert_eq!(compiled.diagnostics, []);
    compiled.image
}

#[test]
fn one_edit_among_a_thousand_guests_touches_one_policy_and_no_edit_nothing() {
    let devices: BTreeMap<String, u32> = (0..GUESTS)
        .map(|number| (format!("tap{}i0", 100 + number), 10 + number))
        .collect();
    let mut state = State::default();
    let first = node("");
    let all = plan(&mut state, &first, &devices, |_| false);
    let switched = |plan: &Plan| {
        let ports = plan.actions.iter();
        ports
            .filter(|action| matches!(action, Action::SetPort { .. }))
            .count()
    };
    assert_eq!(switched(&all), GUESTS as usize);

    let same = plan(&mut state, &node(""), &devices, |_| false);
    assert_eq!(same, Plan::default());
    let edits = [
        // Another port, another verdict, other addresses that are known.
        ("IN ACCEPT -p udp -dport 53\n", "port 10 epoch 2"),
        ("IN DROP -p udp -dport 53\n", "port 10 epoch 3"),
        ("IN DROP -source +ops -p udp -dport 53\n", "port 10 epoch 4"),
        ("", "port 10 epoch 5"),
    ];
    for (rules, port) in edits {
        let image = node(rules);
        let plan = plan(&mut state, &image, &devices, |_| false);
        assert_eq!(words(&plan), ["policy", port, "await"], "{rules:?}");
    }
}
