//! Every directory below `tests/scenarios`: see `tapwall_tests::scenario`. Needs root and `/sys/fs/bpf`.

use std::fs;
use std::path::{Path, PathBuf};

use tapwall_tests::kernel::TestKernel;
use tapwall_tests::scenario::{self, Report};

#[test]
fn all_scenarios() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(&all).unwrap();
    let mut directories: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    assert!(!directories.is_empty(), "no scenarios in {}", all.display());
    let mut kernel = TestKernel::new().unwrap();
    let mut report = Report::default();
    let mut problems = Vec::new();
    for directory in &directories {
        if let Err(error) = scenario::run(directory, &mut kernel, &mut report) {
            problems.push(format!("{error:#}\n"));
        }
    }
    problems.extend(report.failures.iter().map(ToString::to_string));
    println!(
        "{} scenarios, {} packets, {} judged by the kernel",
        directories.len(),
        report.packets,
        report.in_kernel
    );
    assert!(
        problems.is_empty(),
        "{} of {} packets are not as expected:\n\n{}",
        problems.len(),
        report.packets,
        problems.join("\n")
    );
}
