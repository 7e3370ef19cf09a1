//! `fwctl ban`, `unban` and `bans`.
//!
//! Bans are made in the pinned map, so that they hold before the command ends; no agent is asked. What it needs to know of who may not be banned
//! it finds out by itself ([`crate::bans::protected`]).

mod shown;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use super::{Outcome, Place, duration};
use crate::bans::protected::{Asker, Protected, Tree};
use crate::bans::record::{Length, Now, Record, Word, clean, net};
use crate::bans::{Desk, Which, json};
use crate::datapath::counters;

/// On whose account bans are that nobody gives a name.
const SELF: &str = "fwctl";

/// Seconds of a ban unless told otherwise.
const HOUR: Length = Length::Seconds(3600);

#[derive(Debug, clap::Args)]
pub(super) struct Ban {
    /// Addresses or networks, such as 192.0.2.7 or 2001:db8::/32.
    #[arg(required_unless_present = "file")]
    addresses: Vec<String>,
    /// Also those of a file, one per line ("-": standard input); `#` begins a remark.
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// How long: such as 1h or 2d, a number of seconds, `boot` (until the machine restarts), or `forever` [default: 1h].
    #[arg(long = "for", value_name = "TIME", value_parser = length, allow_hyphen_values = true)]
    length: Option<Length>,
    /// Why, for those who read `fwctl bans` and the agent's log.
    #[arg(long, default_value = "")]
    reason: String,
    /// On whose account: `fwctl unban --by NAME` lifts them together.
    #[arg(long, value_name = "NAME", default_value = SELF)]
    by: String,
    /// Ban whoever it is.
    #[arg(long)]
    force: bool,
    /// For programs that have seen an attack: an open connection to port 22 or 8006, which attackers have too, is no reason to refuse.
    #[arg(long)]
    automatic: bool,
    /// Print only what was refused.
    #[arg(long, short)]
    quiet: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Unban {
    /// Addresses or networks, as they were banned.
    addresses: Vec<String>,
    /// Also those of a file, one per line ("-": standard input).
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Only bans on this account; without addresses all of them.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Every ban.
    #[arg(long, conflicts_with_all = ["addresses", "file", "by"])]
    all: bool,
    /// Print nothing, and take what is not banned for lifted.
    #[arg(long, short)]
    quiet: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Bans {
    /// Only those on this account.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// A length of time, also as other programs give it: in seconds, a negative one for no end.
fn length(text: &str) -> Result<Length> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(u64::try_from(seconds).map_or(Length::Word(Word::Forever), Length::Seconds));
    }
    match text {
        "forever" => Ok(Length::Word(Word::Forever)),
        "boot" => Ok(Length::Word(Word::Boot)),
        _ => Ok(Length::Seconds(duration::seconds(text)?)),
    }
}

/// Prefixes from the command line and a file; what is none is said, and how many there were of that.
fn prefixes(addresses: &[String], file: Option<&Path>) -> Result<(Vec<IpNet>, usize)> {
    let mut found = Vec::new();
    let mut wrong = 0;
    for address in addresses {
        found.push(net(address)?);
    }
    if let Some(file) = file {
        let name = file.display();
        let lines = match file.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin().lock()),
            false => std::fs::read_to_string(file),
        };
        let lines = lines.with_context(|| format!("cannot read {name}"))?;
        for (number, line) in lines.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            match net(line) {
                Ok(net) => found.push(net),
                Err(error) => {
                    wrong += 1;
                    eprintln!("{name}:{}: {error}; it is left out", number + 1);
                }
            }
        }
    }
    Ok((found, wrong))
}

impl Place {
    /// Who is not banned.
    pub(super) fn protected(&self, asker: Asker) -> Result<Protected> {
        let tree = Tree {
            root: self.root.clone(),
            // Without a tree there is no node in it, either; bans are made all the same.
            node: self.node_name().unwrap_or_default(),
            state_directory: self.state_dir.clone(),
        };
        let (protected, remark) = Protected::gather(&tree, asker)?;
        if let Some(remark) = remark {
            eprintln!("fwctl: {remark}");
        }
        Ok(protected)
    }

    /// Where bans are made.
    pub(super) fn desk(&self) -> Desk {
        Desk::new(&self.pin_dir, &self.state_dir)
    }

