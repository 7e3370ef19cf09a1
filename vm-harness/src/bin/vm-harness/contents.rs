//! What is in a machine's first file system.
//!
//! Programs that cargo built, at their own paths; programs of this machine, with their libraries; busybox for everything else that a script or
//! a test calls; the files that tests read; the kernel's modules; the job.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use vm_harness::image::Image;
use vm_harness::kernels::Kernel;
use vm_harness::modules::{NEEDED, resolve};
use vm_harness::programs::{libraries, on_this_machine, stripped};
use vm_harness::protocol::{JOB, Job};

/// Programs of this machine that the tests start, and the Debian packages that have them.
const TOOLS: [(&str, &str); 12] = [
    // For a person: busybox's shell takes busybox's `ip` for `ip`, wherever the other one is.
    ("bash", "bash"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bridge", "iproute2"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
    ("bpftool", "bpftool"),
    ("nft", "nftables"),
    ("wg", "wireguard-tools"),
    // One that goes by any name, unlike busybox's.
    ("sleep", "coreutils"),
];

/// Built programs that tests start.
const STARTED: [&str; 4] = ["fw-agent", "fwctl", "verify", "demo"];

/// What tests read of the checkout while they run.
const READ: [&str; 4] = [
    "tests/scenarios",
    "tests/conformance",
    "tests/tests/tools/snapshots",
    "packaging",
];

/// Where the modules go.
const MODULES: &str = "/vm/modules";

/// A built program that is no test: it is beside this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let file = own.with_file_name(name);
    if !file.is_file() {
        bail!("{} is not built", file.display());
    }
    Ok(file)
}

/// Puts it together.
pub fn image(root: &Path, kernel: &Kernel, mut job: Job, cache: &Path) -> Result<Image> {
    let mut image = Image::default();
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/etc"] {
        image.directory(directory)?;
    }
    let mut linked = Vec::new();
    let mut built: Vec<PathBuf> = job.runs.iter().map(|run| run.program.clone()).collect();
    for name in STARTED {
        built.push(binary(name)?);
    }
    for file in built {
        image.host(&file, &stripped(&file, cache)?)?;
        linked.push(file);
    }
    let init = binary("vm-init")?;
    image.host("/init", &stripped(&init, cache)?)?;
    linked.push(init);
    for (name, package) in TOOLS {
        let file = on_this_machine(name)
            .with_context(|| format!("there is no {name} here (Debian package {package})"))?;
        image.host(Path::new("/usr/sbin").join(name), &file)?;
        linked.push(file);
    }
    image.link("/bin/sleep", "/usr/sbin/sleep")?;
    for library in libraries(&linked)? {
        image.host(&library, &library)?;
    }
    busybox(&mut image)?;
    for directory in READ {
        image.tree(&root.join(directory))?;
    }
    for module in resolve(&kernel.modules, NEEDED)? {
        let path = Path::new(MODULES).join(format!("{}.ko", module.name));
        image.bytes(&path, module.bytes)?;
        job.modules.push(path);
    }
    image.bytes("/etc/hostname", b"demo\n".to_vec())?;
    image.bytes(JOB, serde_json::to_vec_pretty(&job)?)?;
    Ok(image)
}

/// Busybox, under the name of each of its programs that is not there otherwise.
fn busybox(image: &mut Image) -> Result<()> {
    let file = on_this_machine("busybox")
        .context("there is no busybox here (Debian package busybox-static)")?;
    let output = Command::new(&file)
        .arg("--list")
        .output()
        .context("starting busybox")?;
    image.host("/bin/busybox", &file)?;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        if !image.has(Path::new("/usr/sbin").join(name)) {
            image.link(Path::new("/bin").join(name), "/bin/busybox")?;
        }
    }
    Ok(())
}
