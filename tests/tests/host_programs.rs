//! The programs of the host's interfaces on single frames: what they judge, what they leave alone, and what they remember of it.
//!
//! The frames are run as at a device of a namespace of the test's own, whose addresses and routes the kernel asks. Needs root.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::datapath::TestPlace;
use fw_agent::datapath::plan::Present;
use fw_agent::inventory::facts::address as pipeline_address;
use fw_agent::inventory::host_devices::HostDevice;
use fw_agent::policy::NodePolicy;
use fw_common::maps::HAIRPIN_MARK;
use fw_common::verdict::Direction::{self, In, Out};
use fw_common::verdict::Reason;
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::{PASS, REDIRECT, Run, SHOT, TestKernel};
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const EVERYBODY: [u8; 6] = [0xff; 6];

/// Index of an interface that packets came in at; it need not exist.
const ELSEWHERE: u32 = 4321;

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\npolicy_out: DROP\n[RULES]\n\
    IN ACCEPT -p tcp -dport 80\nIN REJECT -p tcp -dport 82\nIN REJECT -p udp -dport 82\n\
    OUT ACCEPT -p tcp -dport 80\nOUT REJECT -p tcp -dport 82\n";

fn policies() -> NodePolicy {
    let tree = ConfigTree::new().unwrap();
    tree.write("firewall/cluster.fw", RULES).unwrap();
    compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0).policy
}

/// A namespace with the host's device `h0`; everything but its own networks is behind a router.
fn namespaces() -> [Netns; 2] {
    let host = Netns::new("host").unwrap();
    let peer = Netns::new("peer").unwrap();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.sysctl(key, "1").unwrap();
    }
    host.ip(&format!(
        "link add h0 address 02:00:00:00:00:01 type veth peer name p0 netns {}\n\
         link set h0 up\n\
         addr add 192.0.2.1/24 dev h0\naddr add 192.0.2.2/24 dev h0\n\
         addr add 2001:db8:1::1/64 dev h0 nodad\naddr add 2001:db8:1::2/64 dev h0 nodad",
        peer.name()
    ))
    .unwrap();
    peer.ip("link set p0 up").unwrap();
    host.ip(
        "route add 198.51.100.0/24 via 192.0.2.9\nroute add blackhole 203.0.113.0/24\n\
         route add 2001:db8:2::/64 via 2001:db8:1::9\nroute add blackhole 2001:db8:3::/64",
    )
    .unwrap();
    [host, peer]
}

/// Runs code with the programs loaded; the second addresses of `h0` are not known as the host's.
fn with_kernel(test: impl FnOnce(&mut TestKernel, u32) + Send) {
    with_kernel_at(false, test);
}

/// Likewise; whether `h0` counts as a device without link headers. The frames have Ethernet's all the same: some tunnels leave headers in front.
fn with_kernel_at(bare: bool, test: impl FnOnce(&mut TestKernel, u32) + Send) {
    let [host, _peer] = namespaces();
    let ifindex = host.ifindex("h0").unwrap();
    let device = HostDevice { ifindex, bare };
    let own = ["192.0.2.1", "2001:db8:1::1"].map(|text| text.parse::<IpAddr>().unwrap());
    let present = Present {
        devices: BTreeMap::from([("h0".to_owned(), ifindex)]),
        host: BTreeMap::from([("h0".to_owned(), device)]),
        locals: own.map(pipeline_address).into(),
        ..Present::default()
    };
    host.run(|| {
        let mut kernel = TestKernel::new()?;
        kernel.load_with(&policies(), &present)?;
        test(&mut kernel, ifindex);
        Ok(())
    })
    .unwrap();
}

fn tcp(mac: [u8; 6], [source, dest]: [&str; 2], ports: [u16; 2], flags: u8) -> Frame {
    let [source, dest] = [source, dest].map(|text| text.parse::<IpAddr>().unwrap());
    let transport = Transport::Tcp {
        sport: ports[0],
        dport: ports[1],
        sequence: 1,
        acknowledge: 0,
        flags,
        data: vec![],
    };
    let payload = transport.payload(TCP, source, dest);
    Frame {
        dest_mac: mac,
        source_mac: PEER_MAC,
        tags: vec![],
        body: Body::Ip(Datagram::new(source, dest, TCP, payload)),
    }
}

