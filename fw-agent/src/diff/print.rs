//! A difference in words.
//!
//! ```text
//! options
//!   firewall/100.fw:3: policy_in: DROP -> ACCEPT
//! rules in, at 12 NICs of 12 guests: 100/net0, 101/net0, 102/net0 and 9 more
//!   + firewall/cluster.fw:9: [group web] IN ACCEPT -p tcp -dport 443
//! ports
//!   tcp 443 in, at …: closed -> open to everybody
//! ```

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use super::{Difference, Fate, Line, NameChange, Place, Reach, RuleChange};

/// Places that are named.
const NAMED: usize = 3;
/// Ranges of ports that are named.
const RANGES: usize = 8;

/// Places in words: how many, if there are many, and the first of them.
pub fn places(places: &[Place]) -> String {
    let named = |places: &[Place]| {
        let names = places.iter().map(Place::to_string);
        names.collect::<Vec<_>>().join(", ")
    };
    // The host is the first.
    let (host, others) = match places {
        [Place::Host, others @ ..] => ("host, ", others),
        others => ("", others),
    };
    if others.len() <= NAMED + 1 {
        return named(places);
    }
    let guests = others.iter().filter_map(|place| match place {
        Place::Nic(port) => Some(port.vmid),
        Place::Host | Place::Vnet(_) => None,
    });
    let guests: BTreeSet<u32> = guests.collect();
    format!(
        "{host}{} NICs of {} guests: {} and {} more",
        others.len(),
        guests.len(),
        named(&others[..NAMED]),
        others.len() - NAMED
    )
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.enabled {
            Some(true) => writeln!(f, "the firewall goes on")?,
            Some(false) => writeln!(f, "THE FIREWALL GOES OFF: nothing will be filtered")?,
            None => {}
        }
        if !self.filtered.is_empty() {
            writeln!(f, "comes under the firewall: {}", places(&self.filtered))?;
        }
        if !self.unfiltered.is_empty() {
            writeln!(f, "is not filtered any more: {}", places(&self.unfiltered))?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options")?;
        }
        for option in &self.options {
            write!(f, "  {}", option.file)?;
            if let Some(line) = option.line {
                write!(f, ":{line}")?;
            }
            let value = |value: &Option<String>| value.as_deref().unwrap_or("default").to_owned();
            let (before, after) = (value(&option.before), value(&option.after));
            writeln!(f, ": {}: {before} -> {after}", option.name)?;
        }
        if !self.names.is_empty() {
            writeln!(f, "sets and aliases")?;
        }
        self.names.iter().try_for_each(|name| write!(f, "{name}"))?;
        if !self.nics.is_empty() {
            writeln!(f, "NICs")?;
        }
        for nic in &self.nics {
            let at = places(&nic.places);
            writeln!(f, "  {at}: {}: {} -> {}", nic.what, nic.before, nic.after)?;
        }
        // Changes of the same policies stand together, in the order of the first of each.
        let mut told: Vec<(&RuleChange, Vec<&RuleChange>)> = Vec::new();
        for change in &self.rules {
            let same = |(first, _): &&mut (&RuleChange, _)| {
                (first.way, &first.places) == (change.way, &change.places)
            };
            match told.iter_mut().find(same) {
                Some((_, changes)) => changes.push(change),
                None => told.push((change, vec![change])),
            }
        }
        for (first, changes) in told {
            writeln!(
                f,
                "rules {}, at {}",
                first.way.name(),
                places(&first.places)
            )?;
            for change in changes.iter().filter(|change| built_in(change).is_none()) {
                rule(f, change)?;
            }
            for fate in [Fate::Removed, Fate::Added] {
                let those = changes.iter().filter(|change| change.fate == fate);
                let names: Vec<&str> = those.filter_map(|change| built_in(change)).collect();
                if !names.is_empty() {
                    let mark = if fate == Fate::Added { "+" } else { "-" };
                    writeln!(f, "  {mark} {STANDARD}{}", names.join(", "))?;
                }
            }
        }
        if !self.services.is_empty() {
            writeln!(f, "ports")?;
        }
        for service in &self.services {
            write!(f, "  {} ", service.protocol)?;
            for (number, (first, last)) in service.ports.iter().take(RANGES).enumerate() {
                let comma = if number == 0 { "" } else { ", " };
                match first == last {
                    true => write!(f, "{comma}{first}")?,
                    false => write!(f, "{comma}{first}-{last}")?,
                }
            }
            if service.ports.len() > RANGES {
                write!(f, " and {} more ranges", service.ports.len() - RANGES)?;
            }
            writeln!(
                f,
                " {}, at {}: {} -> {}",
                service.way.name(),
                places(&service.places),
                service.before,
                service.after
            )?;
        }
        Ok(())
    }
}

