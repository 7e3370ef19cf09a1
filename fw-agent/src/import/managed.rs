//! Chains that another program writes, by the names it gives them.

/// Beginnings of names of chains, and whose they are, with what there is to do about it.
const MANAGERS: [(&str, &str); 11] = [
    (
        "PVEFW-",
        "pve-firewall's, whose files Tapwall enforces itself",
    ),
    (
        "DOCKER",
        "Docker's, which writes it again: leave it in iptables",
    ),
    (
        "LIBVIRT_",
        "libvirt's, which writes it again: leave it in iptables",
    ),
    ("LXC_", "LXC's, which writes it again: leave it in iptables"),
    (
        "KUBE-",
        "Kubernetes', which writes it again: leave it in iptables",
    ),
    (
        "cali-",
        "Calico's, which writes it again: leave it in iptables",
    ),
    (
        "CNI-",
        "a container network's, which writes it again: leave it in iptables",
    ),
    ("f2b-", "fail2ban's: its bans are not rules to keep"),
    ("fail2ban-", "fail2ban's: its bans are not rules to keep"),
    ("sshguard", "sshguard's: its bans are not rules to keep"),
    ("CROWDSEC", "CrowdSec's: its bans are not rules to keep"),
];

/// Whose a chain is, unless the administrator's.
pub fn manager(chain: &str) -> Option<&'static str> {
    let found = MANAGERS.iter().find(|(start, _)| chain.starts_with(start));
    found.map(|(_, whose)| *whose)
}
