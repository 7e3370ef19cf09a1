//! `fwctl top`: the node on one screen, or the same as text or JSON.
//!
//! In: the pinned maps, the agent's state, the files (names of rules), and a probe on the programs while the kernel lets it. Out: a terminal's screen;
//! with `--batch` text, with `--json` an object per line.
//!
//! 1. A thread looks at the node again and again ([`sample`]), so that keys need not wait for large maps or for an agent that hangs. 2. Another reads
//!    the probe. 3. What they say, and keys, change the [`screen`], which makes a [`frame`] of it. 4. [`draw`] or [`text`] shows that.
//!
//! The terminal is given back as it was however this ends: by a key, a signal, an error or a panic. Works without an agent. Only the first and the last step do
//! more than compute.

mod draw;
mod frame;
mod panes;
mod sample;
mod screen;
#[cfg(test)]
mod tests;
mod text;

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fw_common::event::Event as Verdict;
use fw_common::maps::PortKey;
use jiff::Zoned;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::frame::Wish;
use self::panes::{Order, Pane};
use self::sample::Sample;
use self::screen::{After, Screen};
use super::known::Known;
use super::scope::Scope;
use super::{Outcome, Place, duration};
use crate::config;
use crate::datapath::pins::Pins;
use crate::datapath::watch::{Wanted, Watch};
use crate::events::clock::Clock;
use crate::live::Names;

/// Time between two looks at keys, signals and what the threads say.
const TURN: Duration = Duration::from_millis(100);

/// The shortest time between two looks at the node.
const SHORTEST: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Time between two looks, such as 2s or 500ms.
    #[arg(long, short = 'd', value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Show only the host, a guest such as `100`, or one of its NICs such as `100/net0`.
    #[arg(long, short)]
    guest: Option<Scope>,
    /// The list to begin with; with --batch the only one [default: guests; with --batch all].
    #[arg(long, value_enum)]
    pane: Option<Pane>,
    /// What comes first, in the lists that have it.
    #[arg(long, value_enum)]
    sort: Option<Order>,
    /// Print plain text, again and again, instead of using the terminal.
    #[arg(long, short)]
    batch: bool,
    /// Print once: what happens within one interval.
    #[arg(long, conflicts_with = "count")]
    once: bool,
    /// With --batch: end after so many.
    #[arg(long, short = 'n', value_name = "COUNT")]
    count: Option<u64>,
    /// With --batch: rows of each list.
    #[arg(long, short, default_value_t = 10)]
    rows: usize,
    /// Print as JSON, an object per line; implies --batch.
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let length = duration::length(text).map_err(|error| format!("{error:#}"))?;
    match length < SHORTEST {
        true => Err(format!("the shortest time is {SHORTEST:?}")),
        false => Ok(length),
    }
}

/// What the threads say.
enum Said {
    Look(Box<Sample>, Arc<Names>, Vec<String>),
    NoLook(String),
    Dropped(Box<Verdict>),
    /// Nobody will be told of drops, and why.
    Refused(String),
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let pins = place.pins()?;
    let is_batch = arguments.batch || arguments.once || arguments.json || arguments.count.is_some();
    if !is_batch && !std::io::stdout().is_terminal() {
        bail!("standard output is no terminal: use --once, --batch or --json");
    }
    place.remark(&pins, arguments.guest)?;
    let node = place
        .node
        .clone()
        .or_else(|| config::node_name(&place.root));
    let pane = arguments.pane.unwrap_or(Pane::Guests);
    let mut wish = Wish {
        guest: arguments.guest,
        ..Wish::default()
    };
    if let Some(order) = arguments.sort {
        for pane in Pane::ALL {
            if pane.orders().contains(&order) {
                wish.orders.insert(pane, order);
            }
        }
    }
    let screen = Screen::new(node.unwrap_or_default(), arguments.interval, pane, wish);
    let (sender, said) = channel();
    watch(&pins, sender.clone());
    let ears = Ears {
        looking: look(place, pins, arguments.interval, sender),
        said,
    };
    match is_batch {
        true => batch(screen, &ears, arguments),
        false => interactive(screen, &ears),
    }
}

/// Where the threads are heard.
struct Ears {
    said: Receiver<Said>,
    looking: JoinHandle<()>,
}

/// Begins to look at the node, for as long as somebody listens.
fn look(place: &Place, pins: Pins, interval: Duration, sender: Sender<Said>) -> JoinHandle<()> {
    let place = place.clone();
    std::thread::spawn(move || {
        let mut known = None;
        let mut since = None;
        loop {
            let began = Instant::now();
            let mut notes = Vec::new();
            if let Err(error) = refresh(&mut known, &place) {
                notes.push(format!("names of rules are not known: {error:#}"));
            }
            let names = known.as_ref().map(|known| Arc::clone(known.names()));
            let said = match Sample::take(&place, &pins, since) {
                Ok(sample) => {
                    since = Some(sample.at);
                    Said::Look(Box::new(sample), names.unwrap_or_default(), notes)
                }
                Err(error) => Said::NoLook(format!("cannot look: {error:#}")),
            };
            if sender.send(said).is_err() {
                return;
            }
            std::thread::sleep(interval.saturating_sub(began.elapsed()).max(TURN));
        }
    })
}

