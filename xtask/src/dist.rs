//! `cargo xtask dist`: the Debian package, and whether it behaves.
//!
//! 1. Build the programs, optimised. 2. Beside them, in `dist/`, make what comes out of them: manual pages, completions, the list of what is linked in.
//! 3. `cargo deb` packs what `[package.metadata.deb]` of `fw-agent/Cargo.toml` lists; the package is in `target/dist`.
//!
//! With `--check`, which CI does not run (installing `cargo-deb` alone would take it minutes): two versions of the package with the debug programs, which take no
//! optimised build; `lintian`, of which nothing may remain unexplained; then the program `package` of the tests crate installs, upgrades, removes and purges them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::setup::{self, Scope};
use crate::workspace::{Workspace, cargo_program};
use crate::{build, clean, progress};

/// Revisions of the packages that `--check` tries: one, and the one after it.
const REVISIONS: [&str; 2] = ["1", "2"];

/// The command.
pub fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let scope = if check { Scope::Run } else { Scope::Build };
    let tools = setup::ensure(workspace, scope)?;
    let missing = setup::packages::missing_for_dist();
    if !missing.is_empty() {
        setup::packages::install(workspace, &missing, &[])?;
    }
    let cargo_deb = setup::deb::ensure(workspace)?;
    build::all(workspace, &tools, !check)?;
    stage(workspace, !check)?;
    if !check {
        let package = pack(workspace, &cargo_deb, "1", true)?;
        progress::present("package", &package.display().to_string());
        return Ok(());
    }
    let packages = REVISIONS.map(|revision| pack(workspace, &cargo_deb, revision, false));
    let [first, second] = packages;
    let (first, second) = (first?, second?);
    let mut lintian = Command::new("lintian");
    lintian.args([
        "--allow-root",
        "--pedantic",
        "--fail-on=error,warning,info,pedantic",
    ]);
    progress::run(workspace, "lintian", "lintian", lintian.arg(&first))?;
    clean::run()?;
    let mut trial = Command::new(workspace.programs(false).join("package"));
    progress::run_visible("package on a machine", trial.args([first, second]))
}

/// Makes what the package holds besides the programs.
fn stage(workspace: &Workspace, release: bool) -> Result<()> {
    let programs = workspace.programs(release);
    let stage = programs.join("dist");
    let man = stage.join("man");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
    }
    fs::create_dir_all(&man).with_context(|| format!("creating {}", man.display()))?;
    let fwctl = programs.join("fwctl");
    said(Command::new(&fwctl).arg("man").arg(&man))?;
    let pages = fs::read_dir(&man).with_context(|| format!("listing {}", man.display()))?;
    for page in pages {
        let page = page.with_context(|| format!("listing {}", man.display()))?;
        // cargo-deb compresses pages, but not those beside the programs.
        said(Command::new("gzip").arg("-9n").arg(page.path()))?;
    }
    for (shell, file) in [
        ("bash", "fwctl.bash"),
        ("zsh", "_fwctl"),
        ("fish", "fwctl.fish"),
    ] {
        let text = said(Command::new(&fwctl).args(["completions", shell]))?;
        write(&stage.join(file), &text)?;
    }
    write(&stage.join("crates"), &crates(workspace)?)
}

/// Cargo's answer to `metadata`, as far as it is of interest.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Names, versions and licences of the crates that the programs are linked with.
fn crates(workspace: &Workspace) -> Result<String> {
    let tree = said(workspace.cargo().args([
        "tree",
        "--locked",
        "--package",
        "fw-agent",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let text = said(
        workspace
            .cargo()
            .args(["metadata", "--locked", "--format-version", "1"]),
    )?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo's metadata")?;
    let mut lines: Vec<String> = metadata
        .packages
        .into_iter()
        .filter(|found| found.source.is_some())
        .filter(|found| linked.contains(&(&found.name, &found.version)))
        .map(|found| {
            let license = found.license.as_deref().unwrap_or("see its source");
            format!("{} {}: {license}\n", found.name, found.version)
        })
        .collect();
    lines.sort();
    Ok(lines.concat())
}

/// Packs; where the package is.
fn pack(workspace: &Workspace, cargo_deb: &Path, revision: &str, release: bool) -> Result<PathBuf> {
    let directory = workspace.target.join("dist");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let kind = if release { "" } else { "check-" };
    let package = directory.join(format!("tapwall_{kind}{version}-{revision}.deb"));
    let mut deb = Command::new(cargo_deb);
    deb.current_dir(&workspace.root)
        .env("CARGO", cargo_program())
        .args(["--package", "fw-agent", "--no-build", "--strip"])
        .args(["--deb-version", &format!("{version}-{revision}")])
        .args(["--profile", if release { "release" } else { "dev" }])
        .arg("--output")
        .arg(&package);
    if !release {
        deb.arg("--fast");
    }
    progress::run(
        workspace,
        &format!("package {version}-{revision}"),
        "cargo-deb-pack",
        &mut deb,
    )?;
    Ok(package)
}

/// What a program prints that must succeed.
fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}: {error}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed no text"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