const TCP: u8 = 6;
const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;

fn run(kernel: &mut TestKernel, direction: Direction, at: TestPlace, frame: &Frame) -> Run {
    kernel.run_host(direction, at, &frame.bytes()).unwrap()
}

#[test]
fn what_is_judged_and_what_is_left_alone() {
    const V4: [&str; 6] = [
        "198.51.100.9",
        "192.0.2.1",
        "192.0.2.2",
        "198.51.100.7",
        "203.0.113.7",
        "100.64.0.7",
    ];
    const V6: [&str; 6] = [
        "2001:db8:2::9",
        "2001:db8:1::1",
        "2001:db8:1::2",
        "2001:db8:2::7",
        "2001:db8:3::7",
        "2001:db8:64::7",
    ];
    with_kernel(|kernel, ifindex| {
        for [remote, own, unknown, routed, blackhole, nowhere] in [V4, V6] {
            let here = ifindex;
            use Reason::{Forwarded, Hairpin, Martian, Policy, Rule};
            let cases = [
                (In, here, 0, OWN_MAC, [remote, own], 80, PASS, Rule),
                (In, here, 0, OWN_MAC, [remote, own], 81, SHOT, Policy),
                (In, here, 0, OTHER_MAC, [remote, own], 81, PASS, Forwarded),
                (In, here, 0, EVERYBODY, [remote, own], 80, PASS, Rule),
                (
                    In,
                    here,
                    0,
                    EVERYBODY,
                    [remote, routed],
                    81,
                    SHOT,
                    Reason::Noise,
                ),
                // An own address that the agent has not told yet: the routes know it.
                (In, here, 0, OWN_MAC, [remote, unknown], 81, SHOT, Policy),
                (In, here, 0, OWN_MAC, [remote, unknown], 80, PASS, Rule),
                (In, here, 0, OWN_MAC, [remote, routed], 81, PASS, Forwarded),
                (
                    In,
                    here,
                    0,
                    OWN_MAC,
                    [remote, blackhole],
                    81,
                    PASS,
                    Forwarded,
                ),
                (In, here, 0, OWN_MAC, [remote, nowhere], 81, SHOT, Policy),
                (In, here, 0, OWN_MAC, [own, routed], 81, SHOT, Martian),
                (
                    In,
                    here,
                    HAIRPIN_MARK,
                    OWN_MAC,
                    [remote, own],
                    81,
                    PASS,
                    Hairpin,
                ),
                (
                    In,
                    here,
                    0x7a11_0000,
                    OWN_MAC,
                    [remote, own],
                    81,
                    SHOT,
                    Policy,
                ),
                (Out, 0, 0, PEER_MAC, [own, remote], 80, PASS, Rule),
                (Out, 0, 0, PEER_MAC, [own, remote], 81, SHOT, Policy),
                (
                    Out,
                    ELSEWHERE,
                    0,
                    PEER_MAC,
                    [remote, routed],
                    81,
                    PASS,
                    Forwarded,
                ),
                (
                    Out,
                    here,
                    0,
                    PEER_MAC,
                    [remote, routed],
                    81,
                    PASS,
                    Forwarded,
                ),
                (
                    Out,
                    here,
                    HAIRPIN_MARK,
                    PEER_MAC,
                    [own, remote],
                    81,
                    PASS,
                    Hairpin,
                ),
                // A mark that a local process has set is no way out.
                (
                    Out,
                    0,
                    HAIRPIN_MARK,
                    PEER_MAC,
                    [own, remote],
                    81,
                    SHOT,
                    Policy,
                ),
            ];
            for (direction, ingress_ifindex, mark, mac, ends, port, action, reason) in cases {
                kernel.forget_flows().unwrap();
                let at = TestPlace {
                    ifindex,
                    ingress_ifindex,
                    mark,
                };
                let frame = tcp(mac, ends, [4000, port], SYN);
                let seen = run(kernel, direction, at, &frame);
                assert_eq!(
                    (seen.action, seen.reason),
                    (action, reason),
                    "{direction:?} from {ingress_ifindex} mark {mark:x} {mac:x?} {ends:?} {port}"
                );
            }
        }
    });
}

