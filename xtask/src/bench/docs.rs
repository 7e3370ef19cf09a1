//! The tables of `docs/performance.md`: written from results, never by hand.
//!
//! The page has marks, each alone on a line: `<!-- bench NAME -->` and `<!-- end NAME -->`. What is between them is replaced; all else stays. Names are
//! `machine`, `targets`, `exponents` and those of the parts. A part that the results do not have keeps what is there; a page without the marks of a
//! part that they have is an error.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::machine::Machine;
use super::part::Part;
use super::results::Results;
use super::table;

/// Replaces the tables of a page.
pub fn write(results: &Results, page: &Path) -> Result<()> {
    let old = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    let new = fill(&old, results).with_context(|| format!("changing {}", page.display()))?;
    fs::write(page, new).with_context(|| format!("writing {}", page.display()))
}

fn fill(page: &str, results: &Results) -> Result<String> {
    let mut page = replace(
        page,
        "machine",
        &of_machine(&results.machine, results.quick),
    )?;
    page = replace(&page, "targets", &table::of_targets(results).markdown())?;
    for part in Part::ALL {
        if let Some(table) = table::of(results, part) {
            page = replace(&page, part.name(), &table.markdown())?;
        }
    }
    if results.of(Part::Growth).next().is_some() {
        let fitted = table::of_exponents(results);
        page = replace(&page, "exponents", &fitted.markdown())?;
    }
    Ok(page)
}

fn replace(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- bench {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let found = page.split_once(&begin);
    let found = found.and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
    let Some((before, (_, after))) = found else {
        bail!("it has no {}…{end}", begin.trim_end());
    };
    Ok(format!("{before}{begin}{text}{end}{after}"))
}

fn of_machine(machine: &Machine, quick: bool) -> String {
    let Machine {
        date,
        commit,
        kernel,
        processor,
        processors,
        memory,
        load,
    } = machine;
    let quick = if quick {
        " A quick run: the numbers mean little."
    } else {
        ""
    };
    format!(
        "Measured {date} at commit {commit} on {processors} × {processor}, {memory} MiB, Linux {kernel}; load before the run {load:.2}.{quick}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::target::tests::example;
    use super::*;

    fn page() -> String {
        let names = ["machine", "targets", "traffic", "packet", "memory"];
        let marks = names.map(|name| {
            format!("# {name}\n<!-- bench {name} -->\nold {name}\n<!-- end {name} -->\nprose\n")
        });
        marks.concat()
    }

    #[test]
    fn tables_are_replaced_and_prose_stays() {
        let filled = fill(&page(), &example()).unwrap();
        assert_eq!(filled.matches("prose\n").count(), 5);
        assert!(!filled.contains("old traffic"));
        assert!(filled.contains("| denied packet | 10 rules |"));
        assert!(filled.contains("at commit 0123456789ab"));
        // Not measured.
        assert!(filled.contains("old memory"));
        assert_eq!(fill(&filled, &example()).unwrap(), filled);
    }

    #[test]
    fn a_page_without_a_mark_is_not_touched() {
        let page = page().replace("<!-- end traffic -->", "");
        assert!(fill(&page, &example()).is_err());
    }

    #[test]
    fn the_page_that_there_is_has_all_marks() {
        let page = include_str!("../../../docs/performance.md");
        let parts = Part::ALL.map(Part::name).into_iter();
        for name in parts.chain(["machine", "targets", "exponents"]) {
            replace(page, name, "").unwrap();
        }
    }
}
