//! A node as Proxmox sets it up, in the namespace of the machine itself: for machines that are the test's alone.
//!
//! ```text
//!  vmbr0 ── fwpr100p0 ── fwln100i0 ── fwbr100i0 ── tap100i0 ≈≈ eth0   VM 100
//!    ├───── fwpr101p0 ── fwln101i0 ── fwbr101i0 ── veth101i0 ── eth0  CT 101
//!    ├───── tap102i0 ≈≈ eth0                                          VM 102, directly on the bridge
//!    └───── what joins it to other machines
//! ```
//!
//! The configuration is at `/etc/pve`; the agent runs without options, as its service runs it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::program;
use crate::netns::{Netns, run};
use crate::node::hex;
use crate::patience::patience;
use crate::tap::{Offloads, Tap, TapPeer};

/// Where Proxmox's configuration is.
pub const TREE: &str = "/etc/pve";

/// Where the agent keeps its maps and links.
pub const PINS: &str = "/sys/fs/bpf/tapwall";

/// Where the agent's words go.
const WORDS: &str = "/tmp/fw-agent.words";

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(20);

/// How a guest's NIC gets to the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plug {
    /// A tap device on a bridge of its own, which a pair of devices joins to the node's.
    TapOverFwbr,
    /// Likewise with a veth device.
    VethOverFwbr,
    /// A tap device on the node's bridge.
    Tap,
}

/// A guest: its namespace is the guest's whole system.
pub struct Guest {
    /// Its number.
    pub vmid: u32,
    /// Its namespace, with the device `eth0`.
    pub namespace: Netns,
    plug: Plug,
    // Before the namespace goes: an open tap device would keep it.
    peer: Option<TapPeer>,
}

impl Guest {
    /// Its hardware address.
    pub fn mac(vmid: u32) -> [u8; 6] {
        [0xbc, 0x24, 0x11, 0, 2, vmid.to_be_bytes()[3]]
    }

    /// Its address: the last part is its number.
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, self.vmid.to_be_bytes()[3]))
    }

    /// A port of it.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// Name of its device on the host.
    pub fn device(&self) -> String {
        match self.plug {
            Plug::TapOverFwbr | Plug::Tap => format!("tap{}i0", self.vmid),
            Plug::VethOverFwbr => format!("veth{}i0", self.vmid),
        }
    }
}

/// The node.
pub struct PveNode {
    /// Its namespace: the machine's.
    pub host: Netns,
    /// Its name.
    pub name: String,
}

impl PveNode {
    /// Names the machine and makes `vmbr0` with this address.
    pub fn new(name: &str, address: Ipv4Addr) -> Result<Self> {
        rustix::system::sethostname(name.as_bytes()).context("naming the machine")?;
        for directory in ["/var/log", "/var/lib", "/etc/pve", "/run/netns"] {
            fs::create_dir_all(directory).with_context(|| format!("creating {directory}"))?;
        }
        let node = Self {
            host: Netns::own("node")?,
            name: name.to_owned(),
        };
        node.host.ip(&format!(
            "link add vmbr0 type bridge stp_state 0 forward_delay 0\n\
             addr add {address}/24 dev vmbr0\nlink set vmbr0 up"
        ))?;
        for part in ["qemu-server", "lxc"] {
            fs::create_dir_all(node.own_directory().join(part)).context("making the tree")?;
        }
        fs::create_dir_all(Path::new(TREE).join("firewall")).context("making the tree")?;
        Ok(node)
    }

    fn own_directory(&self) -> std::path::PathBuf {
        Path::new(TREE).join("nodes").join(&self.name)
    }

    /// Writes a file of the tree at once.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = Path::new(TREE).join(file);
        let partial = path.with_extension("partial");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Where a guest's configuration is.
    pub fn guest_file(&self, vmid: u32, plug: Plug) -> String {
        let kind = match plug {
            Plug::TapOverFwbr | Plug::Tap => "qemu-server",
            Plug::VethOverFwbr => "lxc",
        };
        format!("nodes/{}/{kind}/{vmid}.conf", self.name)
    }