    /// Says it if bans that are made are not enforced; whether they are.
    pub(super) fn enforces(&self, loaded: bool) -> bool {
        if !loaded {
            eprintln!(
                "fwctl: the firewall is not loaded: bans are noted, and enforced once the agent runs"
            );
            return false;
        }
        let record = self.run_directory().read().ok().flatten();
        if record.is_some_and(|record| !record.enabled) {
            eprintln!("fwctl: the cluster's firewall is off: bans are enforced once it is on");
            return false;
        }
        true
    }
}

fn print(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

pub(super) fn ban(place: &Place, arguments: &Ban) -> Result<Outcome> {
    let (nets, wrong) = prefixes(&arguments.addresses, arguments.file.as_deref())?;
    let asker = match arguments.automatic {
        true => Asker::Program,
        false => Asker::Person,
    };
    let (nets, refused) = match arguments.force {
        true => (nets, Vec::new()),
        false => place.protected(asker)?.sift(nets),
    };
    let by = clean(&arguments.by);
    if by.is_empty() {
        bail!("--by needs a name");
    }
    let length = arguments.length.unwrap_or(HOUR);
    let now = Now::read();
    let records: Vec<Record> = nets
        .into_iter()
        .map(|net| Record::new(net, &by, &arguments.reason, length, now))
        .collect();
    let in_force = place.enforces(place.desk().ban(&records)?);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if arguments.json {
        print(&mut out, &json::banned(&records, &refused, in_force))?;
    } else if !arguments.quiet {
        shown::banned(&mut out, &records)?;
    }
    out.flush()?;
    if !arguments.json {
        for refusal in &refused {
            eprintln!("fwctl: {refusal}");
        }
        if !refused.is_empty() && asker == Asker::Person {
            eprintln!("fwctl: --force bans them all the same");
        }
    }
    Ok(match refused.is_empty() && wrong == 0 && in_force {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}

pub(super) fn unban(place: &Place, arguments: &Unban) -> Result<Outcome> {
    let (nets, wrong) = prefixes(&arguments.addresses, arguments.file.as_deref())?;
    let by = arguments.by.as_deref().map(clean);
    let which = match (arguments.all, by) {
        (true, _) => Which::All,
        (false, Some(by)) if arguments.addresses.is_empty() && arguments.file.is_none() => {
            Which::By(by)
        }
        (false, by) if !arguments.addresses.is_empty() || arguments.file.is_some() => {
            Which::Nets(nets, by)
        }
        (false, _) => bail!("say whose ban: addresses, --by or --all"),
    };
    let mut done = place.desk().lift(&which)?;
    if arguments.quiet {
        done.missing.clear();
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if arguments.json {
        print(&mut out, &json::lifted(&done))?;
    } else if !arguments.quiet {
        shown::lifted(&mut out, &done)?;
    }
    out.flush()?;
    Ok(match done.missing.is_empty() && wrong == 0 {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}

pub(super) fn bans(place: &Place, arguments: &Bans) -> Result<Outcome> {
    let (mut bans, loaded) = place.desk().list()?;
    if let Some(by) = &arguments.by {
        bans.retain(|ban| ban.record.as_ref().is_some_and(|record| record.by == *by));
    }
    let dropped = match loaded {
        true => Some(counters::dropped(
            &place.pins()?,
            fw_common::verdict::Reason::Ban,
        )?),
        false => None,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match arguments.json {
        true => print(&mut out, &json::list(&bans, dropped))?,
        false => shown::list(&mut out, &bans, dropped)?,
    }
    out.flush()?;
    Ok(match place.enforces(loaded) {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_bans() {
        for (text, expect) in [
            ("1h", Length::Seconds(3600)),
            ("600", Length::Seconds(600)),
            ("-1", Length::Word(Word::Forever)),
            ("forever", Length::Word(Word::Forever)),
            ("boot", Length::Word(Word::Boot)),
        ] {
            assert_eq!(length(text).ok(), Some(expect), "{text}");
        }
        assert!(length("for ever").is_err() && length("").is_err() && length("-1h").is_err());
    }

    #[test]
    fn files_of_prefixes() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("list");
        std::fs::write(
            &file,
            "# all\n192.0.2.7 # one\n\n nonsense\n2001:db8::/32\n",
        )
        .unwrap();
        let (nets, wrong) = prefixes(&["10.0.0.1".into()], Some(&file)).unwrap();
        let nets: Vec<String> = nets.into_iter().map(crate::bans::record::shown).collect();
        assert_eq!(
            (nets, wrong),
            (
                vec![
                    "10.0.0.1".into(),
                    "192.0.2.7".into(),
                    "2001:db8::/32".into()
                ],
                1
            )
        );
        assert!(prefixes(&["nonsense".into()], None).is_err());
    }
}
