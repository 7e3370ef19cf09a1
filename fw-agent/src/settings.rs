//! The agent's own settings: `/etc/tapwall/agent.toml`.
//!
//! In: the text of the file. Out: [`Settings`] and diagnostics. What applies is, in this order: the command line, the file, the default.
//!
//! 1. [`Settings::read`] reads the file; one that does not exist is empty.
//! 2. `Settings::parse` takes each key by itself. A value that cannot be used is an error with its line, and the default stands for it; a key
//!    that nobody knows is a warning. So a typing mistake in one key never keeps the agent from enforcing the firewall.
//! 3. The caller puts what the command line says on top.
//!
//! Every key is described in `packaging/agent.toml`; a test compares the two.

pub mod interfaces;
mod keys;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use self::interfaces::Interfaces;
use self::keys::{KEYS, SECTIONS};
use crate::config::did_you_mean;
use crate::config::node_name;
use crate::datapath::pins;
use crate::diagnostic::{Diagnostic, Severity};
use crate::record::DEFAULT_RUN_DIRECTORY;

/// Where the settings are unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/tapwall/agent.toml";

/// The configuration of the machine itself.
pub const DEFAULT_ROOT: &str = "/etc/pve";

/// The configuration of a plain host, where there is no [`DEFAULT_ROOT`].
pub const PLAIN_ROOT: &str = "/etc/tapwall";

/// Where a plain host's packets are logged unless told otherwise.
pub const PLAIN_LOG: &str = "/var/log/tapwall.log";

/// Where the last good configuration is kept unless told otherwise.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/tapwall";

/// Where packets are logged unless told otherwise.
pub const DEFAULT_LOG: &str = "/var/log/pve-firewall.log";

/// What the agent's own configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The tree of Proxmox's files.
    pub root: PathBuf,
    /// Name of the node in the tree; none if it is to be found out.
    pub node: Option<String>,
    /// Directory on a BPF file system for pins.
    pub pin_directory: PathBuf,
    /// Directory of lock, record and control socket.
    pub run_directory: PathBuf,
    /// Directory of what outlives a boot: the last good configuration.
    pub state_directory: PathBuf,
    /// Interfaces of the host's zone.
    pub interfaces: Interfaces,
    /// The log of packets, in Proxmox's format.
    pub log_file: PathBuf,
    /// The log of packets as JSON lines, if there is to be one.
    pub log_json: Option<PathBuf>,
    /// Flows that were accepted under older rules are judged again.
    pub reevaluate: bool,
    /// Where metrics are served besides the control socket, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Rules that metrics tell of, at the most.
    pub metrics_rules: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: DEFAULT_ROOT.into(),
            node: None,
            pin_directory: pins::DEFAULT.into(),
            run_directory: DEFAULT_RUN_DIRECTORY.into(),
            state_directory: DEFAULT_STATE_DIRECTORY.into(),
            interfaces: Interfaces::default(),
            log_file: DEFAULT_LOG.into(),
            log_json: None,
            reevaluate: false,
            metrics_address: None,
            metrics_rules: 0,
        }
    }
}

impl Settings {
    /// The defaults on this machine: without Proxmox's directory it is a plain host. Proxmox's is there at boot, too, before what belongs in it is.
    fn of_this_machine() -> Self {
        match Path::new(DEFAULT_ROOT).exists() {
            true => Self::default(),
            false => Self {
                root: PLAIN_ROOT.into(),
                log_file: PLAIN_LOG.into(),
                ..Self::default()
            },
        }
    }

    /// Reads the file that the command line `named`, or else the default one, which need not exist.
    ///
    /// # Errors
    /// A file was named and cannot be read.
    pub fn read(named: Option<&Path>) -> std::io::Result<(Self, Vec<Diagnostic>)> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let file = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(Self::parse_on(Self::of_this_machine(), &file, &text))
            }
            Err(error) if named.is_some() => Err(error),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok((Self::of_this_machine(), Vec::new()))
            }
            Err(error) => {
                let found = Diagnostic {
                    file: file.into(),
                    line: 0,
                    column: 0,
                    length: 0,
                    severity: Severity::Error,
                    message: format!("cannot be read: {error}"),
                    effect: "the defaults are used".into(),
                    hint: None,
                };
                Ok((Self::of_this_machine(), vec![found]))
            }
        }
    }

    /// Reads the text of `file`; the defaults are those of a node of Proxmox.
    pub fn parse(file: &str, text: &str) -> (Self, Vec<Diagnostic>) {
        Self::parse_on(Self::default(), file, text)
    }

    fn parse_on(defaults: Self, file: &str, text: &str) -> (Self, Vec<Diagnostic>) {
        let mut reader = Reader {
            file,
            text,
            settings: defaults,
            found: Vec::new(),
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let effect = "what cannot be read is left out".to_owned();
            reader.report(Severity::Error, error.span(), error.message(), effect, None);
        }
        reader.table("", table.get_ref());
        let Reader {
            settings,
            mut found,
            ..
        } = reader;
        found.sort();
        found.dedup();
        (settings, found)
    }

    /// The node that is meant: the one that is named, or else this machine's name in the tree.
    pub fn node_name(&self) -> Option<String> {
        self.node.clone().or_else(|| node_name(&self.root))
    }
}

/// What is needed while a file is read.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    settings: Settings,
    found: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Reads the keys of one table; `section` is its name with a full stop, or nothing.
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = format!("{section}{}", key.get_ref());
            if section.is_empty()
                && SECTIONS.contains(&path.as_str())
                && let DeValue::Table(inner) = value.get_ref()
            {
                self.table(&format!("{path}."), inner);
                continue;
            }
            let Some(known) = KEYS.iter().find(|known| known.path == path) else {
                self.unknown(key, &path);
                continue;
            };
            if let Err(error) = (known.set)(&mut self.settings, value.clone()) {
                let effect = "the default is used instead".to_owned();
                let span = error.span().unwrap_or_else(|| value.span());
                let message = format!("`{path}`: {}", error.message());
                self.report(Severity::Error, Some(span), &message, effect, None);
            }
        }
    }

    fn unknown(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, path: &str) {
        let names = KEYS.iter().map(|known| known.path);
        let hint = did_you_mean(path, names.chain(SECTIONS));
        let message = format!("no setting is called `{path}`");
        let effect = "it is ignored".to_owned();
        self.report(Severity::Warning, Some(key.span()), &message, effect, hint);
    }

    fn report(
        &mut self,
        severity: Severity,
        span: Option<std::ops::Range<usize>>,
        message: &str,
        effect: String,
        hint: Option<String>,
    ) {
        let (line, column, length) = span.map_or((0, 0, 0), |span| place(self.text, span));
        self.found.push(Diagnostic {
            file: self.file.into(),
            line,
            column,
            length,
            severity,
            message: message.trim_end().replace('\n', ", "),
            effect,
            hint,
        });
    }
}

/// Line and column (both from 1, in characters) where a span of bytes begins, and its length on that line.
fn place(text: &str, span: std::ops::Range<usize>) -> (u32, u32, u32) {
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end).max(start);
    let before = &text[..start];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let length = text[start..end].chars().take_while(|c| *c != '\n').count();
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    (number(line), number(column), number(length))
}
