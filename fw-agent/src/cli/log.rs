//! `fwctl log`: the firewall's log, with the filters of the live verbs.
//!
//! In: the log file in Proxmox's form, by its fields (`events::line`), or the log for programs, an object per line (`events::json`). Out: of the first the
//! lines that are wanted, as they are; of the second lines as of `fwctl drops`. With `--follow` what is written is shown as it comes, also into a
//! file that took the old one's place or was cut.
//!
//! Proxmox's form has no reason, and none is guessed from chains: `--reason` needs the log for programs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fw_common::maps::{HOST_VMID, PortKey};
use fw_common::verdict::Reason;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::conntrack::{network, protocol};
use super::live::reason;
use super::scope::Scope;
use super::{Outcome, Place, colours};
use crate::config::registry;
use crate::live::{self, Filter};

/// Time between two looks at the file.
const TURN: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Show lines as they are written, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Lines of the past to show.
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    /// Of the host, a guest such as `100`, or one of its NICs such as `100/net0`.
    #[arg(long, short)]
    guest: Option<Scope>,
    /// With this address or network at either end.
    #[arg(long, short, value_parser = network)]
    address: Option<IpNet>,
    /// With this port at either end.
    #[arg(long, short)]
    port: Option<u16>,
    /// Of this protocol, by name or number.
    #[arg(long, value_parser = protocol)]
    proto: Option<u8>,
    /// For this reason. Only the log for programs has reasons (`json` under `[log]` in agent.toml): that is read then.
    #[arg(long, short, value_parser = reason())]
    reason: Option<Reason>,
    /// The log, in either form [default: that of the agent's settings].
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print as JSON: an object per line, with the line and its fields, or that of the log for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let path = match (&arguments.file, arguments.reason, &place.log_json) {
        (Some(file), _, _) | (None, Some(_), Some(file)) => file,
        (None, None, _) => &place.log_file,
        (None, Some(_), None) => bail!(
            "the log in {} has no reasons: set `json` under [log] in agent.toml, and those of what is logged from then on are kept; `fwctl drops -f --reason` shows what is dropped now",
            place.log_file.display()
        ),
    };
    let failed = || format!("cannot read {}", path.display());
    let mut tail = match Tail::open(path) {
        Ok(tail) => Some(tail),
        // It comes with the first line.
        Err(error) if error.kind() == ErrorKind::NotFound && arguments.follow => None,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "cannot read {}: there is no such file, for nothing was logged yet (rules log with `-log info`, policies with log_level_in and log_level_out), or the agent writes elsewhere (--file)",
            path.display()
        ),
        Err(error) => return Err(error).with_context(failed),
    };
    let mut past = Vec::new();
    if let Some(tail) = &mut tail {
        while let Some(line) = tail.next().with_context(failed)? {
            if arguments.holds(&line) {
                past.push(line);
                if past.len() > 2 * arguments.lines.max(1024) {
                    past.drain(..past.len() - arguments.lines);
                }
            }
        }
    }
    let mut out = io::stdout().lock();
    for line in past.iter().skip(past.len().saturating_sub(arguments.lines)) {
        arguments.print(&mut out, line)?;
    }
    out.flush()?;
    if !arguments.follow {
        return Ok(Outcome::Done);
    }
    loop {
        std::thread::sleep(TURN);
        let is_other = tail.as_ref().is_none_or(|tail| tail.is_replaced(path));
        if let Some(tail) = &mut tail {
            while let Some(line) = tail.next().with_context(failed)? {
                if arguments.holds(&line) {
                    arguments.print(&mut out, &line)?;
                }
            }
        }
        if is_other {
            match Tail::open(path) {
                Ok(new) => tail = Some(new),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(failed),
            }
        }
        out.flush()?;
    }
}

impl Arguments {
    fn holds(&self, line: &str) -> bool {
        if let Some(packet) = object(line) {
            return self.holds_object(&packet);
        }
        let fields = Fields::of(line);
        let address = |key| fields.get(key)?.parse::<IpAddr>().ok();
        let port = |key| fields.get(key)?.parse::<u16>().ok();
        self.reason.is_none()
            && self.guest.is_none_or(|guest| fields.is_of(guest))
            && self.address.is_none_or(|net| {
                let ends = [address("SRC"), address("DST")];
                ends.iter().flatten().any(|end| net.contains(end))
            })
            && self
                .port
                .is_none_or(|wanted| [port("SPT"), port("DPT")].contains(&Some(wanted)))
            && self
                .proto
                .is_none_or(|wanted| fields.protocol() == Some(wanted))
    }

