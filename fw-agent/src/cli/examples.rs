//! Examples of every verb, at the end of its help and manual page.
//!
//! Each is a line that could be typed as it stands; a test has the parser read all of them, and finds verbs that have none.

use clap::{Command, CommandFactory};

use super::Cli;

/// A verb's words, and lines that begin with `fwctl` and those words.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "check",
        &[
            "fwctl check",
            "fwctl check --strict --root ./new-files --node pve1",
        ],
    ),
    ("compile", &["fwctl compile", "fwctl compile --image"]),
    (
        "simulate",
        &[
            "fwctl simulate --from outside --to vm100 --dport 22",
            "fwctl simulate --from vm100 --to host --proto udp --dport 53 --json",
        ],
    ),
    (
        "why",
        &[
            "fwctl why outside 100 tcp/443",
            "fwctl why 192.0.2.7 100/net1 udp/53 --verbose",
            "fwctl why 100 host icmp/8",
        ],
    ),
    (
        "drops",
        &[
            "fwctl drops",
            "fwctl drops -f --guest 100",
            "fwctl drops -f --reason ip-filter --for 60s --json",
        ],
    ),
    (
        "trace",
        &[
            "fwctl trace --guest 100/net0 --proto tcp --port 443",
            "fwctl trace -n 20",
        ],
    ),
    (
        "log",
        &[
            "fwctl log -n 100 --guest 100",
            "fwctl log -f --address 192.0.2.0/24 --port 22",
            "fwctl log --reason policy",
        ],
    ),
    ("localnet", &["fwctl localnet"]),
    (
        "map dump",
        &["fwctl map dump PORTS", "fwctl map dump --json"],
    ),
    ("map list", &["fwctl map list"]),
    (
        "rules",
        &[
            "fwctl rules 100",
            "fwctl rules host --unused 30d",
            "fwctl rules 100/net0 --json",
        ],
    ),
    (
        "conntrack list",
        &[
            "fwctl conntrack list --guest 100 --state established",
            "fwctl conntrack list --address 192.0.2.7 --count",
        ],
    ),
    (
        "conntrack flush",
        &[
            "fwctl conntrack flush --guest 100",
            "fwctl conntrack flush --address 192.0.2.7",
        ],
    ),
    (
        "conntrack top",
        &[
            "fwctl conntrack top --by remote -n 20",
            "fwctl conntrack top --by service --guest 100",
        ],
    ),
    (
        "conntrack export",
        &["fwctl conntrack export 100 /var/tmp/100.flows"],
    ),
    (
        "conntrack import",
        &["fwctl conntrack import /var/tmp/100.flows --vmid 100"],
    ),
    (
        "ban",
        &[
            "fwctl ban 203.0.113.7 --for 2h --reason scans",
            "fwctl ban 203.0.113.0/24 2001:db8:bad::/48 --for forever --by list",
            "fwctl ban --file blocklist.txt --by list --for 1d",
        ],
    ),
    (
        "unban",
        &["fwctl unban 203.0.113.7", "fwctl unban --by list"],
    ),
    ("bans", &["fwctl bans", "fwctl bans --by fail2ban/sshd"]),
    ("backend sshguard", &["fwctl backend sshguard"]),
    (
        "backend crowdsec",
        &[
            "fwctl backend crowdsec --url http://127.0.0.1:8080/ --api-key-file /etc/tapwall/crowdsec.key",
        ],
    ),
    (
        "rule list",
        &["fwctl rule list 100", "fwctl rule list group/web --json"],
    ),
    (
        "rule check",
        &["fwctl rule check 100 IN ACCEPT -p tcp -dport 443"],
    ),
    (
        "rule add",
        &[
            "fwctl rule add 100 IN ACCEPT -p tcp -dport 443",
            "fwctl rule add --dry-run host IN ACCEPT -source 192.0.2.0/24 -p tcp -dport 8006",
        ],
    ),
    (
        "rule insert",
        &["fwctl rule insert 100 1 IN DROP -source 192.0.2.7"],
    ),
    (
        "rule del",
        &[
            "fwctl rule del 100 3",
            "fwctl rule del 100 IN DROP -source 192.0.2.7",
        ],
    ),
    (
        "rule replace",
        &["fwctl rule replace 100 1 IN REJECT -source 192.0.2.7"],
    ),
    ("save", &["fwctl save", "fwctl save 100"]),
    (
        "diff",
        &["fwctl diff ./new-files", "fwctl diff 100.fw host.fw --json"],
    ),
    (
        "apply",
        &[
            "fwctl apply --confirm 60 ./new-files",
            "fwctl apply --dry-run cluster.fw",
        ],
    ),
    ("confirm", &["fwctl confirm"]),
    ("revert", &["fwctl revert"]),
    (
        "import iptables-save",
        &[
            "fwctl import iptables-save rules.v4 --ipv6 rules.v6",
            "fwctl import iptables-save rules.v4 --ipset sets --output /etc/tapwall/firewall/host.fw",
        ],
    ),
    (
        "counters zero",
        &["fwctl counters zero", "fwctl counters zero 100"],
    ),
    ("status", &["fwctl status", "fwctl status --json"]),
    (
        "top",
        &[
            "fwctl top",
            "fwctl top -d 500ms --guest 100 --pane drops",
            "fwctl top --once --json",
        ],
    ),
    ("start", &["fwctl start"]),
    ("stop", &["fwctl stop"]),
    ("restart", &["fwctl restart"]),
    ("reload", &["fwctl reload"]),
    (
        "completions",
        &["fwctl completions bash > /etc/bash_completion.d/fwctl"],
    ),
    ("man", &["fwctl man", "fwctl man /usr/local/share/man/man8"]),
];

