//! Programs of other people's that tests run: installed, or unpacked by `cargo xtask setup`.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// A program of a Debian package.
pub fn installed(package: &str, program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe().context("finding this program")?;
    // target/debug/deps/service-…
    let unpacked = own.ancestors().nth(3);
    let unpacked = unpacked.map(|target| target.join("xtask").join(package).join("usr/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .chain(unpacked)
        .map(|place| place.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("no {program} (package {package}): run `cargo xtask setup`"))
}
