//! `cargo xtask dist --check`: the Debian package on a machine: installed, upgraded, removed, purged.
//!
//! The machine is this one's Debian with a systemd of its own ([`Booted`]), its network that of a [`DemoNode`], so real packets tell what is in force.
//!
//! 1. Without Proxmox's firewall: the installation starts the unit; an upgrade restarts the agent, while datagrams that the policy accepts go on and none that it
//!    forbids arrives; a unit that is stopped stays so; removal opens; purge leaves nothing but what the administrator wrote. 2. With it: the installation leaves it
//!    running and Tapwall stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tapwall_tests::booted::Booted;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{Answer, TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::{ConfigTree, temporary_directory};
use tapwall_tests::vigil::{Asking, Flow, Knocking};

const UNIT: &str = "tapwall.service";

/// Ports of datagrams: accepted, and forbidden.
const ACCEPTED: u16 = 7003;
const FORBIDDEN: u16 = 7002;

/// Time between two datagrams.
const PACE: Duration = Duration::from_millis(5);

/// The policy of the guest.
const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\nlog_level_in: info\n\n[RULES]\nIN ACCEPT -p tcp -dport 80\nIN ACCEPT -p udp -dport 7003\n";

#[derive(Parser)]
#[command(
    about = "Installs, upgrades, removes and purges the Debian package on a machine in namespaces"
)]
struct Arguments {
    /// The package
    old: PathBuf,
    /// Its next version
    new: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let node = DemoNode::new()?;
    let tree = ConfigTree::with_demo_guests()?;
    tree.write_firewall(100, RULES)?;
    let _servers = [80, 81]
        .map(|port| TcpServer::start(&node.vm.namespace, node.vm.v4_port(port)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let over = temporary_directory("packages")?;
    for (package, name) in [(&arguments.old, "old.deb"), (&arguments.new, "new.deb")] {
        fs::copy(package, over.path().join(name))
            .with_context(|| format!("copying {}", package.display()))?;
    }
    let settings = over
        .path()
        .join("etc/systemd/system/tapwall.service.d/node.conf");
    write(
        &settings,
        "[Service]\nExecStart=\nExecStart=/usr/sbin/fw-agent --node demo\n",
    )?;
    alone(&node, &tree, over.path())?;
    // A firewall of the same node, as far as systemd and dpkg's scripts can tell.
    let other = over.path().join("etc/systemd/system/pve-firewall.service");
    write(
        &other,
        "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
    )?;
    beside_another(&node, &tree, over.path())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().context("the file has a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What dpkg says; it may ask nothing.
fn dpkg(machine: &Booted, words: &[&str]) -> Result<String> {
    let command = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "dpkg",
        "--force-confold",
    ];
    machine.insist(&[&command, words].concat())
}

fn boot(node: &DemoNode, tree: &ConfigTree, over: &Path) -> Result<Booted> {
    let machine = Booted::start(&node.host.namespace, over, Some(tree.path()))?;
    machine.context("this needs a machine that lets systemd boot in namespaces")
}

fn tcp(node: &DemoNode, port: u16) -> Answer {
    let outside = &node.outside;
    connect(
        &outside.namespace,
        outside.v4(),
        node.vm.v4_port(port),
        TIMEOUT,
    )
}

fn expect(what: &str, node: &DemoNode, answers: [Answer; 2]) -> Result<()> {
    let seen = [tcp(node, 80), tcp(node, 81)];
    ensure!(
        seen == answers,
        "{what}: ports 80 and 81: {seen:?}, not {answers:?}"
    );
    println!("{what}: port 80 {:?}, port 81 {:?}", seen[0], seen[1]);
    Ok(())
}

fn is(machine: &Booted, state: &str, enabled: &str) -> Result<()> {
    let seen = machine.property(UNIT, "ActiveState")?;
    ensure!(
        seen == state,
        "the unit is {seen}, not {state}; {}",
        machine.journal()
    );
    let seen = machine.property(UNIT, "UnitFileState")?;
    ensure!(seen == enabled, "the unit is {seen}, not {enabled}");
    Ok(())
}

fn alone(node: &DemoNode, tree: &ConfigTree, over: &Path) -> Result<()> {
    let machine = boot(node, tree, over)?;
    dpkg(&machine, &["--install", "/old.deb"])?;
    is(&machine, "active", "enabled")?;
    expect("installed", node, [Answered, Silent])?;
    machine.insist(&["fwctl", "check"])?;
    machine.insist(&["logrotate", "--debug", "/etc/logrotate.d/tapwall"])?;
    let page = machine.insist(&["sh", "-c", "zcat /usr/share/man/man8/fwctl-rules.8.gz"])?;
    ensure!(page.contains(".TH"), "no manual page: {page}");

    let before = machine.property(UNIT, "MainPID")?;
    machine.insist(&["sh", "-c", "echo '# mine' >> /etc/tapwall/agent.toml"])?;
    let asking = Asking::start(&node.outside, &node.vm, ACCEPTED, Flow::New, PACE)?;
    let knocking = Knocking::start(&node.outside, &node.vm, FORBIDDEN, PACE)?;
    dpkg(&machine, &["--install", "/new.deb"])?;
    is(&machine, "active", "enabled")?;
    let after = machine.property(UNIT, "MainPID")?;
    ensure!(
        before != after,
        "the agent of before the upgrade still runs"
    );
    let version =
        machine.insist(&["dpkg-query", "--show", "--showformat=${Version}", "tapwall"])?;
    ensure!(version.ends_with("-2"), "installed is {version}");
    let (asked, knocked) = (asking.tally(), knocking.tally());
    println!("during the upgrade: accepted {asked:?}, forbidden {knocked:?}");
    ensure!(asked.sent > 0 && asked.lost == 0, "lost: {asked:?}");
    ensure!(
        knocked.sent > 0 && knocked.arrived == 0,
        "passed: {knocked:?}"
    );
    drop((asking, knocking));
    expect("upgraded", node, [Answered, Silent])?;
    let settings = fs::read_to_string(machine.file("/etc/tapwall/agent.toml"))
        .context("reading the settings")?;
    ensure!(settings.ends_with("# mine\n"), "the settings are not kept");

    machine.insist(&["systemctl", "stop", UNIT])?;
    dpkg(&machine, &["--install", "/old.deb"])?;
    is(&machine, "inactive", "enabled")?;
    expect("another version while stopped", node, [Answered, Silent])?;
    machine.insist(&["systemctl", "start", UNIT])?;

    let said = dpkg(&machine, &["--remove", "tapwall"])?;
    ensure!(
        said.contains("nothing is filtered"),
        "it does not say: {said}"
    );
    expect("removed", node, [Answered, Answered])?;
    ensure!(
        !machine.file("/sys/fs/bpf/tapwall").exists(),
        "pins are left"
    );
    machine.insist(&["test", "-e", "/etc/tapwall/agent.toml"])?;
    machine.insist(&[
        "sh",
        "-c",
        "mkdir /etc/tapwall/firewall && echo '[OPTIONS]' > /etc/tapwall/firewall/host.fw",
    ])?;
    dpkg(&machine, &["--purge", "tapwall"])?;
    let left = machine.insist(&[
        "find",
        "/etc/tapwall",
        "/etc/logrotate.d",
        "/var/lib",
        "/var/log",
        "/run",
        "/usr",
        "/etc/systemd",
        "-xdev",
        "(",
        "-path",
        "/run/systemd/*",
        "-o",
        "-path",
        "*/tapwall.service.d*",
        ")",
        "-prune",
        "-o",
        "(",
        "-name",
        "*tapwall*",
        "-o",
        "-name",
        "pve-firewall.log*",
        ")",
        "-print",
    ])?;
    // Of these, the first holds what the administrator wrote.
    ensure!(
        left.trim() == "/etc/tapwall",
        "left after the purge: {left}"
    );
    machine.insist(&["test", "-s", "/etc/tapwall/firewall/host.fw"])?;
    println!("purged: nothing is left but the rules of the administrator");
    Ok(())
}

fn beside_another(node: &DemoNode, tree: &ConfigTree, over: &Path) -> Result<()> {
    const OTHER: &str = "pve-firewall.service";
    let machine = boot(node, tree, over)?;
    machine.insist(&["systemctl", "enable", "--now", OTHER])?;
    let said = dpkg(&machine, &["--install", "/old.deb"])?;
    ensure!(
        said.contains("neither enabled nor started"),
        "it does not say: {said}"
    );
    is(&machine, "inactive", "disabled")?;
    dpkg(&machine, &["--install", "/new.deb"])?;
    is(&machine, "inactive", "disabled")?;
    let state = machine.property(OTHER, "ActiveState")?;
    ensure!(state == "active", "the other firewall is {state}");
    println!("beside pve-firewall: that runs on, Tapwall is not started");
    // As README.Debian says.
    machine.insist(&["systemctl", "disable", "--now", OTHER])?;
    machine.insist(&["systemctl", "enable", "--now", UNIT])?;
    is(&machine, "active", "enabled")?;
    expect("changed over", node, [Answered, Silent])?;
    machine.insist(&["systemctl", "disable", UNIT])?;
    machine.insist(&["fwctl", "stop"])?;
    machine.insist(&["systemctl", "enable", "--now", OTHER])?;
    expect("changed back", node, [Answered, Answered])?;
    dpkg(&machine, &["--purge", "tapwall"])?;
    let state = machine.property(OTHER, "ActiveState")?;
    ensure!(state == "active", "the other firewall is {state}");
    Ok(())
}
