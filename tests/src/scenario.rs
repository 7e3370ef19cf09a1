//! Scenarios: a configuration and packets with the verdicts that a user expects, each judged three ways.
//!
//! In: a directory with a tree as `fwctl --root` takes it (node `pve1`) and a file `cases`. Out: every case that is not as expected, or not the
//! same three ways: [`cases`] says what a line can be, [`packet`] what a packet can be.
//!
//! 1. The files are compiled as the agent does.
//! 2. For each packet the hops are walked: Out at the firewalled NIC it comes from, In at the one it goes to, until one does not accept.
//! 3. At each hop the packet is judged by the pipeline on tables in memory, by the kernel programs (`BPF_PROG_TEST_RUN`) and, if a rule or a
//!    running flow decided, by the reference model, which is told the parsed headers and the connection-tracking state.
//!
//! All must agree on verdict, reason and rule, and the last hop's must be what the line says.
//!
//! A case `change` goes on with another configuration. Flows live on from case to case within a scenario, on both sides alike, until a line `reset`. A case that the kernel's test run does not
//! take (a frame that ends within its IP header) says `host-only`.

pub mod cases;
mod host;
pub mod packet;
mod seen;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fw_agent::compile::{Compiled, compile};
use fw_agent::config::Sources;
use fw_agent::policy::{Policy, PortPolicy};
use fw_agent::simulate::Endpoint;
use fw_common::conntrack::CtState;
use fw_common::verdict::{Direction, Reason, Verdict};

use self::cases::{Case, Expect, Step};
use self::host::{Host, Question};
use self::packet::Sketch;
use self::seen::Seen;
use crate::kernel::{PASS, REDIRECT, SHOT, TestKernel};
use crate::tree::facts;

/// The node of every scenario's tree.
const NODE: &str = "pve1";

/// A verdict, why, and the place of the rule that decided in the policy of port and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What happens to the packet.
    pub verdict: Verdict,
    /// Why; none if no firewalled NIC saw it.
    pub reason: Option<Reason>,
    /// The rule.
    pub rule: Option<usize>,
}

/// A case that went wrong.
#[derive(Debug)]
pub struct Failure {
    /// The file of the case.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// The line as written.
    pub text: String,
    /// What was expected and found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            text,
            message,
        } = self;
        write!(f, "{}:{line}: {text}\n{message}", file.display())
    }
}

/// What was run.
#[derive(Debug, Default)]
pub struct Report {
    /// Packets judged.
    pub packets: usize,
    /// Hops judged by the kernel too.
    pub in_kernel: usize,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

/// A running scenario.
struct Scenario<'k> {
    compiled: Compiled,
    host: Host,
    kernel: &'k mut TestKernel,
    kernel_image: fw_agent::image::MapImage,
    /// The last packet that was written out.
    last: Option<Sketch>,
    in_kernel: usize,
}

/// Runs the scenario of a directory. An error is one of the scenario's own: files missing, lines that cannot be read.
pub fn run(directory: &Path, kernel: &mut TestKernel, report: &mut Report) -> Result<()> {
    let file = directory.join("cases");
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let cases = cases::parse(&text).with_context(|| format!("in {}", file.display()))?;
    let compiled = compile(&Sources::read(directory, NODE), &facts(NODE), 0);
    kernel.forget_flows()?;
    let kernel_image = kernel
        .load(&compiled.policy)
        .with_context(|| format!("loading {}", directory.display()))?;
    let mut scenario = Scenario {
        host: Host::new(&compiled),
        compiled,
        kernel,
        kernel_image,
        last: None,
        in_kernel: 0,
    };
    let mut diagnostics = 0;
    for Case { line, text, step } in cases {
        let outcome = match step {
            Step::Diagnostics(count) => {
                diagnostics = count;
                Ok(Ok(()))
            }
            Step::Reset => scenario.reset().map(Ok),
            Step::Wait(seconds) => scenario.wait(seconds).map(Ok),
            Step::Change(name) => scenario.change(directory, &name).map(Ok),
            Step::Packet(change, expect) => {
                report.packets += 1;
                scenario.packet(&change, &expect)
            }
        };
        let outcome = outcome.with_context(|| format!("{}:{line}: {text}", file.display()))?;
        if let Err(message) = outcome {
            report.failures.push(Failure {
                file: file.clone(),
                line,
                text,
                message,
            });
        }
    }
    report.in_kernel += scenario.in_kernel;
    let found = &scenario.compiled.diagnostics;
    if found.len() != diagnostics {
        bail!(
            "{}: {diagnostics} diagnostics expected, but there are {}:\n{found:#?}",
            file.display(),
            found.len()
        );
    }
    Ok(())
}