#[test]
fn answers_to_what_the_host_has_translated_are_expected() {
    with_kernel(|kernel, ifindex| {
        for [own, remote, inside] in [
            ["192.0.2.1", "198.51.100.7", "10.9.9.9"],
            ["2001:db8:1::1", "2001:db8:2::7", "2001:db8:9::9"],
        ] {
            let incoming = TestPlace {
                ifindex,
                ingress_ifindex: ifindex,
                mark: 0,
            };
            let outgoing = TestPlace {
                ifindex,
                ingress_ifindex: ELSEWHERE,
                mark: 0,
            };
            let reply = tcp(OWN_MAC, [remote, own], [443, 4000], SYN_ACK);
            let seen = run(kernel, In, incoming, &reply);
            assert_eq!(seen.action, SHOT, "nothing was sent: {seen:?}");

            // Not translated: nothing to expect.
            let sent = tcp(PEER_MAC, [inside, remote], [4000, 443], SYN);
            assert_eq!(run(kernel, Out, outgoing, &sent).reason, Reason::Forwarded);
            assert_eq!(run(kernel, In, incoming, &reply).action, SHOT);

            let sent = tcp(PEER_MAC, [own, remote], [4000, 443], SYN);
            let seen = run(kernel, Out, outgoing, &sent);
            assert_eq!((seen.action, seen.reason), (PASS, Reason::Forwarded));
            let seen = run(kernel, In, incoming, &reply);
            assert_eq!((seen.action, seen.reason), (PASS, Reason::Established));
            // Another connection from there is still judged.
            let other = tcp(OWN_MAC, [remote, own], [443, 4001], SYN);
            assert_eq!(run(kernel, In, incoming, &other).action, SHOT);
        }
    });
}

#[test]
fn errors_about_routed_packets_pass_and_others_are_judged() {
    with_kernel(|kernel, ifindex| {
        let at = TestPlace {
            ifindex,
            ingress_ifindex: 0,
            mark: 0,
        };
        for (own, remote, routed, protocol, kind) in [
            ("192.0.2.1", "198.51.100.9", "198.51.100.7", 1, 11),
            ("2001:db8:1::1", "2001:db8:2::9", "2001:db8:2::7", 58, 2),
        ] {
            for (quoted, action, reason) in [
                (routed, PASS, Reason::Forwarded),
                (own, SHOT, Reason::Invalid),
            ] {
                let quote = tcp(PEER_MAC, [remote, quoted], [4000, 81], SYN).unpadded();
                let transport = Transport::Icmp {
                    kind,
                    code: 0,
                    word: [0; 4],
                    data: quote[14..].to_vec(),
                };
                let [source, dest] = [own, remote].map(|text| text.parse::<IpAddr>().unwrap());
                let payload = transport.payload(protocol, source, dest);
                let frame = Frame {
                    dest_mac: PEER_MAC,
                    source_mac: OWN_MAC,
                    tags: vec![],
                    body: Body::Ip(Datagram::new(source, dest, protocol, payload)),
                };
                let seen = run(kernel, Out, at, &frame);
                assert_eq!((seen.action, seen.reason), (action, reason), "{quoted}");
            }
        }
    });
}

