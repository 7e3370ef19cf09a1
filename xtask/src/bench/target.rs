//! What Tapwall promises to cost, as ratios and differences within one run.
//!
//! A target that cannot be computed, because its rows were not measured, is said to be open; it is never counted as met.

use super::part::Part;
use super::results::Results;
use super::row::Size;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    Most(f64),
    Least(f64),
}

/// A promise.
struct Target {
    name: &'static str,
    unit: &'static str,
    bound: Bound,
    value: fn(&Results) -> Option<f64>,
}

/// How a target stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What is promised.
    pub name: &'static str,
    /// The bound, as it is read: `≤ 120 ns`.
    pub bound: String,
    /// What was measured.
    pub measured: Option<String>,
    /// None: not measured.
    pub met: Option<bool>,
}

/// Nanoseconds above the empty program, the worse of the two families.
fn above(results: &Results, case: &str) -> Option<f64> {
    worse(|family| above_in(results, case, family))
}

fn above_in(results: &Results, case: &str, family: &str) -> Option<f64> {
    let case = format!("{case}, {family}");
    let median = |subject| Some(results.find(Part::Packet, &case, subject, None)?.median());
    Some(median("tapwall")? - median("empty")?)
}

fn worse(of: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let both = ["IPv4", "IPv6"].into_iter().filter_map(of);
    both.reduce(f64::max)
}

/// Nanoseconds that one case costs more than another.
fn added(results: &Results, case: &str, to: &str) -> Option<f64> {
    worse(|family| Some(above_in(results, case, family)? - above_in(results, to, family)?))
}

/// One case of packets by another.
fn packets(results: &Results, case: &str, by: &str) -> Option<f64> {
    worse(|family| Some(above_in(results, case, family)? / above_in(results, by, family)?))
}

/// Tapwall's by that without a firewall.
fn traffic(results: &Results, case: &str, rules: u64) -> Option<f64> {
    let size = rules_of(rules);
    let row = |subject| results.find(Part::Traffic, case, subject, Some(&size));
    Some(row("tapwall")?.ratio(row("none")?))
}

/// The worse of few and many rules, where less is better.
fn traffic_at_most(results: &Results, case: &str) -> Option<f64> {
    Some(traffic(results, case, 10)?.max(traffic(results, case, 10_000)?))
}

/// Likewise, where more is better.
fn traffic_at_least(results: &Results, case: &str) -> Option<f64> {
    Some(traffic(results, case, 10)?.min(traffic(results, case, 10_000)?))
}

fn rules_of(count: u64) -> Size {
    size("rules", count)
}

fn size(of: &str, count: u64) -> Size {
    Size {
        of: of.to_owned(),
        count,
    }
}

fn quantile(results: &Results, part: Part, case: &str, size: Size, share: f64) -> Option<f64> {
    let row = results.find(part, case, "tapwall", Some(&size))?;
    Some(row.quantile(share))
}

fn change(results: &Results, case: &str, guests: u64, share: f64) -> Option<f64> {
    quantile(results, Part::Change, case, size("guests", guests), share)
}

fn set(results: &Results, case: &str) -> Option<f64> {
    quantile(
        results,
        Part::Change,
        case,
        size("prefixes", 1_000_000),
        0.5,
    )
}

/// The cost at one size by that at a smaller one.
fn growth(results: &Results, case: &str, of: &str, [small, large]: [u64; 2]) -> Option<f64> {
    let row = |count| results.find(Part::Growth, case, "tapwall", Some(&size(of, count)));
    Some(row(large)?.ratio(row(small)?))
}

const EDIT: &str = "one rule edited";
const NEW_FLOW: &str = "new flow, 10000 rules by port";

