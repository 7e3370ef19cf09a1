//! The configuration that is measured: guests with various rules, and perhaps a big set.

use std::fmt::Write as _;

use anyhow::Result;
use fw_agent::config::{CLUSTER_FILE, guest_file};
use tapwall_tests::node::hex;
use tapwall_tests::tree::{ConfigTree, NODE};

/// A tree with guests from 1000 on.
pub fn make(guests: u32, rules: u32, set: u32) -> Result<ConfigTree> {
    let tree = ConfigTree::new()?;
    tree.write("firewall/cluster.fw", &cluster(set, 0)?)?;
    for guest in 0..guests {
        let vmid = 1000 + guest;
        let [_, _, high, low] = vmid.to_be_bytes();
        let mac = hex([0xbc, 0x24, 0x11, 0, high, low]);
        let conf = format!("cores: 2\nnet0: virtio={mac},bridge=vmbr0,firewall=1\n");
        tree.write(&format!("nodes/{NODE}/qemu-server/{vmid}.conf"), &conf)?;
        tree.write_firewall(vmid, &firewall(guest, rules, 0)?)?;
    }
    Ok(tree)
}

/// The edit of this number: one address more in the big set if there is one, else a rule of a guest. The path of the file.
pub fn edit(tree: &ConfigTree, guests: u32, rules: u32, set: u32, edit: u32) -> Result<String> {
    if set > 0 {
        tree.write(CLUSTER_FILE, &cluster(set, edit)?)?;
        return Ok(CLUSTER_FILE.to_owned());
    }
    let guest = edit.wrapping_mul(7919) % guests;
    tree.write_firewall(1000 + guest, &firewall(guest, rules, edit)?)?;
    Ok(guest_file(1000 + guest))
}

fn cluster(set: u32, edit: u32) -> Result<String> {
    let mut text = String::from(
        "[OPTIONS]\nenable: 1\n\n[ALIASES]\nlocal_network 198.51.100.0/24\nmonitor 198.51.100.7\nbackup 198.51.100.8\n\n[IPSET admins]\n192.0.2.0/28\n192.0.2.77\n\n[group web]\nIN HTTP(ACCEPT)\nIN HTTPS(ACCEPT)\n\n[group base]\nIN Ping(ACCEPT)\nIN SSH(ACCEPT) -source +admins\nIN ACCEPT -p tcp -dport 9100 -source monitor\n",
    );
    if set > 0 {
        text.push_str("\n[IPSET blacklist]\n");
    }
    for number in 0..set {
        // An odd multiplier makes every number of 28 bits another one, in no order.
        let scattered = number.wrapping_mul(0x9e37_79b1) & 0xfff_ffff;
        let mark = if number % 64 == 63 { "!" } else { "" };
        let [_, b, c, d] = scattered.to_be_bytes();
        match number % 3 {
            0 => writeln!(text, "{mark}{}.{b}.{c}.{d}", 16 + (scattered >> 24))?,
            1 => {
                let [a, b, c, d] = ((scattered & 0xff_ffff) << 4).to_be_bytes();
                writeln!(text, "{mark}{}.{b}.{c}.{d}/28", 64 + a)?;
            }
            _ => {
                let (high, low) = (scattered >> 16, scattered & 0xffff);
                writeln!(text, "{mark}2001:db8:{high:x}:{low:x}::/64")?;
            }
        }
        if number == set / 2 {
            for more in 0..edit {
                let [_, b, c, d] = more.to_be_bytes();
                writeln!(text, "100.{b}.{c}.{d}")?;
            }
        }
    }
    Ok(text)
}

fn firewall(guest: u32, rules: u32, edit: u32) -> Result<String> {
    let mut text = String::from("[OPTIONS]\nenable: 1\n");
    if guest.is_multiple_of(3) {
        text.push_str("policy_out: DROP\n");
    }
    if guest.is_multiple_of(5) {
        text.push_str("log_level_in: info\n");
    }
    let [_, _, high, low] = guest.to_be_bytes();
    writeln!(text, "\n[ALIASES]\npeer 10.7.{high}.{low}")?;
    writeln!(
        text,
        "\n[IPSET friends]\npeer\n10.8.{high}.0/24\n!10.8.{high}.{low}"
    )?;
    writeln!(text, "\n[RULES]\nGROUP base")?;
    if guest.is_multiple_of(2) {
        text.push_str("GROUP web\n");
    }
    for rule in 0..rules.saturating_sub(2) {
        let port = 1000 + (guest * 31 + rule * 17 + edit) % 30000;
        match rule % 6 {
            0 => writeln!(text, "IN ACCEPT -p tcp -dport {port}")?,
            1 => writeln!(text, "IN ACCEPT -p udp -dport {port} -source +friends")?,
            2 => writeln!(text, "OUT ACCEPT -p tcp -dport {port} -dest peer")?,
            3 => writeln!(
                text,
                "IN DROP -p tcp -dport {port} -source 10.9.{high}.0/24"
            )?,
            4 => writeln!(text, "OUT REJECT -p udp -dport {port} -log warning")?,
            _ => writeln!(
                text,
                "IN ACCEPT -p tcp -dport {port},443 -source monitor # seen"
            )?,
        }
    }
    Ok(text)
}
