//! CrowdSec's own LAPI, without its detection and its central services, and `fwctl backend crowdsec` as its bouncer.

use std::fs;
use std::time::Instant;

use tapwall_tests::installed::installed;
use tapwall_tests::node::{STRANGER_V4, STRANGER_V6};
use tapwall_tests::patience::patience;

use super::{Bed, Running, SOON};

/// Its files, in the bed's directory.
fn configure(bed: &Bed) {
    let place = bed.place.path().display();
    for directory in ["etc", "data", "hub"] {
        fs::create_dir(bed.file(directory)).unwrap();
    }
    bed.write("hub/.index.json", "{}");
    bed.write("etc/simulation.yaml", "simulation: false\n");
    bed.write("etc/credentials.yaml", "");
    let profile = "name: all\nfilters:\n - Alert.Remediation == true\ndecisions:\n - type: ban\n   duration: 4h\n";
    bed.write("etc/profiles.yaml", profile);
    bed.write(
        "config.yaml",
        &format!(
            "common: {{daemonize: false, log_media: stdout, log_level: info, working_dir: .}}\n\
             config_paths: {{config_dir: {place}/etc, data_dir: {place}/data, simulation_path: {place}/etc/simulation.yaml, \
             hub_dir: {place}/hub, index_path: {place}/hub/.index.json, notification_dir: {place}/etc, plugin_dir: {place}/etc}}\n\
             cscli: {{output: raw}}\n\
             db_config: {{log_level: info, type: sqlite, db_path: {place}/data/crowdsec.db, use_wal: false}}\n\
             plugin_config: {{user: nobody, group: nogroup}}\n\
             api: {{client: {{insecure_skip_verify: false, credentials_path: {place}/etc/credentials.yaml}}, \
             server: {{log_level: info, listen_uri: \"127.0.0.1:8080\", profiles_path: {place}/etc/profiles.yaml, trusted_ips: [127.0.0.1]}}}}\n\
             prometheus: {{enabled: false}}\n"
        ),
    );
    let credentials = bed.file("etc/credentials.yaml");
    cscli(
        bed,
        &[
            "machines",
            "add",
            "node",
            "--auto",
            "-f",
            credentials.to_str().unwrap(),
        ],
    );
    let key = cscli(bed, &["bouncers", "add", "tapwall", "-o", "raw"]);
    bed.write("key", &key);
}

fn cscli(bed: &Bed, arguments: &[&str]) -> String {
    let config = bed.file("config.yaml");
    bed.run(
        installed("crowdsec", "cscli").unwrap(),
        &[&["-c", config.to_str().unwrap()], arguments].concat(),
    )
}

fn lapi(bed: &Bed) -> Running {
    let mut command = bed.command(installed("crowdsec", "crowdsec").unwrap());
    command.arg("-c").arg(bed.file("config.yaml")).arg("-no-cs");
    let server = Running::start(&mut command, bed.file("lapi"));
    let deadline = Instant::now() + patience(SOON);
    while !server.words().contains("listening on 127.0.0.1:8080") {
        assert!(Instant::now() < deadline, "{}", server.words());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    server
}

fn bouncer(bed: &Bed) -> Running {
    let mut command = bed.command("fwctl");
    command
        .args([
            "backend",
            "crowdsec",
            "--interval",
            "1s",
            "--url",
            "http://127.0.0.1:8080/",
        ])
        .arg("--api-key-file")
        .arg(bed.file("key"));
    Running::start(&mut command, bed.file("words"))
}

#[test]
fn decisions_are_enforced_and_deleted_ones_lifted() {
    let bed = Bed::new();
    configure(&bed);
    // Of an earlier run: no longer a decision.
    let left = ["ban", "198.51.100.7", "--by", "crowdsec"];
    assert!(bed.agent.fwctl(&left).unwrap().status.success());
    let mut server = lapi(&bed);
    let add = |arguments: &[&str]| cscli(&bed, &[&["decisions", "add"], arguments].concat());
    add(&[
        "--ip",
        "192.0.2.201",
        "--duration",
        "1h",
        "--reason",
        "crowdsecurity/ssh-bf",
    ]);
    add(&["--scope", "Country", "--value", "AQ", "--duration", "1h"]);
    add(&["--ip", "192.0.2.200", "--duration", "1h"]);
    let bouncer = bouncer(&bed);
    let words = || format!("{}\n{}", bouncer.words(), server_words(&bed));
    bed.becomes(STRANGER_V4, true, &words);
    let bans = bed.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!(
        (&bans[0]["by"], &bans[0]["reason"]),
        (&"crowdsec".into(), &"crowdsecurity/ssh-bf".into())
    );
    let remaining = bans[0]["remaining_seconds"].as_u64().unwrap();
    assert!(remaining > 3500 && remaining <= 3600, "{bans:?}");
    assert_eq!(
        bed.answers(bed.node.outside.v4()),
        [true; 2],
        "an administrator"
    );
    assert!(words().contains("192.0.2.200 is not banned"), "{}", words());

    add(&["--range", "2001:db8:1::201/128", "--duration", "1h"]);
    bed.becomes(STRANGER_V6, true, &words);
    cscli(&bed, &["decisions", "delete", "--ip", "192.0.2.201"]);
    bed.becomes(STRANGER_V4, false, &words);

    // Bans stay while the LAPI is away, and what it decides afterwards counts.
    server.end();
    let deadline = Instant::now() + patience(SOON);
    while !bouncer.words().contains("cannot reach the LAPI") {
        assert!(Instant::now() < deadline, "{}", words());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(bed.answers(STRANGER_V6), [false; 2]);
    let _server = lapi(&bed);
    cscli(
        &bed,
        &[
            "decisions",
            "add",
            "--ip",
            "192.0.2.201",
            "--duration",
            "1h",
        ],
    );
    cscli(
        &bed,
        &["decisions", "delete", "--range", "2001:db8:1::201/128"],
    );
    bed.becomes(STRANGER_V4, true, &words);
    bed.becomes(STRANGER_V6, false, &words);
    assert!(bouncer.words().contains("answers again"), "{}", words());
}

fn server_words(bed: &Bed) -> String {
    fs::read_to_string(bed.file("lapi")).unwrap_or_default()
}

#[test]
fn a_refused_key_ends_the_bouncer_and_what_it_banned_stays() {
    let bed = Bed::new();
    configure(&bed);
    let server = lapi(&bed);
    let before = ["ban", "192.0.2.201", "--by", "crowdsec"];
    assert!(bed.agent.fwctl(&before).unwrap().status.success());
    bed.write("key", "not the key\n");
    let mut bouncer = bouncer(&bed);
    let deadline = Instant::now() + patience(SOON);
    let status = loop {
        if let Some(status) = bouncer.child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "{}", server.words());
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(2));
    assert!(
        bouncer.words().contains("refuses the key (403 Forbidden)"),
        "{}",
        bouncer.words()
    );
    assert_eq!(bed.answers(STRANGER_V4), [false; 2]);
}
