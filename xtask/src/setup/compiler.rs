//! The compiler for the kernel programs: one that has the source of `core`, whose bitcode `bpf-linker` reads.
//!
//! Rust ships no `core` for the BPF target, so it is built from source (`-Z build-std`). Candidates in this order: rustup's toolchains (the
//! active one first), then any other `rustc` in `PATH`: Debian's `rustc-web` with `rust-web-src`. One fits if its sources are installed, its
//! version is at least the workspace's `rust-version`, and it uses the LLVM that the pinned `bpf-linker` speaks.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::Scope;
use super::linker::LLVM_MAJOR;
use super::packages::Package;
use crate::workspace::{is_program, programs_named};

/// The workspace's `rust-version`.
const MINIMUM: &str = env!("CARGO_PKG_RUST_VERSION");

/// A compiler that can build the kernel programs.
pub struct Compiler {
    /// The program.
    pub rustc: PathBuf,
    /// Its release: `1.96.0` or `1.97.0-nightly`.
    pub release: String,
    /// Where its libraries are.
    pub sysroot: PathBuf,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (rustc {}, with rust-src)",
            self.rustc.display(),
            self.release
        )
    }
}

impl Compiler {
    /// The linter of exactly this compiler.
    pub fn clippy(&self) -> Option<PathBuf> {
        let driver = self.rustc.with_file_name("clippy-driver");
        is_program(&driver).then_some(driver)
    }

    /// Packages that bring [`Self::clippy`].
    pub fn clippy_packages(&self) -> Result<Vec<Package>> {
        if self.rustc != Path::new("/usr/bin/rustc") {
            bail!(
                "{} has no clippy; add it with `rustup component add clippy --toolchain {}`",
                self.rustc.display(),
                self.sysroot.file_name().unwrap_or_default().display()
            );
        }
        Ok(vec![CLIPPY])
    }

    /// The LLVM library that this compiler is linked with, as the dynamic linker finds it.
    pub fn llvm(&self) -> Option<PathBuf> {
        let output = Command::new("ldd").arg(&self.rustc).output().ok()?;
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| line.trim_start().starts_with("libLLVM"))
            .find_map(|line| {
                line.split_once("=> ")?
                    .1
                    .split(" (")
                    .next()
                    .map(PathBuf::from)
            })
    }
}

const CLIPPY: Package = Package {
    name: "rust-web-clippy",
    purpose: "lints of the kernel programs",
};

/// Packages that bring a compiler.
pub fn packages(scope: Scope) -> Vec<Package> {
    let mut packages = vec![
        Package {
            name: "rustc-web",
            purpose: "a compiler whose sources are packaged",
        },
        Package {
            name: "rust-web-src",
            purpose: "the source of core, to build it for the BPF target",
        },
    ];
    if scope >= Scope::Lint {
        packages.push(CLIPPY);
    }
    packages
}

/// Result of the search.
pub struct Search {
    /// The first compiler that fits.
    pub found: Option<Compiler>,
    /// Why each other compiler does not fit; one sentence each.
    pub rejected: Vec<String>,
}

/// Looks for a compiler.
pub fn find() -> Search {
    let mut rejected = Vec::new();
    for rustc in candidates() {
        match examine(&rustc) {
            Ok(compiler) => {
                return Search {
                    found: Some(compiler),
                    rejected,
                };
            }
            Err(reason) => rejected.push(format!("{}: {reason}", rustc.display())),
        }
    }
    Search {
        found: None,
        rejected,
    }
}

/// What to say when there is no compiler and none can be installed.
pub fn absent(rejected: &[String]) -> String {
    let mut text = format!(
        "no Rust compiler fits: it must be {MINIMUM} or later, use LLVM {LLVM_MAJOR} and have its library's source; \
         install Debian's rustc-web and rust-web-src, or run `rustup component add rust-src`"
    );
    for reason in rejected {
        text.push_str("\n  ");
        text.push_str(reason);
    }
    text
}

fn candidates() -> Vec<PathBuf> {
    let toolchains = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")))
        .map(|home| home.join("toolchains"));
    let mut found: Vec<PathBuf> = toolchains
        .and_then(|directory| fs::read_dir(directory).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/rustc"))
        .filter(|rustc| is_program(rustc))
        .collect();
    found.sort();
    if let Some(active) = env::var_os("RUSTUP_TOOLCHAIN") {
        let marker = Path::new(&active).join("bin/rustc");
        found.sort_by_key(|rustc| !rustc.ends_with(&marker));
    }
    // rustup's own `rustc` stands for one of its toolchains, which are in the list already.
    let proxies = |rustc: &PathBuf| {
        rustc.with_file_name("rustup").exists()
            || fs::canonicalize(rustc).is_ok_and(|file| file.ends_with("rustup"))
    };
    found.extend(
        programs_named("rustc")
            .into_iter()
            .filter(|rustc| !proxies(rustc)),
    );
    found
}

fn examine(rustc: &Path) -> Result<Compiler, String> {
    let version = ask(rustc, "-vV")?;
    let field = |name: &str| {
        version
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
            .unwrap_or_default()
    };
    let release = field("release:");
    let llvm = field("LLVM version:");
    if numbers(release) < numbers(MINIMUM) {
        return Err(format!("version {release} is older than {MINIMUM}"));
    }
    if llvm.split('.').next() != Some(LLVM_MAJOR) {
        return Err(format!(
            "uses LLVM {llvm}, bpf-linker needs LLVM {LLVM_MAJOR}"
        ));
    }
    let sysroot = PathBuf::from(ask(rustc, "--print=sysroot")?.trim());
    if !sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists()
    {
        return Err("its library's source (rust-src) is not installed".to_owned());
    }
    Ok(Compiler {
        rustc: rustc.to_path_buf(),
        release: release.to_owned(),
        sysroot,
    })
}

fn ask(rustc: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(rustc)
        .arg(argument)
        .output()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`rustc {argument}` failed: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version
        .split(|character: char| !character.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.100.0-nightly") > numbers("1.96.0"));
        assert!(numbers("1.95") == numbers("1.95.7"));
        assert!(numbers("") < numbers("1.0"));
    }
}
