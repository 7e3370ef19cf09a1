//! Where the checkout and its build products are, and how cargo is called in it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The checkout that this program was built from.
pub struct Workspace {
    /// Directory of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory, absolute.
    pub target: PathBuf,
}

impl Workspace {
    /// The checkout around the current directory (cargo says which), or the one this program was built in.
    pub fn find() -> Result<Self> {
        let package = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package
            .parent()
            .context("finding the workspace: the package has no parent directory")?
            .to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// The kernel object that the agent embeds.
    pub fn kernel_object(&self) -> PathBuf {
        self.target.join("fw-ebpf.o")
    }

    /// Where built host programs are.
    pub fn programs(&self, release: bool) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" })
    }

    /// Path of the log file of a step; its directory exists afterwards.
    pub fn log(&self, step: &str) -> Result<PathBuf> {
        let directory = self.target.join("xtask");
        fs::create_dir_all(&directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        Ok(directory.join(format!("{step}.log")))
    }

    /// Cargo in the checkout, with the kernel object named to the agent's build.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command
            .current_dir(&self.root)
            .env("TAPWALL_BPF_OBJECT", self.kernel_object());
        command
    }
}

/// The cargo that runs this program.
pub fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Cargo's home: where `cargo install` puts programs (below `bin`).
pub fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

/// Every file called `program` in `PATH` and in the directories of administrators' programs, in that order.
pub fn programs_named(program: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in
        env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].iter().map(PathBuf::from))
    {
        let file = directory.join(program);
        if is_program(&file) && !found.contains(&file) {
            found.push(file);
        }
    }
    found
}

/// Whether a file exists and is meant to be run.
pub fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
