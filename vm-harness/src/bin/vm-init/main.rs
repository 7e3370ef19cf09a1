//! The first process of a test machine.
//!
//! 1. Mount what a system has mounted. 2. Insert the job's modules. 3. As a child, so that the first process is free to collect orphans: verify
//!    the kernel programs, run the job's tests, tell every step. 4. Power off, whatever happened.

mod runs;
mod system;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use vm_harness::protocol::{Event, JOB, Job, PORT, PULSE, Verified};

/// Where programs are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Says things to the harness.
pub struct Teller {
    port: Mutex<File>,
}

impl Teller {
    fn open() -> Result<Self> {
        let port = OpenOptions::new()
            .write(true)
            .open(PORT)
            .with_context(|| format!("opening {PORT}"))?;
        Ok(Self {
            port: Mutex::new(port),
        })
    }

    /// Tells one event.
    pub fn tell(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let Ok(mut port) = self.port.lock() else {
            return;
        };
        if let Err(error) = port.write_all(&line) {
            eprintln!("vm-init: telling {event:?}: {error}");
        }
    }
}

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return work();
    }
    if let Err(error) = first() {
        eprintln!("vm-init: {error:#}");
    }
    system::power_off();
    ExitCode::FAILURE
}

/// The first process's part.
fn first() -> Result<()> {
    system::mount_all()?;
    let job = job()?;
    for module in &job.modules {
        system::insert(module)?;
    }
    let mut child = Command::new("/proc/self/exe");
    if job.shell {
        child = Command::new("/usr/sbin/bash");
        child.arg("--login");
        system::own_terminal(&mut child);
    }
    child
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("TERM", "linux")
        .env("RUST_BACKTRACE", "0")
        .current_dir("/root");
    child.envs(job.environment);
    let child = child.spawn().context("starting the runner")?;
    system::collect_until(child.id())
}

fn job() -> Result<Job> {
    let text = fs::read_to_string(JOB).with_context(|| format!("reading {JOB}"))?;
    serde_json::from_str(&text).with_context(|| format!("reading {JOB}"))
}

/// The runner's part.
fn work() -> ExitCode {
    let teller = match Teller::open() {
        Ok(teller) => teller,
        Err(error) => {
            eprintln!("vm-init: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let kernel = rustix::system::uname();
    teller.tell(&Event::Booted {
        kernel: kernel.release().to_string_lossy().into_owned(),
    });
    thread::scope(|scope| {
        let alive = thread::Builder::new().name("pulse".to_owned());
        let pulse = alive.spawn_scoped(scope, || {
            loop {
                thread::park_timeout(PULSE);
                teller.tell(&Event::Alive);
            }
        });
        match pulse
            .context("starting the pulse")
            .and_then(|_| everything(&teller))
        {
            Ok(()) => teller.tell(&Event::Done),
            Err(error) => teller.tell(&Event::Broken {
                what: format!("{error:#}"),
            }),
        }
        // The pulse never ends by itself; the machine goes off with this process.
        std::process::exit(0)
    })
}

fn everything(teller: &Teller) -> Result<()> {
    let job = job()?;
    if let Some(program) = &job.verify {
        verify(teller, program)?;
    }
    for run in &job.runs {
        runs::run(teller, run)?;
    }
    Ok(())
}

/// Has the kernel's verifier go through every program.
fn verify(teller: &Teller, program: &std::path::Path) -> Result<()> {
    let output = Command::new(program)
        .arg("--json")
        .arg0("verify")
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let rows: Result<Vec<Verified>, _> = serde_json::from_slice(&output.stdout);
    if let Ok(rows) = rows {
        teller.tell(&Event::Verified { rows });
    }
    if !output.status.success() {
        teller.tell(&Event::Output {
            of: "verify".to_owned(),
            text: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
        teller.tell(&Event::Broken {
            what: "the verifier refuses a program, or it is too expensive".to_owned(),
        });
    }
    Ok(())
}