fn refresh(known: &mut Option<Known>, place: &Place) -> Result<()> {
    match known {
        Some(known) => known.refresh(place),
        None => {
            *known = Some(Known::read(place)?);
            Ok(())
        }
    }
}

/// Begins to listen to drops, likewise.
fn watch(pins: &Pins, sender: Sender<Said>) {
    let wanted = Wanted {
        drops_only: true,
        ..Wanted::default()
    };
    let pins = pins.clone();
    std::thread::spawn(move || {
        let listening = Watch::open(&pins, wanted).and_then(|mut watch| {
            loop {
                let done = watch.next(TURN, |event| {
                    match sender.send(Said::Dropped(Box::new(event))) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                })?;
                if done.is_break() {
                    return Ok(());
                }
            }
        });
        if let Err(error) = listening {
            // Nobody listens any more, or is told.
            let why = format!("{:#}", anyhow::Error::from(error));
            drop(sender.send(Said::Refused(why)));
        }
    });
}

/// What was heard at once.
#[derive(Default)]
struct Heard {
    /// Looks at the node.
    looks: u64,
    /// There was something.
    is_new: bool,
}

/// Takes in what the threads have said.
fn hear(screen: &mut Screen, ears: &Ears, clock: &mut Clock) -> Result<Heard> {
    let mut heard = Heard::default();
    let mut dropped = false;
    clock.refresh();
    while let Ok(next) = ears.said.try_recv() {
        heard.is_new = true;
        match next {
            Said::Look(sample, names, notes) => {
                let time = Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
                screen.look(*sample, names, notes, time);
                heard.looks += 1;
            }
            Said::NoLook(why) => screen.fail(why),
            Said::Dropped(event) => {
                let port = PortKey {
                    vmid: event.vmid,
                    net: event.net,
                    reserved: 0,
                };
                if let Some(packet) = screen.names.json(&event, &clock.at(event.time_ns)) {
                    screen.live.push(port, packet);
                    dropped = true;
                }
            }
            Said::Refused(why) => {
                screen.live.refused = Some(why);
                dropped = true;
            }
        }
    }
    if ears.looking.is_finished() {
        bail!("the thread that looks at the node has ended");
    }
    if dropped {
        screen.renew(false);
    }
    Ok(heard)
}

/// Prints frames. The first look has no rates: it is for the second.
fn batch(mut screen: Screen, ears: &Ears, arguments: &Arguments) -> Result<Outcome> {
    let mut clock = Clock::system();
    let mut left = if arguments.once {
        Some(1)
    } else {
        arguments.count
    };
    let mut looks = 0;
    while left != Some(0) {
        std::thread::sleep(TURN);
        let heard = hear(&mut screen, ears, &mut clock)?;
        if let Some(why) = screen.failure {
            bail!(why);
        }
        looks += heard.looks;
        let Some(frame) = screen
            .frame
            .as_ref()
            .filter(|_| heard.looks > 0 && looks > 1)
        else {
            continue;
        };
        let mut out = std::io::stdout().lock();
        match arguments.json {
            true => {
                serde_json::to_writer(&mut out, &text::shortened(frame, arguments.rows))?;
                writeln!(out)?;
            }
            false => text::print(&mut out, &screen, frame, arguments.pane, arguments.rows)?,
        }
        out.flush()?;
        left = left.map(|left| left - 1);
    }
    Ok(Outcome::Done)
}

/// Uses the terminal until it is enough.
fn interactive(mut screen: Screen, ears: &Ears) -> Result<Outcome> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))
            .context("cannot listen to signals")?;
    }
    // From here on a panic, too, gives the terminal back.
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let done = turns(&mut terminal, &mut screen, ears, &ended);
    let restored = ratatui::try_restore().context("cannot give the terminal back");
    done?;
    restored?;
    Ok(Outcome::Done)
}

fn turns(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    ears: &Ears,
    ended: &AtomicBool,
) -> Result<()> {
    let mut clock = Clock::system();
    let mut is_new = true;
    while !ended.load(Ordering::Relaxed) {
        is_new |= hear(screen, ears, &mut clock)?.is_new;
        if std::mem::take(&mut is_new) {
            terminal
                .draw(|canvas| draw::draw(screen, canvas))
                .context("cannot draw")?;
        }
        if !event::poll(TURN).context("cannot listen to keys")? {
            continue;
        }
        is_new = true;
        match event::read().context("cannot read keys")? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match screen.key(key) {
                After::Quit => return Ok(()),
                After::DrawAll => terminal.clear().context("cannot clear the screen")?,
                After::Draw => {}
            },
            Event::Key(_)
            | Event::FocusGained
            | Event::FocusLost
            | Event::Mouse(_)
            | Event::Paste(_)
            | Event::Resize(..) => {}
        }
    }
    Ok(())
}
