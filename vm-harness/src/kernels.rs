//! The supported kernel lines, and Debian's newest kernel of each.
//!
//! In: a cache directory. Out: a kernel image and its modules, unpacked.
//!
//! 1. Ask apt, with package lists of our own (the system's sources stay as they are), which version of `linux-image-cloud-amd64` is the newest of
//!    the line, and which packages hold it. At most once a day. 2. Download what is not unpacked yet, unpack it, move it in place in one step.
//! 3. Remove older ones of the line.
//!
//! Without network the last kernel that was unpacked is used, and a line says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// After so long apt is asked again.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Debian's mirrors; another one by `TAPWALL_DEBIAN_MIRROR`.
const MIRROR: &str = "http://deb.debian.org";

/// The package that depends on the newest kernel of each release.
const META: &str = "linux-image-cloud-amd64";

/// A supported kernel line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// The oldest supported one; Debian 12.
    V6_1,
    /// The first long-term one with TCX; Debian 13, here for Debian 12.
    V6_12,
    /// The newest.
    V7_3,
}

impl Line {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_3];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_3 => "7.3",
        }
    }

    /// The lines that a name stands for.
    pub fn named(name: &str) -> Option<Vec<Self>> {
        if name == "all" {
            return Some(Self::ALL.to_vec());
        }
        let line = Self::ALL.into_iter().find(|line| line.name() == name)?;
        Some(vec![line])
    }

    /// Whether its kernels have TCX (6.6, commit e420bed02507).
    pub fn has_tcx(self) -> bool {
        self >= Self::V6_12
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its line.
    pub line: Line,
    /// Its release, as `uname -r` says.
    pub release: String,
    /// What QEMU boots.
    pub image: PathBuf,
    /// Directory of its modules.
    pub modules: PathBuf,
}

/// The newest kernel of a line.
pub fn fetch(cache: &Path, line: Line) -> Result<Kernel> {
    let directory = cache.join("kernels").join(line.name());
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let stamp = directory.join("newest");
    let known = fs::read_to_string(&stamp).ok();
    if let Some(version) = &known
        && is_fresh(&stamp)
        && let Ok(kernel) = unpacked(&directory.join(version), line)
    {
        return Ok(kernel);
    }
    match renew(cache, &directory, line) {
        Ok((version, kernel)) => {
            fs::write(&stamp, version).with_context(|| format!("writing {}", stamp.display()))?;
            Ok(kernel)
        }
        Err(error) => {
            let version = known.context(format!("{error:#}"))?;
            eprintln!("kernel {}: {error:#}; going on with {version}", line.name());
            unpacked(&directory.join(version), line)
        }
    }
}

fn is_fresh(file: &Path) -> bool {
    let time = fs::metadata(file).and_then(|data| data.modified());
    time.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH))
}

/// Asks apt and unpacks what it names, unless that is there.
fn renew(cache: &Path, directory: &Path, line: Line) -> Result<(String, Kernel)> {
    let apt = Apt::open(&cache.join("apt"))?;
    let shown = apt.run("apt-cache", &["show", META])?;
    let (version, image) =
        newest(&shown, line).with_context(|| format!("{META} has no version {}", line.name()))?;
    let place = directory.join(&version);
    if let Ok(kernel) = unpacked(&place, line) {
        return Ok((version, kernel));
    }
    let shown = apt.run("apt-cache", &["show", &format!("{image}={version}")])?;
    let packages = parts(&shown, &image);
    let partial = tempfile::Builder::new()
        .prefix("partial-")
        .tempdir_in(directory)
        .with_context(|| format!("making a directory in {}", directory.display()))?;
    for package in packages {
        eprintln!("kernel {}: downloading {package} {version}", line.name());
        apt.download(&format!("{package}={version}"), partial.path())?;
    }
    for entry in fs::read_dir(directory)?.flatten() {
        // Older kernels of the line, and what earlier downloads left.
        if entry.path() != partial.path() && entry.path().is_dir() {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    fs::rename(partial.path(), &place)
        .with_context(|| format!("moving a kernel to {}", place.display()))?;
    let kernel = unpacked(&place, line)?;
    Ok((version, kernel))
}

/// A kernel that was unpacked before.
fn unpacked(place: &Path, line: Line) -> Result<Kernel> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|part| place.join(part))
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flat_map(|entries| entries.flatten())
        .map(|entry| entry.path())
        .find(|path| path.join("kernel").is_dir())
        .with_context(|| format!("no modules in {}", place.display()))?;
    let release = modules
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("naming {}", modules.display()))?
        .to_owned();
    let image = [
        place.join(format!("boot/vmlinuz-{release}")),
        place.join(format!("usr/lib/modules/{release}/vmlinuz")),
        place.join(format!("lib/modules/{release}/vmlinuz")),
    ]
    .into_iter()
    .find(|file| file.is_file())
    .with_context(|| format!("no kernel image in {}", place.display()))?;
    Ok(Kernel {
        line,
        release,
        image,
        modules,
    })
}

