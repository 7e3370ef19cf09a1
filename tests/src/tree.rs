//! A configuration tree laid out like `/etc/pve`, in a temporary directory.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result};
use fw_agent::inventory::facts::{HostFacts, Route};
use ipnet::Ipv4Net;
use tempfile::{NamedTempFile, TempDir};

use crate::node::hex;

/// Name of the node in a tree.
pub const NODE: &str = "demo";

/// What is known of the host of a tree in tests without a real one: the network of `node`.
pub fn facts(node: &str) -> HostFacts {
    let own = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
    let dest = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24);
    HostFacts {
        names: [(node.to_owned(), vec![own])].into(),
        routes: vec![Route {
            dest: dest.into(),
            connected: true,
        }],
        ..HostFacts::default()
    }
}

/// The tree; it is removed when dropped.
pub struct ConfigTree {
    directory: TempDir,
}

impl ConfigTree {
    /// A tree without any file.
    pub fn new() -> Result<Self> {
        let directory = temporary_directory("tree")?;
        for part in ["firewall", "qemu-server", "lxc"] {
            let path = if part == "firewall" {
                directory.path().join(part)
            } else {
                directory.path().join("nodes").join(NODE).join(part)
            };
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(Self { directory })
    }

    /// The tree of a plain host, without any file.
    pub fn plain() -> Result<Self> {
        let directory = temporary_directory("tree")?;
        let path = directory.path().join("firewall");
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { directory })
    }

    /// A tree with the guests of [`crate::node::DemoNode`], firewalled NICs and the cluster's firewall on; no rules.
    pub fn with_demo_guests() -> Result<Self> {
        let tree = Self::new()?;
        tree.write("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n")?;
        tree.write_vm(100, [0xbc, 0x24, 0x11, 0, 1, 0x00])?;
        tree.write_container(101, [0xbc, 0x24, 0x11, 0, 1, 0x01])?;
        Ok(tree)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, given by its path below the tree: a reader sees the old text or the new, never a part.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path().join(file);
        let directory = path
            .parent()
            .context("a file in the tree has a directory")?;
        let mut partial = NamedTempFile::new_in(directory)
            .with_context(|| format!("creating a file in {}", directory.display()))?;
        std::io::Write::write_all(&mut partial, text.as_bytes())
            .and_then(|()| partial.as_file().sync_data())
            .with_context(|| format!("writing {}", path.display()))?;
        partial
            .persist(&path)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(())
    }

    /// Writes a guest's firewall file.
    pub fn write_firewall(&self, vmid: u32, text: &str) -> Result<()> {
        self.write(&format!("firewall/{vmid}.fw"), text)
    }

    /// Removes a file.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.path().join(file);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    fn write_vm(&self, vmid: u32, mac: [u8; 6]) -> Result<()> {
        let mut text = String::from("cores: 2\nmemory: 2048\nname: demo-vm\n");
        writeln!(
            text,
            "net0: virtio={},bridge=vmbr0,firewall=1",
            hex(mac).to_uppercase()
        )?;
        self.write(&format!("nodes/{NODE}/qemu-server/{vmid}.conf"), &text)
    }

    fn write_container(&self, vmid: u32, mac: [u8; 6]) -> Result<()> {
        let mut text = String::from("arch: amd64\nhostname: demo-ct\nostype: debian\n");
        writeln!(
            text,
            "net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr={},ip=192.0.2.{vmid}/24,ip6=2001:db8:1::{vmid}/64,type=veth",
            hex(mac).to_uppercase()
        )?;
        self.write(&format!("nodes/{NODE}/lxc/{vmid}.conf"), &text)
    }
}

/// A directory that is removed when dropped. Its name has the process's id in it: `cargo xtask clean` recognises what a killed one left.
pub fn temporary_directory(role: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!("tapwall-test-{}-{role}-", std::process::id()))
        .tempdir()
        .context("making a temporary directory")
}
