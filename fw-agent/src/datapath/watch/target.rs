//! The programs in force, and where in them a probe belongs.

use std::io;
use std::os::fd::OwnedFd;

use aya::maps::MapInfo;
use aya::programs::{ProgramFd, loaded_programs};
use fw_common::maps::name;

use super::btf::Btf;
use super::program::{type_bytes, types};
use super::{probe, unknown};
use crate::datapath::Error;
use crate::datapath::attach::{Hook, Role};
use crate::datapath::kernel::failed;
use crate::datapath::pins::Pins;

/// The function that every judged packet passes (`fw-ebpf/src/stage.rs`).
const FUNCTION: &str = "judged";
/// Bytes of a program's name that the kernel keeps (`BPF_OBJ_NAME_LEN` less its zero).
const NAME: usize = 15;

/// A program, and the number of the function's type in it.
pub(super) struct Target {
    pub(super) program: ProgramFd,
    pub(super) function: u32,
}

/// Every program of the object that uses the pinned map of ports. Two of one kind are there while an agent swaps them.
pub(super) fn programs(pins: &Pins) -> Result<Vec<Target>, Error> {
    let ports = MapInfo::from_pin(pins.map(name::PORTS)).map_err(failed("open", name::PORTS))?;
    let names: Vec<&str> = Role::ALL
        .into_iter()
        .flat_map(|role| Hook::ALL.map(|hook| hook.program(role)))
        .map(|name| &name[..name.len().min(NAME)])
        .collect();
    let mut found = Vec::new();
    for program in loaded_programs() {
        // One that went meanwhile judges nothing.
        let Ok(program) = program else { continue };
        let is_ours = program
            .name_as_str()
            .is_some_and(|name| names.contains(&name));
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        let (true, Some(btf)) = (is_ours && maps.contains(&ports.id()), program.btf_id()) else {
            continue;
        };
        let Ok(fd) = program.fd() else { continue };
        let function = function(types(btf).map_err(probe("read the types of"))?)?;
        found.push(Target {
            program: fd,
            function,
        });
    }
    match found.is_empty() {
        true => Err(probe("find the programs")(io::Error::from(
            io::ErrorKind::NotFound,
        ))),
        false => Ok(found),
    }
}

fn function(types: OwnedFd) -> Result<u32, Error> {
    let bytes = type_bytes(&types).map_err(probe("read the types of"))?;
    let btf = Btf::parse(&bytes).ok_or_else(|| unknown("the programs' types"))?;
    btf.function(FUNCTION)
        .ok_or_else(|| unknown("the functions of the programs"))
}
