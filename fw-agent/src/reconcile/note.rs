//! The record of a round: what was decided, for others to read, and the files it was decided from, for the next boot.

use super::Agent;
use crate::compile::Compiled;
use crate::datapath::plan::Present;
use crate::diagnostic::Severity;
use crate::record::{PortRecord, Record, UplinkRecord};

impl Agent {
    pub(super) fn uplink_records(&self) -> Vec<UplinkRecord> {
        let attached = self.state.uplinks.keys().map(|device| UplinkRecord {
            device: device.clone(),
            refused: None,
        });
        let refused = self.state.refused_uplinks.iter();
        let refused = refused.map(|(device, (_, why))| UplinkRecord {
            device: device.clone(),
            refused: Some(why.clone()),
        });
        attached.chain(refused).collect()
    }

    /// Writes the record of this round.
    pub(super) fn note(&mut self, compiled: &Compiled, present: &Present, degraded: &[String]) {
        let devices = &present.devices;
        let count = |severity| {
            let diagnostics = compiled.diagnostics.iter();
            diagnostics
                .filter(|found| found.severity == severity)
                .count()
        };
        let digest = self.digests.of(&self.sources);
        let ports = compiled.policy.ports.iter();
        let ports: Vec<_> = ports
            .map(|port| {
                let device = port.device();
                PortRecord {
                    ifindex: devices.get(&device).copied(),
                    attached: self.has_programs(&device),
                    vmid: port.port.vmid,
                    net: port.port.net,
                    device,
                }
            })
            .collect();
        // A tree that could not be read has set `retry` too, but nothing of it was tried.
        let incomplete = self.retry && self.read_error.is_none();
        // What is on trial is not known to be good, nor are the files without it.
        let is_good = self.read_error.is_none() && !incomplete && self.trial.is_none();
        if is_good && digest != self.kept {
            self.keeper.keep(self.sources.clone());
            self.kept.clone_from(&digest);
        }
        self.record = Record {
            pid: self.record.pid,
            generation: self.record.generation + 1,
            enabled: compiled.policy.enabled,
            applied_at: jiff::Timestamp::now().to_string(),
            ports,
            closed: self.closed(present),
            host: self.host_record(compiled, present),
            uplinks: self.uplink_records(),
            degraded: degraded.to_vec(),
            digest,
            incomplete,
            not_enforced: compiled.policy.not_enforced(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
        };
        if let Err(error) = self.run_directory.write(&self.record) {
            tracing::error!(%error, "cannot write the record");
        }
    }
}
