//! `fwctl import iptables-save` with the real tools: what iptables did to connections, Tapwall does with the translation.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::Write;
use std::process::Stdio;

use tapwall_tests::agent::Agent;
use tapwall_tests::netns::run;
use tapwall_tests::tree::{ConfigTree, temporary_directory};

use crate::fwctl;
use crate::plain::{FILE, Plain};

/// As an administrator would load it; the tool writes it in its own form.
const RULES: &str = r#"*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:outside - [0:0]
:refuse - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -i wan0 -j outside
-A INPUT ! -i wan0 -p tcp -m multiport --dports 22,80,9000:9010 -m comment --comment "from \"inside\"" -j ACCEPT
-A INPUT -p udp -m udp --dport 53 -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type echo-request -j ACCEPT
-A INPUT -p tcp -m tcp ! --dport 22 -g refuse
-A outside ! -s 10.20.0.0/16 -j DROP
-A outside -p udp -j RETURN
-A outside -p icmp -j DROP
-A outside -m iprange --src-range 10.20.0.2-10.20.0.9 -p tcp -m tcp --dport 8080 -j ACCEPT
-A refuse -m limit --limit 5/min -j LOG --log-prefix "refused: "
-A refuse -j REJECT --reject-with icmp-port-unreachable
COMMIT
"#;

/// What takes them away.
const NOTHING: &str =
    "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

/// Feeds a ruleset to a tool inside.
fn restore(plain: &Plain, tool: &str, text: &str) {
    let mut command = plain.host.command(format!("{tool}-restore"));
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{tool}: {said}");
}

#[test]
fn the_translation_does_what_iptables_did() {
    for tool in ["iptables-legacy", "iptables-nft"] {
        let plain = Plain::new();
        let open = plain.table();
        restore(&plain, tool, RULES);
        let mut save = plain.host.command(format!("{tool}-save"));
        let saved = run(save.args(["-c", "-t", "filter"])).unwrap();
        let filtered = plain.table();
        assert_ne!(open, filtered, "{tool}");
        restore(&plain, tool, NOTHING);
        assert_eq!(plain.table(), open, "{tool}");

        let place = temporary_directory("saved").unwrap();
        let file = place.path().join("rules.v4");
        fs::write(&file, &saved).unwrap();
        let tree = ConfigTree::plain().unwrap();
        let agent = Agent::spawn(&plain.host, &tree).unwrap();
        let path = tree.path().join(FILE);
        let names = [&file, &path].map(|path| path.to_str().unwrap());
        let words = ["import", "iptables-save", names[0], "--output", names[1]];
        let mut ended = (String::new(), None);
        agent
            .after(|| {
                ended = fwctl(&agent, &words);
                Ok(())
            })
            .unwrap();
        let (said, code) = ended;
        assert_eq!(code, Some(1), "{tool}: {said}\n{saved}");
        assert!(!said.contains("left out"), "{tool}: {said}\n{saved}");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(plain.table(), open, "it waits for `enable: 1`");
        let (said, code) = fwctl(&agent, &words);
        assert!(code == Some(2) && said.contains("--force"), "{said}");
        agent
            .after(|| tree.write(FILE, &text.replace("enable: 0", "enable: 1")))
            .unwrap();
        assert_eq!(plain.table(), filtered, "{tool}:\n{saved}\n{text}");
    }
}