/// `fwctl`'s arguments with the examples.
pub(super) fn command() -> Command {
    EXAMPLES
        .iter()
        .fold(Cli::command(), |command, (verb, lines)| {
            let heading = if lines.len() == 1 {
                "Example"
            } else {
                "Examples"
            };
            let text = format!("{heading}:\n  {}", lines.join("\n  "));
            let words: Vec<&str> = verb.split(' ').collect();
            with_text(command, &words, text)
        })
}

/// Puts the text at the end of the help of the verb with these words.
fn with_text(command: Command, words: &[&str], text: String) -> Command {
    match words.split_first() {
        None => command.after_help(text),
        Some((first, rest)) => {
            let first = (*first).to_owned();
            command.mut_subcommand(first, |verb| with_text(verb, rest, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// The words of every verb that does something itself.
    fn verbs(command: &Command, words: &str, found: &mut Vec<String>) {
        if !command.has_subcommands() {
            found.push(words.to_owned());
        }
        for verb in command.get_subcommands() {
            if verb.get_name() != "help" {
                verbs(verb, format!("{words} {}", verb.get_name()).trim(), found);
            }
        }
    }

    #[test]
    fn every_verb_has_examples_that_are_read() {
        let mut found = Vec::new();
        verbs(&Cli::command(), "", &mut found);
        found.sort();
        let mut told: Vec<&str> = EXAMPLES.iter().map(|(verb, _)| *verb).collect();
        told.sort();
        assert_eq!(told, found);
        for (verb, lines) in EXAMPLES {
            assert!(!lines.is_empty(), "{verb}");
            for line in *lines {
                assert!(line.starts_with(&format!("fwctl {verb}")), "{line}");
                let (line, _) = line.split_once(" > ").unwrap_or((line, ""));
                let read = command().try_get_matches_from(line.split(' '));
                assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
            }
        }
        let mut command = command();
        command.build();
        let list = command.find_subcommand("conntrack").unwrap();
        let mut list = list.find_subcommand("list").unwrap().clone();
        let help = list.render_help().to_string();
        assert!(help.ends_with("--count\n"), "{help}");
    }
    /// Command lines in a text, and whether they are whole: those of code blocks are, those between backquotes may only name a verb. Lines that leave
    /// something out, or have a name in capitals for it, are none.
    fn lines(text: &str) -> Vec<(String, bool)> {
        let mut found = Vec::new();
        let mut in_block = false;
        for line in text.lines() {
            if line.starts_with("```") {
                in_block = !in_block;
            } else if in_block {
                let line = line.strip_prefix("# ").unwrap_or(line);
                let (line, _remark) = line.split_once(" # ").unwrap_or((line, ""));
                found.push((line.to_owned(), true));
            } else {
                let inline = line.split('`').skip(1).step_by(2);
                found.extend(inline.map(|line| (line.to_owned(), false)));
            }
        }
        let is_name = |word: &str| {
            let meant = ["IN", "OUT", "ACCEPT", "DROP", "REJECT", "PORTS", "FLOWS"];
            let capital = word.chars().all(|c| c.is_ascii_uppercase());
            word.len() > 1 && capital && !meant.contains(&word)
        };
        found.retain(|(line, _)| {
            line.starts_with("fwctl ") && !line.contains('…') && !line.split(' ').any(is_name)
        });
        found
    }

    #[test]
    fn the_guide_s_command_lines_are_read() {
        for (file, text, least) in [
            ("docs/guide.md", include_str!("../../../docs/guide.md"), 70),
            ("README.md", include_str!("../../../README.md"), 20),
        ] {
            let found = lines(text);
            assert!(found.len() >= least, "{file}: {found:?}");
            for (line, is_whole) in found {
                let read = command().try_get_matches_from(line.split_whitespace());
                let Err(error) = read else { continue };
                let names_a_verb = matches!(
                    error.kind(),
                    ErrorKind::DisplayHelp
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::MissingRequiredArgument
                );
                let is_known = names_a_verb && !is_whole;
                assert!(is_known, "{file}: {line}: {error}");
            }
        }
    }
}
