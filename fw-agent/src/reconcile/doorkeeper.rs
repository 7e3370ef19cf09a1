//! Closes guests' devices the moment they come, whatever the loop is doing.
//!
//! 1. A thread of its own waits on a netlink socket of its own. A device that is a guest's by its name (made so or renamed to it) is handed to two more
//!    threads, one for each hook: what the guest sends is closed first, and the other side queues up behind it without waiting for that to end. A value that another
//!    port has left under the interface index goes before.
//! 2. Attached without a value of its own, the device is closed. The loop is [`Told`], adopts what was attached, and finds out what the device is to have.
//! 3. Before kernel 6.6 programs are filters of a qdisc that others can delete; who has lost them gets them again in the same way.
//! 4. When the kernel could not tell everything (the socket was full), all devices are listed.
//!
//! In force only while [`Orders`] say so: not while the firewall is off, and not for NICs that the configuration says are not to be filtered. The loop
//! changes them before it does anything else about that.
//!
//! Invariant: nothing here gives a device more than it had.

use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::sync::mpsc::UnboundedSender;

use crate::datapath::{AttachMode, Claim, Door, Error, Hook, Kept, Newcomer, Role};
use crate::policy::PortId;

/// `RTNLGRP_LINK` of `include/uapi/linux/rtnetlink.h`.
const LINKS: u32 = 1;
/// `RTNLGRP_TC` of the same.
const FILTERS: u32 = 4;
/// Room for messages that come while others are read.
const ROOM: usize = 1 << 22;

/// What the loop wants to be closed.
#[derive(Debug, Default)]
pub(super) struct Orders {
    enforcing: AtomicBool,
    unfiltered: Mutex<BTreeSet<String>>,
}

impl Orders {
    /// Has devices closed, but for these, or has all of them left alone.
    pub(super) fn set(&self, enforcing: bool, unfiltered: BTreeSet<String>) {
        *self
            .unfiltered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = unfiltered;
        self.enforcing.store(enforcing, Ordering::SeqCst);
    }

    fn are_enforced(&self) -> bool {
        self.enforcing.load(Ordering::SeqCst)
    }

    fn want(&self, device: &str) -> bool {
        let unfiltered = self.unfiltered.lock();
        let unfiltered = unfiltered.unwrap_or_else(PoisonError::into_inner);
        self.are_enforced() && !unfiltered.contains(device)
    }
}

/// What was done about a device.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) newcomer: Newcomer,
    /// Generation of the programs.
    pub(super) generation: u64,
    /// A value of another port was taken from it.
    pub(super) forgot: bool,
    /// What stands for the programs that were attached.
    pub(super) kept: Vec<Kept>,
    /// Why not both were.
    pub(super) error: Option<Error>,
}

/// The thread that waits; it ends when this is dropped.
pub(super) struct Doorkeeper {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Doorkeeper {
    /// Listens from now on, and tells of what it does.
    ///
    /// # Errors
    /// The socket or the threads cannot be made.
    pub(super) fn start(
        door: Door,
        orders: Arc<Orders>,
        tell: UnboundedSender<Told>,
    ) -> Result<Self> {
        let socket = listen(door.mode()).context("cannot listen to netlink")?;
        let (stopped, stop) = io::pipe().context("cannot make a pipe")?;
        let mut lanes = Vec::new();
        for hook in [Hook::Ingress, Hook::Egress] {
            lanes.push(Lane::start(door.clone(), hook)?);
        }
        let watch = Watch {
            socket,
            door,
            orders,
            tell,
            lanes,
        };
        let thread = Builder::new()
            .name("doorkeeper".to_owned())
            .spawn(move || {
                go_first();
                watch.run(&stopped);
            })
            .context("cannot start the thread that closes devices")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that closes devices panicked");
        }
    }
}

fn listen(mode: AttachMode) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    // The larger the better; what does not fit is made up for by listing.
    set_socket_recv_buffer_size_force(&socket, ROOM)?;
    socket.set_non_blocking(true)?;
    if mode == AttachMode::Clsact {
        socket.add_membership(FILTERS)?;
    }
    socket.add_membership(LINKS)?;
    Ok(socket)
}

/// A device in the hands of the two lanes. The last one that lets go of it tells the loop.
struct Job {
    newcomer: Newcomer,
    forgot: bool,
    claim: Claim,
    outcome: Mutex<(Vec<Kept>, Option<Error>)>,
    tell: UnboundedSender<Told>,
}

impl Job {
    fn note(&self, result: Result<Vec<Kept>, Error>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(kept) => outcome.0.extend(kept),
            Err(error) => outcome.1 = Some(error),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let outcome = self.outcome.get_mut();
        let (kept, error) = std::mem::take(outcome.unwrap_or_else(PoisonError::into_inner));
        if error.is_none() {
            self.claim.done();
        }
        let told = Told {
            newcomer: self.newcomer.clone(),
            generation: self.claim.generation(),
            forgot: self.forgot,
            kept,
            error,
        };
        // The claim ends behind this. A loop that has ended leaves what is pinned to the next.
        if self.tell.send(told).is_err() {
            tracing::debug!("nobody is told of a device any more");
        }
    }
}