    fn holds_object(&self, packet: &Value) -> bool {
        let filter = Filter {
            address: self.address,
            port: self.port,
            protocol: self.proto,
        };
        let number = |key: &str| packet[key].as_u64();
        let vmid = number("guest").map_or(Some(HOST_VMID), |vmid| vmid.try_into().ok());
        let net = number("nic").map_or(Some(0), |net| net.try_into().ok());
        let (Some(vmid), Some(net)) = (vmid, net) else {
            return false;
        };
        let port = PortKey {
            vmid,
            net,
            reserved: 0,
        };
        // Beginnings and ends of flows, and what the agent says of itself, have no verdict.
        let wanted = match self.guest {
            None => true,
            Some(guest) => packet.get("direction").is_some() && guest.holds(port),
        };
        wanted
            && filter.holds(packet)
            && self
                .reason
                .is_none_or(|reason| packet["reason"] == reason.name())
    }

    fn print(&self, out: &mut impl Write, line: &str) -> io::Result<()> {
        if let Some(packet) = object(line) {
            return match !self.json && packet.get("verdict").is_some() {
                true => writeln!(out, "{}", live::line(&packet, colours())),
                false => writeln!(out, "{line}"),
            };
        }
        if !self.json {
            return writeln!(out, "{line}");
        }
        let fields = Fields::of(line);
        let of = |key| fields.get(key);
        let said = json!({
            "guest": fields.vmid, "chain": fields.chain, "source": of("SRC"), "dest": of("DST"),
            "protocol": of("PROTO"), "sport": of("SPT"), "dport": of("DPT"), "line": line,
        });
        writeln!(out, "{said}")
    }
}

/// A line of the log for programs.
fn object(line: &str) -> Option<Value> {
    let is_object = line.starts_with('{');
    is_object.then(|| serde_json::from_str(line).ok()).flatten()
}

/// The fields of a line: `<vmid> <level> <chain> <time> <zone> <message>KEY=value …`.
struct Fields<'l> {
    vmid: Option<u32>,
    chain: &'l str,
    words: Vec<&'l str>,
}

impl<'l> Fields<'l> {
    fn of(line: &'l str) -> Self {
        let mut words = line.split_ascii_whitespace();
        let vmid = words.next().and_then(|word| word.parse().ok());
        let chain = words.nth(1).unwrap_or_default();
        Self {
            vmid,
            chain,
            words: words.collect(),
        }
    }

    /// The first value under a key: an error quotes another packet behind it.
    fn get(&self, key: &str) -> Option<&'l str> {
        let mut words = self.words.iter();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn protocol(&self) -> Option<u8> {
        let name = self.get("PROTO")?;
        let number = name.parse().ok();
        number.or_else(|| registry::protocol(&name.to_ascii_lowercase()))
    }

    /// Whether the line is of a port. Chains that belong to no guest have its device among the interfaces.
    fn is_of(&self, scope: Scope) -> bool {
        let devices = ["PHYSIN", "PHYSOUT"].map(|key| self.get(key));
        let device = |vmid: u32, net: Option<u16>| {
            let port = devices.iter().flatten();
            let mut ports = port.filter_map(|device| crate::policy::PortId::of_device(device));
            ports.any(|(_, port)| port.vmid == vmid && net.is_none_or(|net| net == port.net))
        };
        match scope {
            Scope::Host => self.vmid == Some(HOST_VMID) && devices == [None, None],
            Scope::Guest(vmid) => self.vmid == Some(vmid) || device(vmid, None),
            Scope::Nic(port) => device(port.vmid, Some(port.net)),
        }
    }
}

/// A file that grows.
struct Tail {
    reader: BufReader<File>,
    inode: u64,
    /// Bytes that were read.
    at: u64,
    /// The beginning of a line that is not whole yet.
    partial: Vec<u8>,
}

