//! The files that are installed beside the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tapwall_tests::netns::run;
use tapwall_tests::tree::temporary_directory;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(name)
}

/// Values of a key of the unit, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let lines = lines.filter(|(name, _)| *name == key);
    let words = lines.flat_map(|(_, value)| value.split_whitespace());
    words.map(str::to_owned).collect()
}

#[test]
fn the_unit_keeps_the_agent_alive_and_small() {
    let unit = fs::read_to_string(packaging("tapwall.service")).unwrap();
    for (key, expect) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("RuntimeDirectoryPreserve", "yes"),
    ] {
        assert_eq!(values(&unit, key), [expect], "{key}");
    }
    assert!(values(&unit, "Before").contains(&"network-pre.target".to_owned()));
    for other in ["pve-firewall.service", "proxmox-firewall.service"] {
        assert!(values(&unit, "Conflicts").contains(&other.to_owned()));
    }
    let capabilities = values(&unit, "CapabilityBoundingSet");
    for needed in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
        assert!(capabilities.contains(&needed.to_owned()));
    }
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        return;
    }
    let place = temporary_directory("unit").unwrap();
    let unit = fs::read_to_string(packaging("tapwall.service")).unwrap();
    // The program is not installed here.
    let unit = unit.replace("ExecStart=/usr/sbin/fw-agent", "ExecStart=/bin/true");
    let unit = unit.replace("Documentation=", "# Documentation=");
    let path = place.path().join("tapwall.service");
    let verify = |text: &str| {
        fs::write(&path, text).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(&path);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(verify(&unit), "");
    let wrong = unit.replace("NoNewPrivileges", "NoNewPrivilege");
    assert!(
        verify(&wrong).contains("NoNewPrivilege"),
        "it would be noticed"
    );
}

#[test]
fn logrotate_understands_the_rotation() {
    if Command::new("logrotate").arg("--version").output().is_err() {
        return;
    }
    let place = temporary_directory("rotate").unwrap();
    let copy = place.path().join("tapwall");
    // It refuses files that others may write.
    fs::copy(packaging("logrotate"), &copy).unwrap();
    run(Command::new("chmod").arg("644").arg(&copy)).unwrap();
    run(Command::new("logrotate").arg("--debug").arg(&copy)).unwrap();
}
