//! Numbers for Prometheus: what they say, that promtool likes them, and that the dashboard asks for nothing else.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fw_agent::control::socket;
use fw_common::maps::capacity;
use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::installed::installed;
use tapwall_tests::node::DemoNode;
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::{ConfigTree, temporary_directory};

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n\n[RULES]\nIN ACCEPT -p tcp -dport 80\nIN ACCEPT -p nonsense\n";

/// The body of an answer that is well.
fn get(mut stream: impl Read + Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    body.to_owned()
}

fn page(agent: &Agent) -> String {
    let stream = UnixStream::connect(socket(agent.run_directory())).unwrap();
    get(stream, "/v1/metrics")
}

/// Values by name with labels.
fn values(page: &str) -> BTreeMap<&str, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

struct Scene {
    // Dropped first: it ends while its node is still there.
    agent: Agent,
    node: DemoNode,
    tree: ConfigTree,
}

/// A node with an agent under these settings, which has let one connection pass and another not.
fn scene(settings: &str) -> Scene {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let place = temporary_directory("metrics").unwrap();
    let config = place.path().join("agent.toml");
    fs::write(&config, settings).unwrap();
    let agent = Agent::spawn_adjusted(&node.host.namespace, &tree, |command| {
        command.arg("--config").arg(&config);
    })
    .unwrap();
    let start = Duration::from_secs(60);
    agent.wait_for(start, "its first record", |_| true).unwrap();
    agent.wait_attached("tap100i0", None).unwrap();
    let _server = TcpServer::start(&node.vm.namespace, node.vm.v4_port(80)).unwrap();
    let outside = &node.outside;
    let tcp = |port| {
        connect(
            &outside.namespace,
            outside.v4(),
            node.vm.v4_port(port),
            TIMEOUT,
        )
    };
    assert_eq!((tcp(80), tcp(81)), (Answered, Silent), "{}", agent.stderr());
    Scene { agent, node, tree }
}

