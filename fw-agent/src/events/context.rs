//! The names on a log line: chain, message and interfaces of one record.
//!
//! In: the record, what its rule was expanded from, the port's device and its bridge. Out: a [`LogContext`].
//!
//! Chains and messages are the reference's, with two deliberate differences: members of a security group are logged under the guest's own
//! number with a message (the reference has number 0 and none, so that the guest's log view never shows them), and the message always names
//! the verdict. Interfaces are those the hook can know: the bridge on both sides as if the packet crossed the guest's own bridge, and the
//! guest's device on its side; the port a packet came from or leaves by is not known at a guest's device and is left out.

use fw_common::event::Event;
use fw_common::verdict::{Direction, Verdict};

use crate::policy::OriginKind;

/// What a log line says that is not in the packet. Interfaces that are `None` are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogContext<'a> {
    /// Guest number of the first column; 0 is the host and the chains that belong to no guest.
    pub vmid: u32,
    /// Third column.
    pub chain: String,
    /// Text before the fields, with its trailing space.
    pub message: &'a str,
    /// `IN=`.
    pub input: Option<&'a str>,
    /// `OUT=`.
    pub output: Option<&'a str>,
    /// `PHYSIN=`.
    pub physin: Option<&'a str>,
    /// `PHYSOUT=`.
    pub physout: Option<&'a str>,
}

impl<'a> LogContext<'a> {
    /// Names a record of the port `device` on `bridge` (none if unknown). A record with guest number 0 is the host's, on interface `device`.
    pub fn of(
        event: &Event,
        origin: &OriginKind,
        device: &'a str,
        bridge: Option<&'a str>,
    ) -> Self {
        let direction = Direction::from_u8(event.direction);
        let verdict = Verdict::from_u8(event.verdict);
        let host = event.vmid == 0;
        let own_chain = || match host {
            true => format!("PVEFW-HOST-{}", direction.name()),
            false => format!("{device}-{}", direction.name()),
        };
        let (vmid, chain) = match origin {
            OriginKind::Rule | OriginKind::Policy | OriginKind::Standard => {
                (event.vmid, own_chain())
            }
            OriginKind::Group(group) => (event.vmid, format!("GROUP-{group}-{}", direction.name())),
            OriginKind::Blacklist => (0, "PVEFW-blacklist".to_owned()),
            OriginKind::Smurf => (0, "PVEFW-smurflog".to_owned()),
            OriginKind::TcpFlags => (0, "PVEFW-logflags".to_owned()),
        };
        let (input, output, physin, physout) = match (host, direction) {
            (false, Direction::In) => (bridge, bridge, None, Some(device)),
            (false, Direction::Out) => (bridge, bridge, Some(device), None),
            (true, Direction::In) => (Some(device), None, None, None),
            (true, Direction::Out) => (None, Some(device), None, None),
        };
        Self {
            vmid,
            chain,
            message: message(verdict, *origin == OriginKind::Policy),
            input,
            output,
            physin,
            physout,
        }
    }
}

const fn message(verdict: Verdict, policy: bool) -> &'static str {
    match (verdict, policy) {
        (Verdict::Accept, false) => "ACCEPT: ",
        (Verdict::Drop, false) => "DROP: ",
        (Verdict::Reject, false) => "REJECT: ",
        (Verdict::Accept, true) => "policy ACCEPT: ",
        (Verdict::Drop, true) => "policy DROP: ",
        (Verdict::Reject, true) => "policy REJECT: ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::line::tests::event;

    fn check(
        (vmid, direction, verdict): (u32, Direction, Verdict),
        origin: OriginKind,
        expect: &str,
    ) {
        let mut event = event(&[], 0);
        event.vmid = vmid;
        event.direction = direction as u8;
        event.verdict = verdict as u8;
        let device = if vmid == 0 { "vmbr0" } else { "tap100i0" };
        let c = LogContext::of(&event, &origin, device, Some("vmbr0"));
        let names = [
            ("IN", c.input),
            ("OUT", c.output),
            ("PHYSIN", c.physin),
            ("PHYSOUT", c.physout),
        ];
        let mut got = format!("{} {} {}", c.vmid, c.chain, c.message);
        for (key, name) in names {
            if let Some(name) = name {
                got.push_str(&format!("{key}={name} "));
            }
        }
        assert_eq!(got.trim_end(), expect, "{origin:?}");
    }

    #[test]
    fn chains_messages_and_interfaces() {
        use Direction::{In, Out};
        use Verdict::{Accept, Drop, Reject};
        let guest_in = "IN=vmbr0 OUT=vmbr0 PHYSOUT=tap100i0";
        let guest_out = "IN=vmbr0 OUT=vmbr0 PHYSIN=tap100i0";
        let group = || OriginKind::Group("web".into());
        let cases = [
            (
                (100, In, Accept),
                OriginKind::Rule,
                format!("100 tap100i0-IN ACCEPT: {guest_in}"),
            ),
            (
                (100, Out, Reject),
                OriginKind::Rule,
                format!("100 tap100i0-OUT REJECT: {guest_out}"),
            ),
            (
                (100, In, Drop),
                OriginKind::Policy,
                format!("100 tap100i0-IN policy DROP: {guest_in}"),
            ),
            (
                (100, Out, Reject),
                OriginKind::Policy,
                format!("100 tap100i0-OUT policy REJECT: {guest_out}"),
            ),
            (
                (100, In, Drop),
                OriginKind::Standard,
                format!("100 tap100i0-IN DROP: {guest_in}"),
            ),
            (
                (100, In, Accept),
                group(),
                format!("100 GROUP-web-IN ACCEPT: {guest_in}"),
            ),
            (
                (100, Out, Drop),
                group(),
                format!("100 GROUP-web-OUT DROP: {guest_out}"),
            ),
            (
                (100, In, Drop),
                OriginKind::Blacklist,
                format!("0 PVEFW-blacklist DROP: {guest_in}"),
            ),
            (
                (100, In, Drop),
                OriginKind::Smurf,
                format!("0 PVEFW-smurflog DROP: {guest_in}"),
            ),
            (
                (100, In, Drop),
                OriginKind::TcpFlags,
                format!("0 PVEFW-logflags DROP: {guest_in}"),
            ),
            (
                (0, In, Accept),
                OriginKind::Rule,
                "0 PVEFW-HOST-IN ACCEPT: IN=vmbr0".into(),
            ),
            (
                (0, Out, Drop),
                OriginKind::Policy,
                "0 PVEFW-HOST-OUT policy DROP: OUT=vmbr0".into(),
            ),
        ];
        for (record, origin, expect) in cases {
            check(record, origin, &expect);
        }
    }

    #[test]
    fn an_unknown_bridge_is_left_out() {
        let mut event = event(&[], 0);
        event.vmid = 7;
        let c = LogContext::of(&event, &OriginKind::Rule, "veth7i1", None);
        assert_eq!(
            (c.input, c.output, c.physout),
            (None, None, Some("veth7i1"))
        );
    }
}
