//! The cluster's blacklist and traffic that is under way.

use tapwall_tests::node::STRANGER_V4;
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::{Session, TcpServer, connect};

use crate::bed::Bed;

#[test]
fn a_running_flow_is_cut_when_its_source_is_blacklisted() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\n").unwrap();
    let outside = &bed.node.outside;
    let mut sessions = Vec::new();
    for guest in bed.guests() {
        let to = guest.v4_port(80);
        let server = TcpServer::start(&guest.namespace, to).unwrap();
        let open = |source| Session::open(&outside.namespace, source, to).unwrap();
        let (mut one, mut other) = (open(outside.v4()), open(STRANGER_V4));
        one.transfer(1000).unwrap();
        other.transfer(1000).unwrap();
        sessions.push((to, one, other, server));
    }
    let text = format!(
        "[OPTIONS]\nenable: 1\n[IPSET blacklist]\n{}\n203.0.113.0/24\n",
        outside.v4()
    );
    bed.agent
        .after(|| bed.tree.write("firewall/cluster.fw", &text))
        .unwrap();
    for (to, _, other, _) in &mut sessions {
        let to = *to;
        bed.becomes(&Silent, |timeout| {
            connect(&outside.namespace, outside.v4(), to, timeout)
        });
        other.transfer(1 << 20).unwrap();
    }
    for (_, one, ..) in &mut sessions {
        one.transfer(1000).unwrap_err();
    }
}
