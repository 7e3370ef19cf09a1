//! Files that are gone or cut off, by what they were before.
//!
//! In: the files as they were and as they are now. Out: those whose contents of now are not to be believed, with the reason.
//!
//! 1. A firewall that was on is turned off by a file that says `enable: 0`, not by one that is gone, empty, or says nothing of it. A guest's
//!    file goes with its guest: without the guest's configuration on this node it may be gone.
//! 2. A file that ends within a line, as a beginning of what it was, is being written.
//! 3. A guest's configuration that is a mere beginning of what it was, and lost a NIC by that, is being written.
//!
//! Invariant: nobody who writes what he means is in doubt. Whole files that say something are believed.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::config::long_set::headers;
use crate::config::memo::is_same;

use super::{
    CLUSTER_FILE, PLAIN_HOST_FILE, guest_file, guest_number, lxc_directory, qemu_directory,
};

/// Files by path.
type Files = BTreeMap<String, Bytes>;

/// Files of `last` whose contents in `now` are not to be believed, and why.
pub(super) fn lost(last: &Files, now: &Files, node: &str) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for directory in [qemu_directory(node), lxc_directory(node)] {
        for (path, old) in last {
            let name = path.strip_prefix(&directory);
            let name = name.and_then(|name| name.strip_prefix('/')?.strip_suffix(".conf"));
            let Some(vmid) = name.and_then(guest_number) else {
                continue;
            };
            // A guest that is gone from here has left; what it had is kept elsewhere.
            let Some(new) = now.get(path) else {
                continue;
            };
            if !is_same(new, old)
                && is_beginning(new, old)
                && (is_cut(new) || nics(new) < nics(old))
            {
                found.push((path.clone(), "only its beginning is there"));
            }
            found.extend(lost_firewall(guest_file(vmid), last, now));
        }
    }
    for file in [CLUSTER_FILE, PLAIN_HOST_FILE] {
        found.extend(lost_firewall(file.to_owned(), last, now));
    }
    found
}

fn lost_firewall(path: String, last: &Files, now: &Files) -> Option<(String, &'static str)> {
    let old = last.get(&path)?;
    let Some(new) = now.get(&path) else {
        return is_on(old).then_some((path, "it is gone"));
    };
    if is_same(new, old) {
        return None;
    }
    if is_beginning(new, old) && is_cut(new) {
        return Some((path, "only its beginning is there"));
    }
    let lost = is_on(old) && switch(new).is_none();
    lost.then_some((path, "it no longer says whether the firewall is on"))
}

fn is_beginning(new: &[u8], old: &[u8]) -> bool {
    new.len() < old.len() && old.starts_with(new)
}

/// Nothing, or an end within a line.
fn is_cut(text: &[u8]) -> bool {
    text.last() != Some(&b'\n')
}

/// Lines of NICs of the guest as it is, not of its snapshots.
fn nics(text: &[u8]) -> usize {
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.take_while(|line| !line.starts_with(b"["));
    let nic = |line: &&[u8]| {
        line.strip_prefix(b"net")
            .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
    };
    lines.filter(nic).count()
}

fn is_on(text: &[u8]) -> bool {
    switch(text).is_some_and(|value| value != b"0")
}

/// What a firewall's file has behind its last `enable:` in its options.
fn switch(text: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    let mut headers = headers(text).peekable();
    while let Some(start) = headers.next() {
        let end = headers.peek().copied().unwrap_or(text.len());
        let mut lines = text[start..end].split(|byte| *byte == b'\n');
        let header = lines.next().unwrap_or_default().trim_ascii();
        if !header.to_ascii_lowercase().starts_with(b"[options]") {
            continue;
        }
        for line in lines.map(<[u8]>::trim_ascii) {
            if let Some((key, rest)) = line.split_at_checked(6)
                && key.eq_ignore_ascii_case(b"enable")
                && let Some(value) = rest.trim_ascii_start().strip_prefix(b":")
            {
                found = Some(value.trim_ascii());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: &str = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 80\n";
    const VM: &str = "cores: 2\nnet0: virtio=BC:24:11:00:00:01,firewall=1\nostype: l26\n";

    fn files(cluster: Option<&str>, guest: Option<&str>, vm: Option<&str>) -> Files {
        let given = [
            ("firewall/cluster.fw", cluster),
            ("firewall/100.fw", guest),
            ("nodes/demo/qemu-server/100.conf", vm),
        ];
        let given = given.into_iter().filter_map(|(path, text)| {
            Some((path.to_owned(), Bytes::copy_from_slice(text?.as_bytes())))
        });
        given.collect()
    }

    #[test]
    fn what_is_gone_or_cut_is_in_doubt_and_what_is_said_is_not() {
        let off = ON.replace("enable: 1", "enable: 0");
        let all = (Some(ON), Some(ON), Some(VM));
        let rows: [(_, &[&str]); 14] = [
            (all, &[]),
            ((None, Some(ON), Some(VM)), &["firewall/cluster.fw"]),
            ((Some(""), Some(ON), Some(VM)), &["firewall/cluster.fw"]),
            ((Some(&ON[..10]), all.1, all.2), &["firewall/cluster.fw"]),
            ((Some(&ON[..30]), all.1, all.2), &["firewall/cluster.fw"]),
            ((Some(&off), Some(&off), Some(VM)), &[]),
            ((Some(&ON[..28]), all.1, all.2), &[]),
            ((Some(ON), None, Some(VM)), &["firewall/100.fw"]),
            ((Some(ON), Some("[RULES]\n"), all.2), &["firewall/100.fw"]),
            // With the guest's configuration its file may go.
            ((Some(ON), None, None), &[]),
            ((Some(ON), Some(ON), None), &[]),
            (
                (all.0, all.1, Some("")),
                &["nodes/demo/qemu-server/100.conf"],
            ),
            (
                (all.0, all.1, Some("cores: 2\n")),
                &["nodes/demo/qemu-server/100.conf"],
            ),
            // A NIC that somebody removed.
            ((all.0, all.1, Some("cores: 2\nostype: l26\n")), &[]),
        ];
        let last = files(all.0, all.1, all.2);
        for ((cluster, guest, vm), expect) in rows {
            let mut found: Vec<String> = lost(&last, &files(cluster, guest, vm), "demo")
                .into_iter()
                .map(|(path, _)| path)
                .collect();
            found.sort();
            assert_eq!(found, expect, "{cluster:?} {guest:?} {vm:?}");
        }
    }

    #[test]
    fn what_was_off_may_go() {
        for text in ["", "[OPTIONS]\nenable: 0\n", "[RULES]\nenable: 1\n"] {
            let last = files(Some(text), Some(text), Some(VM));
            assert_eq!(lost(&last, &files(None, None, Some(VM)), "demo"), []);
        }
    }
}
