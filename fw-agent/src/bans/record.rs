//! One ban as it is kept: whom, until when, why, and on whose account.
//!
//! Times are milliseconds since 1970, so that they mean the same after a boot; the kernel goes by its monotonic clock, and [`Record::until`] says
//! what is the end by that. A clock that is far behind at boot does not make a ban longer than it was meant to be.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::datapath::monotonic;
use crate::duration;

/// Characters of a reason or a name that are kept.
const LONGEST: usize = 200;

const MILLISECOND: u64 = 1_000_000;

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds since 1970.
    pub wall: u64,
    /// Nanoseconds of the monotonic clock.
    pub monotonic: u64,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        Self {
            wall,
            monotonic: monotonic(),
        }
    }
}

/// How long a ban lasts. In order: a later one outlasts an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasts {
    /// Until this time, in milliseconds since 1970.
    Until(u64),
    /// Until the machine restarts.
    Boot,
    /// Until it is lifted.
    Forever,
}

/// How long a ban is wanted: seconds, or `boot` or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of seconds, \"boot\" or \"forever\""
)]
pub enum Length {
    /// So many seconds.
    Seconds(u64),
    /// As long as a word says.
    Word(Word),
}

/// A length that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Until the machine restarts.
    Boot,
    /// Until it is lifted.
    Forever,
}

impl Length {
    /// When that is over, from now on.
    pub fn from(self, now: Now) -> Lasts {
        match self {
            Self::Seconds(seconds) => {
                let length = seconds.saturating_mul(1000);
                Lasts::Until(now.wall.saturating_add(length))
            }
            Self::Word(Word::Boot) => Lasts::Boot,
            Self::Word(Word::Forever) => Lasts::Forever,
        }
    }
}

/// A ban. One prefix may be banned by several, each for their own time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whom.
    pub net: IpNet,
    /// On whose account: a program's or a person's name.
    pub by: String,
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub made: u64,
    /// How long.
    pub lasts: Lasts,
}

impl Record {
    /// A ban from now on. What cannot be printed in one line of `by` and `reason` is replaced.
    pub fn new(net: IpNet, by: &str, reason: &str, length: Length, now: Now) -> Self {
        Self {
            net: canonical(net),
            by: clean(by),
            reason: clean(reason),
            made: now.wall,
            lasts: length.from(now),
        }
    }

    /// How long it was meant to last, in words.
    pub fn length(&self) -> String {
        match self.lasts {
            Lasts::Until(end) => {
                let length = end.saturating_sub(self.made).div_ceil(1000);
                format!("for {}", duration::short(length))
            }
            Lasts::Boot => "until the machine restarts".to_owned(),
            Lasts::Forever => "for ever".to_owned(),
        }
    }

    /// Whether it is not over.
    pub fn lasts(&self, now: Now) -> bool {
        self.left(now) != Some(Duration::ZERO)
    }

    /// How long it still lasts; none if no clock ends it.
    pub fn left(&self, now: Now) -> Option<Duration> {
        match self.lasts {
            Lasts::Boot | Lasts::Forever => None,
            Lasts::Until(end) => {
                let left = end.saturating_sub(now.wall);
                let meant = end.saturating_sub(self.made);
                Some(Duration::from_millis(left.min(meant)))
            }
        }
    }

    /// The end as the kernel has it: nanoseconds of the monotonic clock, 0 for none.
    pub fn until(&self, now: Now) -> u64 {
        let left = self.left(now);
        left.map_or(0, |left| {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let left = left.saturating_mul(MILLISECOND);
            now.monotonic.saturating_add(left)
        })
    }

    /// What stands for name and reason in the kernel's entry: by it the entry is known as this record's.
    pub fn number(&self) -> u32 {
        let digest = Sha256::new()
            .chain_update(self.by.as_bytes())
            .chain_update([0])
            .chain_update(self.reason.as_bytes())
            .finalize();
        u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

/// A name or a reason as it is kept and printed: one line without control characters, not endless.
pub fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.trim()
        .chars()
        .map(visible)
        .take(LONGEST)
        .collect::<String>()
}

/// The one form of a prefix: no bits behind its length, and IPv4 also where it is written as IPv6 (`::ffff:192.0.2.1`), as the kernel sees it.
pub fn canonical(net: IpNet) -> IpNet {
    let net = net.trunc();
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4);
    }
    net
}

/// The text is no address.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is neither an address nor a network such as 192.0.2.0/24")]
pub struct NotANet {
    text: String,
}

/// Reads an address or a prefix.
///
/// # Errors
/// It is neither.
pub fn net(text: &str) -> Result<IpNet, NotANet> {
    let text = text.trim();
    let net = IpAddr::from_str(text).map(IpNet::from);
    let net = net.ok().or_else(|| text.parse().ok());
    net.map(canonical).ok_or_else(|| NotANet {
        text: text.to_owned(),
    })
}

/// A prefix as it is printed: an address without its length.
pub fn shown(net: IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        wall: 1_000_000,
        monotonic: 5_000_000_000,
    };

    #[test]
    fn prefixes_have_one_form() {
        for (text, expect) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/64", "::/64"),
            ("2001:DB8::1", "2001:db8::1"),
            (" 2001:db8::1/64 ", "2001:db8::/64"),
        ] {
            assert_eq!(net(text).map(shown).ok().as_deref(), Some(expect), "{text}");
        }
        for text in ["", "192.0.2", "192.0.2.1/33", "example.net", "1.2.3.4 5"] {
            assert!(net(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_end_is_the_same_by_both_clocks_and_never_later_than_was_meant() {
        let mut record = Record::new(
            net("192.0.2.7").unwrap(),
            "a\nb",
            " why\u{1b}[31m ",
            Length::Seconds(10),
            NOW,
        );
        assert_eq!((&*record.by, &*record.reason), ("a b", "why [31m"));
        assert_eq!(record.lasts, Lasts::Until(1_010_000));
        assert_eq!(record.until(NOW), 15_000_000_000);
        let at = |wall| Now { wall, ..NOW };
        assert_eq!(record.until(at(1_009_999)), 5_001_000_000);
        assert!(record.lasts(at(1_009_999)) && !record.lasts(at(1_010_000)));
        // The clock is set back by a boot.
        assert_eq!(record.until(at(0)), 15_000_000_000);
        record.lasts = Length::Word(Word::Boot).from(NOW);
        assert!(record.lasts(at(u64::MAX)) && record.until(NOW) == 0);
        assert!(Lasts::Forever > Lasts::Boot && Lasts::Boot > Lasts::Until(u64::MAX));
    }
}
