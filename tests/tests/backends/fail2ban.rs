//! fail2ban watches a log with its own filter for sshd and bans by `packaging/fail2ban/action.d/tapwall.conf`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use tapwall_tests::installed::installed;
use tapwall_tests::node::{STRANGER_V4, STRANGER_V6};
use tapwall_tests::patience::patience;

use super::{Bed, Running, SOON, attack};

const JAIL: &str = "[DEFAULT]\nusedns = no\nbackend = polling\nignoreself = false\nbantime = 1h\nfindtime = 10m\nmaxretry = 3\n\
    banaction = tapwall\naction = %(banaction)s[port=\"ssh\", protocol=\"tcp\"]\n\n";

/// Its files, in the bed's directory.
fn configure(bed: &Bed) {
    let place = bed.place.path().display();
    bed.write("auth.log", "");
    bed.write(
        "fail2ban.conf",
        &format!(
            "[Definition]\nloglevel = INFO\nlogtarget = STDOUT\nsyslogsocket = auto\nsocket = {place}/socket\npidfile = {place}/pid\n\
             dbfile = {place}/fail2ban.sqlite3\ndbpurgeage = 1d\n"
        ),
    );
    let jail = format!("{JAIL}[sshd]\nenabled = true\nfilter = sshd\nlogpath = {place}/auth.log\n");
    bed.write("jail.conf", &jail);
    symlink("/etc/fail2ban/filter.d", bed.file("filter.d")).unwrap();
    fs::create_dir(bed.file("action.d")).unwrap();
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/fail2ban/action.d");
    fs::copy(
        packaged.join("tapwall.conf"),
        bed.file("action.d/tapwall.conf"),
    )
    .unwrap();
}

fn start(bed: &Bed) -> Running {
    let mut command = bed.command(installed("fail2ban", "fail2ban-server").unwrap());
    command
        .arg("-c")
        .arg(bed.place.path())
        .args(["-x", "-f", "start"]);
    let server = Running::start(&mut command, bed.file("words"));
    let deadline = Instant::now() + patience(SOON);
    while !server.words().contains("Jail 'sshd' started") {
        assert!(Instant::now() < deadline, "{}", server.words());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    server
}

#[test]
fn attackers_are_banned_and_unbanned() {
    let bed = Bed::new();
    configure(&bed);
    let server = start(&bed);
    let words = || server.words();
    let log = bed.file("auth.log");
    attack(&log, STRANGER_V4, 3);
    bed.becomes(STRANGER_V4, true, &words);
    assert_eq!(bed.answers(bed.node.outside.v4()), [true; 2]);
    let bans = bed.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(
        (&bans[0]["by"], &bans[0]["reason"]),
        (&"fail2ban/sshd".into(), &"3 failures in jail sshd".into())
    );
    let left = bans[0]["remaining_seconds"].as_u64().unwrap();
    assert!(left > 3500 && left <= 3600, "{bans:?}");

    let place = bed.place.path().to_str().unwrap();
    let client = |arguments: &[&str]| {
        bed.run(
            installed("fail2ban", "fail2ban-client").unwrap(),
            &[&["-c", place], arguments].concat(),
        )
    };
    client(&["set", "sshd", "unbanip", "192.0.2.201"]);
    bed.becomes(STRANGER_V4, false, &words);
    // By hand, and for ever.
    client(&["set", "sshd", "bantime", "-1"]);
    client(&["set", "sshd", "banip", "2001:db8:1::201"]);
    bed.becomes(STRANGER_V6, true, &words);
    assert_eq!(bed.bans()[0]["forever"], true);
    // The administrator stays, and fail2ban's log tells.
    attack(&log, bed.node.outside.v4(), 5);
    let deadline = Instant::now() + patience(SOON);
    while !words().contains("it would hit 192.0.2.200 (of the management set)") {
        assert!(Instant::now() < deadline, "{}", words());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(bed.answers(bed.node.outside.v4()), [true; 2]);
    client(&["unban", "--all"]);
    bed.becomes(STRANGER_V6, false, &words);
}

#[test]
fn bans_end_with_the_server_and_come_back_with_it() {
    let bed = Bed::new();
    configure(&bed);
    let mine = ["ban", "198.51.100.8", "--for", "forever"];
    assert!(bed.agent.fwctl(&mine).unwrap().status.success());
    let mut server = start(&bed);
    attack(&bed.file("auth.log"), STRANGER_V4, 3);
    bed.becomes(STRANGER_V4, true, &|| server.words());
    server.end();
    bed.becomes(STRANGER_V4, false, &|| server.words());
    assert_eq!(bed.bans().len(), 1);
    // From its own database.
    let server = start(&bed);
    bed.becomes(STRANGER_V4, true, &|| server.words());
}
