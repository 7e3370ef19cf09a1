//! A token bucket: at most `burst` at once and one per `interval` in the long run.

/// State of one bucket. A zeroed one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// Nanoseconds of the clock, plus [`EPOCH`], at which the bucket would have been empty; 0 was long ago.
    pub empty_at: u64,
}

/// The clock begins with the machine, which may have run for less time than a bucket takes to fill. So that a zeroed bucket is full even then,
/// it is as if the clock had run for this long before (146 years).
pub const EPOCH: u64 = 1 << 62;

impl Bucket {
    /// Whether [`Bucket::take`] would get a token.
    #[inline(always)]
    pub fn has(&self, now: u64, interval: u64, burst: u32) -> bool {
        let mut copy = *self;
        copy.take(now, interval, burst)
    }

    /// Takes a token if there is one. `now` and `interval` are nanoseconds.
    #[inline(always)]
    pub fn take(&mut self, now: u64, interval: u64, burst: u32) -> bool {
        let now = now.saturating_add(EPOCH);
        let full = now.saturating_sub(interval.wrapping_mul(burst as u64));
        let empty_at = if self.empty_at < full {
            full
        } else {
            self.empty_at
        };
        if now.saturating_sub(empty_at) < interval {
            return false;
        }
        self.empty_at = empty_at + interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Bucket;

    #[test]
    fn a_zeroed_bucket_is_full_from_the_clock_s_first_moment() {
        let hour = 3_600_000_000_000;
        for now in [0, 1, hour, 100 * hour] {
            let mut bucket = Bucket::default();
            let taken = (0..20).filter(|_| bucket.take(now, hour, 5)).count();
            assert_eq!(taken, 5, "at {now}");
        }
    }

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::default();
        let second = 1_000_000_000;
        let start = 1000 * second;
        let taken = (0..20).filter(|_| bucket.take(start, second, 5)).count();
        assert_eq!(taken, 5);
        assert!(!bucket.take(start + second - 1, second, 5));
        assert!(bucket.take(start + second, second, 5));
        assert!(!bucket.take(start + second, second, 5));
        let taken = (0..20)
            .filter(|_| bucket.take(start + 100 * second, second, 5))
            .count();
        assert_eq!(
            taken, 5,
            "never more than the burst, however long the pause"
        );
    }
}
