//! A frame as plain text, for scripts and mails.

use std::io::{self, Write};

use super::draw::head;
use super::frame::Frame;
use super::panes::Pane;
use super::screen::Screen;
use crate::cli::table;

/// Columns of the first line.
const WIDTH: usize = 80;

/// A frame with so many rows in each list at the most.
pub(super) fn shortened(frame: &Frame, rows: usize) -> Frame {
    let mut frame = frame.clone();
    frame.guests.truncate(rows);
    frame.talkers.truncate(rows);
    frame.rules.truncate(rows);
    frame.drops.by_reason.truncate(rows);
    frame.drops.packets.truncate(rows);
    frame
}

/// All lists, or one.
pub(super) fn print(
    out: &mut impl Write,
    screen: &Screen,
    frame: &Frame,
    only: Option<Pane>,
    rows: usize,
) -> io::Result<()> {
    for line in head(screen, frame, WIDTH) {
        writeln!(out, "{line}")?;
    }
    for pane in Pane::ALL {
        if only.is_some_and(|only| only != pane) {
            continue;
        }
        writeln!(
            out,
            "\n{}, by {}",
            pane.name(),
            screen.wish.order(pane).name()
        )?;
        if pane == Pane::Drops
            && let Some(why) = &frame.drops.not_live
        {
            writeln!(out, "not live: {why}")?;
        }
        let mut lines = table::<0>([]);
        lines.set_header(pane.columns().iter().map(|(title, _)| *title));
        for cells in frame.cells(pane, 0..rows) {
            lines.add_row(cells);
        }
        for line in lines.to_string().lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        if pane == Pane::Drops {
            for packet in frame.packets(0..rows) {
                writeln!(out, "{packet}")?;
            }
        }
    }
    writeln!(out)
}