const TARGETS: [Target; 25] = [
    Target {
        name: "packet: established, one hot flow",
        unit: "ns",
        bound: Bound::Most(120.0),
        value: |r| above(r, "established, hot"),
    },
    Target {
        name: "packet: established, random over 262,144 flows",
        unit: "ns",
        bound: Bound::Most(600.0),
        value: |r| above(r, "established, random of 262,144 flows"),
    },
    Target {
        name: "packet: new flow, 10,000 rules, the last matches",
        unit: "ns",
        bound: Bound::Most(1_100.0),
        value: |r| above(r, NEW_FLOW),
    },
    Target {
        name: "packet: the same by that with 10 rules",
        unit: "×",
        bound: Bound::Most(1.25),
        value: |r| packets(r, NEW_FLOW, "new flow, 10 rules by port"),
    },
    Target {
        name: "packet: classification alone, 10,000 rules",
        unit: "ns",
        bound: Bound::Most(200.0),
        value: |r| {
            added(
                r,
                "dropped by policy, 10000 rules",
                "dropped without classification, 10000 rules",
            )
        },
    },
    Target {
        name: "packet: dropped by policy, 10,000 rules",
        unit: "ns",
        bound: Bound::Most(350.0),
        value: |r| above(r, "dropped by policy, 10000 rules"),
    },
    Target {
        name: "packet: added by a blacklist of 1,000,000, not in it",
        unit: "ns",
        bound: Bound::Most(60.0),
        value: |r| {
            added(
                r,
                "established, hot, not in the blacklist, 1000000 prefixes",
                "established, hot",
            )
        },
    },
    Target {
        name: "packet: ban hit at XDP",
        unit: "ns",
        bound: Bound::Most(90.0),
        value: |r| above(r, "XDP, 10,000 bans, hit"),
    },
    Target {
        name: "packet: added by guards",
        unit: "ns",
        bound: Bound::Most(60.0),
        value: |r| {
            added(
                r,
                "established, hot, with guards",
                "established, hot, without guards",
            )
        },
    },
    Target {
        name: "traffic: established packet, by no firewall",
        unit: "×",
        bound: Bound::Most(1.2),
        value: |r| traffic_at_most(r, "established packet"),
    },
    Target {
        name: "traffic: first packet of a flow, by no firewall, 10 and 10,000 rules",
        unit: "×",
        bound: Bound::Most(2.2),
        value: |r| traffic_at_most(r, "first packet of a flow"),
    },
    Target {
        name: "traffic: denied packet, by no firewall, 10 and 10,000 rules",
        unit: "×",
        bound: Bound::Most(1.4),
        value: |r| traffic_at_most(r, "denied packet"),
    },
    Target {
        name: "traffic: TCP connections, by no firewall, 10 and 10,000 rules",
        unit: "×",
        bound: Bound::Least(0.88),
        value: |r| traffic_at_least(r, "TCP connections"),
    },
    Target {
        name: "traffic: 64-byte UDP, each a new flow, by no firewall, 10 and 10,000 rules",
        unit: "×",
        bound: Bound::Least(0.8),
        value: |r| traffic_at_least(r, "64-byte UDP, each a new flow"),
    },
    Target {
        name: "traffic: TCP single stream, by no firewall",
        unit: "×",
        bound: Bound::Least(0.95),
        value: |r| traffic_at_least(r, "TCP single stream"),
    },
    Target {
        name: "change: one rule in one of 1,000 guests, p50",
        unit: "ms",
        bound: Bound::Most(60.0),
        value: |r| change(r, EDIT, 1_000, 0.5),
    },
    Target {
        name: "change: one rule in one of 1,000 guests, p99",
        unit: "ms",
        bound: Bound::Most(250.0),
        value: |r| change(r, EDIT, 1_000, 0.99),
    },
    Target {
        name: "change: iptables-restore of that node, by that",
        unit: "×",
        bound: Bound::Least(20.0),
        value: |r| {
            let guests = size("guests", 1_000);
            let iptables = r.find(Part::Change, EDIT, "iptables", Some(&guests))?;
            Some(iptables.median() / change(r, EDIT, 1_000, 0.5)?)
        },
    },
    Target {
        name: "change: cold start, 1,000 guests",
        unit: "ms",
        bound: Bound::Most(2_000.0),
        value: |r| change(r, "cold start", 1_000, 0.5),
    },
    Target {
        name: "change: resident memory after it",
        unit: "MiB",
        bound: Bound::Most(150.0),
        value: |r| change(r, "resident after a cold start", 1_000, 0.5),
    },
    Target {
        name: "change: one address into a set of 1,000,000",
        unit: "ms",
        bound: Bound::Most(150.0),
        value: |r| set(r, "one address into a set"),
    },
    Target {
        name: "change: of that, in the kernel",
        unit: "ms",
        bound: Bound::Most(1.0),
        value: |r| {
            let case = "one address more, in the kernel";
            quantile(r, Part::Set, case, size("prefixes", 1_000_000), 0.5)
        },
    },
    Target {
        name: "change: loading 1,000,000 prefixes",
        unit: "ms",
        bound: Bound::Most(4_000.0),
        value: |r| set(r, "loading a set"),
    },
    Target {
        name: "growth: first packet of a flow, 10 to 10,000 rules",
        unit: "×",
        bound: Bound::Most(1.25),
        value: |r| {
            let case = "first packet of a flow, against rules";
            growth(r, case, "rules", [10, 10_000])
        },
    },
    Target {
        name: "growth: first packet of a flow, 10 to 1,000 guests",
        unit: "×",
        bound: Bound::Most(1.25),
        value: |r| {
            let case = "first packet of a flow, against guests";
            growth(r, case, "guests", [10, 1_000])
        },
    },
];

