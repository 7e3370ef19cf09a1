//! Wall-clock time of the kernel's monotonic timestamps.
//!
//! In: nanoseconds of `CLOCK_MONOTONIC`, as records carry them. Out: local time with its zone. The difference between the two clocks and
//! the zone are measured at the start and again at most once a second, so that a step of the wall clock or another zone shows within a second
//! while a batch of records costs two reads of the vDSO, not two per record.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use rustix::time::{ClockId, clock_gettime};

const NANOS: i128 = 1_000_000_000;

/// Both clocks at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub monotonic: i128,
    /// `CLOCK_REALTIME`, nanoseconds since 1970.
    pub wall: i128,
}

/// Where a [`Clock`] gets its time from.
pub trait Source {
    /// Reads both clocks.
    fn read(&mut self) -> Reading;
    /// The zone that lines are written in.
    fn zone(&mut self) -> TimeZone;
}

/// The system's clocks and time zone.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Source for System {
    fn read(&mut self) -> Reading {
        let nanos = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * NANOS + i128::from(time.tv_nsec)
        };
        Reading {
            monotonic: nanos(ClockId::Monotonic),
            wall: nanos(ClockId::Realtime),
        }
    }

    fn zone(&mut self) -> TimeZone {
        TimeZone::system()
    }
}

/// Maps monotonic time to local time.
#[derive(Clone, Debug)]
pub struct Clock<S = System> {
    source: S,
    measured: Reading,
    zone: TimeZone,
}

impl Clock {
    /// A clock on the system's time.
    pub fn system() -> Self {
        Self::new(System)
    }
}

impl<S: Source> Clock<S> {
    /// A clock on `source`'s time.
    pub fn new(mut source: S) -> Self {
        Self {
            measured: source.read(),
            zone: source.zone(),
            source,
        }
    }

    /// Local time of now.
    pub fn now(&mut self) -> Zoned {
        let now = self.refresh();
        self.zoned(now.monotonic)
    }

    /// Local time of a record's `time_ns`, by the latest measurement.
    pub fn at(&self, monotonic: u64) -> Zoned {
        self.zoned(i128::from(monotonic))
    }

    /// Measures again if a second has passed. Call it once per batch; [`Clock::now`] does so too.
    pub fn refresh(&mut self) -> Reading {
        let now = self.source.read();
        if now.monotonic - self.measured.monotonic >= NANOS {
            self.measured = now;
            self.zone = self.source.zone();
        }
        now
    }

    fn zoned(&self, monotonic: i128) -> Zoned {
        let wall = self.measured.wall + (monotonic - self.measured.monotonic);
        // Only a wall clock set thousands of years off is outside jiff's range.
        let stamp = Timestamp::from_nanosecond(wall).unwrap_or(Timestamp::UNIX_EPOCH);
        stamp.to_zoned(self.zone.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone)]
    struct Fake(Rc<RefCell<(Reading, i8)>>);

    impl Source for Fake {
        fn read(&mut self) -> Reading {
            self.0.borrow().0
        }

        fn zone(&mut self) -> TimeZone {
            TimeZone::fixed(jiff::tz::offset(self.0.borrow().1))
        }
    }

    const SECOND: u64 = 1_000_000_000;

    fn show(time: &Zoned) -> String {
        time.strftime("%d/%b/%Y:%H:%M:%S %z").to_string()
    }

    #[test]
    fn the_offset_is_measured_again_after_a_second() {
        let wall = |second: i128| 1_772_698_364 * NANOS + second * NANOS;
        let shared = Rc::new(RefCell::new((
            Reading {
                monotonic: 100 * NANOS,
                wall: wall(0),
            },
            1,
        )));
        let set = |monotonic, wall, zone| {
            *shared.borrow_mut() = (Reading { monotonic, wall }, zone);
        };
        let mut clock = Clock::new(Fake(shared.clone()));
        assert_eq!(show(&clock.at(100 * SECOND)), "05/Mar/2026:09:12:44 +0100");
        assert_eq!(show(&clock.at(99 * SECOND)), "05/Mar/2026:09:12:43 +0100");
        // The wall clock steps an hour, half a second later: not seen yet.
        set(100 * NANOS + NANOS / 2, wall(3600), 1);
        clock.refresh();
        assert_eq!(show(&clock.at(100 * SECOND)), "05/Mar/2026:09:12:44 +0100");
        // A second after the first measurement it is, and so is another zone.
        set(101 * NANOS, wall(3601), -5);
        clock.refresh();
        assert_eq!(show(&clock.at(101 * SECOND)), "05/Mar/2026:04:12:45 -0500");
        assert_eq!(show(&clock.now()), "05/Mar/2026:04:12:45 -0500");
    }

    #[test]
    fn no_time_is_out_of_range() {
        let reading = Reading {
            monotonic: 0,
            wall: i128::from(i64::MAX) * NANOS,
        };
        let clock = Clock::new(Fake(Rc::new(RefCell::new((reading, 0)))));
        assert_eq!(show(&clock.at(u64::MAX)), "01/Jan/1970:00:00:00 +0000");
    }

    #[test]
    fn the_system_clock_agrees_with_the_wall() {
        let now = Clock::system().now();
        let off = now.timestamp().duration_since(Timestamp::now());
        assert!(off.as_secs().abs() < 5, "{off:?}");
    }
}
