//! What the reference implementation decided, decided by us: every case of `tests/conformance`, by the real pipeline over tables in memory. Where
//! rules decide, the reference model must find the same one; at guests' ports the kernel must come to the same judgement
//! (`BPF_PROG_TEST_RUN`; needs root and `/sys/fs/bpf`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use fw_agent::compile::compile;
use fw_agent::inventory::facts::HostFacts;
use fw_agent::policy::Family;
use fw_agent::simulate::pipeline::Pipeline;
use fw_agent::simulate::{Zone, run};
use fw_common::verdict::{Direction, NO_RULE};
use fw_common::wire::{Headers, IpVersion, Packet as _, protocol};
use tapwall_tests::conformance;
use tapwall_tests::kernel::TestKernel;
use tapwall_tests::model::{self, Segment, first_state, judge_on, traits_of};
use tapwall_tests::patience::repetitions;

/// When the packets are sent: 2026, for configurations that turn themselves off.
const NOW: u64 = 1_790_000_000;

#[test]
fn every_packet_meets_its_verdict() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let every = files.len() / repetitions(files.len() as u32) as usize;
    let mut report = Report::default();
    let mut kernel = TestKernel::new().unwrap();
    for file in files.iter().step_by(every) {
        check(file, &mut kernel, &mut report);
    }
    assert_eq!(report.failures, "", "of {} packets", report.packets);
    assert!(report.packets > 0 && report.classified > report.packets / 2);
    assert!(report.in_kernel > report.packets / 2);
}

#[derive(Default)]
struct Report {
    packets: usize,
    /// Hops at which a rule decided.
    classified: usize,
    /// Hops that the kernel judged too.
    in_kernel: usize,
    failures: String,
}

fn check(file: &Path, kernel: &mut TestKernel, report: &mut Report) {
    let case = conformance::read(file).expect("the case can be read");
    let compiled = compile(&case.sources, &HostFacts::default(), NOW);
    let mut pipeline = Pipeline::new(&compiled);
    kernel.load(&compiled.policy).expect("the maps take it");
    for packet in &case.packets {
        report.packets += 1;
        let mut differences = String::new();
        let outcome = run(
            &packet.query,
            &compiled.policy,
            &mut |zone, direction, frame, state| {
                let judged = pipeline.judge(zone, direction, frame, state);
                if let Zone::Guest(port) = zone {
                    report.in_kernel += 1;
                    let judgement = judged.judgement;
                    kernel.forget_flows().expect("the maps can be written");
                    let ran = kernel
                        .run(port.port, direction, frame)
                        .expect("the kernel takes the frame");
                    let rule =
                        (judgement.rule != NO_RULE).then_some((judgement.verdict, judgement.rule));
                    if (ran.reason, ran.rule) != (judgement.reason, rule) {
                        differences += &format!("  {judgement:?}, the kernel: {ran:?}\n");
                    }
                }
                if let Some(rule) = judged.rule {
                    report.classified += 1;
                    compare(zone, direction, frame, rule, &mut differences);
                }
                judged
            },
        );
        let outcome = match &outcome {
            Ok(outcome) if outcome.verdict.name() == packet.expect => "",
            Ok(outcome) => {
                let last = outcome.path.last();
                let by = last.map(|hop| hop.to_string()).unwrap_or_default();
                &format!("  got {}: {by}\n", outcome.verdict.name())
            }
            Err(error) => &format!("  {error}\n"),
        };
        if !outcome.is_empty() || !differences.is_empty() {
            let (name, line, text) = (file.display(), packet.line, &packet.text);
            report.failures += &format!("{name}:{line}: {text}\n{outcome}{differences}\n");
        }
    }
}

/// Compares the rule that decided with the one that the model finds.
fn compare(zone: Zone<'_>, direction: Direction, frame: &[u8], rule: usize, out: &mut String) {
    let policy = zone.policy(direction);
    let found = judge_on(policy, &model_packet(frame), zone.interface());
    if found != rule {
        let text = |index: usize| policy.rules.get(index).map(ToString::to_string);
        let name = zone.name();
        let (rule, found) = (text(rule), text(found));
        *out += &format!("  {name}: by {rule:?}, the model says {found:?}\n");
    }
}

/// The frame as the model sees it, the first of its flow.
fn model_packet(frame: &[u8]) -> model::Packet {
    let mut headers = Headers::default();
    frame
        .parse(&mut headers)
        .expect("frames of queries are well-formed");
    let words = |address: fw_common::wire::Address| address.0.map(u32::from_be);
    let address = |address| match headers.version {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::from(words(address)[3])),
        IpVersion::V6 => {
            let number = words(address)
                .iter()
                .fold(0, |number, word| number << 32 | u128::from(*word));
            IpAddr::V6(Ipv6Addr::from(number))
        }
        IpVersion::None => panic!("not IP"),
    };
    let (source, dest) = (address(headers.source), address(headers.dest));
    let segment = (headers.protocol == protocol::TCP).then_some(Segment {
        flags: headers.tcp_flags,
        sport: headers.sport,
    });
    let state = first_state(
        source.is_ipv6(),
        headers.protocol,
        headers.tcp_flags,
        headers.sport,
    );
    let ports = (headers.has_ports == 1).then_some((headers.sport, headers.dport));
    let mut dest_mac = [0; 6];
    dest_mac.copy_from_slice(&frame[..6]);
    model::Packet {
        family: match source {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        },
        protocol: headers.protocol,
        source,
        dest,
        sport: ports.map(|(sport, _)| sport),
        dport: ports.map(|(_, dport)| dport),
        traits: traits_of(dest_mac, source, dest, segment, state),
    }
}
