//! Whether two lines are the same rule: compared by what they mean as lines, whatever their blanks, comments, case and order of options.
//!
//! Names are not looked up: a set and a list of the same addresses are two things, `dport 22` and `SSH` too unless they are the same ports.

use crate::config::address::{AddressSpec, Scope};
use crate::config::line::{Fault, Line};
use crate::config::rule::{self, Action, Flow, Interface, List};
use crate::config::service::Service;
use fw_common::verdict::Verdict;
use ipnet::IpNet;

/// A rule line without the places of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Not disabled.
    pub enabled: bool,
    interface: Option<String>,
    action: Meant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Meant {
    Group(String),
    Filter {
        flow: Flow,
        verdict: Verdict,
        services: Vec<Service>,
        source: Option<Addresses>,
        dest: Option<Addresses>,
        log: Option<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Addresses {
    Set(Option<Scope>, String),
    Alias(Option<Scope>, String),
    Nets(Vec<IpNet>),
}

/// What a line means in a list; none if it is blank.
///
/// # Errors
/// It is no rule.
pub fn meaning(text: &str, list: List) -> Result<Option<Meaning>, Fault> {
    let Some(rule) = rule::parse(&Line::alone(text), list, &mut Vec::new())? else {
        return Ok(None);
    };
    let interface = rule.interface.map(|interface| match interface {
        Interface::Net(net, _) => format!("net{net}"),
        Interface::Host(name, _) => name.to_string(),
    });
    let action = match rule.action {
        Action::Group { name, .. } => Meant::Group(name.to_string()),
        Action::Filter(filter) => Meant::Filter {
            flow: filter.flow,
            verdict: filter.verdict,
            services: filter.services,
            source: filter.source.map(addresses),
            dest: filter.dest.map(addresses),
            log: filter.log,
        },
    };
    Ok(Some(Meaning {
        enabled: rule.enabled,
        interface,
        action,
    }))
}

fn addresses(spec: AddressSpec) -> Addresses {
    match spec {
        AddressSpec::Set(name) => Addresses::Set(name.scope, name.name.to_string()),
        AddressSpec::Alias(name) => Addresses::Alias(name.scope, name.name.to_string()),
        AddressSpec::Nets { nets, .. } => {
            let mut nets = nets.to_vec();
            nets.sort_unstable();
            Addresses::Nets(nets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rule_in_other_words() {
        let of = |text| meaning(text, List::Guest).unwrap().unwrap();
        let base = of("IN ACCEPT -source 10.0.0.0/8,192.0.2.1 -p tcp -dport 22");
        for same in [
            "in  accept -p tcp -dport 22 -source 192.0.2.1,10.0.0.0/8 # why",
            "IN SSH(ACCEPT) --source 10.0.0.0/8,192.0.2.1",
        ] {
            assert_eq!(of(same), base, "{same}");
        }
        for other in [
            "|IN ACCEPT -source 10.0.0.0/8,192.0.2.1 -p tcp -dport 22",
            "IN ACCEPT -source 10.0.0.0/8 -p tcp -dport 22",
            "IN ACCEPT -i net0 -source 10.0.0.0/8,192.0.2.1 -p tcp -dport 22",
            "OUT ACCEPT -source 10.0.0.0/8,192.0.2.1 -p tcp -dport 22",
        ] {
            assert_ne!(of(other), base, "{other}");
        }
        assert!(meaning("IN nonsense", List::Guest).is_err());
        assert_eq!(meaning("# nothing", List::Guest), Ok(None));
    }
}
