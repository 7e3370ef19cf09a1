//! What the screen shows, and what keys do to that.
//!
//! In: keys, and looks at the node as they come. Out: a [`Frame`] to draw. While it is paused, looks are kept and not shown.

use std::sync::Arc;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::frame::{Frame, Live, Seen, Wish};
use super::panes::Pane;
use super::sample::Sample;
use crate::cli::scope::{self, Scope};
use crate::live::Names;

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum After {
    Draw,
    /// Everything, for something else has written to the terminal.
    DrawAll,
    Quit,
}

/// Everything behind the screen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) pane: Pane,
    pub(super) wish: Wish,
    /// The name of a guest that is being typed.
    pub(super) typing: Option<String>,
    /// What was wrong with the last key or name.
    pub(super) complaint: Option<String>,
    pub(super) is_paused: bool,
    pub(super) is_helping: bool,
    /// Rows that are scrolled away at the top.
    pub(super) scrolled: usize,
    /// Characters of the rows that are scrolled away at the left.
    pub(super) shifted: usize,
    /// Time between two looks.
    pub(super) interval: Duration,
    pub(super) node: String,
    /// What is shown; none until there was a look.
    pub(super) frame: Option<Frame>,
    pub(super) live: Live,
    pub(super) names: Arc<Names>,
    /// The last look and the one before.
    looks: (Option<Sample>, Option<Sample>),
    /// What was missing in the last look.
    notes: Vec<String>,
    /// Why there was none after it.
    pub(super) failure: Option<String>,
    time: String,
}

impl Screen {
    pub(super) fn new(node: String, interval: Duration, pane: Pane, wish: Wish) -> Self {
        Self {
            pane,
            wish,
            typing: None,
            complaint: None,
            is_paused: false,
            is_helping: false,
            scrolled: 0,
            shifted: 0,
            interval,
            node,
            frame: None,
            live: Live::default(),
            names: Arc::default(),
            looks: (None, None),
            notes: Vec::new(),
            failure: None,
            time: String::new(),
        }
    }

    /// Another look. `time`: when, as it is written.
    pub(super) fn look(
        &mut self,
        sample: Sample,
        names: Arc<Names>,
        notes: Vec<String>,
        time: String,
    ) {
        self.looks.1 = self.looks.0.take();
        self.looks.0 = Some(sample);
        self.names = names;
        self.notes = notes;
        self.failure = None;
        self.time = time;
        self.renew(false);
    }

    /// There was no look: what is shown is old.
    pub(super) fn fail(&mut self, why: String) {
        self.failure = Some(why);
        self.renew(false);
    }

    /// Makes the frame again; while it is paused only if that was `asked` for.
    pub(super) fn renew(&mut self, asked: bool) {
        if self.is_paused && !asked {
            return;
        }
        let Some(now) = &self.looks.0 else { return };
        let seen = Seen {
            before: self.looks.1.as_ref(),
            now,
            names: &self.names,
            live: &self.live,
            time: self.time.clone(),
            notes: self.notes.iter().chain(&self.failure).cloned().collect(),
        };
        self.frame = Some(Frame::of(&seen, &self.wish));
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> After {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code == KeyCode::Char('l') {
                true => After::DrawAll,
                false if key.code == KeyCode::Char('c') => After::Quit,
                false => After::Draw,
            };
        }
        self.complaint = None;
        if let Some(typed) = self.typing.take() {
            self.typed(typed, key.code);
            return After::Draw;
        }
        if self.is_helping && key.code != KeyCode::Char('q') {
            self.is_helping = false;
            return After::Draw;
        }
        match key.code {
            KeyCode::Char(letter) => return self.letter(letter),
            KeyCode::Esc if self.wish.guest.is_none() => return After::Quit,
            KeyCode::Esc => self.only(None),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Down => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::Up => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled = self.scrolled.saturating_add(10),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => (self.scrolled, self.shifted) = (0, 0),
            KeyCode::End => self.scrolled = usize::MAX,
            KeyCode::Right => self.shifted = self.shifted.saturating_add(10).min(1000),
            KeyCode::Left => self.shifted = self.shifted.saturating_sub(10),
            KeyCode::Backspace
            | KeyCode::Enter
            | KeyCode::Delete
            | KeyCode::Insert
            | KeyCode::F(_)
            | KeyCode::Null
            | KeyCode::CapsLock
            | KeyCode::ScrollLock
            | KeyCode::NumLock
            | KeyCode::PrintScreen
            | KeyCode::Pause
            | KeyCode::Menu
            | KeyCode::KeypadBegin
            | KeyCode::Media(_)
            | KeyCode::Modifier(_) => {}
        }
        After::Draw
    }

    fn letter(&mut self, letter: char) -> After {
        match letter {
            'q' => return After::Quit,
            '?' | 'h' => self.is_helping = true,
            '/' => self.typing = Some(String::new()),
            'p' | ' ' => {
                self.is_paused = !self.is_paused;
                self.renew(false);
            }
            's' => self.sort(),
            '1'..='4' => {
                let place = letter as usize - '1' as usize;
                self.show(Pane::ALL.get(place).copied());
            }
            _ => self.complaint = Some("no such key: ? tells them all".to_owned()),
        }
        After::Draw
    }

    /// A key while the name of a guest is typed.
    fn typed(&mut self, mut typed: String, key: KeyCode) {
        if key == KeyCode::Esc {
            return;
        }
        if key == KeyCode::Enter {
            let name = typed.trim();
            return match (name.is_empty(), name.parse::<Scope>()) {
                (true, _) => self.only(None),
                (false, Ok(scope)) => self.only(Some(scope)),
                (false, Err(error)) => self.complaint = Some(error.to_string()),
            };
        }
        if let KeyCode::Char(letter) = key {
            typed.push(letter);
        } else if key == KeyCode::Backspace {
            typed.pop();
        }
        self.typing = Some(typed);
    }

    /// Shows one guest only, or all.
    fn only(&mut self, guest: Option<Scope>) {
        let ports = self.looks.0.iter().flat_map(|look| look.ports.keys());
        if let Some(wanted) = guest
            && let Some(sentence) = scope::unknown(wanted, ports.copied())
        {
            self.complaint = Some(sentence);
            return;
        }
        self.wish.guest = guest;
        self.scrolled = 0;
        self.renew(true);
    }

    /// The next of the orders of this list.
    fn sort(&mut self) {
        let orders = self.pane.orders();
        let order = self.wish.order(self.pane);
        let place = orders.iter().position(|known| *known == order).unwrap_or(0);
        if let Some(next) = orders.iter().cycle().nth(place + 1) {
            self.wish.orders.insert(self.pane, *next);
        }
        self.renew(true);
    }

    fn turn(&mut self, by: usize) {
        let place = Pane::ALL.iter().position(|pane| *pane == self.pane);
        let next = Pane::ALL.iter().cycle().nth(place.unwrap_or(0) + by);
        self.show(next.copied());
    }

    fn show(&mut self, pane: Option<Pane>) {
        if let Some(pane) = pane {
            self.pane = pane;
            (self.scrolled, self.shifted) = (0, 0);
        }
    }
}
