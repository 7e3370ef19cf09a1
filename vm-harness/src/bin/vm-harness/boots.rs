//! One kernel's machine: its image, its boots, what became of them.
//!
//! Under emulation 6.12 sometimes panics or stalls before the first test. A boot that did not get to a test is tried again, up to [`TRIES`] times,
//! and said so; once a test has begun nothing is repeated.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_harness::kernels::Kernel;
use vm_harness::programs::Program;
use vm_harness::protocol::{Event, Job};
use vm_harness::qemu::{Accelerator, Machine, Network, kvm_failed, kvm_may_work};
use vm_harness::report::Report;
use vm_harness::suites;
use vm_harness::watch::{End, Limits, Watched, watch};

use crate::contents;

/// Boots until the first test.
const TRIES: u32 = 3;

/// How long a boot may take, emulated on a busy machine.
const BOOT: Duration = Duration::from_secs(120);

/// How long it may take with KVM: what does not boot at once hangs.
const BOOT_KVM: Duration = Duration::from_secs(15);

/// Memory of a machine, MiB: the image is in it, twice while it is unpacked.
const MEMORY: u32 = 3072;

/// Tests wait so many times longer for what has to happen, and repeat so many times less often what looks for rare differences.
const SLOW: [(&str, &str); 2] = [("TAPWALL_TEST_PATIENCE", "6"), ("TAPWALL_TEST_FEWER", "20")];

/// What all boots have in common.
pub struct Boots {
    /// What cargo built.
    pub programs: Vec<Program>,
    /// The checkout.
    pub root: PathBuf,
    /// Where images and consoles go.
    pub out: PathBuf,
    /// Where kernels are.
    pub cache: PathBuf,
    /// Only the small set.
    pub smoke: bool,
    /// Only tests with one of these in their names, if there are any.
    pub filter: Vec<String>,
}

impl Boots {
    /// What tests are told of where they run.
    fn environment(&self) -> Vec<(String, String)> {
        let slow = SLOW.into_iter();
        let slow = slow.map(|(name, value)| (name.to_owned(), value.to_owned()));
        // Else insta asks cargo, which is not there.
        let root = self.root.to_string_lossy().into_owned();
        slow.chain([("INSTA_WORKSPACE_ROOT".to_owned(), root)])
            .collect()
    }

    /// Runs the tests on a kernel.
    pub fn tests(&self, kernel: &Kernel) -> Result<Report> {
        let runs = suites::runs(kernel.line, &self.programs, self.smoke, &self.filter)?;
        let job = Job {
            verify: Some(contents::binary("verify")?),
            runs,
            environment: self.environment(),
            ..Job::default()
        };
        let image = self.image(kernel, job)?;
        let started = Instant::now();
        let mut report = Report::new(kernel.line);
        let mut attempt = 1;
        loop {
            let watched = self.boot(kernel, &image, &mut report)?;
            for line in &watched.wrong {
                report.broken.push(format!("the kernel said: {line}"));
            }
            let why = match &watched.end {
                End::Done => break,
                End::NotBooted(why) => format!("it did not boot: {why}"),
                End::Died(why) => format!("the machine died: {why}"),
            };
            for line in &watched.console {
                eprintln!("{}: console: {line}", kernel.line.name());
            }
            if report.has_begun() || attempt == TRIES {
                report.died(&why);
                break;
            }
            attempt += 1;
            eprintln!(
                "{}: {why}; trying again ({attempt} of {TRIES})",
                kernel.line.name()
            );
            report = Report::new(kernel.line);
        }
        self.pair(kernel, &mut report)?;
        report.took = started.elapsed();
        Ok(report)
    }

    /// Runs the test of two nodes, each on a machine of its own.
    fn pair(&self, kernel: &Kernel, report: &mut Report) -> Result<()> {
        let runs = suites::pair(&self.programs, self.smoke, &self.filter)?;
        if runs.is_empty() {
            return Ok(());
        }
        let name = kernel.line.name();
        let mut images = Vec::new();
        for (number, run) in runs.into_iter().enumerate() {
            let job = Job {
                runs: vec![run],
                environment: self.environment(),
                ..Job::default()
            };
            let file = self.out.join(format!("{name}.pair{number}.image"));
            contents::image(&self.root, kernel, job, &self.out.join("stripped"))
                .and_then(|image| image.write(&file))
                .context("making the file systems of two nodes")?;
            images.push(file);
        }
        for attempt in 1.. {
            let before = report.passed + report.failed.len();
            let ends = self.boot_pair(kernel, &images, report)?;
            let bad: Vec<String> = ends
                .into_iter()
                .filter_map(|watched| match watched.end {
                    End::Done => None,
                    End::NotBooted(why) | End::Died(why) => Some(why),
                })
                .collect();
            if bad.is_empty() {
                break;
            }
            if report.passed + report.failed.len() > before || attempt == TRIES {
                report.died(&format!("two nodes: {}", bad.join("; ")));
                break;
            }
            eprintln!("{name}: two nodes: {}; trying again", bad.join("; "));
        }
        Ok(())
    }

