//! `fwctl map`: the pinned maps, decoded.
//!
//! Reads the pins, so it works when the agent does not. One row type serves the table and the JSON.

mod rows;

use std::io::Write;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use fw_common::maps::name;

use self::rows::Rows;
use super::{Outcome, Place, table};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Print the contents of a map, or of all maps.
    Dump {
        /// The map.
        #[arg(ignore_case = true, value_parser = PossibleValuesParser::new(name::ALL))]
        name: Option<String>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the maps: type, entries, size.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let pins = place.pins()?;
    let mut out = std::io::stdout().lock();
    match arguments {
        Arguments::List { json } => print(&mut out, &rows::maps(&pins)?, *json)?,
        Arguments::Dump {
            name: Some(name),
            json,
        } => print(
            &mut out,
            &rows::of(&pins, &name.to_ascii_uppercase())?,
            *json,
        )?,
        Arguments::Dump { name: None, json } => {
            let mut all = serde_json::Map::new();
            for name in name::ALL {
                let rows = rows::of(&pins, name)?;
                if *json {
                    all.insert(name.to_owned(), rows.to_json());
                } else {
                    writeln!(out, "{name}")?;
                    print(&mut out, &rows, false)?;
                    writeln!(out)?;
                }
            }
            if *json {
                serde_json::to_writer_pretty(&mut out, &all)?;
                writeln!(out)?;
            }
        }
    }
    Ok(Outcome::Done)
}

fn print(out: &mut impl Write, rows: &Rows, json: bool) -> Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, &rows.to_json())?;
        writeln!(out)?;
        return Ok(());
    }
    if rows.cells.is_empty() {
        writeln!(out, "(empty)")?;
        return Ok(());
    }
    let mut table = table::<0>([]);
    table.set_header(rows.header);
    for cells in &rows.cells {
        table.add_row(cells.iter().map(rows::text));
    }
    writeln!(out, "{table}")?;
    Ok(())
}
