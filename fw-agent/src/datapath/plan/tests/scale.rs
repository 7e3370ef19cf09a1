//! How much one edit touches among a thousand guests.

use super::*;
use crate::image::Builder;
use crate::policy::NodePolicy;

const GUESTS: u32 = 1000;
const RULES: u32 = 20;

/// A thousand guests with rules of their own; guest 100 has `edited` in front of them.
fn node(edited: &str) -> NodePolicy {
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
    compiled.policy
}

fn present() -> Present {
    Present {
        devices: (0..GUESTS)
            .map(|number| (format!("tap{}i0", 100 + number), 10 + number))
            .collect(),
        ..Present::default()
    }
}

#[test]
fn one_edit_among_a_thousand_guests_touches_one_policy_and_no_edit_nothing() {
    let present = present();
    let mut state = State::default();
    let mut builder = Builder::default();
    let mut step = |rules: &str| {
        let node = node(rules);
        let image = next_image(&mut builder, &state, &node, &present);
        let plan = plan_node(&mut state, &image, &present, |_| false);
        if rules.contains("/25") {
            // One who remembers nothing makes the same of it, and finds nothing left to do.
            let again = next_image(&mut Builder::default(), &state, &node, &present);
            let rest = plan_node(&mut state.clone(), &again, &present, |_| false);
            assert_eq!(rest, Plan::default(), "{rules:?}");
        }
        plan
    };
    let switched = |plan: &Plan| {
        let ports = plan.actions.iter();
        ports
            .filter(|action| matches!(action, Action::SetPort { .. }))
            .count()
    };
    assert_eq!(switched(&step("")), GUESTS as usize);

    let edits: [(&str, &[&str]); 9] = [
        ("", &[]),
        // Another port, another verdict, other addresses that are known.
        (
            "IN ACCEPT -p udp -dport 53\n",
            &["policy", "port 10 epoch 2", "await"],
        ),
        (
            "IN DROP -p udp -dport 53\n",
            &["policy", "port 10 epoch 3", "await"],
        ),
        (
            "IN DROP -source +ops -p udp -dport 53\n",
            &["policy", "port 10 epoch 4", "await"],
        ),
        // An address that nobody knows: a parent and a prefix.
        (
            "IN DROP -source 198.51.100.7 -p udp -dport 53\n",
            &["entries 0: 1 1", "policy", "port 10 epoch 5", "await"],
        ),
        // Networks around what others name: theirs is told apart.
        (
            "IN DROP -source 192.0.2.0/25 -p udp -dport 53\n",
            &["entries 0: 1 1", "policy", "port 10 epoch 6", "await"],
        ),
        // The address is still there.
        (
            "IN DROP -source 198.51.100.7 -p udp -dport 53\n",
            &["policy", "port 10 epoch 7", "await"],
        ),
        (
            "IN DROP -p udp -dport 53\n",
            &["policy", "port 10 epoch 8", "await"],
        ),
        ("", &["policy", "port 10 epoch 9", "await"]),
    ];
    for (rules, expect) in edits {
        assert_eq!(words(&step(rules)), expect, "{rules:?}");
    }
}
