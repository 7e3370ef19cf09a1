//! What the demo tries, and what the sample configuration says about it.
//!
//! Every attempt goes to a socket that is really there: what is refused or silent is so because of the firewall. Attempts run side by side,
//! a few at a time, because silence takes its time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, STRANGER_V4, STRANGER_V6, Station};
use tapwall_tests::probe::{
    Answer, TIMEOUT, TcpServer, UdpServer, connect, exchange, ping, send_frame, transfer, udp_frame,
};
use tapwall_tests::tree::ConfigTree;

use crate::signals;

/// Attempts at the same time.
const SIDE_BY_SIDE: usize = 6;

/// Bytes of a transfer, each way.
const TRANSFER: u64 = 16 << 20;

/// The promise: an edited file is enforced within this time.
const EDIT: Duration = Duration::from_secs(1);

/// Port that the live edit opens.
const EDITED_PORT: u16 = 9090;

/// Port outside that takes datagrams with a forged source.
const SINK_PORT: u16 = 9999;

/// Port that such datagrams come from. No server is there, which would send the sink's echo back to it, and so on without an end.
const FORGING_PORT: u16 = 4001;

/// A row of the demo's table.
pub struct Row {
    /// What was tried.
    pub tried: String,
    /// The rule that should decide.
    pub decided_by: &'static str,
    /// What should happen.
    pub expected: String,
    /// What happened.
    pub seen: String,
}

impl Row {
    /// Whether it happened as it should.
    pub fn is_expected(&self) -> bool {
        self.expected == self.seen
    }
}

