//! Translations of whole rulesets: by a small model of iptables, and by what the report says.

mod model;

use super::*;
use crate::compile::compile;
use crate::config::Sources;
use crate::inventory::facts::HostFacts;
use crate::simulate::pipeline::Pipeline;
use crate::simulate::query::Query;

pub(super) const NAME: &str = "rules.v4";

pub(super) fn of(text: &str) -> File<'_> {
    File { name: NAME, text }
}

pub(super) fn input(text: &str) -> Input<'_> {
    Input {
        v4: of(text),
        v6: None,
        sets: None,
        for_proxmox: false,
    }
}

/// What the translation does with packets: each a query, and the verdict.
pub(super) struct Tried {
    compiled: crate::compile::Compiled,
    pipeline: Pipeline,
}

impl Tried {
    pub(super) fn new(translation: &Translation) -> Self {
        // Sections of sets belong to the other file.
        let (sets, rules) = translation.text.split_once("\n[RULES]\n").unwrap();
        let (options, sets) = sets.split_once("\n[IPSET").unwrap_or((sets, ""));
        let mut cluster = "[OPTIONS]\nenable: 1\n".to_owned();
        if !sets.is_empty() {
            cluster.push_str(&format!("[IPSET{sets}"));
        }
        let options = options.replace("enable: 0", "enable: 1");
        let mut sources = Sources {
            node: "n".into(),
            ..Sources::default()
        };
        let host = format!("{options}\n[RULES]\n{rules}");
        for (path, text) in [("firewall/cluster.fw", cluster), ("nodes/n/host.fw", host)] {
            sources.files.insert(path.into(), text.into());
        }
        let compiled = compile(&sources, &HostFacts::default(), 0);
        let errors: Vec<_> = compiled
            .diagnostics
            .iter()
            .filter(|found| found.severity == crate::diagnostic::Severity::Error)
            .collect();
        assert!(errors.is_empty(), "{errors:?}\n{}", translation.text);
        let pipeline = Pipeline::new(&compiled);
        Self { compiled, pipeline }
    }

    pub(super) fn verdict(&mut self, query: &str) -> Verdict {
        let query = Query::parse(query.as_bytes()).unwrap();
        let pipeline = &mut self.pipeline;
        let mut judge = |zone: crate::simulate::Zone<'_>, direction, frame: &[u8], state| {
            pipeline.judge(zone, direction, frame, state)
        };
        crate::simulate::run(&query, &self.compiled.policy, &mut judge)
            .unwrap()
            .verdict
    }
}

/// The remarks of a ruleset: line, state, and what it opens or closes.
fn remarks(text: &str) -> Vec<(Option<u32>, State, &'static str)> {
    let translation = translate(&input(text)).unwrap();
    let remarks = translation.remarks.iter().map(|remark| {
        let effect = match (remark.effect.opens, remark.effect.closes, remark.effect.ssh) {
            (false, false, _) => "",
            (true, false, _) => "opens",
            (false, true, false) => "closes",
            (false, true, true) => "closes ssh",
            (true, true, _) => "both",
        };
        (remark.line, remark.state, effect)
    });
    // That IPv6 is not given is told of each.
    remarks.filter(|(line, ..)| line.is_some()).collect()
}

fn ruleset(policy: &str, rules: &str) -> String {
    format!("*filter\n:INPUT {policy} [0:0]\n:own - [0:0]\n{rules}COMMIT\n")
}

const RUNNING: &str = "-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n";

#[test]
fn what_is_left_out_says_what_follows() {
    use State::{Differs, LeftOut};
    let limit = "-m recent --rcheck --name x --rsource";
    let cases = [
        // Before it there is nothing else that accepts.
        (format!("-A INPUT {limit} -j DROP\n"), vec![(Some(5), LeftOut, "")]),
        (
            format!("-A INPUT {limit} -j DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"),
            vec![(Some(5), LeftOut, "opens")],
        ),
        (
            format!("-A INPUT -p udp {limit} -j DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"),
            vec![(Some(5), LeftOut, "")],
        ),
        (
            format!("-A INPUT -p tcp -m tcp --dport 22 {limit} -j ACCEPT\n"),
            vec![(Some(5), LeftOut, "closes ssh")],
        ),
        (
            format!("-A INPUT -p tcp -m tcp --dport 80 {limit} -j ACCEPT\n"),
            vec![(Some(5), LeftOut, "closes")],
        ),
        // It may do either.
        (
            "-A INPUT -p udp -j NFQUEUE --queue-num 0\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n".to_owned(),
            vec![(Some(5), LeftOut, "both")],
        ),
        (
            "-A INPUT -p udp -j MARK --set-xmark 0x1/0xffffffff\n".to_owned(),
            vec![],
        ),
        (
            "-A INPUT -p tcp -m tcp --dport 22 -j f2b-sshd\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n:f2b-sshd - [0:0]\n-A f2b-sshd -s 192.0.2.1/32 -j REJECT --reject-with icmp-port-unreachable\n-A f2b-sshd -j RETURN\n".to_owned(),
            vec![(Some(5), LeftOut, "opens")],
        ),
        (
            "-A INPUT -i eth+ -j ACCEPT\n".to_owned(),
            vec![(Some(5), LeftOut, "closes ssh")],
        ),
        (
            "-A INPUT -p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT\n".to_owned(),
            vec![(Some(5), Differs, "opens")],
        ),
    ];
    for (rules, expect) in cases {
        let text = ruleset("DROP", &format!("{RUNNING}{rules}"));
        assert_eq!(remarks(&text), expect, "{rules}");
    }
}