impl Tail {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            inode: file.metadata()?.ino(),
            reader: BufReader::new(file),
            at: 0,
            partial: Vec::new(),
        })
    }

    /// The next whole line, if there is one.
    fn next(&mut self) -> io::Result<Option<String>> {
        let read = self.reader.read_until(b'\n', &mut self.partial)?;
        self.at += read as u64;
        if self.partial.last() != Some(&b'\n') {
            if read == 0 && self.reader.get_ref().metadata()?.len() < self.at {
                // Cut: it begins anew.
                self.at = self.reader.seek(SeekFrom::Start(0))?;
                self.partial.clear();
            }
            return Ok(None);
        }
        self.partial.pop();
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        Ok(Some(line))
    }

    /// Whether another file has its name.
    fn is_replaced(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| found.ino() != self.inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "0 6 PVEFW-blacklist 22/Nov/2026:17:00:00 +0000 DROP: IN=vmbr0 OUT=vmbr0 PHYSOUT=tap100i1 MAC=02: SRC=192.0.2.200 DST=192.0.2.100 LEN=60 PROTO=TCP SPT=40000 DPT=22 ";

    #[test]
    fn objects_are_chosen_by_reason_too() {
        use clap::Parser;
        #[derive(clap::Parser)]
        struct Read {
            #[command(flatten)]
            arguments: Arguments,
        }
        let packet = r#"{"time":"2026-01-02T14:03:07.123456+01:00","guest":100,"nic":0,"device":"tap100i0","direction":"in","verdict":"drop","reason":"policy","rule":{"file":"firewall/100.fw","line":3,"text":"policy_in: DROP"},"source":"192.0.2.1","dest":"192.0.2.100","protocol":6,"protocol_name":"tcp","sport":1,"dport":22}"#;
        let status = r#"{"time":"2026-01-02T14:03:07.123456+01:00","level":6,"status":"starting"}"#;
        for (options, line, expect) in [
            (&[][..], packet, true),
            (&[], status, true),
            (&["--reason", "policy", "--guest", "100"], packet, true),
            (&["--reason", "rule"], packet, false),
            (&["--reason", "policy"], status, false),
            (&["--reason", "policy"], LINE, false),
            (&["--guest", "100/net1"], packet, false),
            (&["--guest", "host"], packet, false),
            (&["--guest", "host"], status, false),
            (&["--port", "22", "--proto", "tcp"], packet, true),
            (&["--address", "198.51.100.0/24"], packet, false),
        ] {
            let read = Read::try_parse_from([&["log"], options].concat()).unwrap();
            assert_eq!(read.arguments.holds(line), expect, "{options:?} {line}");
        }
        let read = Read::try_parse_from(["log"]).unwrap();
        let mut out = Vec::new();
        read.arguments.print(&mut out, packet).unwrap();
        read.arguments.print(&mut out, status).unwrap();
        let expect = format!(
            "14:03:07.123456 DROP   100/net0 IN  tcp 192.0.2.1:1 -> 192.0.2.100:22  policy  firewall/100.fw:3: policy_in: DROP\n{status}\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn lines_are_chosen_by_their_fields() {
        let fields = Fields::of(LINE);
        assert_eq!((fields.vmid, fields.chain), (Some(0), "PVEFW-blacklist"));
        assert_eq!(
            (fields.get("DPT"), fields.protocol()),
            (Some("22"), Some(6))
        );
        for (scope, expect) in [
            ("100", true),
            ("100/net1", true),
            ("100/net0", false),
            ("101", false),
            ("host", false),
        ] {
            assert_eq!(fields.is_of(scope.parse().unwrap()), expect, "{scope}");
        }
        assert_eq!(Fields::of("").get("SRC"), None);
    }

    #[test]
    fn a_file_that_grows_is_cut_and_replaced_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        std::fs::write(&path, "one\ntw").unwrap();
        let mut tail = Tail::open(&path).unwrap();
        let mut lines = || {
            let mut found = Vec::new();
            while let Some(line) = tail.next().unwrap() {
                found.push(line);
            }
            (found, tail.is_replaced(&path))
        };
        assert_eq!(lines(), (vec!["one".to_owned()], false));
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(b"o\nthree\n").unwrap();
        assert_eq!(lines().0, ["two", "three"]);
        file.set_len(0).unwrap();
        assert_eq!(lines().0, [""; 0]);
        file.write_all(b"four\n").unwrap();
        assert_eq!(lines().0, ["four"]);
        std::fs::rename(&path, place.path().join("log.1")).unwrap();
        std::fs::write(&path, "five\n").unwrap();
        assert_eq!(lines(), (vec![], true));
    }
}
