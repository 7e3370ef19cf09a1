//! Which process has a socket, by the socket's inode.

use std::collections::BTreeMap;
use std::path::Path;

/// Names of processes by the inodes of their sockets. What cannot be looked at is left out.
pub(super) fn owners() -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    for process in processes.filter_map(Result::ok) {
        let name = process.file_name();
        let is_process = name
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        if is_process && let Some((name, sockets)) = sockets(&process.path()) {
            found.extend(sockets.into_iter().map(|inode| (inode, name.clone())));
        }
    }
    found
}

fn sockets(process: &Path) -> Option<(String, Vec<u64>)> {
    let mut inodes = Vec::new();
    for file in std::fs::read_dir(process.join("fd")).ok()? {
        let Ok(target) = std::fs::read_link(file.ok()?.path()) else {
            continue;
        };
        let target = target.to_str().unwrap_or_default();
        let inode = target.strip_prefix("socket:[");
        inodes.extend(inode.and_then(|inode| inode.strip_suffix(']')?.parse::<u64>().ok()));
    }
    let name = std::fs::read_to_string(process.join("comm")).ok()?;
    Some((name.trim_end().to_owned(), inodes))
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_socket_of_this_process_is_its_own() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let inode = std::fs::metadata(file).unwrap().st_ino();
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            owners().get(&inode).map(String::as_str),
            Some(own.trim_end())
        );
    }
}
