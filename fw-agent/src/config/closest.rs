//! The name that was probably meant: the closest of some candidates by edit distance.
//!
//! Used for hints only. At most two edits away, and only for names of ordinary length, so that a file full of mistakes costs little.

const LONGEST: usize = 40;
const CANDIDATES: usize = 512;

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
        .filter_map(|candidate| {
            let folded = candidate.to_ascii_lowercase();
            Some((
                distance(name.as_bytes(), folded.as_bytes(), most)?,
                candidate,
            ))
        })
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

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`, if there are at most `most`. Both are at most
/// [`LONGEST`] + 2 bytes long. Only cells near the diagonal can be that small, so only those are computed.
fn distance(a: &[u8], b: &[u8], most: usize) -> Option<usize> {
    const FAR: usize = usize::MAX / 2;
    const WIDTH: usize = LONGEST + 3;
    let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[shared..], &b[shared..]);
    let mut before = [FAR; WIDTH];
    let mut last: [usize; WIDTH] = std::array::from_fn(|column| column);
    for (i, from) in a.iter().enumerate() {
        let mut row = [FAR; WIDTH];
        if i < most {
            row[0] = i + 1;
        }
        for j in i.saturating_sub(most)..b.len().min(i + most + 1) {
            let replaced = last[j] + usize::from(*from != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == b[j] && b[j - 1] == *from {
                best = best.min(before[j - 1] + 1);
            }
            row[j + 1] = best;
        }
        if row.iter().chain(&last).all(|distance| *distance > most) {
            return None;
        }
        before = std::mem::replace(&mut last, row);
    }
    Some(last[b.len()]).filter(|distance| *distance <= most)
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
            ("postgres", Some("PostgreSQL")),
            ("postgre", None),
            ("Postgresq", Some("PostgreSQL")),
            ("htps", Some("HTTPS")),
            ("xHTTPS", Some("HTTPS")),
            ("PostgreSQ", Some("PostgreSQL")),
            ("ostgreSQLx", Some("PostgreSQL")),
            ("", None),
            ("zzz", None),
        ] {
            assert_eq!(closest(name, names), expect, "{name}");
        }
    }
}
