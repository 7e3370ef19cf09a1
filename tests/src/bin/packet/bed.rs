//! A kernel with policies and flows, and the programs that run on its maps.
//!
//! In: a configuration. Out: maps filled as the agent fills them, the programs of the object the agent embeds (and, if wanted, those of another
//! build beside them, on the same maps), and the port values that a case puts in the place of the loopback device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::datapath::batch::Batch;
use fw_agent::datapath::flow_filter::FlowFilter;
use fw_agent::datapath::sweep::now;
use fw_agent::datapath::{Bans, OBJECT};
use fw_agent::policy::PortId;
use fw_common::conntrack::{ANSWERED, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Counter, Port, Station, name};
use fw_common::verdict::{Direction, REASONS};
use ipnet::IpNet;
use tapwall_tests::kernel::TestKernel;
use tapwall_tests::tree::{ConfigTree, NODE, facts};

use crate::programs::{self, Kind, Runnable, Spread};

/// Index of the loopback device.
const LOOPBACK: u32 = 1;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The program that does nothing.
    Empty,
    /// Tapwall's program.
    Tapwall,
    /// That of another build.
    Other,
}

impl Subject {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Tapwall => "tapwall",
            Self::Other => "other",
        }
    }
}

/// One of the object's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// To a guest.
    In,
    /// From a guest.
    Out,
    /// At a network card.
    Uplink,
}

impl Hook {
    pub const fn kind(self) -> Kind {
        match self {
            Self::In | Self::Out => Kind::Classifier,
            Self::Uplink => Kind::Xdp,
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::In => "tapwall_egress",
            Self::Out => "tapwall_ingress",
            Self::Uplink => "tapwall_uplink",
        }
    }
}

pub struct Bed {
    kernel: TestKernel,
    ports: HashMap<MapData, u32, Port>,
    has_bans: Array<MapData, u32>,
    counters: PerCpuArray<MapData, Counter>,
    empty: [OwnedFd; 2],
    own: Ebpf,
    other: Option<Ebpf>,
}

impl Bed {
    /// Maps filled from a configuration.
    pub fn new(tree: &ConfigTree, other: Option<&Path>) -> Result<Self> {
        let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
        if let Some(diagnostic) = compiled.diagnostics.first() {
            anyhow::bail!("{diagnostic}");
        }
        let mut kernel = TestKernel::new()?;
        kernel.load_as_is(&compiled.policy)?;
        let pins = kernel.pins();
        let object = |bytes: &[u8]| -> Result<Ebpf> {
            let mut loader = EbpfLoader::new();
            for map in name::ALL {
                loader.map_pin_path(map, pins.map(map));
            }
            let mut ebpf = loader.load(bytes).context("opening the maps again")?;
            for hook in [Hook::In, Hook::Out, Hook::Uplink] {
                let program = ebpf
                    .program_mut(hook.program())
                    .context("no such program")?;
                match hook.kind() {
                    Kind::Classifier => <&mut SchedClassifier>::try_from(program)?.load(),
                    Kind::Xdp => <&mut Xdp>::try_from(program)?.load(),
                }
                .with_context(|| format!("loading {}", hook.program()))?;
            }
            Ok(ebpf)
        };
        let other = match other {
            None => None,
            Some(path) => Some(object(&std::fs::read(path)?)?),
        };
        Ok(Self {
            own: object(OBJECT)?,
            other,
            ports: pins.hash(name::PORTS)?,
            has_bans: pins.array(name::HAS_BANS)?,
            counters: pins.per_cpu(name::COUNTERS)?,
            empty: [
                programs::empty(Kind::Classifier)?,
                programs::empty(Kind::Xdp)?,
            ],
            kernel,
        })
    }

