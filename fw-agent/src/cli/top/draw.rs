//! The screen as lines: two of the node, what is wrong, the names of the lists, one list, the keys.
//!
//! Plain ASCII, no colours: what is chosen has brackets, and the titles of columns are reversed. Made for 80 columns and 24 rows; fewer show less.

use ratatui::Frame as Canvas;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

use super::frame::{Frame, Head};
use super::panes::{Column, Pane, short};
use super::screen::Screen;

/// The least that something can be read on.
const LEAST: (usize, usize) = (30, 6);

/// Lines of what is wrong.
const NOTES: usize = 3;

const HELP: [&str; 16] = [
    "1 2 3 4, Tab      guests, talkers, rules, drops",
    "s                 sort by something else",
    "/                 show one guest only: 100, 100/net0 or host; Esc: all",
    "p, space          pause, and go on",
    "up, down, pages   scroll the rows; Home, End",
    "left, right       scroll what is too wide",
    "Ctrl-L            draw everything again",
    "q, Ctrl-C         quit",
    "",
    "guests   bits of what was accepted; dropped counts rejects too",
    "talkers  addresses at either end of flows: the guest's own, or its peer",
    "rules    how often each decided: with flows, once or twice per connection",
    "drops    each packet as it is dropped, logged or not, the latest first;",
    "         rates by reason are of the whole node, without rules and policies",
    "",
    "any key goes back",
];

pub(super) fn draw(screen: &mut Screen, canvas: &mut Canvas<'_>) {
    let area = canvas.area();
    let lines = lines(screen, area);
    for (row, line) in (area.y..area.bottom()).zip(lines) {
        canvas.render_widget(line, Rect::new(area.x, row, area.width, 1));
    }
}

/// Exactly as many lines as there is room for.
fn lines(screen: &mut Screen, area: Rect) -> Vec<Line<'static>> {
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    if width < LEAST.0 || height < LEAST.1 {
        return vec![
            Line::raw(format!("{width}x{height} is too small")),
            Line::raw("q quits"),
        ];
    }
    let Some(frame) = &screen.frame else {
        let mut lines = vec![Line::raw(first(screen, None, width))];
        let state = screen.failure.as_deref().unwrap_or("looking ...");
        lines.extend(wrapped(state, width).into_iter().map(Line::raw));
        lines.push(Line::raw("q quits"));
        return lines;
    };
    let mut lines = head(screen, frame, width);
    let room = 2 + NOTES.min(height.saturating_sub(LEAST.1));
    if lines.len() > room {
        let more = lines.len() + 1 - room;
        lines.truncate(room - 1);
        if room > 2 {
            lines.push(format!("and {more} more: see `fwctl status`"));
        }
    }
    let mut lines: Vec<Line<'static>> = lines.into_iter().map(Line::raw).collect();
    lines.push(tabs(screen));
    // The last line is that of the keys.
    let room = height.saturating_sub(lines.len() + 1);
    let (body, top) = match screen.is_helping {
        true => (HELP.into_iter().map(Line::raw).collect(), screen.scrolled),
        false => body(screen, frame, width, room),
    };
    lines.extend(body.into_iter().take(room));
    lines.resize(height - 1, Line::default());
    lines.push(last(screen));
    screen.scrolled = top;
    lines
}

/// What is above the lists: two lines of the node, and those of what is wrong.
pub(super) fn head(screen: &Screen, frame: &Frame, width: usize) -> Vec<String> {
    let mut lines = vec![first(screen, Some(frame), width), second(&frame.head)];
    lines.extend(frame.head.notes.iter().cloned());
    let degraded = frame.head.degraded.iter();
    lines.extend(degraded.map(|scope| format!("degraded: {scope}")));
    lines
}

/// `Tapwall node: on, …`, and at the right the time.
fn first(screen: &Screen, frame: Option<&Frame>, width: usize) -> String {
    let mut left = format!("Tapwall {}", screen.node);
    let mut right = String::new();
    if let Some(Frame { head, time, .. }) = frame {
        left.push_str(match head.enabled {
            true => ": on",
            false => ": OFF",
        });
        left.push_str(match head.agent_running {
            true => ", agent runs",
            false => ", agent STOPPED",
        });
        left.push_str(&format!(", generation {}", head.generation));
        // `2026-01-02T14:03:07+01:00`: the time of day.
        let time = time.split_once('T').map_or("", |(_, time)| time);
        let time = time.get(..8).unwrap_or(time);
        right = match screen.is_paused {
            true => format!("{time} PAUSED"),
            false => format!("{time} every {:?}", screen.interval),
        };
    }
    let gap = width.saturating_sub(left.len() + right.len());
    match gap {
        0 => left,
        _ => format!("{left}{:gap$}{right}", ""),
    }
}