impl Scenario<'_> {
    fn reset(&mut self) -> Result<()> {
        self.host.forget_flows();
        self.kernel.forget_flows()
    }

    fn wait(&mut self, seconds: u64) -> Result<()> {
        let nanoseconds = seconds * fw_common::conntrack::SECOND;
        self.host.advance(nanoseconds);
        self.kernel.advance(nanoseconds)
    }

    /// Takes the files below `name` in place of those of the scenario.
    fn change(&mut self, directory: &Path, name: &str) -> Result<()> {
        let mut sources = Sources::read(directory, NODE);
        let changed = Sources::read(&directory.join(name), NODE);
        if changed.files.is_empty() {
            bail!("there are no files below {name}");
        }
        sources.files.extend(changed.files);
        self.compiled = compile(&sources, &facts(NODE), 0);
        self.host.switch_to(&self.compiled);
        self.kernel_image = self.kernel.load(&self.compiled.policy)?;
        Ok(())
    }

    /// Judges one packet at all its hops. The inner error says what is not as expected.
    fn packet(
        &mut self,
        change: &packet::Change,
        expect: &Expect,
    ) -> Result<std::result::Result<(), String>> {
        let sketch = change.apply(self.last.as_ref())?;
        if change.is_whole() {
            self.last = Some(sketch.clone());
        }
        let ports = [
            (self.port(&sketch.from), Direction::Out),
            (self.port(&sketch.to), Direction::In),
        ];
        let frame = sketch.frame(|place| self.mac(place))?;
        let mut last = None;
        for (port, direction) in ports {
            let Some(port) = port else { continue };
            let seen = self.hop(&port, direction, &frame, &sketch.from, expect)?;
            let found = match seen.agreement(direction) {
                Ok(found) => found,
                Err(message) => return Ok(Err(message)),
            };
            let policy = policy_of(&port, direction);
            last = Some((found, seen.describe(), describe(found, policy)));
            if let Err(message) = expect.check_answer(found, seen.action) {
                return Ok(Err(message));
            }
            if found.verdict != Verdict::Accept {
                break;
            }
        }
        let unfiltered = Found {
            verdict: Verdict::Accept,
            reason: None,
            rule: None,
        };
        let (found, details, described) = last.unwrap_or((
            unfiltered,
            String::new(),
            Described {
                origin: None,
                text: None,
            },
        ));
        Ok(match expect.is(found, &described) {
            true => Ok(()),
            false => Err(format!(
                "  expected {expect}\n  found    {}\n{details}",
                Expect::of(found, &described)
            )),
        })
    }

    fn hop(
        &mut self,
        port: &PortPolicy,
        direction: Direction,
        frame: &[u8],
        from: &Endpoint,
        expect: &Expect,
    ) -> Result<Seen> {
        let policy = policy_of(port, direction);
        let came_from = self.came_from(from);
        let judged = self
            .host
            .judge(port.port, direction, frame, came_from.in_memory)?;
        let is_running = judged.state == Some(CtState::Established);
        let model = judged.packet.as_ref().map(|question| {
            let index = match question {
                Question::Packet(packet) if is_running && runs_on(port, direction, packet) => {
                    return Found {
                        verdict: Verdict::Accept,
                        reason: Some(Reason::Established),
                        rule: None,
                    };
                }
                Question::Packet(packet) => crate::model::judge(policy, packet),
                Question::Frame(frame) => crate::model::judge_frame(policy, frame),
            };
            let rule = &policy.rules[index];
            Found {
                verdict: rule.verdict,
                reason: Some(rule.reason),
                rule: Some(index),
            }
        });
        let mut seen = Seen {
            host: judged.found,
            model,
            kernel: None,
            action: None,
            state: judged.state,
        };
        if expect.host_only {
            return Ok(seen);
        }
        let run = self
            .kernel
            .run_from(port.port, direction, frame, came_from.in_kernel)
            .context("running the kernel program")?;
        self.in_kernel += 1;
        let place = |identity| {
            let built = self.kernel_image.ports.get(&port.port)?;
            let rules = &self.kernel_image.policies[built.policies[direction as usize]].rules;
            rules.iter().position(|rule| *rule == identity)
        };
        let verdict = match (run.action, &run.rule) {
            (PASS, _) => Verdict::Accept,
            (REDIRECT, _) => Verdict::Reject,
            (SHOT, Some((verdict, _))) => *verdict,
            (SHOT, None) => Verdict::Drop,
            (action, _) => bail!("the program returned {action}"),
        };
        let rule = match run.rule {
            None => None,
            Some((said, identity)) => {
                if said != verdict {
                    bail!("the event says {said:?}, the action {}", run.action);
                }
                Some(place(identity).context("the event names no rule of the policy")?)
            }
        };
        if run.limited {
            bail!("more rejected packets than are answered: split the scenario");
        }
        seen.kernel = Some(Found {
            verdict,
            reason: Some(run.reason),
            rule,
        });
        seen.action = Some(run.action);
        Ok(seen)
    }

    /// The interface by which a packet from a place comes into the node.
    fn came_from(&self, from: &Endpoint) -> CameFrom {
        let port = self.port(from).map(|port| port.port);
        let of_port = port.and_then(|port| {
            Some(CameFrom {
                in_memory: self.host.ifindex(port)?,
                in_kernel: self.kernel.index_of(port)?,
            })
        });
        match (of_port, from) {
            (Some(of_port), _) => of_port,
            (None, Endpoint::Host) => CameFrom {
                in_memory: 0,
                in_kernel: 0,
            },
            (None, _) => CameFrom {
                in_memory: ELSEWHERE,
                in_kernel: ELSEWHERE,
            },
        }
    }

    /// The policy of the NIC at a place; none if it is no guest's or not firewalled.
    fn port(&self, place: &Endpoint) -> Option<PortPolicy> {
        let Endpoint::Guest { port, .. } = place else {
            return None;
        };
        let mut ports = self.compiled.policy.ports.iter().map(|port| &**port);
        let found = ports.find(|candidate| candidate.port == *port);
        found.filter(|_| self.compiled.policy.enabled).cloned()
    }

    /// Hardware address of what is at a place.
    fn mac(&self, place: &Endpoint) -> [u8; 6] {
        use fw_agent::simulate::frame::{HOST_MAC, NO_MAC, OUTSIDE_MAC};
        match place {
            Endpoint::Host => HOST_MAC,
            Endpoint::Outside | Endpoint::Bridge { .. } => OUTSIDE_MAC,
            Endpoint::Guest { port, .. } => {
                let guest = self.compiled.config.guests.get(&port.vmid);
                let mut nics = guest.into_iter().flat_map(|guest| &guest.guest.nics);
                let nic = nics.find(|nic| nic.net == port.net);
                nic.and_then(|nic| nic.mac).unwrap_or(NO_MAC)
            }
        }
    }
}

