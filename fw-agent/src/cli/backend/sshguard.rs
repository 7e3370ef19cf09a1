//! sshguard's side: commands on standard input, one per line.
//!
//! | line | does |
//! |---|---|
//! | `block ADDRESS KIND LENGTH` | bans a prefix (KIND is 4 or 6) until sshguard releases it, or the machine restarts |
//! | `release ADDRESS KIND LENGTH` | lifts it |
//! | `flush` | lifts all |
//! | `flushonexit` | lifts all when standard input or the program ends |
//!
//! A line that is something else is said and left out: to end because of it would leave the machine without a backend.

use std::io::BufRead;
use std::str::FromStr;

use anyhow::Result;
use ipnet::IpNet;
use tokio::sync::mpsc;

use super::super::{Outcome, Place};
use super::{Ending, ban, runtime};
use crate::bans::record::{Length, Now, Record, Word, net};
use crate::bans::{Desk, Which};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The account of its bans.
    #[arg(long, value_name = "NAME", default_value = "sshguard")]
    by: String,
}

const REASON: &str = "attacks that sshguard saw";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Block(IpNet),
    Release(IpNet),
    Flush,
    FlushOnExit,
}

/// The line is no command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no command of sshguard's; it is left out")]
struct NotACommand(String);

impl FromStr for Command {
    type Err = NotACommand;

    fn from_str(line: &str) -> Result<Self, NotACommand> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let prefix = |address: &str, kind: &str, length: &str| {
            let net = net(&format!("{address}/{length}")).ok()?;
            let fits = match kind {
                "4" => matches!(net, IpNet::V4(_)),
                // An IPv4 address may be written as one of IPv6.
                "6" => true,
                _ => false,
            };
            fits.then_some(net)
        };
        let command = match words.as_slice() {
            ["block", address, kind, length] => prefix(address, kind, length).map(Self::Block),
            ["release", address, kind, length] => prefix(address, kind, length).map(Self::Release),
            ["flush"] => Some(Self::Flush),
            ["flushonexit"] => Some(Self::FlushOnExit),
            _ => None,
        };
        command.ok_or_else(|| NotACommand(line.to_owned()))
    }
}

pub(in crate::cli) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let runtime = runtime()?;
    let mut ending = Ending::listen(&runtime)?;
    let mut desk = place.desk();
    let own = Which::By(arguments.by.clone());
    desk.lift(&own)?;
    let (sender, mut lines) = mpsc::unbounded_channel();
    // Ends with the program: nothing wakes a thread that reads.
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines();
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut flush_on_exit = false;
    loop {
        let mut commands = Vec::new();
        let count = runtime.block_on(async {
            let mut taken = Vec::new();
            tokio::select! {
                biased;
                _ = lines.recv_many(&mut taken, 4096) => {}
                () = ending.comes() => {}
            }
            for line in &taken {
                match line.parse() {
                    Ok(command) => commands.push(command),
                    Err(error) => eprintln!("fwctl: {error}"),
                }
            }
            taken.len()
        });
        if count == 0 {
            break;
        }
        for alike in
            commands.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b))
        {
            flush_on_exit |= alike.contains(&Command::FlushOnExit);
            if let Err(error) = carry_out(place, &mut desk, alike, arguments) {
                eprintln!("fwctl: {error:#}");
            }
        }
    }
    if flush_on_exit {
        desk.lift(&own)?;
    }
    Ok(Outcome::Done)
}

/// Carries out commands of one kind, at once.
fn carry_out(
    place: &Place,
    desk: &mut Desk,
    alike: &[Command],
    arguments: &Arguments,
) -> Result<()> {
    let now = Now::read();
    let mut records = Vec::new();
    let mut released = Vec::new();
    for command in alike {
        match command {
            Command::Block(net) => {
                let boot = Length::Word(Word::Boot);
                records.push(Record::new(*net, &arguments.by, REASON, boot, now));
            }
            Command::Release(net) => released.push(*net),
            Command::Flush => {
                desk.lift(&Which::By(arguments.by.clone()))?;
            }
            Command::FlushOnExit => {}
        }
    }
    ban(place, desk, records)?;
    if !released.is_empty() {
        desk.lift(&Which::Nets(released, Some(arguments.by.clone())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let net = |text: &str| net(text).unwrap();
        for (line, expect) in [
            ("block 192.0.2.7 4 32", Command::Block(net("192.0.2.7"))),
            ("block 192.0.2.7 4 24", Command::Block(net("192.0.2.0/24"))),
            (
                "release 2001:db8::7 6 128",
                Command::Release(net("2001:db8::7")),
            ),
            (
                "block 2001:db8::7 6 64 ",
                Command::Block(net("2001:db8::/64")),
            ),
            ("flush", Command::Flush),
            ("flushonexit", Command::FlushOnExit),
        ] {
            assert_eq!(line.parse(), Ok(expect), "{line}");
        }
        for line in [
            "",
            "block",
            "block 192.0.2.7",
            "block 192.0.2.7 4 33",
            "block 192.0.2.7 4 -1",
            "block 2001:db8::7 4 64",
            "block host.example.net 4 32",
            "block 192.0.2.7 4 32 32",
            "unblock 192.0.2.7 4 32",
        ] {
            assert!(line.parse::<Command>().is_err(), "{line}");
        }
    }
}
