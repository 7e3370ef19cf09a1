//! Traffic from outside to a guest over a bridge, under each of the firewalls that are compared, with few and many rules.
//!
//! 1. A bed per firewall and number of rules; all of them exist at the same time. 2. In each round every measurement is made once at every bed, one
//!    bed after the other, so that what disturbs the machine disturbs all. 3. A row per bed and measurement.
//!
//! What forwarding costs is measured with injected frames (`inject`), what applications see with sockets (`sockets`).

pub mod inject;
pub mod sender;
mod sockets;

use anyhow::{Context, Result};

use crate::Effort;
use crate::bed::Bed;
use crate::line::{Line, Subject};
use crate::rules::rules;

use self::inject::{Injector, Packets};

/// Numbers of rules of the guest.
const RULES: [usize; 4] = [10, 100, 1_000, 10_000];
/// Likewise, in a quick run.
const FEW_RULES: [usize; 2] = [10, 10_000];

/// What is measured, with the unit of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measurement {
    Forward(Packets),
    Stream,
    Connections,
    Datagrams,
}

impl Measurement {
    const ALL: [Self; 6] = [
        Self::Forward(Packets::Established),
        Self::Forward(Packets::First),
        Self::Forward(Packets::Denied),
        Self::Stream,
        Self::Connections,
        Self::Datagrams,
    ];

    fn case(self) -> &'static str {
        match self {
            Self::Forward(Packets::Established) => "established packet",
            Self::Forward(Packets::First) => "first packet of a flow",
            Self::Forward(Packets::Denied) => "denied packet",
            Self::Stream => "TCP single stream",
            Self::Connections => "TCP connections",
            Self::Datagrams => "64-byte UDP, each a new flow",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Forward(_) => "ns",
            Self::Stream => "Gbit/s",
            Self::Connections | Self::Datagrams => "/s",
        }
    }

    /// Turns that all take in a round. What takes one packet's time is measured in several short ones, so that all have the same share of a machine's fast and
    /// slow moments.
    const fn turns(self) -> u32 {
        match self {
            Self::Forward(_) => 5,
            Self::Stream | Self::Connections | Self::Datagrams => 1,
        }
    }

    fn measure(self, bed: &Bed, injector: &Injector, effort: Effort) -> Result<f64> {
        let time = effort.sample() / self.turns();
        match self {
            Self::Forward(packets) => injector.measure(bed, packets, time),
            Self::Stream => sockets::stream(bed, time),
            Self::Connections => sockets::connections(bed, time),
            Self::Datagrams => sockets::datagrams(bed, time),
        }
    }
}

/// A bed, and what was measured at it.
struct Place {
    bed: Bed,
    injector: Injector,
    subject: Subject,
    rules: Option<usize>,
    lines: Vec<(Measurement, Line)>,
}

impl Place {
    fn new(subject: Subject, count: Option<usize>) -> Result<Self> {
        let bed = Bed::new(subject, &rules(count.unwrap_or(0)))?;
        let measurements = Measurement::ALL.into_iter();
        let lines = measurements.map(|measurement| {
            let line = Line::new("traffic", measurement.case(), measurement.unit());
            let line = line.of(subject);
            let line = match count {
                Some(count) => line.at("rules", count),
                None => line,
            };
            (measurement, line)
        });
        Ok(Self {
            injector: Injector::new(&bed, subject)?,
            lines: lines.collect(),
            bed,
            subject,
            rules: count,
        })
    }

    fn take_turn(&mut self, measurement: Measurement, effort: Effort) -> Result<()> {
        let lines = self.lines.iter_mut();
        let mut own = lines.filter(|(other, _)| *other == measurement);
        let Some((_, line)) = own.next() else {
            return Ok(());
        };
        let sample = measurement.measure(&self.bed, &self.injector, effort);
        line.samples.push(sample.with_context(|| {
            format!(
                "{} with {:?}, {:?} rules",
                measurement.case(),
                self.subject,
                self.rules
            )
        })?);
        Ok(())
    }
}

/// Measures everything.
pub fn run(effort: Effort) -> Result<()> {
    let counts: &[usize] = if effort.quick { &FEW_RULES } else { &RULES };
    let mut places = Vec::new();
    eprintln!("traffic: making the bridges");
    for subject in [Subject::None, Subject::Empty] {
        places.push(Place::new(subject, None)?);
    }
    for subject in [Subject::Iptables, Subject::Nftables, Subject::Tapwall] {
        for &count in counts {
            places.push(Place::new(subject, Some(count))?);
        }
    }
    let rounds = effort.rounds(2, 7);
    for round in 0..rounds {
        for measurement in Measurement::ALL {
            eprintln!(
                "traffic: round {} of {rounds}: {}",
                round + 1,
                measurement.case()
            );
            for _ in 0..measurement.turns() {
                for place in &mut places {
                    place.take_turn(measurement, effort)?;
                }
            }
        }
    }
    for measurement in Measurement::ALL {
        let lines = places.iter().flat_map(|place| &place.lines);
        for (_, line) in lines.filter(|(other, _)| *other == measurement) {
            line.print()?;
        }
    }
    Ok(())
}
