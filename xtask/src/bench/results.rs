//! Everything that one run measured, as it is kept in `target/bench/results.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::part::Part;
use super::row::{Row, Size};

/// The results of a run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Where and when.
    pub machine: Machine,
    /// Few and short samples: nothing to conclude from.
    pub quick: bool,
    /// In the order of measurement.
    pub rows: Vec<Row>,
}

impl Results {
    /// Of a run that has measured nothing yet.
    pub fn new(machine: Machine, quick: bool) -> Self {
        Self {
            machine,
            quick,
            rows: Vec::new(),
        }
    }

    /// The results of a run before.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file)
            .with_context(|| format!("reading {}; run `cargo xtask bench`", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understanding {}", file.display()))
    }

    /// Writes them.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        fs::write(file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", file.display()))
    }

    /// The rows of a part.
    pub fn of(&self, part: Part) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.table == part.name())
    }

    /// One row. A subject that does not depend on the size has one row for all sizes.
    pub fn find(&self, part: Part, case: &str, subject: &str, size: Option<&Size>) -> Option<&Row> {
        let own = || {
            self.of(part)
                .filter(|row| row.case == case && row.subject == subject)
        };
        own()
            .find(|row| row.size.as_ref() == size)
            .or_else(|| own().find(|row| row.size.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_them_all() {
        let results = super::super::target::tests::example();
        let text = serde_json::to_vec_pretty(&results).unwrap();
        let again: Results = serde_json::from_slice(&text).unwrap();
        assert_eq!(again, results);
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        for key in ["date", "commit", "kernel", "processors", "load"] {
            assert!(!value["machine"][key].is_null(), "{key}");
        }
        assert!(value["rows"][0]["samples"].is_array());
    }
}
