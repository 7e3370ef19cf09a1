//! Another configuration in force for a while: what `fwctl apply` begins, `confirm` makes lasting and `revert` ends.
//!
//! ```text
//! candidate ─stage→ <state>/staged ─begin→ <state>/trial ─confirm→ confirmed ─files written→ over, <state>/previous is what they were
//!                                              └─ time over, revert, another boot → over: the files are what they always were
//! ```
//!
//! During a trial the files of the tree stay as they are. The agent enforces what it reads there with the candidate's texts in their place
//! ([`Stage::lay_over`]). So going back needs no write, no lock, no cluster and no shell that still lives: the agent stops laying over.
//!
//! 1. [`candidate`] reads what the administrator wants. 2. [`store`] keeps it in the agent's state directory. 3. The agent begins, ends and counts the
//!    seconds (`reconcile::trial`). 4. [`tree`] writes the files once the trial is confirmed; the agent lays over until they are all written.
//!
//! Invariant: a trial that nobody confirmed ends: by its deadline, with the boot it began in, or with the agent. One that was confirmed
//! is in force until the files say it.

pub mod candidate;
pub mod store;
pub mod tree;

use std::collections::BTreeMap;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::config::{
    CLUSTER_FILE, FIREWALL_DIRECTORY, PLAIN_HOST_FILE, Sources, VNET_DIRECTORY, host_file,
};

/// A file's contents as they were and as they are to be; none: no such file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// As they were.
    pub before: Option<Vec<u8>>,
    /// As they are to be.
    pub after: Option<Vec<u8>>,
}

/// Other contents of some files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// By path below the root.
    pub files: BTreeMap<String, Edit>,
    /// Seconds until it ends by itself.
    pub seconds: u64,
}

impl Stage {
    /// Puts the contents of this stage in the place of those that were read.
    pub fn lay_over(&self, sources: &mut Sources) {
        for (path, edit) in &self.files {
            sources.unreadable.remove(path);
            sources.stale.remove(path);
            match &edit.after {
                Some(text) => {
                    let text = Bytes::copy_from_slice(text);
                    sources.files.insert(path.clone(), text);
                }
                None => {
                    sources.files.remove(path);
                }
            }
        }
    }

    /// Files that do not say yet what this stage says.
    pub fn unwritten(&self, sources: &Sources) -> Vec<String> {
        self.those(sources, |edit, found| found != edit.after.as_deref())
    }

    /// Files that somebody changed: they are neither as they were nor as they are to be.
    pub fn changed(&self, sources: &Sources) -> Vec<String> {
        self.those(sources, |edit, found| {
            found != edit.after.as_deref() && found != edit.before.as_deref()
        })
    }

    fn those(
        &self,
        sources: &Sources,
        wanted: impl Fn(&Edit, Option<&[u8]>) -> bool,
    ) -> Vec<String> {
        let found = |path: &String| sources.files.get(path).map(|bytes| &bytes[..]);
        let those = self.files.iter();
        let those = those.filter(|(path, edit)| wanted(edit, found(path)));
        those.map(|(path, _)| path.clone()).collect()
    }

    /// What takes this stage back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let files = self.files.iter().map(|(path, edit)| {
            let edit = Edit {
                before: edit.after.clone(),
                after: edit.before.clone(),
            };
            (path.clone(), edit)
        });
        Self {
            files: files.collect(),
            seconds: self.seconds,
        }
    }
}

/// A time of one boot of one machine. Setting the clock does not move it, sleep counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Name of the boot.
    pub boot: String,
    /// Nanoseconds since it.
    pub time: u64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// The kernel does not name its boot.
    pub fn now() -> std::io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let now = clock_gettime(ClockId::Boottime);
        Ok(Self {
            boot: boot.trim().to_owned(),
            time: now.tv_sec.cast_unsigned() * SECOND + now.tv_nsec.cast_unsigned(),
        })
    }

    /// Some seconds later.
    #[must_use]
    pub fn after(&self, seconds: u64) -> Self {
        Self {
            boot: self.boot.clone(),
            time: self.time.saturating_add(seconds.saturating_mul(SECOND)),
        }
    }
}

const SECOND: u64 = 1_000_000_000;

/// A stage that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What is tried.
    pub stage: Stage,
    /// When it ends.
    pub deadline: Moment,
    /// When it began (RFC 3339), for people.
    pub begun_at: String,
    /// It does not end by itself any more; the files are to say it, too.
    pub confirmed: bool,
}

impl Trial {
    /// Seconds that are left, at least one before it is over; none once it is confirmed.
    pub fn left(&self, now: &Moment) -> Option<u64> {
        (!self.confirmed).then(|| match now.boot == self.deadline.boot {
            true => self.deadline.time.saturating_sub(now.time).div_ceil(SECOND),
            false => 0,
        })
    }

    /// Whether it has to end.
    pub fn is_over(&self, now: &Moment) -> bool {
        self.left(now) == Some(0)
    }

    /// For those who ask; `sources`: the files as they are.
    pub fn status(&self, now: &Moment, sources: &Sources) -> Status {
        Status {
            begun_at: self.begun_at.clone(),
            seconds_left: self.left(now),
            files: self.stage.files.keys().cloned().collect(),
            changed_meanwhile: self.stage.changed(sources),
            unwritten: match self.confirmed {
                true => self.stage.unwritten(sources),
                false => Vec::new(),
            },
        }
    }
}

/// How a trial is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When it began (RFC 3339).
    pub begun_at: String,
    /// Seconds until it ends by itself; none: it is confirmed.
    pub seconds_left: Option<u64>,
    /// Files with other contents in force than they have.
    pub files: Vec<String>,
    /// Those of them that somebody has changed since.
    pub changed_meanwhile: Vec<String>,
    /// Those that do not say yet what was confirmed.
    pub unwritten: Vec<String>,
}

