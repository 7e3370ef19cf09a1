//! A terminal for a program that wants one: a pseudo-terminal, and what would be seen on it.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tapwall_tests::patience::patience;
use vt100::Parser;

/// How long something may take until it is on the screen.
const SHOWN: Duration = Duration::from_secs(20);

/// Time between two looks at the screen.
const TURN: Duration = Duration::from_millis(20);

/// A program on a terminal of its own. Killed when it is dropped, if it has not ended.
pub struct Pty {
    child: Child,
    keyboard: File,
    /// The program's side, kept open so that what it left can be asked for.
    line: File,
    screen: Arc<Mutex<Parser>>,
    reader: Option<JoinHandle<()>>,
    modes: LocalModes,
}

impl Pty {
    /// Starts a command on a terminal of that many columns and rows.
    pub fn start(command: &Command, (columns, rows): (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let line = open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let (keyboard, line) = (File::from(master), File::from(line));
        tcsetwinsize(&line, size(columns, rows)).unwrap();
        let modes = tcgetattr(&line).unwrap().local_modes;
        let of_line = || Stdio::from(line.try_clone().unwrap());
        // Its controlling terminal: the kernel tells it of new sizes.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm")
            .stdin(of_line())
            .stdout(of_line())
            .stderr(of_line())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(Parser::new(some(rows), some(columns), 0)));
        let (mut output, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self {
            child,
            keyboard,
            line,
            screen,
            reader: Some(reader),
            modes,
        }
    }

    /// What is on it, without the spaces at the ends of lines.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until that is on the screen.
    #[track_caller]
    pub fn wait(&self, wanted: &str) {
        self.wait_for(wanted, |text| text.contains(wanted));
    }

    /// Waits until what is on the screen holds.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&str) -> bool) {
        let end = Instant::now() + patience(SHOWN);
        while !holds(&self.text()) {
            assert!(Instant::now() < end, "no {what:?} on\n{}", self.text());
            thread::sleep(TURN);
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let mut parser = self.screen.lock().unwrap();
        parser.screen_mut().set_size(some(rows), some(columns));
        tcsetwinsize(&self.keyboard, size(columns, rows)).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it ends by itself, and checks that it gave the terminal back as it was: lines and echo on, the cursor there, the first screen shown.
    #[track_caller]
    pub fn end(mut self) -> ExitStatus {
        let end = Instant::now() + patience(SHOWN);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.text());
            thread::sleep(TURN);
        };
        assert_eq!(tcgetattr(&self.line).unwrap().local_modes, self.modes);
        // What it wrote last may still be on its way.
        let is_back = || {
            let parser = self.screen.lock().unwrap();
            !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
        };
        while !is_back() {
            assert!(Instant::now() < end, "the screen is not given back");
            thread::sleep(TURN);
        }
        status
    }
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

const fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        // Nobody holds the other side any more: the reader's next read fails.
        self.line = File::open("/dev/null").unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}
