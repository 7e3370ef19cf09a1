//! sshguard reads a log and blocks by `packaging/sshguard/sshg-fw-tapwall`.

use std::net::IpAddr;

use tapwall_tests::installed::installed;
use tapwall_tests::node::{STRANGER_V4, STRANGER_V6};

use super::{Bed, Running, attack};

/// sshguard with this configuration, in the only place where it looks for it, on a log.
fn start(bed: &Bed, block_time: u32) -> Running {
    let backend = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../packaging/sshguard/sshg-fw-tapwall"
    );
    bed.write(
        "sshguard.conf",
        &format!(
            "BACKEND=\"{backend}\"\nTHRESHOLD=30\nBLOCK_TIME={block_time}\nDETECTION_TIME=600\n"
        ),
    );
    let script = format!(
        "mount --bind {} /etc/sshguard && exec {} {}",
        bed.place.path().display(),
        installed("sshguard", "sshguard").unwrap().display(),
        bed.file("auth.log").display()
    );
    let mut command = bed.command("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    Running::start(&mut command, bed.file("words"))
}

#[test]
fn attackers_are_blocked_and_released_again() {
    let bed = Bed::new();
    let log = bed.write("auth.log", "");
    // Of an earlier run that was killed.
    let left = ["ban", "198.51.100.7", "--by", "sshguard", "--for", "boot"];
    assert!(bed.agent.fwctl(&left).unwrap().status.success());
    let mine = ["ban", "198.51.100.8", "--for", "forever"];
    assert!(bed.agent.fwctl(&mine).unwrap().status.success());
    let guard = start(&bed, 5);
    let words = || guard.words();
    // It reads from the end of the log that it finds.
    let mut tries = 0;
    while bed.answers(STRANGER_V4) != [false; 2] {
        attack(&log, STRANGER_V4, 1);
        tries += 1;
        assert!(tries < 60, "{}", words());
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    let other: IpAddr = bed.node.outside.v4();
    assert_eq!(bed.answers(other), [true; 2]);
    let bans = bed.bans();
    let by = |address: &str| {
        let mut bans = bans.iter().filter(|ban| ban["address"] == address);
        bans.next()
            .map(|ban| ban["by"].as_str().unwrap().to_owned())
    };
    assert_eq!(
        by("192.0.2.201").as_deref(),
        Some("sshguard"),
        "{}",
        words()
    );
    assert_eq!(by("198.51.100.7"), None);
    assert_eq!(by("198.51.100.8").as_deref(), Some("fwctl"));
    bed.becomes(STRANGER_V4, false, &words);

    // The administrator types badly, and stays.
    attack(&log, other, 12);
    attack(&log, STRANGER_V6, 12);
    bed.becomes(STRANGER_V6, true, &words);
    assert_eq!(bed.answers(other), [true; 2]);
    assert!(
        words().contains("192.0.2.200 is not banned: it would hit"),
        "{}",
        words()
    );
}

#[test]
fn what_sshguard_blocked_ends_with_sshguard() {
    let bed = Bed::new();
    let log = bed.write("auth.log", "");
    let mut guard = start(&bed, 600);
    let mut tries = 0;
    while bed.answers(STRANGER_V4) != [false; 2] {
        attack(&log, STRANGER_V4, 1);
        tries += 1;
        assert!(tries < 60, "{}", guard.words());
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    guard.end();
    bed.becomes(STRANGER_V4, false, &|| guard.words());
    assert!(bed.bans().is_empty());
}
