//! Short grace periods while programs are attached to devices, or waited for.
//!
//! The kernel ends an attachment by waiting until no CPU runs what was there before (a grace period), and holds the lock of all network devices meanwhile: some
//! 10 ms each, one after the other, however many threads attach. [`hurry`] has it ask the CPUs instead of waiting for them (`/sys/kernel/rcu_expedited`), for as
//! long as somebody holds a [`Hurry`].
//!
//! 1. If grace periods are not expedited, they are, by a number that nobody else writes. 2. The last holder takes back that number, and no other.
//!
//! The number tells who wrote it, so that nothing has to be remembered: whatever agent stops hurrying first takes it back, also after one that was killed.
//! Whoever hurries at the same time goes on at the usual pace, until it begins with the next thing. What the administrator has set stays.
//!
//! Invariant: nothing but time depends on this. Where the file is missing or cannot be written that is said once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// `rcu_expedited` of the kernel's `kernel/ksysfs.c`: an `int`, of which the kernel asks only whether it is 0.
const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// What we write (`Tapw`): not what people write.
const OURS: i32 = 0x5461_7077;

static KERNEL: LazyLock<Switch> = LazyLock::new(|| Switch::at(Path::new(SWITCH)));

/// Has grace periods end soon, until the last of these is dropped.
pub(super) fn hurry() -> Hurry<'static> {
    KERNEL.hurry()
}

/// The kernel's switch.
struct Switch {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holders: usize,
    /// Kept open: a device that comes must not wait for more than it needs to.
    file: Option<File>,
    /// That it does not work was said.
    complained: bool,
}

/// Keeps grace periods short while it lives.
pub(super) struct Hurry<'s>(&'s Switch);

impl Switch {
    fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            state: Mutex::default(),
        }
    }

    fn hurry(&self) -> Hurry<'_> {
        let mut state = self.state();
        state.holders += 1;
        // Also if there are others: another agent may have taken it back.
        self.change(&mut state, 0, OURS);
        Hurry(self)
    }

    /// Replaces this value; another stays.
    fn change(&self, state: &mut State, from: i32, to: i32) {
        if let Err(error) = self.replace(&mut state.file, from, to)
            && !std::mem::replace(&mut state.complained, true)
        {
            tracing::warn!(
                "{}: {error}; attaching to many devices takes longer",
                self.path.display()
            );
        }
    }

    fn replace(&self, file: &mut Option<File>, from: i32, to: i32) -> io::Result<()> {
        let file = match file {
            Some(file) => file,
            None => file.insert(File::options().read(true).write(true).open(&self.path)?),
        };
        if value(file)? == from {
            file.write_all_at(format!("{to}\n").as_bytes(), 0)?;
        }
        Ok(())
    }

    /// What a thread that panicked has left is as good as what others leave.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn value(file: &File) -> io::Result<i32> {
    let mut bytes = [0; 16];
    let length = file.read_at(&mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    let first = text.lines().next().unwrap_or_default();
    first.parse().map_err(io::Error::other)
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.holders -= 1;
        if state.holders == 0 {
            self.0.change(&mut state, OURS, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A switch that has this value.
    fn switch(value: &str) -> (tempfile::TempDir, Switch) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rcu_expedited");
        std::fs::write(&path, format!("{value}\n")).unwrap();
        (directory, Switch::at(&path))
    }

    fn seen(switch: &Switch) -> i32 {
        value(&File::open(&switch.path).unwrap()).unwrap()
    }

    #[test]
    fn the_first_holder_switches_and_the_last_one_switches_back() {
        let (_directory, switch) = switch("0");
        let first = switch.hurry();
        assert_eq!(seen(&switch), OURS);
        let second = switch.hurry();
        drop(first);
        assert_eq!(seen(&switch), OURS);
        drop(second);
        assert_eq!(seen(&switch), 0);
    }

    #[test]
    fn what_the_administrator_has_set_stays() {
        for value in [1, -1, OURS + 1] {
            let (_directory, switch) = switch(&value.to_string());
            let hurry = switch.hurry();
            assert_eq!(seen(&switch), value);
            drop(hurry);
            assert_eq!(seen(&switch), value);
        }
        let (_directory, switch) = switch("0");
        let hurry = switch.hurry();
        std::fs::write(&switch.path, "1\n").unwrap();
        drop(hurry);
        assert_eq!(seen(&switch), 1);
    }

    #[test]
    fn what_a_killed_agent_has_left_goes() {
        let (_directory, switch) = switch(&OURS.to_string());
        drop(switch.hurry());
        assert_eq!(seen(&switch), 0);
    }

    #[test]
    fn what_another_agent_takes_back_is_switched_again_by_the_next_holder() {
        let (_directory, switch) = switch("0");
        let _first = switch.hurry();
        std::fs::write(&switch.path, "0\n").unwrap();
        let _second = switch.hurry();
        assert_eq!(seen(&switch), OURS);
    }

    #[test]
    fn where_there_is_no_such_switch_it_is_said_once() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::at(&directory.path().join("none"));
        drop(switch.hurry());
        assert!(switch.state().complained);
        assert!(!switch.path.exists());
    }
}
