//! Kernel modules: which the tests need, what those need, in which order they can be inserted.
//!
//! In: a kernel's module directory as packages hold it (without the `modules.dep` that is made at installation). Out: files, decompressed,
//! dependencies first. Dependencies are read from each module's own `.modinfo` section. A module that is built into the kernel needs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

/// What the tests use, by the names that `modprobe` knows.
pub const NEEDED: &[&str] = &[
    // Devices of nodes and guests.
    "bridge",
    "veth",
    "tun",
    "dummy",
    "virtio_pci",
    "virtio_net",
    "8021q",
    "bonding",
    "vrf",
    "wireguard",
    "ip_gre",
    "ip6_gre",
    "vxlan",
    // Where filters are before TCX, and what else uses those hooks.
    "sch_ingress",
    "cls_bpf",
    "cls_matchall",
    "cls_basic",
    "act_police",
    "act_gact",
    "act_mirred",
    // Delay, loss, reordering; rate limits.
    "sch_netem",
    "sch_tbf",
    "sch_htb",
    // Other firewalls, and address translation beside ours.
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_redir",
    "nft_nat",
    "nft_ct",
    "nft_compat",
    "br_netfilter",
];

/// A module, ready to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for every `-`.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// The modules of these names and all that they need, dependencies first.
pub fn resolve(directory: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let tree = Tree::read(directory)?;
    let mut done = BTreeSet::new();
    let mut ordered = Vec::new();
    for name in names {
        tree.add(&canonical(name), &mut done, &mut ordered)?;
    }
    Ok(ordered)
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A kernel's modules by name.
struct Tree {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    fn read(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)?;
        let list = directory.join("modules.builtin");
        let text =
            fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        let builtin = text.lines().filter_map(|line| module_name(Path::new(line)));
        Ok(Self {
            directory: directory.to_path_buf(),
            builtin: builtin.collect(),
            files,
        })
    }

    fn add(
        &self,
        name: &str,
        done: &mut BTreeSet<String>,
        ordered: &mut Vec<Module>,
    ) -> Result<()> {
        if !done.insert(name.to_owned()) || self.builtin.contains(name) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            bail!("no module {name} in {}", self.directory.display());
        };
        let bytes = decompressed(file)?;
        for needed in depends(&bytes).with_context(|| format!("reading {}", file.display()))? {
            self.add(&needed, done, ordered)?;
        }
        ordered.push(Module {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", directory.display()))?
            .path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of a module's file; none of another file.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let (stem, _) = name.split_once(".ko")?;
    Some(canonical(stem))
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(bytes),
        Some("xz") => {
            let mut plain = Vec::new();
            lzma_rust2::XzReader::new(bytes.as_slice(), true)
                .read_to_end(&mut plain)
                .with_context(|| format!("decompressing {}", file.display()))?;
            Ok(plain)
        }
        Some(_) | None => bail!("{} is compressed in an unknown way", file.display()),
    }
}

/// Names of the modules that a module needs.
fn depends(bytes: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(bytes).context("parsing it as ELF")?;
    let section = file
        .section_by_name(".modinfo")
        .context("it has no section .modinfo")?;
    let data = section.data().context("reading .modinfo")?;
    Ok(depends_in(data))
}

/// `.modinfo` is a row of `name=value`, each with a zero byte behind it.
fn depends_in(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_in_modinfo() {
        let found = depends_in(b"license=GPL\0depends=stp,llc,x-tables\0name=bridge\0");
        assert_eq!(found, ["stp", "llc", "x_tables"]);
        assert!(depends_in(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn names_of_module_files() {
        let cases = [
            ("kernel/net/llc/llc.ko", Some("llc")),
            ("nft_chain-nat.ko.xz", Some("nft_chain_nat")),
            ("modules.order", None),
        ];
        for (file, expect) in cases {
            assert_eq!(module_name(Path::new(file)).as_deref(), expect, "{file}");
        }
    }
}
