//! What cargo built, and what else a machine needs to run it.
//!
//! In: cargo's messages (`--message-format=json`) and programs of this machine. Out: files of the image. Built programs keep their paths, because tests
//! find the agent beside themselves and their data where the sources are; they go without symbols, which are most of their size.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::NamedTempFile;

/// One program that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its target's name.
    pub name: String,
    /// Whether it is a test program (of any target).
    pub test: bool,
    /// `bin`, `test`, `lib`.
    pub kind: String,
    /// Where it is.
    pub file: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The programs that cargo's messages name.
pub fn built(messages: &str) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("reading cargo's {line}"))?;
        if let (Some(file), Some(target), Some(profile)) =
            (message.executable, message.target, message.profile)
        {
            programs.push(Program {
                name: target.name,
                test: profile.test,
                kind: target.kind.into_iter().next().unwrap_or_default(),
                file,
            });
        }
    }
    Ok(programs)
}

/// A copy without symbols, made once for each build of a program. Several machines' images may be made at a time, so a copy comes into its place whole.
pub fn stripped(file: &Path, cache: &Path) -> Result<PathBuf> {
    let name = file
        .file_name()
        .with_context(|| format!("naming {}", file.display()))?;
    let copy = cache.join(name);
    let age = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    if let (Ok(made), Ok(built)) = (age(&copy), age(file))
        && made >= built
    {
        return Ok(copy);
    }
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let made = NamedTempFile::new_in(cache)
        .with_context(|| format!("creating a file in {}", cache.display()))?;
    let output = Command::new("strip")
        .arg("-o")
        .arg(made.path())
        .arg(file)
        .output()
        .context("starting strip (Debian package binutils)")?;
    if !output.status.success() {
        bail!(
            "strip {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mode = fs::metadata(file)
        .with_context(|| format!("looking at {}", file.display()))?
        .permissions();
    fs::set_permissions(made.path(), mode)
        .with_context(|| format!("making {} executable", made.path().display()))?;
    made.persist(&copy)
        .with_context(|| format!("placing {}", copy.display()))?;
    Ok(copy)
}

/// The shared libraries of programs, and the loader, by the paths at which they are looked for.
pub fn libraries(files: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for file in files {
        let output = Command::new("ldd")
            .arg(file)
            .output()
            .context("starting ldd")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // A static program has none, which ldd calls a failure.
        found.extend(paths(&text));
        if text.contains("=> not found") {
            bail!("{} lacks libraries:\n{text}", file.display());
        }
    }
    Ok(found)
}

fn paths(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines().filter_map(|line| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(path))
    })
}

/// Where a program of this machine is.
pub fn on_this_machine(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"load"},"profile":{"test":true},"executable":"/t/load-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let expect = Program {
            name: "load".into(),
            test: true,
            kind: "test".into(),
            file: "/t/load-1".into(),
        };
        assert_eq!(built(messages).unwrap(), [expect]);
    }

    /// Two machines' images were once made at a time, and one of them got a copy that the other had not finished.
    #[test]
    fn copies_that_are_made_at_a_time_are_whole_and_executable() {
        use std::os::unix::fs::PermissionsExt;

        let own = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let seen: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads = [(); 8].map(|()| {
                scope.spawn(|| {
                    let copy = stripped(&own, place).unwrap();
                    let mode = fs::metadata(&copy).unwrap().permissions().mode();
                    assert_eq!(mode & 0o777, 0o755, "{mode:o}");
                    fs::read(copy).unwrap()
                })
            });
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
        // Not before: while another thread starts a program, that one holds what is being written, and such a file does not run.
        let copy = stripped(&own, place).unwrap();
        let listed = Command::new(&copy).arg("--list").output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
    }

    #[test]
    fn libraries_in_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<PathBuf> = paths(text).collect();
        assert_eq!(
            found,
            ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
