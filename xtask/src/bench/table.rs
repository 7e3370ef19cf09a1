//! Tables of results: the same cells for the screen and for Markdown.
//!
//! A part whose rows are of several subjects has a column per subject; one of a single subject has a column per statistic.

use std::collections::BTreeSet;

use comfy_table::Table as Screen;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::part::Part;
use super::results::Results;
use super::row::{Row, Size, exponent};
use super::target::standings;

/// A table as text.
pub struct Table {
    /// What it says.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: &str, header: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            header: header.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// For the screen.
    fn screen(&self) -> String {
        let mut screen = Screen::new();
        screen.load_style(UTF8_FULL_CONDENSED);
        screen.set_header(&self.header);
        for row in &self.rows {
            screen.add_row(row);
        }
        format!("{}\n{screen}", self.title)
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&self.header);
        text.push_str(&format!("|{}\n", "---|".repeat(self.header.len())));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }
}

/// Prints every table and the targets.
pub fn print(results: &Results) {
    for part in Part::ALL {
        if let Some(table) = of(results, part) {
            println!("{}\n", table.screen());
        }
    }
    println!("{}", of_targets(results).screen());
    if results.quick {
        println!("A quick run: it shows that the bench works, not how fast anything is.");
    }
}

/// The table of a part; none if it was not measured.
pub fn of(results: &Results, part: Part) -> Option<Table> {
    results.of(part).next()?;
    let subjects: BTreeSet<&str> = results.of(part).map(|row| row.subject.as_str()).collect();
    match subjects.len() {
        1 => Some(of_one(results, part)),
        _ => Some(of_several(results, part, &subjects)),
    }
}

/// How the targets stand.
pub fn of_targets(results: &Results) -> Table {
    let mut table = Table::new("Targets", &["target", "bound", "measured", ""]);
    for standing in standings(results) {
        let mark = match standing.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        };
        table.rows.push(vec![
            standing.name.to_owned(),
            standing.bound,
            standing.measured.unwrap_or_default(),
            mark.to_owned(),
        ]);
    }
    table
}

/// How costs of growth grow.
pub fn of_exponents(results: &Results) -> Table {
    let header = ["case", "from", "to", "grows as size to the power of"];
    let mut table = Table::new("Growth, fitted", &header);
    for case in cases(results, Part::Growth) {
        let points = points(results, Part::Growth, case, "tapwall");
        let ends = points.first().zip(points.last());
        if let Some(((from, _), (to, _))) = ends
            && let Some(exponent) = exponent(&points)
        {
            table.rows.push(vec![
                case.to_owned(),
                number(*from),
                number(*to),
                format!("{exponent:.2}"),
            ]);
        }
    }
    table
}

/// Names of the cases of a part, in the order of measurement.
pub fn cases(results: &Results, part: Part) -> Vec<&str> {
    let mut cases: Vec<&str> = Vec::new();
    for row in results.of(part) {
        if !cases.contains(&row.case.as_str()) {
            cases.push(&row.case);
        }
    }
    cases
}

/// Size and median of every row of a case and subject, by size.
pub fn points(results: &Results, part: Part, case: &str, subject: &str) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = results
        .of(part)
        .filter(|row| row.case == case && row.subject == subject)
        .filter_map(|row| Some((row.size.as_ref()?.count as f64, row.median())))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// A number as it is read: three digits that mean something, thousands apart.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        ..0.1 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text
        .split_once('.')
        .map_or((text.as_str(), ""), |(whole, _)| {
            (whole, &text[whole.len()..])
        });
    let (sign, whole) = whole
        .strip_prefix('-')
        .map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    // `120.0` says no more than `120`.
    let rest = match rest
        .trim_start_matches('.')
        .bytes()
        .all(|digit| digit == b'0')
        && whole.len() > 1
    {
        true => "",
        false => rest,
    };
    format!("{sign}{grouped}{rest}")
}

fn of_size(size: Option<&Size>) -> String {
    size.map_or_else(String::new, |size| {
        format!("{} {}", number(size.count as f64), size.of)
    })
}