    /// Writes a guest's configuration.
    pub fn configure_guest(&self, vmid: u32, plug: Plug) -> Result<()> {
        let mac = hex(Guest::mac(vmid)).to_uppercase();
        let text = match plug {
            Plug::TapOverFwbr | Plug::Tap => {
                format!("memory: 512\nname: vm{vmid}\nnet0: virtio={mac},bridge=vmbr0,firewall=1\n")
            }
            Plug::VethOverFwbr => format!(
                "arch: amd64\nhostname: ct{vmid}\n\
                 net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr={mac},type=veth\n"
            ),
        };
        self.write(&self.guest_file(vmid, plug), &text)
    }

    /// Starts a guest: its devices appear, as Proxmox's scripts make them.
    pub fn start_guest(&self, vmid: u32, plug: Plug) -> Result<Guest> {
        let mut guest = Guest {
            vmid,
            namespace: Netns::new(&format!("guest{vmid}"))?,
            plug,
            peer: None,
        };
        let device = guest.device();
        match plug {
            Plug::VethOverFwbr => self.host.ip(&format!(
                "link add {device} type veth peer name eth0 netns {}",
                guest.namespace.name()
            ))?,
            Plug::TapOverFwbr | Plug::Tap => {
                let near = Tap::new(&self.host, &device, Offloads::TcpUdp)?;
                let far = Tap::new(&guest.namespace, "eth0", Offloads::TcpUdp)?;
                guest.peer = Some(TapPeer::start(near, far)?);
            }
        }
        guest.namespace.ip(&format!(
            "link set eth0 address {}\naddr add {}/24 dev eth0\nlink set eth0 up",
            hex(Guest::mac(vmid)),
            guest.address()
        ))?;
        if plug == Plug::Tap {
            self.host.ip(&format!(
                "link set {device} master vmbr0\nlink set {device} up"
            ))?;
        } else {
            self.host.ip(&format!(
                "link add fwbr{vmid}i0 type bridge stp_state 0 forward_delay 0\nlink set fwbr{vmid}i0 up\n\
                 link add fwpr{vmid}p0 type veth peer name fwln{vmid}i0\n\
                 link set fwln{vmid}i0 master fwbr{vmid}i0\nlink set fwln{vmid}i0 up\n\
                 link set fwpr{vmid}p0 master vmbr0\nlink set fwpr{vmid}p0 up\n\
                 link set {device} master fwbr{vmid}i0\nlink set {device} up"
            ))?;
        }
        Ok(guest)
    }

    /// Stops a guest: its devices go.
    pub fn stop_guest(&self, guest: Guest) -> Result<()> {
        let (vmid, device, plug) = (guest.vmid, guest.device(), guest.plug);
        let Guest {
            namespace, peer, ..
        } = guest;
        drop(peer);
        if plug == Plug::VethOverFwbr {
            self.host.ip(&format!("link delete {device}"))?;
        }
        if plug != Plug::Tap {
            self.host.ip(&format!(
                "link delete fwpr{vmid}p0\nlink delete fwbr{vmid}i0"
            ))?;
        }
        drop(namespace);
        Ok(())
    }

    /// Starts the agent as its service does, without waiting for anything.
    pub fn start_agent(&self) -> Result<NodeAgent> {
        let words = File::options()
            .create(true)
            .append(true)
            .open(WORDS)
            .with_context(|| format!("opening {WORDS}"))?;
        let child = Command::new(program("fw-agent")?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            .spawn()
            .context("starting the agent")?;
        Ok(NodeAgent { child })
    }

    /// Runs `fwctl` with these arguments; an error if it fails.
    pub fn fwctl(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(program("fwctl")?).args(arguments))
    }
}

/// Everything the agents of this node have said.
pub fn words() -> String {
    fs::read_to_string(WORDS).unwrap_or_default()
}

/// An agent on a node.
pub struct NodeAgent {
    child: Child,
}

impl NodeAgent {
    /// Ends it as systemd does; an exit with anything but 0 is an error.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("it has no number")?, Signal::TERM)
            .context("stopping the agent")?;
        let deadline = Instant::now() + patience(SOON);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("asking for the agent")? {
                if !status.success() {
                    bail!("the agent ended with {status}; it said:\n{}", words());
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the agent does not end; it said:\n{}", words())
    }

    /// Kills it: a crash.
    pub fn crash(mut self) -> Result<()> {
        self.child.kill().context("killing the agent")?;
        self.child.wait().context("waiting for the killed agent")?;
        Ok(())
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none())
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("ending the agent: {error}");
        }
    }
}
