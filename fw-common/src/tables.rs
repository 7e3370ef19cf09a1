//! What the pipeline looks up and writes down: in the kernel BPF maps, elsewhere plain memory.

use crate::address;
use crate::ban::{Ban, is_banned};
use crate::classify::{Values, classify, first_of_group};

use crate::conntrack::{CtState, Tracked};
use crate::decision::References;
use crate::event::FlowNews;
use crate::flow::{Flow, FlowKey, FlowRef};
use crate::fragment::complete_fragment;
use crate::lineage;
use crate::maps::policy::FIELDS;
use crate::maps::{FragmentKey, FragmentValue, Port, RuleWord, Settings};
use crate::pipeline::{commit_flow, fill_claim, fill_values, note_checked, track_flow};
use crate::reevaluate::fill_opening;
use crate::syn_limit;
use crate::verdict::{Direction, Reason};
use crate::wire::{Address, Headers, IpVersion};

/// The policy arena. Cheap to copy, as [`Tables`].
pub trait Words: Copy {
    /// A word. Word 0 is 0. None: there are not so many.
    fn word(self, index: u32) -> Option<u64>;
}

impl Words for &[u64] {
    #[inline(always)]
    fn word(self, index: u32) -> Option<u64> {
        self.get(index as usize).copied()
    }
}

/// Access to everything that lives in maps. Cheap to copy: a handle, not the tables.
pub trait Tables: Copy {
    /// The port of an interface.
    fn port(&self, ifindex: u32) -> Option<&Port>;

    /// The policy arena.
    fn words(&self) -> Option<impl Words>;

    /// A word of the policy arena.
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        self.words()?.word(index)
    }

    /// The value of an address in a class space: that of the longest prefix that holds it, or 0.
    fn longest_prefix(&self, space: u32, version: IpVersion, address: &Address) -> u32;

    /// Whether there may be bans at all.
    fn has_bans(&self) -> bool;

    /// The ban with the longest prefix, of `bits` bits at the most, that holds an address.
    fn ban(&self, address: &Address, bits: u32) -> Option<Ban>;

    /// Whether a flow that both ends have taken part in may be there under a key (see [`crate::flow_filter`]): if not, [`Tables::flow`] finds none.
    #[inline(always)]
    fn may_know(&self, _key: &FlowKey) -> bool {
        true
    }

    /// A flow that both ends have taken part in.
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>>;

    /// A flow that waits for an answer.
    fn half_open(&self, key: &FlowKey) -> Option<FlowRef<'_>>;

    /// Makes a half-open flow; false if there was no room.
    fn insert_half_open(&self, key: &FlowKey, flow: &Flow) -> bool;

    /// Moves a flow from the half-open ones to the others; false (and nothing is lost) if there was no room.
    fn establish(&self, key: &FlowKey, flow: &Flow) -> bool;

    /// Forgets a flow that both ends had taken part in.
    fn remove_flow(&self, key: &FlowKey);

    /// Tells the agent of a flow. Called only if the settings ask for it.
    fn tell_flow(&self, key: &FlowKey, news: FlowNews);

    /// Remembers a datagram's first fragment.
    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue);

    /// What the first fragment told, if it was seen.
    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;

    /// Takes a token from a source's bucket of connection requests (see [`crate::limit::Bucket::take`]); false if it is empty.
    fn take_syn(&self, source: &Address, interval: u64, burst: u32) -> bool;

    /// The node's settings.
    fn settings(&self) -> Settings;

    /// Nanoseconds of a monotonic clock, fine to some milliseconds.
    fn now(&self) -> u64;

    /// The pipeline's stage [`track_flow`]. This and the following are methods so that the kernel can put function boundaries around
    /// them: the verifier then goes through each stage once, and their stack frames do not add up.
    #[inline(always)]
    fn track(&self, port: &Port, direction: Direction, headers: &Headers) -> Tracked {
        track_flow(*self, port, direction, headers)
    }

    /// The stage [`fill_values`].
    #[inline(always)]
    fn fill_values(
        &self,
        port: &Port,
        headers: &Headers,
        state: CtState,
        policy: u32,
        values: &mut Values,
    ) {
        fill_values(*self, port, headers, state, policy, values);
    }

    /// The stage [`fill_opening`].
    #[inline(always)]
    fn fill_opening(
        &self,
        port: &Port,
        headers: &Headers,
        is_reply: bool,
        policy: u32,
        values: &mut Values,
    ) {
        fill_opening(*self, port, headers, is_reply, policy, values);
    }

    /// The stage [`syn_limit::exceeds`].
    #[inline(always)]
    fn exceeds_syn_limit(&self, headers: &Headers) -> bool {
        syn_limit::exceeds(*self, headers)
    }

    /// The stage [`fill_claim`].
    #[inline(always)]
    fn fill_claim(&self, port: &Port, target: &Address, values: &mut Values) {
        fill_claim(*self, port, target, values);
    }

    /// The stage [`note_checked`].
    #[inline(always)]
    fn note_checked(&self, port: &Port, headers: &Headers) {
        note_checked(*self, port, headers);
    }

    /// The stage [`complete_fragment`].
    ///
    /// # Errors
    /// As [`complete_fragment`].
    #[inline(always)]
    fn complete_fragment(
        &self,
        port: &Port,
        direction: Direction,
        headers: &mut Headers,
    ) -> Result<(), Reason> {
        complete_fragment(*self, port, direction, headers)
    }

    /// The stage [`is_banned`] for a packet's source.
    #[inline(always)]
    fn is_banned(&self, headers: &Headers) -> bool {
        is_banned(*self, headers.version, &headers.source)
    }

    /// The stage [`address::is_blacklisted`] for a packet's source.
    #[inline(always)]
    fn is_blacklisted(&self, port: &Port, headers: &Headers) -> bool {
        address::is_blacklisted(*self, port, headers.version, &headers.source)
    }

    /// The stage [`lineage::ancestor`].
    #[inline(always)]
    fn ancestor(&self, space: u32, class: u32, known: u32) -> Option<u32> {
        lineage::ancestor(*self, space, class, known)
    }

    /// The stage [`classify`].
    #[inline(always)]
    fn classify(&self, policy: u32, values: &Values) -> Option<RuleWord> {
        classify(*self, policy, values)
    }

    /// The rule that is remembered for these references of the policy with this identity. Memory of this kind is the kernel's only.
    #[inline(always)]
    fn decided(&self, _identity: u64, _references: &References) -> Option<u32> {
        None
    }

    /// Remembers it.
    #[inline(always)]
    fn remember(&self, _identity: u64, _references: &References, _rule: u32) {}

    /// A part of that stage, [`first_of_group`].
    #[inline(always)]
    fn first_of_group(&self, policy: u32, references: &[u64; FIELDS], group: u32) -> Option<u32> {
        first_of_group(*self, policy, references, group)
    }

    /// The stage [`commit_flow`].
    #[inline(always)]
    fn commit(
        &self,
        port: &Port,
        direction: Direction,
        headers: &Headers,
        tracked: Tracked,
        rule: u32,
    ) {
        commit_flow(*self, port, direction, headers, tracked, rule);
    }
}
