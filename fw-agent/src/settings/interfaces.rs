//! Which of the host's interfaces the host's zone covers, by name.
//!
//! Patterns: `*` stands for any number of characters, `?` for one, everything else for itself. Guests' devices are not asked about.

use serde::{Deserialize, Serialize};

/// Patterns of interfaces that are wanted and not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    /// Those that are; if there are none, all are.
    pub include: Vec<String>,
    /// Those that are not, even if `include` has them.
    pub exclude: Vec<String>,
}

impl Interfaces {
    /// Whether the interface called `name` is wanted.
    pub fn wants(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// Whether a name fits a pattern. Linear: after a mismatch only the last `*` takes one character more.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(other) if other == byte => (p, n) = (p + 1, n + 1),
            Some(_) | None => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p.min(pattern.len())..]
        .iter()
        .all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("eno1", "eno1", true),
            ("eno1", "eno10", false),
            ("eno1", "eno", false),
            ("eno*", "eno1", true),
            ("eno*", "eno", true),
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("?", "", false),
            ("vmbr?", "vmbr0", true),
            ("vmbr?", "vmbr10", false),
            ("*.100", "bond0.100", true),
            ("*.100", "bond0.1001", false),
            ("*a*b", "xaxxab", true),
            ("*a*b", "xaxxabc", false),
            ("a**c", "abc", true),
        ];
        for (pattern, name, expect) in cases {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }

    #[test]
    fn an_interface_is_wanted_unless_it_is_not_included_or_excluded() {
        let cases: [(&[&str], &[&str], &str, bool); 6] = [
            (&[], &[], "eno1", true),
            (&[], &["docker*"], "docker0", false),
            (&[], &["docker*"], "eno1", true),
            (&["eno*", "vmbr*"], &[], "vmbr0", true),
            (&["eno*"], &[], "vmbr0", false),
            (&["eno*"], &["eno2"], "eno2", false),
        ];
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        for (include, exclude, name, expect) in cases {
            let interfaces = Interfaces {
                include: owned(include),
                exclude: owned(exclude),
            };
            assert_eq!(interfaces.wants(name), expect, "{interfaces:?} {name}");
        }
    }
}