/// A thread for one hook of all devices.
struct Lane {
    jobs: Option<Sender<Arc<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    fn start(door: Door, hook: Hook) -> Result<Self> {
        let (jobs, queue) = channel::<Arc<Job>>();
        let thread = Builder::new()
            .name(format!("door {}", hook.name()))
            .spawn(move || {
                go_first();
                for job in queue {
                    job.note(door.close(&job.newcomer, hook));
                }
            })
            .context("cannot start a thread that closes devices")?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    fn push(&self, job: Arc<Job>) {
        if self
            .jobs
            .as_ref()
            .is_none_or(|jobs| jobs.send(job).is_err())
        {
            tracing::error!("a thread that closes devices has ended");
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that closes devices panicked");
        }
    }
}

/// What the thread that waits has.
struct Watch {
    socket: Socket,
    door: Door,
    orders: Arc<Orders>,
    tell: UnboundedSender<Told>,
    lanes: Vec<Lane>,
}

impl Watch {
    /// Goes on until the other end of `stopped` is closed.
    fn run(self, stopped: &PipeReader) {
        loop {
            match wait(stopped, &self.socket) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(
                        "cannot wait for netlink: {error}; new devices are closed by the loop"
                    );
                    return;
                }
            }
            loop {
                match self.socket.recv_from_full() {
                    Ok((bytes, _)) => each(&bytes, |message| self.hear(message)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Most likely messages were lost (`ENOBUFS`).
                    Err(error) => {
                        tracing::info!("{error}: listing all devices");
                        self.look_everywhere();
                        break;
                    }
                }
            }
        }
    }

    fn hear(&self, message: NetlinkPayload<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = message else {
            return;
        };
        if let RouteNetlinkMessage::NewLink(link) = &message {
            self.meet(link);
        } else if let RouteNetlinkMessage::DelLink(link) = &message {
            self.door.forget(link.header.index);
        } else if let RouteNetlinkMessage::DelQueueDiscipline(tc)
        | RouteNetlinkMessage::DelTrafficFilter(tc)
        | RouteNetlinkMessage::DelTrafficChain(tc) = &message
        {
            self.close_again(tc.header.index.cast_unsigned());
        }
    }

    /// Closes a device if it is a guest's and has not its programs.
    fn meet(&self, link: &LinkMessage) {
        let Some(device) = name(link) else { return };
        let Some((_, port)) = PortId::of_device(device) else {
            return;
        };
        if !self.orders.want(device) {
            return;
        }
        let newcomer = Newcomer {
            device: device.to_owned(),
            ifindex: link.header.index,
            role: Role::Guest,
        };
        let Some(claim) = self.door.claim(&newcomer) else {
            return;
        };
        let forgot = self.door.forget_stranger(newcomer.ifindex, port);
        let forgot = forgot.unwrap_or_else(|error| {
            tracing::error!("{:#}", anyhow::Error::from(error));
            false
        });
        self.close(newcomer, forgot, claim);
    }

    /// Attaches again what somebody has removed.
    fn close_again(&self, ifindex: u32) {
        if self.orders.are_enforced()
            && let Some((newcomer, claim)) = self.door.claim_again(ifindex)
        {
            self.close(newcomer, false, claim);
        }
    }

    fn close(&self, newcomer: Newcomer, forgot: bool, claim: Claim) {
        let job = Arc::new(Job {
            newcomer,
            forgot,
            claim,
            outcome: Mutex::default(),
            tell: self.tell.clone(),
        });
        for lane in &self.lanes {
            lane.push(Arc::clone(&job));
        }
    }

    /// Makes up for messages that were lost.
    fn look_everywhere(&self) {
        let links = match list() {
            Ok(links) => links,
            Err(error) => {
                tracing::error!("cannot list the network devices: {error}");
                return;
            }
        };
        let present: BTreeSet<u32> = links.iter().map(|link| link.header.index).collect();
        for ifindex in self.door.attached() {
            if !present.contains(&ifindex) {
                self.door.forget(ifindex);
            } else if self.door.mode() == AttachMode::Clsact {
                self.close_again(ifindex);
            }
        }
        for link in &links {
            self.meet(link);
        }
    }
}

/// Has this thread run as soon as there is something to do, before whatever else wants the CPU: it has little to do, and what it comes too late for has passed.
/// Where that is not permitted it takes its turn.
fn go_first() {
    // SAFETY: a sched_param is plain data for which all zeroes is a valid value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 1;
    // SAFETY: the call reads the parameters, which outlive it; 0 is this thread.
    let done = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_RR | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if done != 0 {
        tracing::debug!(
            "new devices are closed without priority: {}",
            io::Error::last_os_error()
        );
    }
}

/// Waits for messages; false: the thread is to end.
fn wait(stopped: &PipeReader, socket: &Socket) -> io::Result<bool> {
    let mut both = [
        PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::empty()),
        PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
    ];
    loop {
        match poll(&mut both, None) {
            Ok(_) => return Ok(both[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// All devices.
fn list() -> io::Result<Vec<LinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut message = NetlinkMessage::from(question);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut links = Vec::new();
    let mut end = None;
    while end.is_none() {
        let (bytes, _) = socket.recv_from_full()?;
        each(&bytes, |payload| match payload {
            NetlinkPayload::InnerMessage(message) => {
                if let RouteNetlinkMessage::NewLink(link) = message {
                    links.push(link);
                }
            }
            NetlinkPayload::Done(_) => end = Some(Ok(())),
            NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
            NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
        });
    }
    end.unwrap_or(Ok(())).map(|()| links)
}

/// Takes the messages of a datagram one by one. What cannot be read ends it.
fn each(bytes: &[u8], mut take: impl FnMut(NetlinkPayload<RouteNetlinkMessage>)) {
    /// Messages begin at multiples of this (`NLMSG_ALIGNTO`).
    const ALIGNMENT: usize = 4;
    let mut rest = bytes;
    while !rest.is_empty() {
        let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!("netlink said something that cannot be read: {error}");
                return;
            }
        };
        let length = (message.header.length as usize).next_multiple_of(ALIGNMENT);
        take(message.payload);
        rest = rest.get(length.max(ALIGNMENT)..).unwrap_or_default();
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name.as_str())
        } else {
            None
        }
    })
}