#[test]
fn errors_about_own_packets_are_related_whatever_stands_in_front_of_them() {
    for bare in [false, true] {
        with_kernel_at(bare, |kernel, ifindex| {
            let at = |ingress_ifindex| TestPlace {
                ifindex,
                ingress_ifindex,
                mark: 0,
            };
            for (own, remote, protocol, kind) in [
                ("192.0.2.1", "198.51.100.9", 1, 3),
                ("2001:db8:1::1", "2001:db8:2::9", 58, 1),
            ] {
                let sent = |port| tcp(PEER_MAC, [own, remote], [port, 80], SYN);
                let seen = run(kernel, Out, at(0), &sent(4000));
                assert_eq!((seen.action, seen.reason), (PASS, Reason::Rule));
                for (port, action, reason) in
                    [(4000, PASS, Reason::Related), (4001, SHOT, Reason::Invalid)]
                {
                    let transport = Transport::Icmp {
                        kind,
                        code: 0,
                        word: [0; 4],
                        data: sent(port).unpadded()[14..].to_vec(),
                    };
                    let [source, dest] = [remote, own].map(|text| text.parse::<IpAddr>().unwrap());
                    let payload = transport.payload(protocol, source, dest);
                    let frame = Frame {
                        dest_mac: OWN_MAC,
                        source_mac: PEER_MAC,
                        tags: vec![],
                        body: Body::Ip(Datagram::new(source, dest, protocol, payload)),
                    };
                    let seen = run(kernel, In, at(ifindex), &frame);
                    let found = (seen.action, seen.reason);
                    assert_eq!(found, (action, reason), "bare {bare}, port {port} of {own}");
                }
            }
        });
    }
}

#[test]
fn tags_within_a_frame_are_looked_behind_and_other_frames_pass() {
    with_kernel(|kernel, ifindex| {
        let at = TestPlace {
            ifindex,
            ingress_ifindex: ifindex,
            mark: 0,
        };
        for (tag, port, action) in [(100, 80, PASS), (100, 81, SHOT), (0, 81, SHOT)] {
            let mut frame = tcp(OWN_MAC, ["198.51.100.9", "192.0.2.1"], [4000, port], SYN);
            frame.tags = vec![(0x8100, tag)];
            let seen = run(kernel, In, at, &frame);
            assert_eq!(seen.action, action, "tag {tag}, port {port}: {seen:?}");
        }
        for body in [
            Body::Arp {
                operation: 1,
                sender_mac: PEER_MAC,
                sender: [192, 0, 2, 9],
                target: [192, 0, 2, 1],
            },
            Body::Other {
                ethertype: 0x88cc,
                bytes: vec![0; 50],
            },
        ] {
            for direction in [In, Out] {
                let frame = Frame {
                    dest_mac: OWN_MAC,
                    source_mac: PEER_MAC,
                    tags: vec![],
                    body: body.clone(),
                };
                let seen = run(kernel, direction, at, &frame);
                assert_eq!((seen.action, seen.reason), (PASS, Reason::NotIp));
            }
        }
    });
}

#[test]
fn a_rejected_packet_of_the_host_becomes_its_answer() {
    with_kernel(|kernel, ifindex| {
        for (direction, ingress_ifindex) in [(In, ifindex), (Out, 0)] {
            for ends in [
                ["198.51.100.9", "192.0.2.1"],
                ["2001:db8:2::9", "2001:db8:1::1"],
            ] {
                let at = TestPlace {
                    ifindex,
                    ingress_ifindex,
                    mark: 0,
                };
                let ends = match direction {
                    In => ends,
                    Out => [ends[1], ends[0]],
                };
                let frame = tcp(OWN_MAC, ends, [4000, 82], SYN);
                let seen = run(kernel, direction, at, &frame);
                assert_eq!(seen.action, REDIRECT, "{seen:?}");
                assert_eq!(seen.frame[..12], [PEER_MAC, OWN_MAC].concat()[..]);
            }
        }
    });
}

#[test]
fn an_interface_without_a_policy_is_closed() {
    with_kernel(|kernel, ifindex| {
        let device = HostDevice {
            ifindex,
            bare: false,
        };
        let mut policies = policies();
        policies.host = None;
        let present = Present {
            host: BTreeMap::from([("h0".to_owned(), device)]),
            ..Present::default()
        };
        kernel.load_with(&policies, &present).unwrap();
        let at = TestPlace {
            ifindex,
            ingress_ifindex: ifindex,
            mark: 0,
        };
        let frame = tcp(OWN_MAC, ["198.51.100.9", "192.0.2.1"], [4000, 80], SYN);
        let seen = run(kernel, In, at, &frame);
        assert_eq!((seen.action, seen.reason), (SHOT, Reason::NoPolicy));
    });
}
