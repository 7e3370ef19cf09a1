//! `cargo xtask demo`: a node in network namespaces, the agent on it, real traffic, and what became of it.
//!
//! 1. Build a [`DemoNode`] and write the sample configuration (`sample/`).
//! 2. Start the agent and wait for its first record.
//! 3. Try everything in `attempts`, then edit the configuration while the agent runs, and try again.
//! 4. Print the table, the log's lines, a map and the agent's status; exit 1 if a row is not as expected.
//! 5. Take everything down, or with `--keep` leave it up (`keep`) until `--clean`.

mod attempts;
mod keep;
mod signals;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::tree::ConfigTree;

use crate::attempts::Row;

#[derive(Parser)]
#[command(about = "Runs real traffic through the agent on a node made of network namespaces")]
struct Arguments {
    /// Leave the node and the agent running
    #[arg(long)]
    keep: bool,
    /// Remove what `--keep` left
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
    /// Run and hold the node in this process (what `--keep` starts in the background)
    #[arg(long, hide = true)]
    hold: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.clean {
        keep::clean().map(|()| true)
    } else if arguments.keep {
        keep::start()
    } else {
        demo(arguments.hold)
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every row was as expected.
fn demo(hold: bool) -> Result<bool> {
    signals::catch()?;
    let node = DemoNode::new().context("building the demo node")?;
    let tree = ConfigTree::with_demo_guests()?;
    for (file, text) in [
        ("firewall/cluster.fw", include_str!("sample/cluster.fw")),
        ("firewall/100.fw", include_str!("sample/100.fw")),
        ("firewall/101.fw", include_str!("sample/101.fw")),
    ] {
        tree.write(file, text)?;
    }
    let agent = Agent::start(&node.host.namespace, &tree)?;
    let servers = attempts::serve(&node)?;

    let mut rows = attempts::run(&node, &servers)?;
    let (row, elapsed) = attempts::edit(&node, &tree)?;
    rows.push(row);
    rows.push(attempts::logged(&agent));

    println!("{}", table(&rows));
    let differing = rows.iter().filter(|row| !row.is_expected()).count();
    println!(
        "{} of {} as expected; the edited rule was enforced after {} ms\n",
        rows.len() - differing,
        rows.len(),
        elapsed.as_millis()
    );
    section("the firewall's log", &agent.log());
    show(&agent, &["map", "dump", "PORTS"])?;
    show(&agent, &["status"])?;
    section("bpftool prog show (Tapwall's)", &kernel_programs()?);
    if differing > 0 {
        section("the agent's messages", &agent.stderr());
    }
    if hold {
        keep::hold(&node, &tree, &agent, differing == 0)?;
    }
    Ok(differing == 0)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "",
        "tried",
        "decided by",
        "expected",
        "seen",
        "ok",
    ]);
    for (number, row) in rows.iter().enumerate() {
        let mark = if row.is_expected() { "✓" } else { "✗" };
        table.add_row([
            &(number + 1).to_string(),
            &row.tried,
            row.decided_by,
            &row.expected,
            &row.seen,
            mark,
        ]);
    }
    table
}

fn section(title: &str, text: &str) {
    println!("── {title}\n{}\n", text.trim_end());
}

fn show(agent: &Agent, arguments: &[&str]) -> Result<()> {
    let output = agent.fwctl(arguments)?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    section(&format!("fwctl {}", arguments.join(" ")), &text);
    Ok(())
}

/// What an independent tool says about the programs.
fn kernel_programs() -> Result<String> {
    let output = Command::new("bpftool")
        .args(["prog", "show"])
        .output()
        .context("starting bpftool")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("tapwall"))
        .collect::<Vec<_>>()
        .join("\n"))
}