    /// Subjects that there are here.
    pub fn subjects(&self) -> &'static [Subject] {
        match self.other {
            None => &[Subject::Empty, Subject::Tapwall],
            Some(_) => &[Subject::Empty, Subject::Tapwall, Subject::Other],
        }
    }

    /// The program of a subject, behind a driver if the frames are to differ.
    pub fn program(
        &self,
        subject: Subject,
        hook: Hook,
        spread: Option<Spread>,
    ) -> Result<Runnable> {
        let fd = match subject {
            Subject::Empty => match hook.kind() {
                Kind::Classifier => self.empty[0].as_fd(),
                Kind::Xdp => self.empty[1].as_fd(),
            },
            Subject::Tapwall => loaded(&self.own, hook)?.as_fd(),
            Subject::Other => {
                loaded(self.other.as_ref().context("no other object")?, hook)?.as_fd()
            }
        };
        match spread {
            None => Ok(fd.try_clone_to_owned()?.into()),
            Some(spread) => programs::driver(hook.kind(), spread, fd),
        }
    }

    /// The value of a guest's first NIC.
    pub fn port(&self, vmid: u32) -> Result<Port> {
        let port = self.kernel.port(PortId { vmid, net: 0 });
        port.with_context(|| format!("guest {vmid} has no port"))
    }

    /// Has the loopback device be this port, and bans looked up or not.
    pub fn place(&mut self, port: &Port, bans: bool) -> Result<()> {
        self.ports.insert(LOOPBACK, port, 0)?;
        self.has_bans.set(0, u32::from(bans), 0)?;
        Ok(())
    }

    /// Makes established flows: what `peers` count up is the other end's address.
    pub fn establish(&self, port: &Port, flows: impl Iterator<Item = FlowKey>) -> Result<()> {
        let map = self.kernel.pins().hash::<FlowKey, Flow>(name::FLOWS)?;
        let flow = Flow {
            seen: now(),
            created: now(),
            state: State::Established as u32 | ANSWERED,
            epoch: port.epoch,
            origin: Direction::In as u8,
            guard_epoch: port.guard_epoch,
            ..Flow::default()
        };
        let keys: Vec<FlowKey> = flows.collect();
        Batch::of(&map, name::FLOWS)?.write(keys.iter().map(|key| (*key, flow)))?;
        let filter = FlowFilter::open(&self.kernel.pins())?;
        keys.iter().for_each(|key| filter.note(key));
        Ok(())
    }

    /// Bans prefixes for ever.
    pub fn ban(&self, nets: impl Iterator<Item = IpNet>) -> Result<()> {
        let mut bans: Bans = self.kernel.bans()?;
        for net in nets {
            bans.add(net, 0, 0)?;
        }
        Ok(())
    }

    /// Has the uplink program know a hardware address as this port's.
    pub fn station(&self, mac: u64, port: &Port) -> Result<()> {
        let mut map = self.kernel.pins().hash::<u64, Station>(name::STATIONS)?;
        map.insert(mac, Station::of(port), 0)?;
        Ok(())
    }

    /// Packets by reason.
    pub fn counted(&self) -> Result<Vec<u64>> {
        let count = |entry: u32| -> Result<u64> {
            let values = self.counters.get(&entry, 0)?;
            Ok(values.iter().map(|value| value.packets).sum())
        };
        (0..REASONS as u32).map(count).collect()
    }
}

fn loaded(ebpf: &Ebpf, hook: Hook) -> Result<&ProgramFd> {
    let program = ebpf.program(hook.program()).context("no such program")?;
    let fd = match hook.kind() {
        Kind::Classifier => <&SchedClassifier>::try_from(program)?.fd(),
        Kind::Xdp => <&Xdp>::try_from(program)?.fd(),
    };
    Ok(fd?)
}

/// Runs a program and says how long a run took on the average; its answer must be `expect`.
pub fn time(
    program: BorrowedFd<'_>,
    hook: Hook,
    frame: &[u8],
    repeat: u32,
    expect: i32,
) -> Result<u32> {
    let (answer, nanoseconds) = programs::run(program, hook.kind(), frame, repeat)?;
    ensure!(
        answer == expect,
        "the program answered {answer} instead of {expect}"
    );
    Ok(nanoseconds)
}
