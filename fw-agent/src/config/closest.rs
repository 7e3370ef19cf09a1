//! The name that was probably meant: the closest of some candidates by edit distance.
//!
//! Used for hints only. At most two edits away, and only for names of ordinary length, so that a file full of mistakes costs little.

const LONGEST: usize = 64;
const CANDIDATES: usize = 4096;

/// The candidate closest to `name` without regard to case, if it is at most two edits away (one for names below five characters).
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > LONGEST {
        return None;
    }
    let most = if name.len() < 5 { 1 } else { 2 };
    candidates
        .into_iter()
        .take(CANDIDATES)
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= most)
        .map(|candidate| {
            (
                distance(name.as_bytes(), candidate.to_ascii_lowercase().as_bytes()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean NAME?` for the closest candidate.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    closest(name, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(from != to))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *to && b[j - 1] == *from {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_small_mistakes_only() {
        let names = ["SSH", "HTTP", "HTTPS", "PostgreSQL"];
        for (name, expect) in [
            ("shs", Some("SSH")),
            ("SHH", Some("SSH")),
            ("postgres", None),
            ("Postgresq", Some("PostgreSQL")),
            ("htps", Some("HTTPS")),
            ("", None),
            ("zzz", None),
        ] {
            assert_eq!(closest(name, names), expect, "{name}");
        }
    }
}