/// The newest version of a line in `apt-cache show`'s text, with the package that holds it.
fn newest(shown: &str, line: Line) -> Option<(String, String)> {
    shown.split("\n\n").find_map(|stanza| {
        let version = field(stanza, "Version")?;
        // 6.1 is not 6.12: what follows is the third number.
        version.strip_prefix(line.name())?.strip_prefix('.')?;
        let image = depends(stanza).find(|name| name.starts_with("linux-image-"))?;
        Some((version.to_owned(), image.to_owned()))
    })
}

/// The packages that hold a kernel: since 7.x the image is an empty one that depends on three others.
fn parts(shown: &str, image: &str) -> Vec<String> {
    let stanza = shown.split("\n\n").next().unwrap_or_default();
    let split: Vec<String> = depends(stanza)
        .filter(|name| {
            let parts = ["linux-base-", "linux-binary-", "linux-modules-"];
            parts.iter().any(|part| name.starts_with(part))
        })
        .map(str::to_owned)
        .collect();
    if split.len() < 3 {
        vec![image.to_owned()]
    } else {
        split
    }
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn depends(stanza: &str) -> impl Iterator<Item = &str> {
    field(stanza, "Depends")
        .unwrap_or_default()
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next())
}

/// apt with sources and lists of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn open(directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let sources = directory.join("sources.list");
        fs::write(&sources, sources_list())
            .with_context(|| format!("writing {}", sources.display()))?;
        let apt = Self {
            options: [
                format!("Dir::Etc::sourcelist={}", sources.display()),
                "Dir::Etc::sourceparts=-".to_owned(),
                format!("Dir::State::Lists={}", directory.join("lists").display()),
                format!("Dir::Cache={}", directory.join("cache").display()),
                // The directory need not be readable for apt's own user.
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Languages=none".to_owned(),
            ]
            .into_iter()
            .flat_map(|option| ["-o".to_owned(), option])
            .collect(),
        };
        apt.run("apt-get", &["-q", "update"])?;
        Ok(apt)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(Command::new(program).args(&self.options).args(arguments))
    }

    /// Downloads a package and unpacks it.
    fn download(&self, package: &str, into: &Path) -> Result<()> {
        let archive = tempfile::tempdir_in(into).context("making a directory for a package")?;
        output(
            Command::new("apt-get")
                .args(&self.options)
                .args(["-q", "download", package])
                .current_dir(archive.path()),
        )?;
        for entry in fs::read_dir(archive.path())?.flatten() {
            output(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(entry.path())
                    .arg(into),
            )?;
        }
        Ok(())
    }
}

fn sources_list() -> String {
    let mirror = std::env::var("TAPWALL_DEBIAN_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
    let suites = [
        ("debian", "bookworm"),
        ("debian", "bookworm-backports"),
        ("debian-security", "bookworm-security"),
        ("debian", "trixie-backports"),
    ];
    suites
        .iter()
        .map(|(part, suite)| format!("deb [arch=amd64] {mirror}/{part} {suite} main\n"))
        .collect()
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}: {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-image-cloud-amd64\nVersion: 7.3.4-1~bpo13+1\n\
        Depends: linux-base-cloud-amd64 (= 7.3.4-1~bpo13+1), linux-image-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.12.95-1~bpo12+1\n\
        Depends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.1.176-1\nDepends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n";

    #[test]
    fn each_line_has_its_newest_version() {
        let found = Line::ALL.map(|line| newest(SHOWN, line).map(|(_, image)| image));
        let expect = [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
        ];
        assert_eq!(found, expect.map(|name| Some(name.to_owned())));
    }

    #[test]
    fn an_empty_image_package_stands_for_its_parts() {
        let whole = "Package: linux-image-6.1\nDepends: kmod, linux-base\n";
        assert_eq!(parts(whole, "linux-image-6.1"), ["linux-image-6.1"]);
        let split = "Package: linux-image-7\nDepends: dracut | initramfs-tools (>= 1), linux-base-7 (= 7), linux-binary-7 (= 7), linux-modules-7 (= 7)\n";
        assert_eq!(
            parts(split, "linux-image-7"),
            ["linux-base-7", "linux-binary-7", "linux-modules-7"]
        );
    }

    #[test]
    fn names_of_lines() {
        assert_eq!(Line::named("6.12"), Some(vec![Line::V6_12]));
        assert_eq!(Line::named("all").map(|lines| lines.len()), Some(3));
        assert_eq!(Line::named("6.2"), None);
    }
}
