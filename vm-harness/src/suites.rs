//! Which tests run in a machine, which do not and why, and which of them are the small set that every change runs.
//!
//! Every integration test program of the workspace is in [`SUITES`] or in [`OUTSIDE`]; a new one in neither is an error, so that none is
//! forgotten. A test is excluded by its name, with the reason.

use anyhow::{Result, bail};

use crate::kernels::Line;
use crate::programs::Program;
use crate::protocol::Run;

/// Has agents under test attach by clsact also where the kernel has TCX.
pub const CLSACT: (&str, &str) = ("TAPWALL_TEST_ATTACH", "clsact");

/// Seconds that one test may take: emulated, on a machine that does other things besides.
pub const LIMIT: u64 = 600;

/// Which tests of a suite the small set has.
#[derive(Clone, Copy, Debug)]
pub enum Smoke {
    /// All.
    All,
    /// Those whose names begin with one of these.
    Only(&'static [&'static str]),
    /// None.
    Nothing,
}

/// A test program that runs in machines.
#[derive(Debug)]
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// What of it the small set has.
    pub smoke: Smoke,
    /// Beginnings of the names of tests that run again with agents that attach by clsact, on kernels that have TCX.
    pub clsact: &'static [&'static str],
}

const fn suite(name: &'static str, smoke: Smoke) -> Suite {
    Suite {
        name,
        smoke,
        clsact: &[],
    }
}

/// What runs, in this order.
pub const SUITES: &[Suite] = &[
    suite("load", Smoke::Only(&["programs_"])),
    suite("attach", Smoke::Only(&["a_device_with_an_"])),
    suite("batch", Smoke::Only(&["a_hash_map", "an_array", "an_lpm_"])),
    suite("ledger", Smoke::Nothing),
    suite("reject", Smoke::Only(&["errors_"])),
    suite("guards", Smoke::Nothing),
    suite("layer2", Smoke::All),
    suite("host_programs", Smoke::Nothing),
    suite("uplinks", Smoke::Nothing),
    suite("bans", Smoke::Nothing),
    suite("classify", Smoke::Nothing),
    suite("decisions", Smoke::Nothing),
    suite("flows", Smoke::Nothing),
    suite("sets", Smoke::Nothing),
    suite("moves", Smoke::Nothing),
    suite("sweep", Smoke::Nothing),
    suite("conformance", Smoke::Nothing),
    suite("equivalence", Smoke::Nothing),
    Suite {
        name: "traffic",
        smoke: Smoke::Only(&["verdicts::tcp_", "verdicts::between_", "devices::filters_"]),
        // Those about attaching, and one of each kind of traffic: behind the hook everything is the same. On 6.1 all run by clsact.
        clsact: &[
            "devices::",
            "early::",
            "newcomers::",
            "topologies::",
            "upgrade::",
            "verdicts::",
        ],
    },
    suite("devices", Smoke::Only(&["vlans::tagged_"])),
    // They let time pass, of which a machine that has just come up has little.
    suite("scenarios", Smoke::All),
    suite("node", Smoke::Nothing),
    suite("service", Smoke::Nothing),
    suite("faults", Smoke::Nothing),
    suite("demo_node", Smoke::Nothing),
    suite("tools", Smoke::Nothing),
];

/// The test program that runs on two machines at a time, which share networks.
pub const PAIR: &str = "pair";

/// Says which of the two a machine is.
const NODE: &str = "TAPWALL_NODE";

/// What the two machines run; nothing if it is not wanted.
pub fn pair(programs: &[Program], smoke: bool, filter: &[String]) -> Result<Vec<Run>> {
    let means_it = |part: &String| PAIR.contains(part.as_str()) || part.starts_with(PAIR);
    if smoke || !(filter.is_empty() || filter.iter().any(means_it)) {
        return Ok(Vec::new());
    }
    let program = programs
        .iter()
        .find(|program| program.kind == "test" && program.name == PAIR);
    let Some(program) = program else {
        bail!("the test program {PAIR} is not built");
    };
    let run = |number: usize| Run {
        name: format!("{PAIR} (node {})", number + 1),
        program: program.file.clone(),
        prefixes: Vec::new(),
        excluded: Vec::new(),
        filter: Vec::new(),
        limit: LIMIT,
        environment: vec![(NODE.to_owned(), number.to_string())],
    };
    Ok(vec![run(0), run(1)])
}