impl Display for NameChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            kind,
            name,
            ..
        } = self;
        write!(f, "  {file}:{line}: {kind} {name}")?;
        match (self.before, self.after) {
            (None, Some(count)) => write!(f, " is new, with {}", entries(count))?,
            (Some(count), None) => write!(f, " is gone, with {}", entries(count))?,
            (None, None) | (Some(_), Some(_)) => {}
        }
        if self.before.is_some() && self.after.is_some() {
            let mut parts = Vec::new();
            for (verb, (count, named)) in [("gains", &self.gained), ("loses", &self.lost)] {
                if *count > 0 {
                    let more = if *count > named.len() { ", …" } else { "" };
                    let named = named.join(", ");
                    parts.push(format!("{verb} {} ({named}{more})", entries(*count)));
                }
            }
            write!(f, " {}", parts.join(", "))?;
        }
        match self.places.is_empty() {
            true => writeln!(f, "; no rule mentions it"),
            false => writeln!(f, "; for {}", places(&self.places)),
        }
    }
}

/// `1 entry`, `2 entries`.
fn entries(count: usize) -> String {
    let noun = if count == 1 { "entry" } else { "entries" };
    format!("{count} {noun}")
}

/// Begins the texts of rules that no line makes.
const STANDARD: &str = "standard: ";

/// What a standard rule is called that comes or goes.
fn built_in(change: &RuleChange) -> Option<&str> {
    let line = match change.fate {
        Fate::Added => change.after.as_ref()?,
        Fate::Removed => change.before.as_ref()?,
        Fate::Changed | Fate::Moved | Fate::Affected => return None,
    };
    line.text.strip_prefix(STANDARD)
}

fn rule(f: &mut Formatter<'_>, change: &RuleChange) -> fmt::Result {
    let group = change.group.as_ref();
    let group = group.map_or_else(String::new, |group| format!("[group {group}] "));
    let show = |f: &mut Formatter<'_>, mark: &str, line: &Option<Line>, note: String| {
        let Some(line) = line else { return Ok(()) };
        match (&line.file, line.line) {
            (Some(file), Some(number)) => {
                writeln!(f, "  {mark} {file}:{number}: {group}{}{note}", line.text)
            }
            (Some(_), None) | (None, _) => writeln!(f, "  {mark} {group}{}{note}", line.text),
        }
    };
    let none = String::new;
    match change.fate {
        Fate::Added => show(f, "+", &change.after, none()),
        Fate::Removed => show(f, "-", &change.before, none()),
        Fate::Changed => {
            show(f, "-", &change.before, none())?;
            show(f, "+", &change.after, none())
        }
        Fate::Moved => {
            let from = change.before.as_ref().and_then(|line| line.line);
            let from = from.map_or_else(none, |line| format!(" (was line {line})"));
            show(f, "~", &change.after, format!(" moved{from}"))
        }
        Fate::Affected => show(f, "~", &change.after, " means something else".to_owned()),
    }
}

impl Display for Reach {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Some => "open to some",
            Self::Open => "open to everybody",
        })
    }
}
