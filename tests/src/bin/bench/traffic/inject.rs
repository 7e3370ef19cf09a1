//! What forwarding one packet costs: frames that enter the port to the outside as if it had received them, until the guest has dropped them.
//!
//! 1. A program at the guest's own device drops and counts IPv4 packets. 2. A system call lets N frames enter the bridge's port. A packet is handed from
//!    device to device on the processor that it entered on, within the call. 3. The kernel says what one took.
//!
//! The number of frames follows from what a few cost, so that a sample takes about the same time whoever forwards. A sample in which the guest did not see
//! what it should is an error, not a number.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tapwall_tests::probe::udp_frame;

use crate::bed::{Bed, GUEST, GUEST_MAC, OUTSIDE, OUTSIDE_MAC};
use crate::line::Subject;
use crate::programs;
use crate::raw::{Counter, Hook, Program};
use crate::rules::{CLOSED, OPEN};

/// Fewest frames of a sample, and of the attempt that tells how many it should have.
const FEWEST: u32 = 512;
/// Most frames of a sample: tables of flows hold the sum over all rounds.
const MOST: u32 = 20_000;
/// Likewise, where no flow is remembered.
const MOST_OF_NO_NEW_FLOW: u32 = 200_000;
/// How long frames may be on their way.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes behind the UDP header that make a frame of 64 bytes with its check sequence.
pub const PAYLOAD: [u8; 18] = [0; 18];
/// Network of the senders of packets that each begin a flow; see `programs::scatter`.
const SENDERS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 0);
/// Offsets in an Ethernet frame of IPv4: identification, header checksum, UDP checksum.
const IDENTIFICATION: usize = 18;
const HEADER_CHECKSUM: usize = 24;
const UDP_CHECKSUM: usize = 40;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// Of one flow that was answered.
    Established,
    /// Each of another flow, which the last rule accepts.
    First,
    /// Each of another flow, which no rule accepts.
    Denied,
}

/// What injects into one bed.
pub struct Injector {
    /// Whether what no rule accepts is dropped.
    denies: bool,
    counter: Counter,
    sink: Program,
    pass: Program,
    scatter: Program,
}

impl Injector {
    /// For a bed under this firewall.
    pub fn new(bed: &Bed, subject: Subject) -> Result<Self> {
        let denies = match subject {
            Subject::None | Subject::Empty => false,
            Subject::Iptables | Subject::Nftables | Subject::Tapwall => true,
        };
        bed.host.run(|| {
            let counter = Counter::new()?;
            Ok(Self {
                denies,
                sink: programs::sink(&counter)?,
                counter,
                pass: programs::pass()?,
                scatter: programs::scatter()?,
            })
        })
    }

    /// Nanoseconds per packet.
    pub fn measure(&self, bed: &Bed, packets: Packets, time: Duration) -> Result<f64> {
        let (program, frame) = match packets {
            Packets::Established => {
                let source = SocketAddrV4::new(OUTSIDE, bed.warm()?);
                (&self.pass, frame(source, OPEN)?)
            }
            Packets::First => (&self.scatter, scattered(OPEN)?),
            Packets::Denied => (&self.scatter, scattered(CLOSED)?),
        };
        let _sink = bed.guest.run(|| self.sink.attach(bed.nic, Hook::Ingress))?;
        bed.host.run(|| {
            undisturbed()?;
            let inject = |count: u32| {
                let before = self.counter.read()?;
                let each = program.inject(&frame, bed.uplink, count)?;
                let expected = match packets {
                    Packets::Established | Packets::First => u64::from(count),
                    Packets::Denied if self.denies => 0,
                    Packets::Denied => u64::from(count),
                };
                // One of a thousand may be lost to a random number that came twice.
                let off = || {
                    let through = self.counter.read()? - before;
                    anyhow::Ok(
                        (through.abs_diff(expected) > u64::from(count) / 1000).then_some(through),
                    )
                };
                let deadline = Instant::now() + PATIENCE;
                while let Some(through) = off()? {
                    // The last ones may still be in a queue.
                    ensure!(
                        Instant::now() < deadline,
                        "{through} of {count} frames came through, not {expected}"
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(f64::from(each))
            };
            let trial = inject(FEWEST)?;
            let count = time.as_nanos() as f64 / trial.max(1.0);
            let most = match packets {
                Packets::Established | Packets::Denied => MOST_OF_NO_NEW_FLOW,
                Packets::First => MOST,
            };
            let count = count.clamp(f64::from(FEWEST), f64::from(most));
            inject(count as u32)
        })
    }
}

/// A datagram of 64 bytes from an address to a port of the guest.
pub fn datagram(source: Ipv4Addr, port: u16) -> Result<Vec<u8>> {
    frame(SocketAddrV4::new(source, 0), port)
}

/// Gives this thread precedence over all ordinary ones: else, on a machine that has something else to do, a sample says how long it waited for a processor.
fn undisturbed() -> Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter outlives the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    ensure!(
        done == 0,
        "raising the priority: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// A datagram of 64 bytes from the outside to the guest.
fn frame(source: SocketAddrV4, port: u16) -> Result<Vec<u8>> {
    let to = SocketAddrV4::new(GUEST, port);
    let mut frame = udp_frame(OUTSIDE_MAC, GUEST_MAC, source, to, &PAYLOAD)?;
    // No checksum: it need not be right when ports are changed.
    frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
    Ok(frame)
}

/// What `programs::scatter` makes frames of different flows of.
pub fn scattered(port: u16) -> Result<Vec<u8>> {
    let mut frame = frame(SocketAddrV4::new(SENDERS, 0), port)?;
    // What is changed there and in the address's low half adds up to the same.
    frame[IDENTIFICATION..IDENTIFICATION + 2].fill(0xff);
    frame[HEADER_CHECKSUM..HEADER_CHECKSUM + 2].fill(0);
    let words = frame[14..34].chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !(folded as u16);
    frame[HEADER_CHECKSUM..HEADER_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scattered_frame_has_a_right_checksum_whatever_its_source() {
        for source in [0_u16, 1, 0x1234, 0xfffe, 0xffff] {
            let mut frame = scattered(OPEN).unwrap();
            assert_eq!(frame.len(), 60);
            // As `programs::scatter` and `sender` change it.
            frame[28..30].copy_from_slice(&source.to_be_bytes());
            frame[IDENTIFICATION..IDENTIFICATION + 2].copy_from_slice(&(!source).to_be_bytes());
            let header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
            assert_eq!(
                header.header_checksum,
                header.calc_header_checksum(),
                "{source:#x}"
            );
        }
    }
}
