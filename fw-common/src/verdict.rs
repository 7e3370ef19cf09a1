//! What can happen to a packet, and why.
//!
//! Every number here is stable: it is stored in maps, sent in events and printed by tools. New ones are appended; none is reused.

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[must_use]
pub enum Verdict {
    /// The packet goes on.
    Accept = 0,
    /// The packet disappears.
    Drop = 1,
    /// The packet is answered (TCP reset or ICMP error) and disappears.
    Reject = 2,
}

impl Verdict {
    /// The verdict of a stored number; an unknown number is a drop.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Accept,
            2 => Self::Reject,
            _ => Self::Drop,
        }
    }

    /// `ACCEPT`, `DROP` or `REJECT`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
            Self::Reject => "REJECT",
        }
    }
}

/// Which way a packet goes, from the guest's (or the host's) point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the guest or the host.
    In = 0,
    /// From the guest or the host.
    Out = 1,
}

impl Direction {
    /// The direction of a stored number (0 is In, all else Out).
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::In,
            _ => Self::Out,
        }
    }

    /// The other way.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }

    /// `IN` or `OUT`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "IN",
            Self::Out => "OUT",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a verdict was reached. Accepts have reasons too: a trace shows them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The reason of a stored number.
            pub const fn from_u8(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// A short stable name for tools and counters.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// A rule of the configuration matched.
    Rule = 0, "rule";
    /// No rule matched: the default policy decided.
    Policy = 1, "policy";
    /// The packet belongs to a flow that was accepted before.
    Established = 2, "established";
    /// A standard rule accepted it (DHCP, neighbour discovery, critical ICMP).
    Standard = 3, "standard";
    /// A standard rule dropped broadcast or service noise before the policy's log line.
    Noise = 4, "noise";
    /// Connection tracking could not make sense of it.
    Invalid = 5, "invalid";
    /// The source is in the cluster's `blacklist` set.
    Blacklist = 6, "blacklist";
    /// The source is a broadcast or multicast address.
    Smurf = 7, "smurf";
    /// An impossible combination of TCP flags.
    TcpFlags = 8, "tcp-flags";
    /// The Ethernet (or ARP sender) address is not the NIC's own.
    MacFilter = 9, "mac-filter";
    /// The guest may not send router advertisements.
    RouterAdvertisement = 10, "router-advertisement";
    /// The source address is not one of the NIC's own.
    IpFilter = 11, "ip-filter";
    /// The frame ends before its headers do, or a length field lies.
    Malformed = 12, "malformed";
    /// A later fragment whose first fragment was not seen (or was not accepted).
    Fragment = 13, "fragment";
    /// More IPv6 extension headers or VLAN tags than are looked at.
    HeaderChain = 14, "header-chain";
    /// The port has no policy yet: closed until it has one.
    NoPolicy = 15, "no-policy";
    /// A policy in the maps is inconsistent (should never happen): closed.
    BadPolicy = 16, "bad-policy";
    /// Neither IPv4 nor IPv6, and allowed.
    NotIp = 17, "not-ip";
    /// A reply that Tapwall made itself, on its way back.
    Hairpin = 18, "hairpin";
    /// The guest's firewall is off; only the node-wide checks applied.
    GuestOff = 19, "guest-off";
    /// An ICMP error about a flow that was accepted before.
    Related = 20, "related";
    /// The source sends more connection requests than the host's options allow.
    SynLimit = 21, "syn-limit";
    /// The frame carries a VLAN tag that the NIC may not use.
    Vlan = 22, "vlan";
    /// An EtherType that is not among the guest's `layer2_protocols`.
    Layer2 = 23, "layer-2";
    /// The source is banned.
    Ban = 24, "ban";
    /// The packet is forwarded by the host, or not for it at all: not the host zone's.
    Forwarded = 25, "forwarded";
    /// To be forwarded, but from one of the host's own addresses, which nobody else may use.
    Martian = 26, "martian";
}

/// Number of reasons; the length of per-reason counter arrays.
pub const REASONS: usize = Reason::ALL.len();

/// Rule number of a judgement that no rule decided.
pub const NO_RULE: u32 = u32::MAX;

/// Log level that means "not logged". Levels are syslog's: 0 (emerg) to 7 (debug).
pub const NO_LOG: u8 = u8::MAX;

/// The pipeline's result for one packet at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Judgement {
    /// What to do with the packet.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Identity of the rule that decided (see `maps::RuleWord`), or [`NO_RULE`].
    pub rule: u32,
    /// Syslog level at which the verdict is logged, or [`NO_LOG`].
    pub log: u8,
}

impl Judgement {
    /// A judgement that no rule made and that is not logged.
    pub const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self {
            verdict,
            reason,
            rule: NO_RULE,
            log: NO_LOG,
        }
    }

    /// A drop that no rule made.
    pub const fn drop(reason: Reason) -> Self {
        Self::new(Verdict::Drop, reason)
    }

    /// An accept that no rule made.
    pub const fn accept(reason: Reason) -> Self {
        Self::new(Verdict::Accept, reason)
    }
}

impl From<Reason> for Judgement {
    /// A drop that no rule made.
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::drop(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_dense() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::from_u8(index as u8), Some(*reason));
        }
        assert_eq!(Reason::from_u8(REASONS as u8), None);
    }

    #[test]
    fn an_unknown_verdict_is_closed() {
        assert_eq!(Verdict::from_u8(0), Verdict::Accept);
        assert_eq!(Verdict::from_u8(2), Verdict::Reject);
        for number in [1, 3, 77, 255] {
            assert_eq!(Verdict::from_u8(number), Verdict::Drop);
        }
    }
}
