//! `docs/pve-compat.md` names a test for what it claims: each of them exists.

use std::path::Path;

#[test]
fn every_test_that_the_compatibility_table_names_exists() {
    let agent = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = agent.parent().expect("the workspace");
    let text = std::fs::read_to_string(root.join("docs/pve-compat.md")).expect("the table");
    let cell = |row: &'_ str| {
        let cells = row.strip_suffix('|')?;
        cells.rsplit('|').next().map(str::trim).map(str::to_owned)
    };
    let mut checked = 0;
    for row in text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with(" Test |"))
    {
        let cell = cell(row).expect("a row ends with `|`");
        let (state, _) = row.split_once("| yes |").map_or(("", ""), |_| ("yes", ""));
        let Some((file, test)) = cell.trim_matches('`').split_once(": ") else {
            assert!(cell.is_empty(), "{row}: the last cell is no test");
            assert!(
                state != "yes" || row.contains("`--help`"),
                "{row}: nothing proves it"
            );
            continue;
        };
        let path = match file.strip_prefix('/') {
            Some(file) => root.join(file),
            None => agent.join(file),
        };
        let source = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{row}: no {file}"));
        assert!(
            source.contains(&format!("fn {test}(")),
            "{row}: no test {test} in {file}"
        );
        checked += 1;
    }
    assert!(checked > 80, "{checked}");
}
