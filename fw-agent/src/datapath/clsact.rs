//! Programs as filters of a device's clsact qdisc, for kernels without TCX (before 6.6).
//!
//! A filter has a fixed priority and handle, by which a later agent finds it and swaps its program in one step, also one of another version. The
//! qdisc is made where there is none; one of our making goes with our filters, unless others have put filters there. Filters have no pins: marks
//! in the pin directory say which devices have them, and which qdiscs are ours. Filters stay with an interface that gets another name, so the mark of a name
//! holds the interfaces that had it ([`strays`]).
//!
//! An `ingress` qdisc (Proxmox makes one for a NIC's rate limit) takes the same place and has no egress side, but the kernel accepts filters
//! for egress there and runs them on ingress. Such a device is refused.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_ECHO, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle as Place, TcMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use rustix::net::netdevice::{index_to_name, name_to_index};

use super::Error;
use super::attach::{Hook, Role};
use super::link::Kept;
use super::pins::Pins;

/// Priority of our filters: first.
const PRIORITY: u16 = 1;
/// Their handle (`Tapw`): unlikely to be another program's, which would be replaced.
const HANDLE: TcHandle = TcHandle::new(0x5461, 0x7077);
/// The kind of qdisc that has both sides.
const KIND: &str = "clsact";
/// The handle that the kernel gives it (`TC_H_MAKE(TC_H_CLSACT, 0)` of `linux/pkt_sched.h`).
const TC_CLSACT_HANDLE: u32 = 0xffff_0000;
/// Where its filters for received packets are (`TC_H_MIN_INGRESS` below it).
const TC_INGRESS: u32 = 0xffff_fff2;
/// Where its filters for sent packets are (`TC_H_MIN_EGRESS` below it).
const TC_EGRESS: u32 = 0xffff_fff3;

/// Attaches a program, or swaps it in where an earlier agent had attached its own. The marks that stand for it have to be kept.
pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    (device, ifindex): (&str, u32),
    hook: Hook,
) -> Result<Vec<Kept>, Error> {
    if index_of(device)? != ifindex {
        return Err(Error::NoDevice {
            device: device.to_owned(),
        });
    }
    let inherited = pins.others().iter().any(|pins| pins.qdisc(device).exists());
    // The marks first: what they stand for is never without them, unless the file system for them is gone.
    let mut marks = vec![mark(pins.filters(device))];
    if let Err(error) = Pins::mark(pins.filters_on(device, ifindex)) {
        let error = anyhow::Error::from(error);
        tracing::warn!(
            device,
            "{error:#}; should it get another name, its filters stay"
        );
    }
    let is_ours = pins.qdisc(device).exists() || inherited;
    if add_qdisc(device)? || is_ours {
        marks.push(mark(pins.qdisc(device)));
    }
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
    Ok(marks)
}

/// Makes a mark; one that cannot be made has to be made later.
fn mark(path: PathBuf) -> Kept {
    if let Err(error) = Pins::mark(path.clone()) {
        tracing::warn!("{:#}; trying again", anyhow::Error::from(error));
    }
    Kept::Mark(path)
}

/// Takes our programs off a device, and with them a qdisc of our making that nobody else uses. That any of it is gone is fine.
pub(super) fn detach<'p>(
    device: &str,
    versions: impl Iterator<Item = &'p Pins> + Clone,
) -> Result<(), Error> {
    let is_ours = versions.clone().any(|pins| pins.qdisc(device).exists());
    let strays = strays(device, versions.clone());
    for device in strays.iter().map(String::as_str).chain([device]) {
        for hook in Hook::ALL {
            remove_filters(device, hook)?;
        }
        if is_ours {
            remove_qdisc(device)?;
        }
    }
    for pins in versions {
        for ifindex in pins.interfaces(device) {
            Pins::unmark(pins.filters_on(device, ifindex))?;
        }
        Pins::unmark(pins.qdisc(device))?;
        Pins::unmark(pins.filters(device))?;
    }
    Ok(())
}

/// Takes our programs off interfaces that have lost the name of a device to another, and got one that nobody has attached. To be called when everything is attached.
pub(super) fn drop_strays<'p>(
    versions: impl Iterator<Item = &'p Pins> + Clone,
) -> Result<(), Error> {
    for pins in versions.clone() {
        for device in pins.devices() {
            for stray in strays(&device, versions.clone()) {
                for hook in Hook::ALL {
                    remove_filters(&stray, hook)?;
                }
                if pins.qdisc(&device).exists() {
                    remove_qdisc(&stray)?;
                }
            }
            let socket = Socket::new(NETLINK_ROUTE).ok();
            let own = socket.and_then(|socket| name_to_index(&socket, &device).ok());
            for ifindex in pins.interfaces(&device) {
                if own.is_some_and(|own| own != ifindex) {
                    Pins::unmark(pins.filters_on(&device, ifindex))?;
                }
            }
        }
    }
    Ok(())
}