/// Who takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Host,
    Outside,
    /// The machine outside with the addresses that no rule names.
    Stranger,
    Vm,
    Container,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Outside => "outside",
            Self::Stranger => "stranger",
            Self::Vm => "VM 100",
            Self::Container => "CT 101",
        }
    }

    fn station(self, node: &DemoNode) -> &Station {
        match self {
            Self::Host => &node.host,
            Self::Outside | Self::Stranger => &node.outside,
            Self::Vm => &node.vm,
            Self::Container => &node.container,
        }
    }

    fn address(self, node: &DemoNode, family: Family) -> IpAddr {
        match (self, family) {
            (Self::Stranger, Family::V4) => STRANGER_V4,
            (Self::Stranger, Family::V6) => STRANGER_V6,
            (Self::Host | Self::Outside | Self::Vm | Self::Container, Family::V4) => {
                self.station(node).v4()
            }
            (Self::Host | Self::Outside | Self::Vm | Self::Container, Family::V6) => {
                self.station(node).v6()
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// One thing to try.
#[derive(Clone, Copy)]
enum What {
    Tcp(u16),
    Udp(u16),
    Ping,
    /// Many bytes both ways.
    Transfer(u16),
    /// A datagram whose Ethernet source is another machine's.
    Spoof,
}

struct Attempt {
    from: Who,
    to: Who,
    what: What,
    family: Family,
    decided_by: &'static str,
    expected: Answer,
}

use Answer::{Answered, Refused, Silent};
use Family::{V4, V6};
use What::{Ping, Spoof, Tcp, Transfer, Udp};
use Who::{Container, Host, Outside, Stranger, Vm};

/// The attempts, in the table's order.
#[rustfmt::skip]
fn attempts() -> Vec<Attempt> {
    [
        (Outside,   Vm,        Tcp(22),      V4, "100.fw: IN SSH(ACCEPT) -source +operators", Answered),
        (Outside,   Vm,        Tcp(22),      V6, "100.fw: IN SSH(ACCEPT) -source +operators", Answered),
        (Stranger,  Vm,        Tcp(22),      V4, "100.fw: policy_in: DROP", Silent),
        (Stranger,  Vm,        Tcp(22),      V6, "100.fw: policy_in: DROP", Silent),
        (Stranger,  Vm,        Tcp(80),      V4, "100.fw: GROUP web: IN HTTP(ACCEPT)", Answered),
        (Stranger,  Vm,        Tcp(8443),    V6, "100.fw: GROUP web: IN ACCEPT -p tcp -dport 8443", Answered),
        (Outside,   Vm,        Tcp(25),      V4, "100.fw: IN REJECT -p tcp -dport 25", Refused),
        (Outside,   Vm,        Tcp(25),      V6, "100.fw: IN REJECT -p tcp -dport 25", Refused),
        (Outside,   Vm,        Tcp(8080),    V4, "100.fw: IN DROP -p tcp -dport 8080", Silent),
        (Outside,   Vm,        Udp(5353),    V4, "100.fw: IN ACCEPT -p udp -dport 5353", Answered),
        (Outside,   Vm,        Udp(5353),    V6, "100.fw: IN ACCEPT -p udp -dport 5353", Answered),
        (Outside,   Vm,        Udp(7777),    V4, "100.fw: IN REJECT -p udp -dport 7777", Refused),
        (Outside,   Vm,        Udp(7777),    V6, "100.fw: IN REJECT -p udp -dport 7777", Refused),
        (Outside,   Vm,        Udp(4000),    V4, "100.fw: policy_in: DROP", Silent),
        (Outside,   Vm,        Ping,         V4, "100.fw: IN Ping(ACCEPT) -source +operators", Answered),
        (Outside,   Vm,        Ping,         V6, "100.fw: IN Ping(ACCEPT) -source +operators", Answered),
        (Stranger,  Vm,        Ping,         V4, "100.fw: policy_in: DROP", Silent),
        (Vm,        Outside,   Tcp(443),     V4, "100.fw: policy_out: ACCEPT", Answered),
        (Vm,        Outside,   Tcp(25),      V4, "100.fw: OUT REJECT -p tcp -dport 25", Refused),
        (Vm,        Outside,   Ping,         V6, "100.fw: policy_out: ACCEPT", Answered),
        (Host,      Vm,        Tcp(80),      V4, "100.fw: GROUP web: IN HTTP(ACCEPT)", Answered),
        (Outside,   Host,      Tcp(8006),    V4, "cluster.fw: management", Answered),
        (Outside,   Host,      Tcp(22),      V6, "cluster.fw: management", Answered),
        (Stranger,  Host,      Tcp(8006),    V4, "cluster.fw: policy_in (default DROP)", Silent),
        (Stranger,  Host,      Tcp(22),      V6, "cluster.fw: policy_in (default DROP)", Silent),
        (Stranger,  Host,      Tcp(111),     V4, "cluster.fw: IN REJECT -p tcp -dport 111", Refused),
        (Stranger,  Host,      Udp(111),     V6, "cluster.fw: IN REJECT -p udp -dport 111", Refused),
        (Stranger,  Host,      Tcp(9100),    V4, "cluster.fw: IN ACCEPT -i vmbr0 -p tcp -dport 9100", Answered),
        (Container, Host,      Tcp(9100),    V6, "101.fw: policy_out, then cluster.fw: IN ACCEPT", Answered),
        (Container, Host,      Tcp(8006),    V4, "101.fw: policy_out, then cluster.fw: policy_in", Silent),
        (Vm,        Host,      Tcp(25),      V4, "100.fw: OUT REJECT -p tcp -dport 25", Refused),
        (Host,      Outside,   Tcp(443),     V6, "cluster.fw: policy_out (default ACCEPT)", Answered),
        (Host,      Outside,   Tcp(25),      V4, "cluster.fw: OUT REJECT -p tcp -dport 25", Refused),
        (Host,      Outside,   Udp(6666),    V6, "cluster.fw: OUT DROP -p udp -dport 6666", Silent),
        (Outside,   Container, Tcp(80),      V4, "101.fw: GROUP web: IN HTTP(ACCEPT)", Answered),
        (Outside,   Container, Tcp(3306),    V4, "101.fw: policy_in: REJECT", Refused),
        (Outside,   Container, Tcp(3306),    V6, "101.fw: policy_in: REJECT", Refused),
        (Outside,   Container, Udp(3306),    V4, "101.fw: policy_in: REJECT", Refused),
        (Outside,   Container, Tcp(8080),    V6, "101.fw: IN DROP -p tcp -dport 8080", Silent),
        (Outside,   Container, Ping,         V4, "101.fw: policy_in: REJECT (never answers ICMP)", Silent),
        (Container, Outside,   Udp(53),      V4, "101.fw: OUT DROP -p udp -dport 53", Silent),
        (Container, Outside,   Udp(123),     V6, "101.fw: policy_out: ACCEPT", Answered),
        (Vm,        Container, Tcp(5432),    V4, "101.fw: IN ACCEPT -p tcp -dport 5432 -source vm", Answered),
        (Vm,        Container, Tcp(5433),    V4, "101.fw: policy_in: REJECT", Refused),
        (Container, Vm,        Tcp(8443),    V4, "100.fw: GROUP web: IN ACCEPT -p tcp -dport 8443", Answered),
        (Container, Vm,        Tcp(22),      V4, "100.fw: policy_in: DROP", Silent),
        (Vm,        Outside,   Spoof,        V4, "100.fw: macfilter (default)", Silent),
        (Container, Outside,   Spoof,        V4, "101.fw: macfilter (default)", Silent),
        (Outside,   Vm,        Transfer(80), V4, "100.fw: GROUP web, then the known flow", Answered),
        (Container, Vm,        Transfer(80), V6, "100.fw: GROUP web, then the known flow", Answered),
    ]
    .map(|(from, to, what, family, decided_by, expected)| Attempt {
        from,
        to,
        what,
        family,
        decided_by,
        expected,
    })
    .into()
}

/// Everything that listens.
pub struct Servers {
    _tcp: BTreeMap<SocketAddr, TcpServer>,
    udp: BTreeMap<SocketAddr, UdpServer>,
}

/// Starts a server for every attempt, whatever is expected of it.
pub fn serve(node: &DemoNode) -> Result<Servers> {
    let mut tcp = BTreeMap::new();
    let mut udp = BTreeMap::new();
    let edited = [Attempt {
        from: Outside,
        to: Vm,
        what: Tcp(EDITED_PORT),
        family: V4,
        decided_by: "",
        expected: Answered,
    }];
    for attempt in attempts().iter().chain(&edited) {
        let namespace = &attempt.to.station(node).namespace;
        let ip = attempt.to.address(node, attempt.family);
        match attempt.what {
            Tcp(port) | Transfer(port) => {
                let address = SocketAddr::new(ip, port);
                if let std::collections::btree_map::Entry::Vacant(entry) = tcp.entry(address) {
                    entry.insert(TcpServer::start(namespace, address)?);
                }
            }
            Udp(port) => start_udp(&mut udp, node, attempt.to, SocketAddr::new(ip, port))?,
            Spoof => start_udp(&mut udp, node, attempt.to, SocketAddr::new(ip, SINK_PORT))?,
            Ping => {}
        }
    }
    Ok(Servers { _tcp: tcp, udp })
}

fn start_udp(
    servers: &mut BTreeMap<SocketAddr, UdpServer>,
    node: &DemoNode,
    at: Who,
    address: SocketAddr,
) -> Result<()> {
    if let std::collections::btree_map::Entry::Vacant(entry) = servers.entry(address) {
        entry.insert(UdpServer::start(&at.station(node).namespace, address)?);
    }
    Ok(())
}

/// Makes every attempt.
pub fn run(node: &DemoNode, servers: &Servers) -> Result<Vec<Row>> {
    let attempts = attempts();
    let left = Mutex::new(attempts.iter().enumerate());
    let rows = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, attempt)) = next else { break };
                    if signals::caught() {
                        break;
                    }
                    let row = attempt.row(node, servers);
                    rows.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(number, row);
                }
            });
        }
    });
    if signals::caught() {
        bail!("interrupted");
    }
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(rows.into_values().collect())
}