fn second(head: &Head) -> String {
    let used = |used: u64, room: u64| {
        let share = 100 * used / room.max(1);
        format!("{}/{} ({share}%)", short(used as f64), short(room as f64))
    };
    let pending = if head.pending { "YES" } else { "no" };
    format!(
        "flows {}  half-open {}  degraded {}  changes pending {pending}",
        used(head.flows, head.flows_max),
        used(head.half_open, head.half_open_max),
        head.degraded.len(),
    )
}

fn tabs(screen: &Screen) -> Line<'static> {
    let mut text = String::new();
    for (place, pane) in Pane::ALL.iter().enumerate() {
        let name = format!("{} {}", place + 1, pane.name());
        match *pane == screen.pane {
            true => text.push_str(&format!("[{name}]")),
            false => text.push_str(&format!(" {name} ")),
        }
    }
    let order = screen.wish.order(screen.pane).name();
    match is_live(screen) {
        true => text.push_str("  latest first"),
        false => text.push_str(&format!("  by {order}")),
    }
    if let Some(guest) = screen.wish.guest {
        text.push_str(&format!("  only {guest}"));
    }
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

/// Whether packets are shown, not rows of numbers.
fn is_live(screen: &Screen) -> bool {
    let frame = screen.frame.as_ref();
    screen.pane == Pane::Drops && frame.is_some_and(|frame| frame.drops.not_live.is_none())
}

/// The list, and how many of its rows are scrolled away.
fn body(screen: &Screen, frame: &Frame, width: usize, room: usize) -> (Vec<Line<'static>>, usize) {
    let (mut lines, pane) = (Vec::new(), screen.pane);
    let is_live = is_live(screen);
    let (count, nothing) = match is_live {
        true => {
            lines.push(Line::raw(by_reason(frame)));
            let nothing = "nothing was dropped since this was opened";
            (frame.drops.packets.len(), nothing)
        }
        false => {
            if let (Pane::Drops, Some(why)) = (pane, &frame.drops.not_live) {
                let why = format!("not live: {why}");
                lines.extend(wrapped(&why, width).into_iter().take(3).map(Line::raw));
            }
            let titles = pane.columns().iter().map(|(title, _)| (*title).to_owned());
            let titles = row(&titles.collect::<Vec<_>>(), pane.columns(), 0);
            let reversed = Style::new().add_modifier(Modifier::REVERSED);
            lines.push(Line::styled(format!("{titles:<width$}"), reversed));
            (frame.count(pane), "nothing")
        }
    };
    if count == 0 {
        lines.push(Line::raw(nothing));
    }
    let room = room.saturating_sub(lines.len());
    // The last page stays full.
    let top = screen.scrolled.min(count.saturating_sub(room));
    let range = top..(top + room).min(count);
    match is_live {
        true => {
            let packets = frame.packets(range).into_iter();
            let shifted = packets.map(|line| line.chars().skip(screen.shifted).collect::<String>());
            lines.extend(shifted.map(Line::raw));
        }
        false => {
            let cells = frame.cells(pane, range).into_iter();
            let rows = cells.map(|cells| row(&cells, pane.columns(), screen.shifted));
            lines.extend(rows.map(Line::raw));
        }
    }
    (lines, top)
}

/// The reasons of the moment, in one line.
fn by_reason(frame: &Frame) -> String {
    let rows = frame.drops.by_reason.iter();
    let named: Vec<String> = rows
        .filter(|row| row.per_second.is_some_and(|rate| rate > 0.0))
        .map(|row| format!("{} {}", row.reason, short(row.per_second.unwrap_or(0.0))))
        .collect();
    match named.is_empty() {
        true => "per second on the node, but for rules and policies: none".to_owned(),
        false => format!("per second on the node: {}", named.join(", ")),
    }
}

/// A row: numbers at the right of their columns, names at the left.
fn row(cells: &[String], columns: &[Column], shifted: usize) -> String {
    let mut text = String::new();
    for (cell, (title, width)) in cells.iter().zip(columns) {
        let is_word = matches!(*title, "guest" | "end" | "dir");
        match (width, is_word) {
            (0, _) => text.extend(cell.chars().skip(shifted)),
            (width, true) => text.push_str(&format!("{cell:<width$} ")),
            (width, false) => text.push_str(&format!("{cell:>width$} ")),
        }
    }
    text
}

fn last(screen: &Screen) -> Line<'static> {
    let text = match (&screen.typing, &screen.complaint) {
        (Some(typed), _) => format!("guest (100, 100/net0, host; empty: all): {typed}_"),
        (None, Some(complaint)) => complaint.clone(),
        (None, None) => {
            "q quit  Tab 1-4 list  s sort  / guest  p pause  arrows scroll  ? help".to_owned()
        }
    };
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

/// Text in lines of a width, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        match line.is_empty() {
            true => line.push_str(word),
            false if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            false => lines.push(word.to_owned()),
        }
    }
    lines
}