/// What the interfaces are called now that had the name of a device when filters were put there. Names that are somebody's are none of them: they are attached, or
/// taken off, by that name.
fn strays<'p>(device: &str, versions: impl Iterator<Item = &'p Pins> + Clone) -> Vec<String> {
    let interfaces: BTreeSet<u32> = versions
        .clone()
        .flat_map(|pins| pins.interfaces(device))
        .collect();
    let names = interfaces.into_iter().filter_map(self::device);
    names
        .filter(|name| {
            let mut versions = versions.clone();
            name != device && !versions.any(|pins| pins.filters(name).exists())
        })
        .collect()
}

/// Removes the qdisc if it has no filters.
fn remove_qdisc(device: &str) -> Result<(), Error> {
    let result = (|| {
        let socket = Socket::new(NETLINK_ROUTE)?;
        let ifindex = name_to_index(&socket, device)?;
        for hook in Hook::ALL {
            let place = match hook {
                Hook::Ingress => Place::from(TC_INGRESS),
                Hook::Egress => Place::from(TC_EGRESS),
            };
            let mut question = TcMessage::with_index(ifindex as i32);
            question.header.parent = place;
            let question = RouteNetlinkMessage::GetTrafficFilter(question);
            let answer = ask(&socket, question, NLM_F_REQUEST | NLM_F_DUMP)?;
            // The first message of a list that is not empty is a filter.
            if matches!(answer, NetlinkPayload::InnerMessage(_)) {
                return Ok(());
            }
        }
        let mut qdisc = TcMessage::with_index(ifindex as i32);
        qdisc.header.parent = Place::CLSACT;
        qdisc.header.handle = Place::from(TC_CLSACT_HANDLE);
        // The answers to the questions are behind us only on their socket.
        let socket = Socket::new(NETLINK_ROUTE)?;
        let order = RouteNetlinkMessage::DelQueueDiscipline(qdisc);
        match ask(&socket, order, NLM_F_REQUEST | NLM_F_ACK)? {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            NetlinkPayload::Error(_) => Ok(()),
            NetlinkPayload::InnerMessage(_)
            | NetlinkPayload::Done(_)
            | NetlinkPayload::Noop
            | NetlinkPayload::Overrun(_)
            | _ => Err(io::Error::other(
                "the kernel's answer is about something else",
            )),
        }
    })();
    let error: io::Error = match result {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // Somebody else has removed it.
    let is_gone = [Errno::NOENT, Errno::INVAL]
        .iter()
        .any(|code| error.raw_os_error() == Some(code.raw_os_error()));
    let error = Error::Qdisc {
        verb: "remove the clsact qdisc from",
        device: device.to_owned(),
        source: TcError::IoError(error),
    };
    match is_gone || error.is_no_device() {
        true => Ok(()),
        false => Err(error),
    }
}

/// Takes our program, whichever it is, off a hook. That either is gone is fine.
fn remove_filters(device: &str, hook: Hook) -> Result<(), Error> {
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

fn index_of(device: &str) -> Result<u32, Error> {
    let index = Socket::new(NETLINK_ROUTE).and_then(|socket| Ok(name_to_index(&socket, device)?));
    index.map_err(|source| Error::Qdisc {
        verb: "find",
        device: device.to_owned(),
        source: TcError::IoError(source),
    })
}

/// Adds the qdisc; false if there is one.
fn add_qdisc(device: &str) -> Result<bool, Error> {
    let failed = |source| Error::Qdisc {
        verb: "add the clsact qdisc to",
        device: device.to_owned(),
        source,
    };
    match qdisc_add_clsact(device) {
        Ok(()) => return Ok(true),
        Err(error) if is(&error, Errno::EXIST) => {}
        Err(source) => return Err(failed(source)),
    }
    let kind = qdisc_kind(device).map_err(|source| failed(TcError::IoError(source)))?;
    match kind.as_str() {
        KIND => Ok(false),
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
    let question = RouteNetlinkMessage::GetQueueDiscipline(question);
    // Before kernel 6.7 only an echo is an answer; an acknowledgement always comes.
    let answer = ask(&socket, question, NLM_F_REQUEST | NLM_F_ECHO | NLM_F_ACK)?;
    let qdisc = match answer {
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

/// Sends a message and gives the first that comes back.
fn ask(
    socket: &Socket,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let answer =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).map_err(io::Error::other)?;
    Ok(answer.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: &str = "tapwall-none";

    #[test]
    fn a_device_that_went_away_is_told_from_a_failure() {
        assert!(add_qdisc(ABSENT).unwrap_err().is_no_device());
        remove_filters(ABSENT, Hook::Ingress).unwrap();
        remove_qdisc(ABSENT).unwrap();
    }
}