#[test]
fn what_passed_and_what_did_not_is_told_by_guest_and_reason() {
    let scene = scene("[metrics]\nrules = 2\n");
    let page = page(&scene.agent);
    let values = values(&page);
    let value = |name: &str| {
        *values
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    let of_vm = |verdict| {
        value(&format!(
            "tapwall_packets_total{{direction=\"in\",guest=\"100\",nic=\"net0\",verdict=\"{verdict}\"}}"
        ))
    };
    assert!(of_vm("accept") >= 3.0 && of_vm("drop") >= 1.0, "{page}");
    assert!(value("tapwall_reason_packets_total{reason=\"policy\"}") >= 1.0);
    assert!(value("tapwall_reason_packets_total{reason=\"established\"}") >= 1.0);
    assert_eq!(value("tapwall_reason_packets_total{reason=\"ban\"}"), 0.0);
    assert!(value("tapwall_map_entries{map=\"PORTS\"}") >= 2.0);
    let entries = capacity::entries(capacity::FLOWS);
    assert_eq!(
        value("tapwall_map_max_entries{map=\"FLOWS\"}"),
        f64::from(entries)
    );
    assert!(value("tapwall_map_entries{map=\"ARENA\"}") > 10.0);
    let flows = values
        .iter()
        .filter(|(name, _)| name.starts_with("tapwall_flows{") && name.contains("\"established\""));
    let states: Vec<(&&str, &f64)> = flows.collect();
    assert!(states.iter().any(|(_, count)| **count >= 1.0), "{page}");
    let is_lower = |name: &str| !name.contains(|c: char| c.is_ascii_uppercase());
    assert!(states.iter().all(|(name, _)| is_lower(name)), "{page}");
    assert_eq!(value("tapwall_enabled"), 1.0);
    assert_eq!(value("tapwall_config_errors"), 1.0);
    assert_eq!(value("tapwall_attached_ports"), 2.0);
    assert_eq!(value("tapwall_scrape_errors"), 0.0);
    assert!(value("tapwall_applied_timestamp_seconds") > 1e9);
    let applies = value("tapwall_apply_duration_seconds_count");
    assert!(
        applies >= 1.0 && applies <= value("tapwall_generation"),
        "{page}"
    );
    let rules = values
        .keys()
        .filter(|name| name.starts_with("tapwall_rule_packets_total"));
    assert!(matches!(rules.count(), 1 | 2), "{page}");
    assert!(page.contains("tapwall_build_info{abi="));
}

#[test]
fn an_agent_that_hangs_is_told_of_and_the_endpoint_is_where_the_settings_say() {
    let scene = scene("[metrics]\naddress = \"127.0.0.1:9099\"\n");
    let agent = &scene.agent;
    agent.wait_said("serving metrics").unwrap();
    let host = &scene.node.host.namespace;
    let page = host
        .run(|| Ok(get(TcpStream::connect("127.0.0.1:9099")?, "/metrics")))
        .unwrap();
    assert!(page.contains("tapwall_enabled 1"), "{page}");
    assert!(
        !page.contains("tapwall_rule_packets_total"),
        "rules are off unless they are asked for"
    );
    let elsewhere = host.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9099")?;
        stream.write_all(b"POST /v1/reload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    assert!(elsewhere.unwrap().starts_with("HTTP/1.1 404"));
    // A file that is never read to its end stands for a cluster file system that hangs.
    let pipe = scene.tree.path().join("firewall/101.fw");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let hold = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    let began = Instant::now();
    assert!(self::page(agent).contains("tapwall_generation "));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "the loop was waited for"
    );
    fs::remove_file(&pipe).unwrap();
    drop(hold);
}

/// A program of Prometheus's.
fn prometheus(name: &str) -> PathBuf {
    installed("prometheus", name).unwrap()
}

#[test]
fn prometheus_s_promtool_has_nothing_to_say() {
    let scene = scene("[metrics]\nrules = 100\n");
    let mut child = Command::new(prometheus("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let page = page(&scene.agent);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn prometheus_scrapes_and_answers_what_the_dashboard_asks() {
    let scene = scene("[metrics]\naddress = \"127.0.0.1:9099\"\nrules = 5\n");
    scene.agent.wait_said("serving metrics").unwrap();
    let place = temporary_directory("prometheus").unwrap();
    let config = place.path().join("prometheus.yml");
    let text = "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: tapwall\n  static_configs:\n  - targets: ['127.0.0.1:9099']\n";
    fs::write(&config, text).unwrap();
    let inside = |program: &str| {
        let mut command = Command::new("nsenter");
        let namespace = scene.node.host.namespace.path();
        command
            .arg(format!("--net={}", namespace.display()))
            .arg(prometheus(program));
        command
    };
    let log = fs::File::create(place.path().join("log")).unwrap();
    let child = inside("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            place.path().join("data").display()
        ))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let _server = Server(child.unwrap());
    let ask = |expression: &str| {
        let output = inside("promtool")
            .args(["query", "instant", "http://127.0.0.1:9090", expression])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.success() {
            true => Ok(text),
            false => Err(error),
        }
    };
    let wanted = "tapwall_packets_total{guest=\"100\",verdict=\"drop\",direction=\"in\"} >= 1";
    let end = Instant::now() + patience(Duration::from_secs(60));
    loop {
        let said = ask(wanted);
        if let Ok(text) = &said
            && text.contains("nic=\"net0\"")
        {
            break;
        }
        let log = || fs::read_to_string(place.path().join("log")).unwrap();
        assert!(Instant::now() < end, "{said:?}\n{}", log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let up = ask("up{job=\"tapwall\"} == 1").unwrap();
    assert!(up.contains("127.0.0.1:9099"), "{up}");
    for expression in expressions() {
        let filled = expression
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*");
        assert!(!filled.contains('$'), "{filled}");
        let said = ask(&filled);
        assert!(said.is_ok(), "{filled}: {said:?}");
    }
}

fn dashboard() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana/tapwall.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// What its panels ask for.
fn expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// Names of our metrics in a text.
fn names(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c));
    words.filter(|word| word.starts_with("tapwall_")).collect()
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let scene = scene("[metrics]\nrules = 1\n");
    let page = page(&scene.agent);
    let known: Vec<&str> = values(&page)
        .into_keys()
        .map(|name| name.split('{').next().unwrap())
        .collect();
    let expressions = expressions();
    let mut asked = Vec::new();
    for expression in &expressions {
        let names = names(expression);
        assert!(!names.is_empty(), "{expression}");
        asked.extend(names);
    }
    let variables = dashboard()["templating"].to_string();
    asked.extend(names(&variables));
    for name in asked {
        assert!(known.contains(&name), "nothing is called {name}");
    }
}