impl Status {
    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let files = self.files.join(", ");
        let mut lines = match self.seconds_left {
            Some(seconds) => vec![format!(
                "on trial: {files}, since {}; back in {seconds} s unless `fwctl confirm` comes",
                self.begun_at
            )],
            None => vec![format!(
                "confirmed but not written: {}; in force here all the same: `fwctl confirm` writes it, `fwctl revert` goes back",
                self.unwritten.join(", ")
            )],
        };
        let changed = self.changed_meanwhile.iter();
        lines.extend(changed.map(|file| {
            format!("{file} was changed by somebody else meanwhile: that is not in force, and stays as it is")
        }));
        lines
    }
}

/// The end of the name of the cluster's lock of a file; none if it is no firewall file of this node.
pub fn lock_of(path: &str, node: &str) -> Option<String> {
    let is_name = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !name.is_empty() && name.bytes().all(fits)
    };
    let below = |directory: &str| {
        let name = path.strip_prefix(directory)?.strip_prefix('/')?;
        name.strip_suffix(".fw").filter(|name| is_name(name))
    };
    if path == CLUSTER_FILE {
        return Some("cluster".to_owned());
    }
    if path == host_file(node) || path == PLAIN_HOST_FILE {
        return Some(format!("host-{node}"));
    }
    if let Some(name) = below(VNET_DIRECTORY) {
        return Some(format!("vnet-{name}"));
    }
    let name = below(FIREWALL_DIRECTORY)?;
    let vmid = name.parse::<u32>().ok().filter(|vmid| *vmid != 0)?;
    (vmid.to_string() == name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Vec<u8>> {
        Some(text.into())
    }

    fn stage() -> Stage {
        let edit = |before: Option<&str>, after: Option<&str>| Edit {
            before: before.map(Into::into),
            after: after.map(Into::into),
        };
        let files = [
            ("firewall/100.fw", edit(Some("a"), Some("b"))),
            ("firewall/101.fw", edit(None, Some("c"))),
            ("firewall/102.fw", edit(Some("d"), None)),
        ];
        Stage {
            files: files.map(|(path, edit)| (path.to_owned(), edit)).into(),
            seconds: 60,
        }
    }

    fn sources(files: &[(&str, &str)]) -> Sources {
        let files = files.iter();
        let files = files.map(|(path, text)| ((*path).to_owned(), (*text).to_owned().into()));
        Sources {
            node: "n".into(),
            files: files.collect(),
            ..Sources::default()
        }
    }

    #[test]
    fn what_is_laid_over_and_what_was_changed_meanwhile() {
        let before = sources(&[("firewall/100.fw", "a"), ("firewall/102.fw", "d")]);
        let mut over = before.clone();
        over.unreadable
            .insert("firewall/101.fw".into(), "why".into());
        stage().lay_over(&mut over);
        let after = sources(&[("firewall/100.fw", "b"), ("firewall/101.fw", "c")]);
        assert_eq!(over, after);
        assert_eq!(stage().changed(&before), [""; 0]);
        assert_eq!(stage().unwritten(&before).len(), 3);
        assert_eq!(stage().unwritten(&after), [""; 0]);
        let other = sources(&[("firewall/100.fw", "x"), ("firewall/102.fw", "d")]);
        assert_eq!(stage().changed(&other), ["firewall/100.fw"]);
        stage().reversed().lay_over(&mut over);
        assert_eq!(over, before);
        assert_eq!(stage().files["firewall/101.fw"].after, text("c"));
    }

    #[test]
    fn a_trial_ends_with_its_time_and_with_its_boot() {
        let begun = Moment {
            boot: "one".into(),
            time: 5 * SECOND,
        };
        let mut trial = Trial {
            stage: stage(),
            deadline: begun.after(60),
            begun_at: String::new(),
            confirmed: false,
        };
        let at = |boot: &str, time| Moment {
            boot: boot.into(),
            time,
        };
        for (now, left) in [
            (at("one", 5 * SECOND), 60),
            (at("one", 64 * SECOND + 1), 1),
            (at("one", 65 * SECOND), 0),
            (at("one", 900 * SECOND), 0),
            // The time since a boot says nothing about another.
            (at("two", 0), 0),
        ] {
            assert_eq!(trial.left(&now), Some(left), "{now:?}");
            assert_eq!(trial.is_over(&now), left == 0);
        }
        trial.confirmed = true;
        assert_eq!(trial.left(&at("two", 900 * SECOND)), None);
        assert!(!trial.is_over(&at("two", 900 * SECOND)));
        let [a, b] = [(); 2].map(|()| Moment::now().unwrap());
        assert!(a.boot == b.boot && a.time <= b.time && a.boot.len() == 36);
    }

    #[test]
    fn only_firewall_files_of_this_node_are_tried() {
        for (path, expect) in [
            ("firewall/cluster.fw", Some("cluster")),
            ("firewall/100.fw", Some("100")),
            ("nodes/n/host.fw", Some("host-n")),
            ("sdn/firewall/green.fw", Some("vnet-green")),
            ("nodes/m/host.fw", None),
            ("firewall/0100.fw", None),
            ("firewall/0.fw", None),
            ("firewall/notes.fw", None),
            ("firewall/../100.fw", None),
            ("sdn/firewall/../x.fw", None),
            ("nodes/n/qemu-server/100.conf", None),
            ("/firewall/100.fw", None),
            ("", None),
        ] {
            assert_eq!(lock_of(path, "n").as_deref(), expect, "{path}");
        }
    }
}
