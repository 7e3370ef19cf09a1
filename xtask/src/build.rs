//! `cargo xtask build`: the kernel programs, then the host programs that embed them.
//!
//! 1. `fw-ebpf` for the BPF target with `core` from source, in a target directory of its own (`target/bpf`: another compiler and other flags
//!    than the host's). BTF is wanted, hence full debug information and the linker's `--btf`.
//! 2. The object to `target/fw-ebpf.o`, only if its bytes changed: the agent is rebuilt exactly when its kernel part is another.
//! 3. The host workspace, with `TAPWALL_BPF_OBJECT` naming that file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress;
use crate::setup::{self, Scope, Tools};
use crate::workspace::Workspace;

/// The command.
pub fn run(workspace: &Workspace, release: bool, debug_log: bool) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Build)?;
    kernel(workspace, &tools, debug_log)?;
    host(workspace, release)
}

/// Builds everything with tools that are there.
pub fn all(workspace: &Workspace, tools: &Tools, release: bool) -> Result<()> {
    kernel(workspace, tools, false)?;
    host(workspace, release)
}

fn host(workspace: &Workspace, release: bool) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["build", "--workspace", "--exclude", "fw-ebpf", "--bins"]);
    if release {
        command.arg("--release");
    }
    progress::run(workspace, "host programs", "build-host", &mut command)
}

/// Cargo for the kernel crate: `verb` is `build` or `check`.
pub fn kernel_cargo(workspace: &Workspace, tools: &Tools, verb: &str) -> Result<Command> {
    let mut command = workspace.cargo();
    command
        .args([verb, "--package", "fw-ebpf", "--profile", "bpf"])
        .args([
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
            "--target-dir",
        ])
        .arg(workspace.target.join("bpf"))
        .env("RUSTC", &tools.compiler.rustc)
        // `-Z build-std` with whatever cargo this is: it may be a stable one even beside a nightly compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        // BPF v3 (kernel 5.1): 32-bit operations; the verifier follows fewer states than with the generic set.
        .env(
            "RUSTFLAGS",
            "-C debuginfo=2 -C target-cpu=v3 -C link-arg=--btf",
        )
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker)
        .env("LD_LIBRARY_PATH", llvm_directory(workspace, tools)?)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(command)
}

/// Builds the kernel programs and puts the object where the agent embeds it from.
pub fn kernel(workspace: &Workspace, tools: &Tools, debug_log: bool) -> Result<()> {
    let mut command = kernel_cargo(workspace, tools, "build")?;
    if debug_log {
        command.args(["--features", "debug-log"]);
    }
    progress::run(workspace, "kernel programs", "build-kernel", &mut command)?;
    let built = workspace.target.join("bpf/bpfel-unknown-none/bpf/fw-ebpf");
    let object = workspace.kernel_object();
    let mut bytes = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    if debug_log {
        rename_unions(&mut bytes);
    }
    if fs::read(&object).ok().as_ref() == Some(&bytes) {
        return Ok(());
    }
    let partial = object.with_extension("o.partial");
    fs::write(&partial, &bytes).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, &object).with_context(|| format!("writing {}", object.display()))
}

/// Renames the type of aya-log's level in the object's BTF: `bpf-linker` turns names of structures into ones that the kernel takes, but not those of
/// unions, and with one bad name the kernel refuses all of it. The names are equally long.
fn rename_unions(object: &mut [u8]) {
    const RUST: &[u8] = b"MaybeUninit<u8>";
    const C: &[u8; RUST.len()] = b"MaybeUninit_u8_";
    for start in 0..object.len().saturating_sub(RUST.len()) {
        if let Some(name) = object.get_mut(start..start + RUST.len())
            && name == RUST
        {
            name.copy_from_slice(C);
        }
    }
}

/// A directory that holds the compiler's LLVM library and no other: `bpf-linker` takes the first one it meets in `LD_LIBRARY_PATH`.
fn llvm_directory(workspace: &Workspace, tools: &Tools) -> Result<PathBuf> {
    let library = tools.compiler.llvm().with_context(|| {
        format!(
            "{} is linked with no LLVM library that ldd shows",
            tools.compiler.rustc.display()
        )
    })?;
    let directory = workspace.target.join("bpf/llvm");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let link = directory.join("libLLVM.so");
    if fs::read_link(&link).ok().as_ref() != Some(&library) {
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
        }
        symlink(&library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(directory)
}
