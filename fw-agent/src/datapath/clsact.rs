//! Programs as filters of a device's clsact qdisc, for kernels without TCX (before 6.6).
//!
//! A filter has a fixed priority and handle, by which a later agent finds it and swaps its program in one step. The qdisc is made where there
//! is none, and stays: others may have filters there.
//!
//! An `ingress` qdisc (Proxmox makes one for a NIC's rate limit) takes the same place and has no egress side, but the kernel accepts filters
//! for egress there and runs them on ingress. Such a device is refused.

use std::io;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_ECHO, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle as Place, TcMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use rustix::net::netdevice::{index_to_name, name_to_index};

use super::Error;
use super::attach::{Hook, Role};

/// Priority of our filters: first.
const PRIORITY: u16 = 1;
/// Their handle (`Tapw`): unlikely to be another program's, which would be replaced.
const HANDLE: TcHandle = TcHandle::new(0x5461, 0x7077);
/// The kind of qdisc that has both sides.
const KIND: &str = "clsact";

/// Attaches a program, or swaps it in where an earlier agent had attached its own.
pub(super) fn attach(program: &mut SchedClassifier, device: &str, hook: Hook) -> Result<(), Error> {
    add_qdisc(device)?;
    let failed = |source| Error::Attach {
        device: device.to_owned(),
        source,
    };
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        ..NlOptions::default()
    });
    let id = match program.attach_with_options(device, hook.attach_type(), options) {
        Ok(id) => id,
        Err(ProgramError::TcError(error)) if is(&error, Errno::EXIST) => {
            let existing =
                SchedClassifierLink::attached(device, hook.attach_type(), PRIORITY, HANDLE, None)
                    .map_err(|source| failed(ProgramError::IOError(source)))?;
            program.attach_to_link(existing).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    // Dropping the link would detach the filter.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Takes our program, whichever it is, off a device. That either is gone is fine.
pub(super) fn detach(device: &str, hook: Hook) -> Result<(), Error> {
    for role in Role::ALL {
        match qdisc_detach_program(device, hook.attach_type(), hook.program(role)) {
            Ok(()) => {}
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let error = Error::Detach {
                    device: device.to_owned(),
                    source,
                };
                if !error.is_no_device() {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Name of the device with an interface index, if there is one.
pub(super) fn device(ifindex: u32) -> Option<String> {
    let socket = Socket::new(NETLINK_ROUTE).ok()?;
    index_to_name(&socket, ifindex).ok()
}

fn add_qdisc(device: &str) -> Result<(), Error> {
    let failed = |source| Error::Qdisc {
        device: device.to_owned(),
        source,
    };
    match qdisc_add_clsact(device) {
        Ok(()) => return Ok(()),
        Err(error) if is(&error, Errno::EXIST) => {}
        Err(source) => return Err(failed(source)),
    }
    let kind = qdisc_kind(device).map_err(|source| failed(TcError::IoError(source)))?;
    match kind.as_str() {
        KIND => Ok(()),
        _ => Err(Error::OtherQdisc {
            device: device.to_owned(),
            kind,
        }),
    }
}

fn is(error: &TcError, code: Errno) -> bool {
    let TcError::NetlinkError(error) = error else {
        return false;
    };
    error.raw_os_error() == Some(code.raw_os_error())
}

/// Asks which kind of qdisc is in the place of `clsact` and `ingress`.
fn qdisc_kind(device: &str) -> io::Result<String> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let ifindex = name_to_index(&socket, device)?;
    let mut question = TcMessage::with_index(ifindex as i32);
    question.header.parent = Place::CLSACT;
    let mut header = NetlinkHeader::default();
    // Before kernel 6.7 only an echo is an answer; an acknowledgement always comes.
    header.flags = NLM_F_REQUEST | NLM_F_ECHO | NLM_F_ACK;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetQueueDiscipline(question));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let (bytes, _) = socket.recv_from_full()?;
    let answer =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).map_err(io::Error::other)?;
    let qdisc = match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(qdisc)) => qdisc,
        NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
        NetlinkPayload::InnerMessage(_)
        | NetlinkPayload::Error(_)
        | NetlinkPayload::Done(_)
        | NetlinkPayload::Noop
        | NetlinkPayload::Overrun(_)
        | _ => return Err(io::Error::other("the kernel's answer is about no qdisc")),
    };
    for attribute in qdisc.attributes {
        if let TcAttribute::Kind(kind) = attribute {
            return Ok(kind);
        }
    }
    Err(io::Error::other("the kernel names no kind of qdisc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: &str = "tapwall-none";

    #[test]
    fn a_device_that_went_away_is_told_from_a_failure() {
        assert!(add_qdisc(ABSENT).unwrap_err().is_no_device());
        detach(ABSENT, Hook::Ingress).unwrap();
    }
}
