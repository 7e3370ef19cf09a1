//! Where a guest's device is plugged: into a bridge, as in every other test here, or into a bridge of its own with a veth pair to the other, as Proxmox does it
//! for the reference (`fwbr`).

use tapwall_tests::node::TAP;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{TcpServer, UdpServer};

use crate::bed::Bed;

#[test]
fn a_device_behind_a_bridge_of_its_own_has_the_same_policy() {
    let bed = Bed::new("IN ACCEPT -p tcp -dport 80\nOUT DROP -p udp -dport 515\n").unwrap();
    let (vm, outside, host) = (&bed.node.vm, &bed.node.outside, &bed.node.host);
    host.namespace
        .ip(&format!(
            "link add fwbr100i0 type bridge stp_state 0 forward_delay 0\n\
             link add fwpr100p0 type veth peer name fwln100i0\n\
             link set fwln100i0 master fwbr100i0\n\
             link set fwpr100p0 master vmbr0\n\
             link set fwbr100i0 up\nlink set fwln100i0 up\nlink set fwpr100p0 up\n\
             link set {TAP} nomaster\nlink set {TAP} master fwbr100i0"
        ))
        .unwrap();
    let _servers = [80, 81].map(|port| TcpServer::start(&vm.namespace, vm.v4_port(port)).unwrap());
    let _outside =
        [514, 515].map(|port| UdpServer::start(&outside.namespace, outside.v4_port(port)).unwrap());
    let attempt = |timeout| {
        let to = vm.v4_port(80);
        tapwall_tests::probe::connect(&outside.namespace, outside.v4(), to, timeout)
    };
    bed.becomes(&Answered, attempt);
    for from in [outside, host, &bed.node.container] {
        bed.expect("open", bed.tcp(from, vm.v4_port(80)), &Answered);
        bed.expect("closed", bed.tcp(from, vm.v4_port(81)), &Silent);
    }
    bed.expect("out", bed.udp(vm, outside.v4_port(514)), &Answered);
    bed.expect("out, closed", bed.udp(vm, outside.v4_port(515)), &Silent);
    // Both bridges' devices between are nobody's: a packet that is not the host's passes them.
    let record = bed.agent.record().unwrap().unwrap();
    let hosts: Vec<&str> = record
        .host
        .iter()
        .map(|found| found.device.as_str())
        .collect();
    assert!(
        !hosts
            .iter()
            .any(|name| name.starts_with("fwln") || name.starts_with("fwpr")),
        "{hosts:?}"
    );
}
