//! What the guard of a running flow costs: a flow whose address it has accepted is not classified again.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::image::Memory;
use fw_agent::policy::PortId;
use fw_common::maps::Port;
use fw_common::pipeline::judge;
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::Headers;
use tapwall_tests::frame::Frame;
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const PORT: PortId = PortId { vmid: 100, net: 0 };
const MAC: [u8; 6] = [0xbc, 0x24, 0x11, 0, 1, 0];

fn memory() -> Memory {
    let tree = ConfigTree::with_demo_guests().unwrap();
    let text =
        "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p udp\n[IPSET ipfilter-net0]\n192.0.2.10\n";
    tree.write_firewall(100, text).unwrap();
    let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
    Memory::new(&compiled.image)
}

fn datagram(source: &str, dest: &str) -> Vec<u8> {
    let (source, dest) = (source.parse().unwrap(), dest.parse().unwrap());
    Frame::udp([[2, 0, 0, 0, 0, 9], MAC], [source, dest], [53, 53]).bytes()
}

fn judged(memory: &Memory, port: &Port, direction: Direction, frame: &[u8]) -> (Verdict, Reason) {
    let mut headers = Headers::default();
    let judgement = judge(&frame, memory, port, direction, &mut headers);
    (judgement.verdict, judgement.reason)
}

#[test]
fn an_address_is_classified_once_per_flow_and_guard() {
    let guest = datagram("192.0.2.10", "203.0.113.5");
    let other = datagram("203.0.113.5", "192.0.2.10");
    // A guard that is nowhere in the arena: whatever is classified against it is dropped.
    let nowhere = |port: &Port| Port {
        guard: u32::MAX,
        ..*port
    };
    let established = (Verdict::Accept, Reason::Established);
    let bad = (Verdict::Drop, Reason::BadPolicy);
    for first in [Direction::In, Direction::Out] {
        let memory = memory();
        let port = *memory.port_of(PORT).unwrap();
        assert!(port.guard != 0 && port.guard_epoch != 0);
        let order = match first {
            Direction::In => [(Direction::In, &other), (Direction::Out, &guest)],
            Direction::Out => [(Direction::Out, &guest), (Direction::In, &other)],
        };
        let [(direction, begins), (back, answers)] = order;
        let begun = judged(&memory, &port, direction, begins);
        assert_eq!(begun.0, Verdict::Accept, "{begun:?}");
        if first == Direction::In {
            // The guest has said nothing yet, so nothing is known of its address.
            assert_eq!(judged(&memory, &nowhere(&port), back, answers), bad);
        }
        assert_eq!(judged(&memory, &port, back, answers), established);
        let hot = nowhere(&port);
        assert_eq!(judged(&memory, &hot, Direction::Out, &guest), established);
        assert_eq!(judged(&memory, &hot, Direction::In, &other), established);
        // Another guard: the guest's next packet is classified, and no other.
        let changed = Port {
            guard_epoch: hot.guard_epoch ^ 1,
            ..hot
        };
        assert_eq!(
            judged(&memory, &changed, Direction::In, &other),
            established
        );
        assert_eq!(judged(&memory, &changed, Direction::Out, &guest), bad);
        let none = Port {
            guard: 0,
            ..changed
        };
        assert_eq!(judged(&memory, &none, Direction::Out, &guest), established);
    }
}
