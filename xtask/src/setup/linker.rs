//! `bpf-linker`, in the version that reads the compiler's bitcode.
//!
//! Version 0.10.1 speaks LLVM 22 and loads the compiler's own library at run time; later ones need LLVM 23. It is installed outside `target/`,
//! so that a clean checkout finds it. A `bpf-linker` of another version that is already there is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::workspace::{Workspace, cargo_home, cargo_program, is_program, programs_named};

/// The version that fits.
const VERSION: &str = "0.10.1";

/// Major version of the LLVM that it speaks.
pub const LLVM_MAJOR: &str = "22";

/// Finds or installs it.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let home = cargo_home().context("installing bpf-linker: neither CARGO_HOME nor HOME is set")?;
    let usual = home.join("bin/bpf-linker");
    let own_root = home.join(format!("bpf-linker-{VERSION}"));
    let own = own_root.join("bin/bpf-linker");
    let mut candidates = programs_named("bpf-linker");
    candidates.extend([usual.clone(), own.clone()]);
    if let Some(found) = candidates.into_iter().find(|program| fits(program)) {
        return Ok(found);
    }
    let (root, program) = if is_program(&usual) {
        (own_root, own)
    } else {
        (home, usual)
    };
    let mut command = Command::new(cargo_program());
    command
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--version",
            VERSION,
            "--root",
        ])
        .arg(&root)
        // Not below the checkout: its cargo configuration and target directory are none of the linker's business.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR");
    progress::run(
        workspace,
        "installing bpf-linker",
        "bpf-linker",
        &mut command,
    )
    .with_context(|| {
        format!("install it by hand: cargo install bpf-linker --locked --version {VERSION}")
    })?;
    if !fits(&program) {
        bail!(
            "{} is not version {VERSION} after its installation",
            program.display()
        );
    }
    Ok(program)
}

fn fits(program: &Path) -> bool {
    is_program(program)
        && Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout).trim() == format!("bpf-linker {VERSION}")
            })
}
