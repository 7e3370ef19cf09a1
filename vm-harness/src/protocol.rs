//! What the harness outside and the runner in a virtual machine say to each other.
//!
//! In: one [`Job`], a file of the machine's first file system. Out: [`Event`]s, one JSON object a line on the second serial port, so that what
//! the kernel prints on the first one never falls into them. A machine's events are `Booted`, then for each run `Run` and its tests, then
//! `Done`; `Alive` comes in between at least every [`PULSE`]. What does not end with `Done` has failed.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the job is, in the machine.
pub const JOB: &str = "/vm/job.json";

/// The second serial port, in the machine.
pub const PORT: &str = "/dev/ttyS1";

/// The runner says that it is alive this often, whatever the tests do.
pub const PULSE: Duration = Duration::from_secs(5);

/// What a machine has to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Job {
    /// Kernel modules to insert, in order.
    pub modules: Vec<PathBuf>,
    /// A shell for a person instead of the runs.
    pub shell: bool,
    /// Program that prints what the verifier says of each kernel program.
    pub verify: Option<PathBuf>,
    /// Test programs to run, in order.
    pub runs: Vec<Run>,
    /// Environment of every program.
    pub environment: Vec<(String, String)>,
}

/// A test program and which of its tests to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What it is called in reports.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Beginnings of the names of tests to run. All of them if there are none.
    pub prefixes: Vec<String>,
    /// Tests not to run.
    pub excluded: Vec<String>,
    /// Parts of the names of tests, with the run's name in front: if there are any, tests that have none of them are not run.
    pub filter: Vec<String>,
    /// Seconds that one test may take.
    pub limit: u64,
    /// Further environment.
    pub environment: Vec<(String, String)>,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It passed.
    Ok,
    /// It failed.
    Failed,
    /// It did not end in time and was killed, with its whole program.
    Timeout,
    /// Its program ended under it.
    Crashed,
}

/// What the verifier says of one kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Its name.
    pub program: String,
    /// Instructions gone through.
    pub instructions: u64,
    /// Stack of each function.
    pub stack: Vec<u64>,
}

/// One line of what the machine says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The kernel runs the runner.
    Booted {
        /// Its release, as `uname -r` says.
        kernel: String,
    },
    /// Still there.
    Alive,
    /// The verifier took every kernel program.
    Verified {
        /// One row a program.
        rows: Vec<Verified>,
    },
    /// A run begins.
    Run {
        /// Its name.
        run: String,
        /// How many tests it will run.
        tests: usize,
    },
    /// A test begins.
    Started {
        /// Its run.
        run: String,
        /// Its name.
        test: String,
    },
    /// A test has ended.
    Ended {
        /// Its run.
        run: String,
        /// Its name.
        test: String,
        /// How.
        outcome: Outcome,
        /// How long it took, in the machine's time.
        milliseconds: u64,
    },
    /// What a failed test or program printed.
    Output {
        /// Which one.
        of: String,
        /// Its lines.
        text: String,
    },
    /// Something went wrong that is no test's fault.
    Broken {
        /// What.
        what: String,
    },
    /// All runs are over.
    Done,
}
