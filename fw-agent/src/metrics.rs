//! What monitoring asks for: numbers in Prometheus's text format, on the control socket always, and at an address if the settings name one.
//!
//! In: the pinned maps and the record, read when somebody asks. Out: a page of text.
//!
//! 1. [`apply`] takes times as they come. 2. [`Exporter::page`] reads the record and, in [`kernel`], the maps, into a registry made for this one answer.
//! 3. [`server`] hands it out.
//!
//! Invariants: the agent's loop is not asked, so that a loop that hangs is seen and not waited for. The number of lines is bounded by the number of
//! ports, reasons and maps; rules are left out but for as many as the settings ask for, those with the most packets. What cannot be read is left
//! out and counted as an error of this answer.

pub mod kernel;
pub mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use fw_common::maps::ABI;
use prometheus::{Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, Opts, Registry, TextEncoder};

use crate::datapath::pins::Pins;
use crate::record::{Record, RunDirectory};

/// Media type of a page.
pub const MEDIA_TYPE: &str = prometheus::TEXT_FORMAT;

/// Begins every name.
const PREFIX: &str = "tapwall";

/// What goes wrong while a page is made.
pub type Error = prometheus::Error;

/// How long rounds took that carried something out.
static APPLIES: LazyLock<Option<Histogram>> = LazyLock::new(|| {
    let buckets = vec![
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ];
    let options = HistogramOpts::new(
        "apply_duration_seconds",
        "Time from a configuration's maps to the kernel's, in seconds.",
    );
    Histogram::with_opts(options.namespace(PREFIX).buckets(buckets)).ok()
});

/// Notes how long a round took that carried something out.
pub fn apply(took: Duration) {
    if let Some(applies) = &*APPLIES {
        applies.observe(took.as_secs_f64());
    }
}

/// Makes pages.
#[derive(Debug)]
pub struct Exporter {
    pins: Pins,
    run: RunDirectory,
    /// Rules that are told, at the most.
    rules: usize,
    /// Entries of maps that only change with the generation, and of which one. Held while a page is made: one at a time.
    counted: Mutex<(u64, BTreeMap<&'static str, u64>)>,
}

impl Exporter {
    /// Of the agent with these directories; `rules`: how many rules are told.
    pub fn new(pin_directory: &Path, run_directory: &Path, rules: usize) -> Self {
        Self {
            pins: Pins::new(pin_directory),
            run: RunDirectory::new(run_directory),
            rules,
            counted: Mutex::default(),
        }
    }

    /// Everything as of now.
    ///
    /// # Errors
    /// The text cannot be made.
    pub fn page(&self) -> Result<String, Error> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let mut errors = 0;
        let record = self.run.read().unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot read the record");
            errors += 1;
            None
        });
        let record = record.unwrap_or_default();
        agent(&registry, &record)?;
        if counted.0 != record.generation {
            *counted = (record.generation, BTreeMap::new());
        }
        errors += kernel::gather(&registry, &self.pins, self.rules, &mut counted.1)?;
        let help = "Parts of this page that could not be read.";
        gauge(&registry, "scrape_errors", help, f64::from(errors))?;
        let mut families = registry.gather();
        if let Some(applies) = &*APPLIES {
            families.extend(prometheus::core::Collector::collect(applies));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// What the agent did last.
fn agent(registry: &Registry, record: &Record) -> Result<(), Error> {
    let build = GaugeVec::new(
        Opts::new("build_info", "Always 1; the version is in the labels."),
        &["version", "abi"],
    )?;
    registry.register(Box::new(build.clone()))?;
    build
        .with_label_values(&[env!("CARGO_PKG_VERSION"), &ABI.to_string()])
        .set(1.0);
    let applied = record.applied_at.parse::<jiff::Timestamp>();
    let applied = applied.map_or(0.0, |time| time.as_millisecond() as f64 / 1000.0);
    let truth = |is| f64::from(u8::from(is));
    let closed = record.closed.len() as f64;
    let attached = record.ports.iter().filter(|port| port.attached).count() as f64;
    for (name, help, value) in [
        (
            "generation",
            "Configurations and device changes carried out since the agent started.",
            record.generation as f64,
        ),
        (
            "enabled",
            "1 if the cluster's firewall is on.",
            truth(record.enabled),
        ),
        (
            "applied_timestamp_seconds",
            "When that was carried out last, in seconds since 1970.",
            applied,
        ),
        (
            "degraded_scopes",
            "Scopes that are not enforced as written.",
            record.degraded.len() as f64,
        ),
        (
            "config_errors",
            "Lines of the configuration that are not enforced.",
            record.errors as f64,
        ),
        (
            "config_warnings",
            "Lines of the configuration that may not mean what was meant.",
            record.warnings as f64,
        ),
        (
            "incomplete",
            "1 if something could not be carried out and will be tried again.",
            truth(record.incomplete),
        ),
        (
            "configured_ports",
            "NICs of guests under policy.",
            record.ports.len() as f64,
        ),
        (
            "attached_ports",
            "NICs of guests that the programs are on.",
            attached,
        ),
        (
            "closed_ports",
            "NICs of guests that are closed because no configuration is known.",
            closed,
        ),
    ] {
        gauge(registry, name, help, value)?;
    }
    Ok(())
}

fn gauge(registry: &Registry, name: &str, help: &str, value: f64) -> Result<(), Error> {
    let gauge = Gauge::new(name, help)?;
    gauge.set(value);
    registry.register(Box::new(gauge))
}
