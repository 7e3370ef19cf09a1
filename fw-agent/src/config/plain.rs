//! A plain host's files: one `host.fw` that may hold everything, and perhaps a `cluster.fw` beside it.
//!
//! In: `host.fw`, and what `cluster.fw` says. Out: the two documents that a node of Proxmox has. `[OPTIONS]` of `host.fw` may have the options of both files, and
//! its `enable` is the switch of both: without the line nothing is filtered. What `cluster.fw` sets itself comes first. `[ALIASES]`, `[IPSET]` and `[group]` stand in
//! `host.fw` only while there is no `cluster.fw`, because a name has one file in what is reported of it.

use std::sync::Arc;

use super::document::{Document, Kind};
use super::line::Reporter;
use super::memo::{Input, Memo};
use super::options::{ClusterOptions, HostOptions, OptionTable, Set, Setting};
use super::sources::PLAIN_HOST_FILE;
use crate::diagnostic::Diagnostic;

/// The options of both files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PlainOptions {
    cluster: ClusterOptions,
    host: HostOptions,
}

const COUNT: usize = ClusterOptions::KEYS.len() + HostOptions::KEYS.len();

/// `enable` is in it twice.
const KEYS: [&str; COUNT] = {
    let mut keys = [""; COUNT];
    let mut at = 0;
    while at < COUNT {
        let first = ClusterOptions::KEYS.len();
        keys[at] = match at < first {
            true => ClusterOptions::KEYS[at],
            false => HostOptions::KEYS[at - first],
        };
        at += 1;
    }
    keys
};

impl OptionTable for PlainOptions {
    const KEYS: &'static [&'static str] = &KEYS;

    fn set(&mut self, key: &str, value: &str, line: u32) -> Option<Result<Set, String>> {
        if key == "enable" {
            let set = self.cluster.set(key, value, line)?;
            self.host.enable = Setting {
                value: self.cluster.enable.value != 0,
                line: self.cluster.enable.line,
            };
            return Some(set);
        }
        let set = self.host.set(key, value, line);
        set.or_else(|| self.cluster.set(key, value, line))
    }

    fn fill(&mut self, from: &Self) {
        self.cluster.fill(&from.cluster);
        self.host.fill(&from.host);
    }

    fn lines(&self) -> Vec<(&'static str, u32)> {
        let mut lines = self.cluster.lines();
        let host = self.host.lines().into_iter();
        lines.extend(host.filter(|(key, _)| *key != "enable"));
        lines
    }

    fn changes(&self, other: &Self) -> Vec<(&'static str, [Option<u32>; 2])> {
        let mut changes = self.cluster.changes(&other.cluster);
        let host = self.host.changes(&other.host).into_iter();
        changes.extend(host.filter(|(key, _)| *key != "enable"));
        changes
    }
}

/// The two documents.
type Both = (Arc<Document<ClusterOptions>>, Arc<Document<HostOptions>>);

/// Reads a plain host's file, and remembers what it meant.
#[derive(Debug, Default)]
pub(super) struct PlainHost {
    known: Memo<Both, 2>,
}

impl PlainHost {
    /// `cluster`: what `cluster.fw` says, `input`: its text.
    pub(super) fn of(
        &mut self,
        host: Input,
        cluster: Arc<Document<ClusterOptions>>,
        input: Input,
        found: &mut Vec<Diagnostic>,
    ) -> Both {
        let inputs = [host.clone(), input.clone()];
        let both = self.known.of(PLAIN_HOST_FILE, inputs, found, |_, found| {
            let kind = match input {
                Input::Absent => Kind::Plain,
                Input::Text(_) | Input::Unreadable => Kind::Host,
            };
            split(&read(&host, kind, found), &cluster, kind)
        });
        (*both).clone()
    }

    pub(super) fn end_round(&mut self) {
        self.known.end_round();
    }
}

