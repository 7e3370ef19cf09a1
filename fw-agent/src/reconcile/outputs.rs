//! Where logged packets go: the log in Proxmox's format, and if wanted the same as JSON lines.
//!
//! Each file fails and recovers by itself ([`crate::events::writer`]). A failure is said once, until writing works again.

use std::path::PathBuf;

use fw_common::event::{Event, FlowEvent};
use fw_common::maps::Settings;
use fw_common::verdict::Direction;
use jiff::Zoned;

use super::logger::LogNames;
use crate::compile::Compiled;
use crate::events::context::LogContext;
use crate::events::flow;
use crate::events::json;
use crate::events::line::format_into;
use crate::events::status::Status;
use crate::events::writer::LogWriter;
use crate::policy::{Origin, OriginKind, PortId};

/// The files.
pub(super) struct Outputs {
    text: Output,
    json: Option<Output>,
}

struct Output {
    writer: LogWriter,
    failing: bool,
}

impl Outputs {
    pub(super) fn new(log_file: PathBuf, log_json: Option<PathBuf>) -> Self {
        let output = |writer| Output {
            writer,
            failing: false,
        };
        let json = log_json.map(|path| LogWriter::with_status(path, json::status_into));
        Self {
            text: output(LogWriter::new(log_file)),
            json: json.map(output),
        }
    }

    /// Adds a packet.
    pub(super) fn packet(&mut self, event: &Event, names: &LogNames, time: &Zoned) {
        let unknown = (format!("if{}", event.ifindex), None);
        let (device, bridge) = names.devices.get(&event.ifindex).unwrap_or(&unknown);
        let info = names
            .rules
            .get(event.rule)
            .or_else(|| names.previous.get(event.rule));
        let kind = info.map_or(&OriginKind::Rule, |info| &info.kind);
        let context = LogContext::of(event, kind, device, bridge.as_deref());
        self.text
            .writer
            .compose(|line| format_into(line, event, &context, time));
        if let Some(output) = &mut self.json {
            let compiled = [&names.compiled, &names.compiled_before];
            let mut compiled = compiled.into_iter().flatten();
            let origin = compiled.find_map(|compiled| origin(compiled, event, device));
            let place = (device.as_str(), bridge.as_deref());
            output.writer.compose(|line| {
                json::packet_into(line, event, &context, place, origin.as_ref(), time);
            });
        }
    }

    /// Adds a flow that begins or ends.
    pub(super) fn flow(&mut self, event: &FlowEvent, settings: &Settings, time: &Zoned) {
        self.text
            .writer
            .compose(|line| flow::format_into(line, event, settings));
        if let Some(output) = &mut self.json {
            output
                .writer
                .compose(|line| json::flow_into(line, event, time));
        }
    }

    /// Adds what the log says about itself.
    pub(super) fn status(&mut self, status: &Status<'_>, now: &Zoned) {
        for output in self.all() {
            output.writer.status(status, now);
        }
    }

    /// Opens the files anew before the next write.
    pub(super) fn reopen(&mut self) {
        for output in self.all() {
            output.writer.reopen();
        }
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self, now: &Zoned) {
        for output in self.all() {
            match output.writer.flush(now) {
                Ok(()) => output.failing = false,
                Err(error) if !output.failing => {
                    output.failing = true;
                    tracing::error!("{:#}", anyhow::Error::from(error));
                }
                Err(_) => {}
            }
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Output> {
        std::iter::once(&mut self.text).chain(&mut self.json)
    }
}

/// The line that made the rule of an event: the rule's number says which text, the port's policy says where that stands.
fn origin(compiled: &Compiled, event: &Event, device: &str) -> Option<Origin> {
    let direction = Direction::from_u8(event.direction);
    let (image, policy) = (&compiled.image, &compiled.policy);
    let place = |index: usize| {
        let rules = &image.policies.get(index)?.rules;
        rules.iter().position(|rule| *rule == event.rule)
    };
    if event.vmid == 0 {
        let at = place(image.host.as_ref()?.on(device)[direction as usize])?;
        let (inbound, outbound) = policy.host.as_ref()?.on(device);
        let policy = match direction {
            Direction::In => inbound,
            Direction::Out => outbound,
        };
        return policy.rules.into_iter().nth(at).map(|rule| rule.origin);
    }
    let port = PortId {
        vmid: event.vmid,
        net: event.net,
    };
    let at = place(image.ports.get(&port)?.policies[direction as usize])?;
    let port = policy.ports.iter().find(|known| known.port == port)?;
    let policy = match direction {
        Direction::In => &port.inbound,
        Direction::Out => &port.outbound,
    };
    policy.rules.get(at).map(|rule| rule.origin.clone())
}