/// Test programs that need no kernel of ours, or no machine at all.
pub const OUTSIDE: &[(&str, &str)] = &[
    ("check", "reads files and prints; no kernel takes part"),
    ("compat", "reads the documentation"),
    ("bad_input", "parses; no kernel takes part"),
    (
        "steps",
        "applies plans to maps in memory; no kernel takes part",
    ),
    (
        "flood",
        "millions of frames, which take an emulated machine hours; what it proves is no matter of the kernel's version",
    ),
    ("capacity", "fills tables to their sizes, as `flood` does"),
    (
        "backends",
        "starts sshguard, fail2ban and CrowdSec, of which one needs Python; what of it meets the kernel is in `tools`",
    ),
];

/// Why policies of the greatest size are tested outside.
const MANY_RULES: &str = "builds 16,384 rules in an unoptimised build: minutes, and the kernel's part is that of the other tests";

/// Why what asks Prometheus runs outside.
const PROMETHEUS: &str = "runs Prometheus's own programs, 100 MB, which look at the agent's text; no matter of the kernel";

/// Tests that do not run in a machine: suite, test, reason.
pub const EXCLUDED: &[(&str, &str, &str)] = &[
    (
        "tools",
        "import::the_translation_does_what_iptables_did",
        "compares with iptables, which the machines do not have; what it proves is no matter of the kernel's version",
    ),
    ("classify", "a_full_policy", MANY_RULES),
    (
        "classify",
        "a_policy_over_the_limit_costs_its_own_port_only",
        MANY_RULES,
    ),
    (
        "service",
        "metrics::prometheus_s_promtool_has_nothing_to_say",
        PROMETHEUS,
    ),
    (
        "service",
        "metrics::prometheus_scrapes_and_answers_what_the_dashboard_asks",
        PROMETHEUS,
    ),
];

/// What to run on a kernel.
pub fn runs(line: Line, programs: &[Program], smoke: bool, filter: &[String]) -> Result<Vec<Run>> {
    for program in programs.iter().filter(|program| program.kind == "test") {
        let name = program.name.as_str();
        let known = SUITES.iter().any(|suite| suite.name == name)
            || name == PAIR
            || OUTSIDE.iter().any(|(outside, _)| *outside == name);
        if !known {
            bail!("the test program {name} is not in vm-harness/src/suites.rs");
        }
    }
    let mut runs = Vec::new();
    for suite in SUITES {
        let Some(program) = programs
            .iter()
            .find(|program| program.kind == "test" && program.name == suite.name)
        else {
            bail!("the test program {} is not built", suite.name);
        };
        let prefixes = match (smoke, suite.smoke) {
            (false, _) | (true, Smoke::All) => Vec::new(),
            (true, Smoke::Only(prefixes)) => owned(prefixes),
            (true, Smoke::Nothing) => continue,
        };
        let run = Run {
            name: suite.name.to_owned(),
            program: program.file.clone(),
            prefixes,
            excluded: excluded(suite.name),
            filter: filter.to_vec(),
            limit: LIMIT,
            environment: Vec::new(),
        };
        runs.push(run.clone());
        if !suite.clsact.is_empty() && line.has_tcx() && !smoke {
            runs.push(Run {
                name: format!("{} (clsact)", suite.name),
                prefixes: owned(suite.clsact),
                environment: vec![(CLSACT.0.to_owned(), CLSACT.1.to_owned())],
                ..run
            });
        }
    }
    Ok(runs)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn excluded(suite: &str) -> Vec<String> {
    EXCLUDED
        .iter()
        .filter(|(of, _, _)| *of == suite)
        .map(|(_, test, _)| (*test).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_excluded_test_exists_and_has_a_reason() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        for (suite, test, reason) in EXCLUDED {
            let (module, name) = test.rsplit_once("::").unwrap_or(("", test));
            let file = match module {
                "" => tests.join(format!("{suite}.rs")),
                module => tests.join(suite).join(format!("{module}.rs")),
            };
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(&format!("fn {name}(")), "{suite}::{test}");
            assert!(!reason.is_empty());
        }
    }
}
