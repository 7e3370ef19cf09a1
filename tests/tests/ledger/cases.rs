//! The table of frames: what each is judged to be, and by which rule.

use fw_common::maps::counter;
use fw_common::verdict::{Direction, Reason, Verdict};
use tapwall_tests::frame::{Body, Datagram, Frame, Part, Transport};

const GUEST: [u8; 6] = [0xbc, 0x24, 0x11, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NEAR: &str = "192.0.2.10";
const FAR: &str = "203.0.113.5";

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

pub const IN: Direction = Direction::In;
pub const OUT: Direction = Direction::Out;

/// A frame of the guest's link, in the direction.
pub fn framed(direction: Direction, body: Body) -> Frame {
    let (dest_mac, source_mac) = match direction {
        Direction::In => (GUEST, OTHER),
        Direction::Out => (OTHER, GUEST),
    };
    Frame {
        dest_mac,
        source_mac,
        tags: Vec::new(),
        body,
    }
}

/// TCP between two ends.
pub fn between(direction: Direction, ends: [&str; 2], ports: [u16; 2], flags: u8) -> Frame {
    let [source, dest] = ends.map(|address| address.parse().unwrap());
    let transport = Transport::Tcp {
        sport: ports[0],
        dport: ports[1],
        sequence: 1,
        acknowledge: 1,
        flags,
        data: vec![7; 11],
    };
    let payload = transport.payload(6, source, dest);
    framed(direction, Body::Ip(Datagram::new(source, dest, 6, payload)))
}

/// TCP to the guest, or its own.
pub fn tcp(direction: Direction, ports: [u16; 2], flags: u8) -> Frame {
    let ends = match direction {
        Direction::In => [FAR, NEAR],
        Direction::Out => [NEAR, FAR],
    };
    between(direction, ends, ports, flags)
}

pub fn part(offset: u16, more: bool) -> Frame {
    let mut frame = tcp(IN, [40_000, 22], SYN);
    if let Body::Ip(datagram) = &mut frame.body {
        datagram.part = Some(Part {
            id: 77,
            offset,
            more,
        });
    }
    frame
}

/// A rule whose text does not matter.
pub const SOME_RULE: &str = "*";

/// What a packet is to do.
pub struct Case {
    pub name: &'static str,
    pub direction: Direction,
    pub frame: Vec<u8>,
    pub verdict: Verdict,
    pub reason: Reason,
    /// Text of the rule that decides; [`SOME_RULE`] for one of the standard chains, which the pipeline in memory tells.
    pub rule: Option<&'static str>,
    /// Counters beside that of the reason.
    pub beside: &'static [u32],
}

/// A row of the table.
pub fn case(
    name: &'static str,
    direction: Direction,
    frame: Frame,
    (verdict, reason): (Verdict, Reason),
    rule: Option<&'static str>,
) -> Case {
    Case {
        name,
        direction,
        frame: frame.bytes(),
        verdict,
        reason,
        rule,
        beside: &[],
    }
}

pub fn cases() -> Vec<Case> {
    use Reason as Why;
    use Verdict::{Accept, Drop, Reject};
    let ssh = Some("IN ACCEPT -p tcp -dport 22");
    let telnet = Some("IN DROP -p tcp -dport 23 -log info");
    let mut cut = case(
        "cut short",
        IN,
        tcp(IN, [1, 22], SYN),
        (Drop, Why::Malformed),
        None,
    );
    cut.frame.truncate(40);
    let mut lying = tcp(OUT, [22, 40_000], ACK);
    lying.source_mac = OTHER;
    let mut deep = tcp(IN, [1, 22], SYN);
    deep.tags = vec![(0x8100, 5); 3];
    let arp = Body::Arp {
        operation: 1,
        sender_mac: GUEST,
        sender: [192, 0, 2, 10],
        target: [192, 0, 2, 1],
    };
    let suppressed = Case {
        beside: &[counter::LOGS_LIMITED],
        ..case(
            "dropped and no more logged",
            IN,
            tcp(IN, [4, 23], SYN),
            (Drop, Why::Rule),
            telnet,
        )
    };
    vec![
        case(
            "begins by a rule",
            IN,
            tcp(IN, [40_000, 22], SYN),
            (Accept, Why::Rule),
            ssh,
        ),
        case(
            "the same again",
            IN,
            tcp(IN, [40_000, 22], SYN),
            (Accept, Why::Rule),
            ssh,
        ),
        case(
            "answered",
            OUT,
            tcp(OUT, [22, 40_000], SYN | ACK),
            (Accept, Why::Established),
            None,
        ),
        case(
            "established",
            IN,
            tcp(IN, [40_000, 22], ACK),
            (Accept, Why::Established),
            None,
        ),
        case(
            "dropped and logged",
            IN,
            tcp(IN, [1, 23], SYN),
            (Drop, Why::Rule),
            telnet,
        ),
        case(
            "dropped and logged twice",
            IN,
            tcp(IN, [2, 23], SYN),
            (Drop, Why::Rule),
            telnet,
        ),
        suppressed,
        case(
            "rejected",
            IN,
            tcp(IN, [1, 24], SYN),
            (Reject, Why::Rule),
            Some("IN REJECT -p tcp -dport 24"),
        ),
        case(
            "rejected on its way out",
            OUT,
            tcp(OUT, [1, 25], SYN),
            (Reject, Why::Rule),
            Some("OUT REJECT -p tcp -dport 25"),
        ),
        case(
            "by policy",
            IN,
            tcp(IN, [1, 80], SYN),
            (Drop, Why::Policy),
            Some("policy_in: DROP"),
        ),
        case(
            "out by policy",
            OUT,
            tcp(OUT, [1, 80], SYN),
            (Accept, Why::Policy),
            Some("policy_out: ACCEPT"),
        ),
        cut,
        case(
            "another's hardware address",
            OUT,
            lying,
            (Drop, Why::MacFilter),
            None,
        ),
        case("three tags", IN, deep, (Drop, Why::HeaderChain), None),
        case("ARP", OUT, framed(OUT, arp), (Accept, Why::NotIp), None),
        case(
            "a later fragment alone",
            IN,
            part(32, false),
            (Drop, Why::Fragment),
            None,
        ),
        standard(
            "blacklisted",
            IN,
            between(IN, ["198.51.100.66", NEAR], [1, 22], SYN),
            (Drop, Why::Blacklist),
        ),
        standard(
            "from a group",
            IN,
            between(IN, ["255.255.255.255", NEAR], [1, 22], SYN),
            (Drop, Why::Smurf),
        ),
        standard(
            "impossible flags",
            IN,
            tcp(IN, [9, 81], 0b10_1001),
            (Drop, Why::Invalid),
        ),
        standard(
            "an answer to nothing",
            IN,
            tcp(IN, [9, 81], SYN | ACK),
            (Drop, Why::Invalid),
        ),
        standard(
            "service noise",
            IN,
            tcp(IN, [9, 445], SYN),
            (Drop, Why::Noise),
        ),
        standard(
            "router advertisement",
            OUT,
            icmpv6(OUT, 134),
            (Drop, Why::RouterAdvertisement),
        ),
        standard(
            "neighbour discovery",
            IN,
            icmpv6(IN, 135),
            (Accept, Why::Standard),
        ),
    ]
}

/// A row of a frame that a rule of the standard chains decides.
pub fn standard(
    name: &'static str,
    direction: Direction,
    frame: Frame,
    judged: (Verdict, Reason),
) -> Case {
    case(name, direction, frame, judged, Some(SOME_RULE))
}

/// ICMPv6 of a type.
pub fn icmpv6(direction: Direction, kind: u8) -> Frame {
    let (source, dest) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
    let transport = Transport::Icmp {
        kind,
        code: 0,
        word: [0; 4],
        data: vec![0; 16],
    };
    let payload = transport.payload(58, source, dest);
    let mut datagram = Datagram::new(source, dest, 58, payload);
    datagram.hops = 255;
    framed(direction, Body::Ip(datagram))
}