/// An interface index that no port has.
const ELSEWHERE: u32 = 0x7fff_ffff;

/// The interface by which a packet came into the node, by its number in memory and in the kernel's maps.
#[derive(Clone, Copy)]
struct CameFrom {
    in_memory: u32,
    in_kernel: u32,
}

fn policy_of(port: &PortPolicy, direction: Direction) -> &Policy {
    match direction {
        Direction::In => &port.inbound,
        Direction::Out => &port.outbound,
    }
}

/// Where a rule comes from, as cases write it.
pub struct Described {
    /// `file:line`.
    pub origin: Option<String>,
    /// The rule's text.
    pub text: Option<String>,
}

fn describe(found: Found, policy: &Policy) -> Described {
    let rule = found.rule.and_then(|index| policy.rules.get(index));
    let line = rule.and_then(|rule| rule.origin.line.as_ref());
    Described {
        origin: line.map(|line| format!("{}:{}", line.file, line.line)),
        text: rule.map(|rule| rule.origin.text.to_string()),
    }
}

/// Whether a packet of a running flow needs no rule: nothing has become of its source, or of the addresses that its sender may use.
fn runs_on(port: &PortPolicy, direction: Direction, packet: &crate::model::Packet) -> bool {
    let judge = crate::model::judge;
    match direction {
        Direction::In => crate::model::passes_by_its_flow(&port.inbound, true, packet.source),
        Direction::Out => port.guard.as_ref().is_none_or(|guard| {
            let rule = &guard.rules[judge(guard, packet)];
            rule.verdict == Verdict::Accept
        }),
    }
}