impl Attempt {
    fn row(&self, node: &DemoNode, servers: &Servers) -> Row {
        let family = match self.family {
            V4 => "v4",
            V6 => "v6",
        };
        let what = match self.what {
            Tcp(port) => format!("tcp {port}"),
            Udp(port) => format!("udp {port}"),
            Ping => "ping".to_owned(),
            Transfer(port) => format!("tcp {port}, {} MiB each way", TRANSFER >> 20),
            Spoof => format!("udp {SINK_PORT} with a forged MAC"),
        };
        Row {
            tried: format!(
                "{} → {}: {what} ({family})",
                self.from.name(),
                self.to.name()
            ),
            decided_by: self.decided_by,
            expected: self.expected.to_string(),
            seen: self.make(node, servers).to_string(),
        }
    }

    fn make(&self, node: &DemoNode, servers: &Servers) -> Answer {
        let from = &self.from.station(node).namespace;
        let source = self.from.address(node, self.family);
        let ip = self.to.address(node, self.family);
        match self.what {
            Tcp(port) => connect(from, source, SocketAddr::new(ip, port), TIMEOUT),
            Udp(port) => exchange(from, source, SocketAddr::new(ip, port), b"demo", TIMEOUT),
            Ping => ping(from, source, ip, TIMEOUT),
            Transfer(port) => match transfer(from, source, SocketAddr::new(ip, port), TRANSFER) {
                Ok(_) => Answered,
                Err(error) => Answer::Failed(format!("{error:#}")),
            },
            Spoof => self
                .spoof(node, servers)
                .unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))),
        }
    }

    /// Sends two datagrams that differ in their Ethernet source only: the honest one must arrive.
    fn spoof(&self, node: &DemoNode, servers: &Servers) -> Result<Answer> {
        let guest = self.from.station(node);
        let target = self.to.station(node);
        let (IpAddr::V4(source), IpAddr::V4(dest)) = (guest.v4(), target.v4()) else {
            bail!("v4() is no IPv4 address");
        };
        let dest = SocketAddrV4::new(dest, SINK_PORT);
        let sink = servers
            .udp
            .get(&SocketAddr::V4(dest))
            .context("nobody takes the datagrams")?;
        let mut forged = guest.mac;
        forged[0] = 0x02;
        let send = |mac: [u8; 6], payload: &[u8]| {
            let frame = udp_frame(
                mac,
                target.mac,
                SocketAddrV4::new(source, FORGING_PORT),
                dest,
                payload,
            )?;
            send_frame(&guest.namespace, guest.device, &frame)
        };
        let name = self.from.name();
        send(forged, format!("forged by {name}").as_bytes())?;
        send(guest.mac, format!("honestly from {name}").as_bytes())?;
        if !sink.receives(format!("honestly from {name}").as_bytes(), TIMEOUT) {
            bail!("the datagram with the guest's own address did not arrive either");
        }
        // Both took the same way in this order.
        if sink.receives(format!("forged by {name}").as_bytes(), Duration::ZERO) {
            return Ok(Answered);
        }
        Ok(Silent)
    }
}

