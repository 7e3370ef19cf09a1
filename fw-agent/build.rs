//! Finds the kernel object that `cargo xtask build` made and hands it to `datapath::object`.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=TAPWALL_BPF_OBJECT");
    let object = std::env::var_os("TAPWALL_BPF_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fw-ebpf.o"),
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!(
            "cargo::error=no kernel object at {}: run `cargo xtask build` first",
            object.display()
        );
        return;
    }
    println!("cargo::rustc-env=TAPWALL_BPF_OBJECT={}", object.display());
}
