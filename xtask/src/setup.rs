//! `cargo xtask setup`: what building and testing need that a fresh Debian machine lacks.
//!
//! 1. Look for everything that the scope needs: a compiler with its library's source, its linter, `bpf-linker`, Debian packages.
//! 2. Install what is missing: one `apt-get` run, then `cargo install`. Without root or apt, say exactly what to install and stop.
//! 3. Mount the BPF file system if the scope needs it.
//!
//! Nothing is downloaded when nothing is missing, and a second run changes nothing.

mod bpffs;
pub mod compiler;
pub mod deb;
mod linker;
pub mod packages;
mod quiet;
mod unpacked;

use std::path::PathBuf;

use anyhow::{Result, bail};

use self::compiler::Compiler;
use self::unpacked::{CROWDSEC, PROMETHEUS};
use crate::progress;
use crate::workspace::Workspace;

/// What a command needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Compile the kernel programs.
    Build,
    /// Also run them: network tools and the BPF file system.
    Run,
    /// Also run the tests: programs that Tapwall is a backend of.
    Test,
    /// Also lint them.
    Lint,
}

/// What was found or installed.
pub struct Tools {
    /// Compiles for the BPF target.
    pub compiler: Compiler,
    /// The `bpf-linker` that fits it.
    pub linker: PathBuf,
}

/// The command: everything, one line each.
pub fn run(workspace: &Workspace) -> Result<()> {
    let tools = ensure(workspace, Scope::Lint)?;
    ensure_machines(workspace)?;
    progress::present("compiler", &tools.compiler.to_string());
    progress::present("bpf-linker", &tools.linker.display().to_string());
    if let Some(lints) = tools.compiler.clippy() {
        progress::present("clippy for the kernel", &lints.display().to_string());
    }
    let mut others = PROMETHEUS.ensure(workspace)?;
    others.extend(CROWDSEC.ensure(workspace)?);
    for (program, file) in packages::present().into_iter().chain(others) {
        progress::present(program, &file.display().to_string());
    }
    progress::present("BPF file system", bpffs::DIRECTORY);
    Ok(())
}

/// Finds or installs what booting other kernels needs.
pub fn ensure_machines(workspace: &Workspace) -> Result<()> {
    let missing = packages::missing_for_machines();
    if missing.is_empty() {
        return Ok(());
    }
    packages::install(workspace, &missing, &[])
}

/// Finds or installs what a scope needs.
pub fn ensure(workspace: &Workspace, scope: Scope) -> Result<Tools> {
    let mut missing = Vec::new();
    if scope >= Scope::Run {
        missing.extend(packages::missing());
    }
    if scope >= Scope::Test {
        missing.extend(packages::missing_for_backends());
    }
    let mut search = compiler::find();
    match &search.found {
        None => missing.extend(compiler::packages(scope)),
        Some(compiler) if scope >= Scope::Lint && compiler.clippy().is_none() => {
            missing.extend(compiler.clippy_packages()?);
        }
        Some(_) => {}
    }
    if !missing.is_empty() {
        packages::install(workspace, &missing, &search.rejected)?;
        search = compiler::find();
    }
    let Some(compiler) = search.found else {
        bail!("{}", compiler::absent(&search.rejected));
    };
    if scope >= Scope::Lint && compiler.clippy().is_none() {
        bail!("no clippy-driver beside {}", compiler.rustc.display());
    }
    let linker = linker::ensure(workspace)?;
    if scope >= Scope::Run {
        PROMETHEUS.ensure(workspace)?;
        bpffs::ensure()?;
    }
    if scope >= Scope::Test {
        CROWDSEC.ensure(workspace)?;
    }
    Ok(Tools { compiler, linker })
}