fn range(row: &Row) -> String {
    match row.samples.len() {
        1 => String::new(),
        _ => format!("{}–{}", number(row.least()), number(row.most())),
    }
}

fn of_one(results: &Results, part: Part) -> Table {
    let header = ["case", "size", "median", "min–max", "p99"];
    let mut table = Table::new(part.title(), &header);
    for row in results.of(part) {
        let tail = row.has_tail().then(|| number(row.quantile(0.99)));
        table.rows.push(vec![
            row.case.clone(),
            of_size(row.size.as_ref()),
            format!("{} {}", number(row.median()), row.unit),
            range(row),
            tail.unwrap_or_default(),
        ]);
    }
    table
}

fn of_several(results: &Results, part: Part, subjects: &BTreeSet<&str>) -> Table {
    // In the order of what they do: nothing, something else, ours.
    let order = ["none", "empty", "iptables", "nftables", "tapwall"];
    let known = order.into_iter().filter(|name| subjects.contains(name));
    let others = subjects
        .iter()
        .copied()
        .filter(|name| !order.contains(name));
    let columns: Vec<&str> = known.chain(others).collect();
    let mut table = Table::new(part.title(), &["case", "size"]);
    table
        .header
        .extend(columns.iter().map(|&name| name.to_owned()));
    for case in cases(results, part) {
        let own = || results.of(part).filter(|row| row.case == case);
        let sizes: BTreeSet<&Size> = own().filter_map(|row| row.size.as_ref()).collect();
        let sizes: Vec<Option<&Size>> = match sizes.is_empty() {
            true => vec![None],
            false => sizes.into_iter().map(Some).collect(),
        };
        for size in sizes {
            let baseline = part
                .baseline()
                .and_then(|subject| results.find(part, case, subject, size));
            let mut cells = vec![case.to_owned(), of_size(size)];
            for subject in &columns {
                let row = results.find(part, case, subject, size);
                cells.push(row.map_or_else(String::new, |row| cell(part, row, baseline)));
            }
            table.rows.push(cells);
        }
    }
    table
}

/// `1,084 ns (1,071–1,097), 1.46×`; for packets what is above the baseline instead of the ratio.
fn cell(part: Part, row: &Row, baseline: Option<&Row>) -> String {
    let mut text = format!("{} {}", number(row.median()), row.unit);
    let range = range(row);
    if !range.is_empty() {
        text.push_str(&format!(" ({range})"));
    }
    if row.has_tail() && part != Part::Traffic {
        text.push_str(&format!(", p99 {}", number(row.quantile(0.99))));
    }
    if let Some(baseline) = baseline
        && baseline.subject != row.subject
    {
        match part {
            Part::Packet => {
                let above = row.median() - baseline.median();
                text.push_str(&format!(", +{}", number(above)));
            }
            Part::Traffic
            | Part::Change
            | Part::Memory
            | Part::Growth
            | Part::Set
            | Part::Sweep => {
                text.push_str(&format!(", {}×", number(row.ratio(baseline))));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::target::tests::example;
    use super::*;

    #[test]
    fn numbers() {
        for (value, expect) in [
            (0.0, "0"),
            (0.0456, "0.046"),
            (1.5, "1.50"),
            (12.34, "12.3"),
            (60.0, "60"),
            (120.0, "120"),
            (1_083.7, "1,084"),
            (1_000_000.0, "1,000,000"),
            (-1_234.0, "-1,234"),
        ] {
            assert_eq!(number(value), expect);
        }
    }

    #[test]
    fn a_table_of_several_subjects() {
        let table = of(&example(), Part::Traffic).unwrap();
        let expect = "| case | size | none | tapwall |\n|---|---|---|---|\n\
            | denied packet | 10 rules | 100 ns (90–300) | 120 ns, 1.20× |\n\
            | denied packet | 10,000 rules | 100 ns (90–300) | 150 ns, 1.50× |\n";
        assert_eq!(table.markdown(), expect);
        assert!(of(&example(), Part::Memory).is_none());
    }
}