#[test]
fn a_rule_before_the_running_connections_is_told() {
    let drop = "-A INPUT -s 192.0.2.0/24 -j DROP\n";
    let differs = vec![(Some(4), State::Differs, "opens")];
    let text = ruleset("DROP", &format!("{drop}{RUNNING}"));
    assert_eq!(remarks(&text), differs);
    let text = ruleset("DROP", &format!("{RUNNING}{drop}"));
    assert_eq!(remarks(&text), []);
    let translation = translate(&input(&ruleset("DROP", drop))).unwrap();
    let says = |why: &str| {
        translation
            .remarks
            .iter()
            .any(|remark| remark.why.contains(why))
    };
    assert!(says("INPUT did not accept them"));
}

#[test]
fn a_ruleset_as_distributions_teach_it() {
    let text = r#"# Generated by iptables-save v1.8.9 (nf_tables)
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080
COMMIT
*filter
:INPUT DROP [10:840]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [120:9000]
:LOGDROP - [0:0]
:SSH - [0:0]
[4:336] -A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m set --match-set bad src -j LOGDROP
-A INPUT ! -s 10.0.0.0/8 -i eth1 -m comment --comment "not \"ours\"" -j REJECT --reject-with icmp-admin-prohibited
-A INPUT -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j SSH
-A INPUT -p tcp -m multiport --dports 80,443,8000:8010 -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A INPUT -p udp -m mac --mac-source 00:11:22:33:44:55 -j ACCEPT
-A INPUT -m limit --limit 3/min -j LOG --log-prefix "[in] " --log-level 6
-A LOGDROP -j LOG --log-prefix "bad "
-A LOGDROP -j DROP
-A SSH -s 192.0.2.0/24 -j RETURN
-A SSH -m iprange --src-range 203.0.113.5-203.0.113.6 -j ACCEPT
-A OUTPUT -d 198.51.100.0/24 -o eth1 -p udp -m udp --sport 1024:65535 --dport 53 -j DROP
COMMIT
"#;
    let sets = "create bad hash:net family inet\nadd bad 198.51.100.0/25\n";
    let v6 = "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT\n-A INPUT -p tcp -m multiport --dports 80,443,8000:8010 -j ACCEPT\nCOMMIT\n";
    let translation = translate(&Input {
        v6: Some(File {
            name: "rules.v6",
            text: v6,
        }),
        sets: Some(File {
            name: "sets",
            text: sets,
        }),
        ..input(text)
    })
    .unwrap();
    insta::assert_snapshot!(translation.text);
    let report: Vec<_> = translation
        .remarks
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!(report.join("\n"));
    Tried::new(&translation);
}

#[test]
fn what_multiplies_without_end_is_refused() {
    // Each chain leads to the next one twice.
    let rules: String = (0..16)
        .map(|number| {
            let next = number + 1;
            format!("-A own{number} -j own{next}\n-A own{number} -j own{next}\n")
        })
        .collect();
    let end = "-A own16 -d 10.0.0.1/32 -j ACCEPT\n";
    let text = ruleset("DROP", &format!("-A INPUT -j own0\n{rules}{end}"));
    let error = translate(&input(&text)).unwrap_err();
    assert!(error.to_string().contains("chain INPUT"), "{error}");
    let loops = ruleset("DROP", "-A INPUT -j own\n-A own -j own\n");
    assert!(translate(&input(&loops)).is_ok());
    assert!(matches!(
        translate(&input("-P INPUT DROP\n")),
        Err(ImportError::NoFilter { .. })
    ));
}