    fn boot_pair(
        &self,
        kernel: &Kernel,
        images: &[PathBuf],
        report: &mut Report,
    ) -> Result<Vec<Watched>> {
        let place = tempfile::Builder::new()
            .prefix("tapwall-net-")
            .tempdir()
            .context("making a directory for sockets")?;
        let end = |network: usize, number: usize| place.path().join(format!("{network}-{number}"));
        let report = Mutex::new(report);
        thread::scope(|scope| {
            let (report, end) = (&report, &end);
            let mut watching = Vec::new();
            for (number, image) in images.iter().enumerate() {
                watching.push(scope.spawn(move || {
                    let mut machine = self.machine(kernel, image, self.accelerator());
                    for network in 0..2 {
                        machine.networks.push(Network {
                            own: end(network, number),
                            other: end(network, 1 - number),
                            mac: format!("02:00:00:00:0{network}:0{}", number + 1),
                        });
                    }
                    let log = format!("{}.pair{number}.console", kernel.line.name());
                    listen(&machine, BOOT, &self.out.join(log), |event| {
                        if let Ok(mut report) = report.lock() {
                            report.take(event);
                        }
                    })
                }));
            }
            let mut ends = Vec::new();
            for thread in watching {
                let Ok(watched) = thread.join() else {
                    bail!("a watcher panicked");
                };
                ends.push(watched?);
            }
            Ok(ends)
        })
    }

    /// What machines after the first one run on: by then KVM has been tried.
    fn accelerator(&self) -> Accelerator {
        match kvm_may_work(&self.cache) {
            true => Accelerator::Kvm,
            false => Accelerator::Emulation,
        }
    }

    /// Boots to a shell on this terminal.
    pub fn shell(&self, kernel: &Kernel) -> Result<()> {
        let job = Job {
            shell: true,
            runs: suites::runs(kernel.line, &self.programs, false, &[])?,
            ..Job::default()
        };
        let image = self.image(kernel, job)?;
        eprintln!("ends with `exit`, or with Ctrl-A X");
        let status = self
            .machine(kernel, &image, Accelerator::Emulation)
            .interactive()
            .status()
            .context("starting QEMU")?;
        if !status.success() {
            bail!("QEMU: {status}");
        }
        Ok(())
    }

    fn image(&self, kernel: &Kernel, job: Job) -> Result<PathBuf> {
        let file = self.out.join(format!("{}.image", kernel.line.name()));
        let stripped = self.out.join("stripped");
        contents::image(&self.root, kernel, job, &stripped)
            .and_then(|image| image.write(&file))
            .with_context(|| format!("making the file system for {}", kernel.line.name()))?;
        Ok(file)
    }

    fn boot(&self, kernel: &Kernel, image: &Path, report: &mut Report) -> Result<Watched> {
        let log = self.out.join(format!("{}.console", kernel.line.name()));
        if kvm_may_work(&self.cache) {
            let machine = self.machine(kernel, image, Accelerator::Kvm);
            let watched = listen(&machine, BOOT_KVM, &log, |event| report.take(event))?;
            if !matches!(watched.end, End::NotBooted(_)) {
                return Ok(watched);
            }
            eprintln!(
                "{}: KVM does not boot a guest here; emulating",
                kernel.line.name()
            );
            kvm_failed(&self.cache);
        }
        let machine = self.machine(kernel, image, Accelerator::Emulation);
        listen(&machine, BOOT, &log, |event| report.take(event))
    }

    fn machine<'a>(
        &self,
        kernel: &'a Kernel,
        image: &'a Path,
        accelerator: Accelerator,
    ) -> Machine<'a> {
        Machine {
            kernel,
            image,
            accelerator,
            memory: MEMORY,
            networks: Vec::new(),
        }
    }
}

fn listen(
    machine: &Machine<'_>,
    boot: Duration,
    log: &Path,
    told: impl FnMut(&Event),
) -> Result<Watched> {
    watch(
        |port| machine.watched(port),
        Limits::booting(boot),
        log,
        told,
    )
}
