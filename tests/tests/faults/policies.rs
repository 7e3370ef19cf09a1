//! Two policies of which every mixture shows.
//!
//! Both accept the port [`ACCEPTED`] and drop [`FORBIDDEN`] for the client, by other rules and sets. The rules of the one with the sets of the
//! other do the opposite: `B`'s rules let whoever is in the set `allowed` into [`FORBIDDEN`], and only `A`'s set has the client; `A`'s rules let
//! only those into [`ACCEPTED`] who are in the set, and `B`'s set has not the client. `B`'s outgoing rules and `A`'s are opposites likewise.

/// The port that both accept.
pub const ACCEPTED: u16 = 7003;
/// Another like it, for a flow that stays.
pub const ESTABLISHED: u16 = 7004;
/// The port that both drop.
pub const FORBIDDEN: u16 = 7002;

/// Policy A (even) or B (odd) for a client with this address. `number` changes what decides nothing.
pub fn policy(number: u32, client: &str) -> String {
    let others = (0..number % 7).map(|row| format!("198.51.100.{row}\n"));
    let others: String = others.collect();
    match number % 2 {
        0 => format!(
            "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[IPSET allowed]\n{client}\n{others}\
             [RULES]\nIN ACCEPT -p udp -dport {ACCEPTED}:{ESTABLISHED} -source +allowed\n\
             IN DROP -p udp -dport {FORBIDDEN}\nIN ACCEPT -p tcp -dport 80 -source +allowed\n"
        ),
        _ => format!(
            "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[IPSET allowed]\n203.0.113.9\n{others}\
             [RULES]\nIN DROP -p udp -dport {ACCEPTED}:{ESTABLISHED} -source +allowed\n\
             IN ACCEPT -p udp -dport {ACCEPTED}:{ESTABLISHED}\n\
             IN ACCEPT -p udp -dport {FORBIDDEN} -source +allowed\n"
        ),
    }
}

#[test]
fn a_mixture_of_both_does_the_opposite_of_either() {
    use fw_agent::compile::compile;
    use fw_agent::config::Sources;
    use fw_agent::policy::PortId;
    use fw_common::verdict::Direction;
    use tapwall_tests::kernel::{PASS, SHOT, TestKernel};
    use tapwall_tests::tree::{ConfigTree, NODE, facts};

    let tree = ConfigTree::with_demo_guests().unwrap();
    let split = |number| {
        let text = policy(number, "192.0.2.200");
        let (head, rules) = text.split_once("[RULES]").unwrap();
        (head.to_owned(), rules.to_owned())
    };
    let ([heads_a, rules_a], [heads_b, rules_b]) = (split(0).into(), split(1).into());
    let mut kernel = TestKernel::new().unwrap();
    for (head, rules, accepted, forbidden) in [
        (&heads_a, &rules_a, PASS, SHOT),
        (&heads_b, &rules_b, PASS, SHOT),
        (&heads_b, &rules_a, SHOT, SHOT),
        (&heads_a, &rules_b, SHOT, PASS),
    ] {
        tree.write_firewall(100, &format!("{head}[RULES]{rules}"))
            .unwrap();
        let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
        kernel.load_as_is(&compiled.policy).unwrap();
        kernel.forget_flows().unwrap();
        let port = PortId { vmid: 100, net: 0 };
        for (dest, expect) in [(ACCEPTED, accepted), (FORBIDDEN, forbidden)] {
            let frame = super::flips::datagram(1024, dest);
            let seen = kernel.act(port, Direction::In, &frame).unwrap();
            assert_eq!(seen, expect, "port {dest} of\n{head}[RULES]{rules}");
        }
    }
}