fn read(input: &Input, kind: Kind, found: &mut Vec<Diagnostic>) -> Document<PlainOptions> {
    let file: Arc<str> = PLAIN_HOST_FILE.into();
    match input {
        Input::Text(text) => {
            let mut reporter = Reporter::new(file, found);
            Document::parse_again(text, kind, None, &mut reporter)
        }
        Input::Absent => Document::empty(file),
        Input::Unreadable => Document {
            readable: false,
            ..Document::empty(file)
        },
    }
}

fn split(plain: &Document<PlainOptions>, cluster: &Document<ClusterOptions>, kind: Kind) -> Both {
    let host = Document {
        file: Arc::clone(&plain.file),
        readable: plain.readable,
        options: plain.options.host.clone(),
        rules: plain.rules.clone(),
        ..Document::empty(Arc::clone(&plain.file))
    };
    let cluster = match kind {
        Kind::Plain => Document {
            file: Arc::clone(&plain.file),
            readable: plain.readable,
            options: plain.options.cluster.clone(),
            aliases: plain.aliases.clone(),
            sets: plain.sets.clone(),
            groups: plain.groups.clone(),
            rules: Vec::new(),
        },
        Kind::Cluster | Kind::Host | Kind::Guest | Kind::Vnet => {
            let mut cluster = cluster.clone();
            cluster.options.fill(&plain.options.cluster);
            cluster
        }
    };
    (Arc::new(cluster), Arc::new(host))
}

#[cfg(test)]
mod tests {
    use super::super::{Sources, parse};

    fn config(files: &[(&str, &str)]) -> (super::super::Config, Vec<String>) {
        let files = files.iter();
        let files = files.map(|(path, text)| ((*path).to_owned(), (*text).to_owned().into()));
        let sources = Sources {
            node: "n".into(),
            plain: true,
            files: files.collect(),
            ..Sources::default()
        };
        let (config, found) = parse(&sources);
        (config, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_file_holds_everything() {
        let text = "[OPTIONS]\nenable: 1\npolicy_in: REJECT\nndp: 0\n[ALIASES]\nown 10.0.0.1\n[IPSET few]\nown\n[RULES]\nIN ACCEPT -source +few\nGROUP web\n[group web]\nIN ACCEPT -p tcp -dport 80\n";
        let (config, found) = config(&[("firewall/host.fw", text)]);
        assert_eq!(found, [""; 0]);
        assert_eq!(config.cluster.options.enable.value, 1);
        assert!(config.host.options.enable.value && !config.host.options.ndp.value);
        assert_eq!(config.cluster.options.policy_in.line, Some(3));
        assert_eq!(
            (config.host.rules.len(), config.cluster.rules.len()),
            (2, 0)
        );
        let cluster = &config.cluster;
        assert_eq!((cluster.aliases.len(), cluster.sets.len()), (1, 1));
        assert!(cluster.groups.contains_key("web"));
    }

    #[test]
    fn without_the_switch_nothing_is_filtered() {
        for (text, expect) in [
            ("[RULES]\nIN DROP\n", 0),
            ("[OPTIONS]\nenable: 0\n", 0),
            ("[OPTIONS]\nenable: 1\n", 1),
        ] {
            let (config, _) = config(&[("firewall/host.fw", text)]);
            assert_eq!(config.cluster.options.enable.value, expect, "{text}");
        }
        assert_eq!(config(&[]).0.cluster.options.enable.value, 0);
    }

    #[test]
    fn a_file_for_names_turns_nothing_off() {
        let host = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n[RULES]\nIN ACCEPT -source +few\n[IPSET no]\n10.0.0.1\n";
        let names = "[OPTIONS]\npolicy_in: DROP\n[IPSET few]\n10.0.0.1\n";
        let files = [("firewall/host.fw", host), ("firewall/cluster.fw", names)];
        let (config, found) = config(&files);
        let options = &config.cluster.options;
        assert_eq!((options.enable.value, options.enable.line), (1, None));
        assert_eq!(options.policy_in.line, Some(2));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("host.fw:6"), "{found:?}");
    }
}
