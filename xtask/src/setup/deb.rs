//! `cargo-deb`, which makes the Debian package.
//!
//! Installed outside `target/`, as `bpf-linker` is, in a directory of its own: a `cargo-deb` of another version that is already there is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::workspace::{Workspace, cargo_home, cargo_program, is_program, programs_named};

/// The version that the package's description is written for. It builds with Rust 1.85 and later.
const VERSION: &str = "3.8.0";

/// Finds or installs it.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let home = cargo_home().context("installing cargo-deb: neither CARGO_HOME nor HOME is set")?;
    let root = home.join(format!("cargo-deb-{VERSION}"));
    let own = root.join("bin/cargo-deb");
    let mut candidates = programs_named("cargo-deb");
    candidates.extend([home.join("bin/cargo-deb"), own.clone()]);
    if let Some(found) = candidates.into_iter().find(|program| fits(program)) {
        return Ok(found);
    }
    let mut command = Command::new(cargo_program());
    command
        .args([
            "install",
            "cargo-deb",
            "--locked",
            "--version",
            VERSION,
            "--root",
        ])
        .arg(&root)
        // Not below the checkout: its cargo configuration and target directory are none of this program's business.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR");
    progress::run(workspace, "installing cargo-deb", "cargo-deb", &mut command).with_context(
        || format!("install it by hand: cargo install cargo-deb --locked --version {VERSION}"),
    )?;
    if !fits(&own) {
        bail!(
            "{} is not version {VERSION} after its installation",
            own.display()
        );
    }
    Ok(own)
}

fn fits(program: &Path) -> bool {
    is_program(program)
        && Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deb {VERSION}")
            })
}