/// Opens a port in the configuration while the agent runs, and waits for it to become open.
/// Returns the row, and how long that took.
pub fn edit(node: &DemoNode, tree: &ConfigTree) -> Result<(Row, Duration)> {
    let sample = include_str!("sample/100.fw");
    let line = format!("IN DROP -p tcp -dport {EDITED_PORT}");
    let edited = sample.replace(&line, &line.replace("DROP", "ACCEPT"));
    if edited == sample {
        bail!("the sample has no line `{line}`");
    }
    let attempt = |timeout| {
        connect(
            &node.outside.namespace,
            node.outside.v4(),
            node.vm.v4_port(EDITED_PORT),
            timeout,
        )
    };
    let before = attempt(TIMEOUT);
    tree.write("firewall/100.fw", &edited)?;
    let started = Instant::now();
    let mut after = Silent;
    while after != Answered && started.elapsed() < EDIT {
        after = attempt(Duration::from_millis(100));
    }
    let elapsed = started.elapsed();
    let expected = format!("{Silent}, then {Answered} within {EDIT:?}");
    let seen = if elapsed <= EDIT {
        format!("{before}, then {after} within {EDIT:?}")
    } else {
        format!("{before}, then {after} after {elapsed:.1?}")
    };
    let row = Row {
        tried: format!(
            "outside → VM 100: tcp {EDITED_PORT} (v4), before and after an edit of 100.fw"
        ),
        decided_by: "100.fw: IN DROP, edited to IN ACCEPT",
        expected,
        seen,
    };
    Ok((row, elapsed))
}

/// Whether the log has the line of a dropped packet.
pub fn logged(agent: &Agent) -> Row {
    let seen = match agent.wait_log(&["100 6 tap100i0-IN", " DROP: ", "DPT=8080"]) {
        Ok(_) => "a line".to_owned(),
        Err(_) => "no line".to_owned(),
    };
    Row {
        tried: "the log line of the dropped tcp 8080".to_owned(),
        decided_by: "100.fw: IN DROP -p tcp -dport 8080 -log info",
        expected: "a line".to_owned(),
        seen,
    }
}