/// How all targets stand.
pub fn standings(results: &Results) -> Vec<Standing> {
    let standings = TARGETS.iter().map(|target| {
        let value = (target.value)(results).filter(|value| value.is_finite());
        let (sign, bound) = match target.bound {
            Bound::Most(bound) => ("≤", bound),
            Bound::Least(bound) => ("≥", bound),
        };
        Standing {
            name: target.name,
            bound: format!("{sign} {} {}", super::table::number(bound), target.unit),
            measured: value.map(|value| format!("{} {}", super::table::number(value), target.unit)),
            met: value.map(|value| match target.bound {
                Bound::Most(bound) => value <= bound,
                Bound::Least(bound) => value >= bound,
            }),
        }
    });
    standings.collect()
}

#[cfg(test)]
pub mod tests {
    use super::super::machine::Machine;
    use super::super::row::Row;
    use super::*;

    fn row(table: &str, case: &str, subject: &str, rules: Option<u64>, samples: &[f64]) -> Row {
        Row {
            table: table.to_owned(),
            case: case.to_owned(),
            subject: subject.to_owned(),
            size: rules.map(rules_of),
            unit: "ns".to_owned(),
            samples: samples.to_vec(),
        }
    }

    /// Results of a run that measured little.
    pub fn example() -> Results {
        let machine = Machine {
            date: "2026-01-01T00:00:00Z".to_owned(),
            commit: "0123456789ab".to_owned(),
            kernel: "6.12.0".to_owned(),
            processor: "one".to_owned(),
            processors: 2,
            memory: 4096,
            load: 0.5,
        };
        let mut results = Results::new(machine, true);
        let case = "denied packet";
        results.rows = vec![
            row("traffic", case, "none", None, &[90.0, 100.0, 300.0]),
            row("traffic", case, "tapwall", Some(10), &[120.0]),
            row("traffic", case, "tapwall", Some(10_000), &[150.0]),
            row("packet", "established, hot, IPv4", "empty", None, &[30.0]),
            row(
                "packet",
                "established, hot, IPv4",
                "tapwall",
                None,
                &[130.0],
            ),
            row("packet", "established, hot, IPv6", "empty", None, &[30.0]),
            row(
                "packet",
                "established, hot, IPv6",
                "tapwall",
                None,
                &[149.0],
            ),
        ];
        results
    }

    #[test]
    fn standing_of_targets() {
        let standings = standings(&example());
        let find = |name: &str| {
            let found = standings.iter().find(|standing| standing.name == name);
            found.map(|standing| (standing.measured.clone(), standing.met))
        };
        // The worse of the numbers of rules; by that without a firewall.
        assert_eq!(
            find("traffic: denied packet, by no firewall, 10 and 10,000 rules"),
            Some((Some("1.50 ×".to_owned()), Some(false)))
        );
        // The worse family.
        assert_eq!(
            find("packet: established, one hot flow"),
            Some((Some("119 ns".to_owned()), Some(true)))
        );
        assert_eq!(find("packet: added by guards"), Some((None, None)));
    }
}
