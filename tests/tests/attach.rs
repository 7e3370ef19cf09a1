//! Programs on a device, both ways to attach them, in a network namespace of its own.
//!
//! Needs root and `/sys/fs/bpf`. Kernels before 6.6 attach by clsact; here that way is asked for, so that it is tested on every kernel.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use anyhow::Result;
use fw_agent::datapath::{Action, AttachMode, Hook, Kernel, Role};
use tapwall_tests::kernel::PinDirectory;
use tapwall_tests::netns::{Netns, run};

const DEVICE: &str = "tap100i0";

fn namespace() -> Netns {
    let namespace = Netns::new("attach").unwrap();
    namespace
        .ip(&format!(
            "link add {DEVICE} type veth peer name far\nlink set {DEVICE} up\n"
        ))
        .unwrap();
    namespace
}

/// Does what an agent of this mode does with the device, then ends like one.
fn agent(namespace: &Netns, directory: &PinDirectory, mode: AttachMode, action: &Action) {
    let result: Result<()> = namespace.run(|| {
        let mut kernel = Kernel::open(directory.path(), mode)?;
        Ok(kernel.apply(action)?)
    });
    result.unwrap();
}

fn attach(namespace: &Netns, role: Role) -> Action {
    Action::Attach {
        device: DEVICE.to_owned(),
        role,
        // One that is not there has none.
        ifindex: namespace.ifindex(DEVICE).unwrap_or(0),
    }
}

fn detach() -> Action {
    Action::Detach {
        device: DEVICE.to_owned(),
    }
}

/// Identities of our programs of a role among the device's clsact filters of a hook.
fn filters(namespace: &Netns, role: Role, hook: Hook) -> Vec<String> {
    let mut tc = namespace.command("tc");
    let text = run(tc.args(["filter", "show", "dev", DEVICE, hook.name()])).unwrap();
    text.lines()
        .filter(|line| line.contains(hook.program(role)))
        .filter_map(|line| line.split_once(" id ")?.1.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn clsact_filters_outlive_their_agent_and_are_replaced_in_place() {
    let (namespace, directory) = (namespace(), PinDirectory::new());
    for role in Role::ALL {
        let found = || Hook::ALL.map(|hook| filters(&namespace, role, hook));
        agent(
            &namespace,
            &directory,
            AttachMode::Clsact,
            &attach(&namespace, role),
        );
        let first = found();
        agent(
            &namespace,
            &directory,
            AttachMode::Clsact,
            &attach(&namespace, role),
        );
        let second = found();
        for (first, second) in first.iter().zip(&second) {
            assert_eq!((first.len(), second.len()), (1, 1), "{first:?} {second:?}");
            assert_ne!(first, second, "the second agent's program");
        }
        agent(&namespace, &directory, AttachMode::Clsact, &detach());
        assert_eq!(found().map(|rows| rows.len()), [0, 0]);
    }
}

#[test]
fn a_device_that_changes_its_role_has_the_programs_of_the_new_one_only() {
    let (namespace, directory) = (namespace(), PinDirectory::new());
    for role in [Role::Guest, Role::Host, Role::Guest] {
        agent(
            &namespace,
            &directory,
            AttachMode::Clsact,
            &attach(&namespace, role),
        );
        for other in Role::ALL {
            let found = Hook::ALL.map(|hook| filters(&namespace, other, hook).len());
            let expect = if other == role { [1, 1] } else { [0, 0] };
            assert_eq!(found, expect, "{role:?}: {other:?}");
        }
    }
}

#[test]
fn a_device_with_an_ingress_qdisc_is_refused_by_name() {
    let (namespace, directory) = (namespace(), PinDirectory::new());
    let mut tc = namespace.command("tc");
    run(tc.args(["qdisc", "add", "dev", DEVICE, "handle", "ffff:", "ingress"])).unwrap();
    let refused = namespace.run(|| {
        let mut kernel = Kernel::open(directory.path(), AttachMode::Clsact)?;
        Ok(kernel
            .apply(&attach(&namespace, Role::Guest))
            .unwrap_err()
            .to_string())
    });
    let message = refused.unwrap();
    assert!(
        message.contains(DEVICE) && message.contains("ingress"),
        "{message}"
    );
    // A TCX link does not mind; kernels before 6.6 have none (commit e420bed02507).
    if AttachMode::of_this_kernel() == AttachMode::Clsact {
        return;
    }
    agent(
        &namespace,
        &directory,
        AttachMode::Tcx,
        &attach(&namespace, Role::Guest),
    );
    assert!(directory.pins().devices().contains(DEVICE));
}

#[test]
fn a_device_that_vanished_is_told_from_other_failures() {
    let directory = PinDirectory::new();
    let namespace = Netns::new("attach").unwrap();
    // Kernels before 6.6 have no TCX links to be refused.
    let modes = match AttachMode::of_this_kernel() {
        AttachMode::Tcx => &[AttachMode::Tcx, AttachMode::Clsact][..],
        AttachMode::Clsact => &[AttachMode::Clsact],
    };
    for &mode in modes {
        let absent = namespace.run(|| {
            let mut kernel = Kernel::open(directory.path(), mode)?;
            Ok(kernel
                .apply(&attach(&namespace, Role::Guest))
                .unwrap_err()
                .is_no_device())
        });
        assert!(absent.unwrap(), "{mode:?}");
    }
}
