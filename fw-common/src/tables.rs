//! What the pipeline looks up and writes down: in the kernel BPF maps, elsewhere plain memory.

use crate::flow::{Flow, FlowKey, FlowRef};
use crate::maps::{FragmentKey, FragmentValue, Port, Settings};
use crate::wire::{Address, IpVersion};

/// Access to everything that lives in maps. Cheap to copy: a handle, not the tables.
pub trait Tables: Copy {
    /// The port of an interface.
    fn port(&self, ifindex: u32) -> Option<&Port>;

    /// A word of the policy arena. Word 0 is 0.
    fn word(&self, index: u32) -> Option<u64>;

    /// The class of an address in a class space: that of the longest prefix that holds it, or 0.
    fn class(&self, space: u32, version: IpVersion, address: &Address) -> u32;

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

    /// Remembers a datagram's first fragment.
    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue);

    /// What the first fragment told, if it was seen.
    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;

    /// The node's settings.
    fn settings(&self) -> Settings;

    /// Nanoseconds of a monotonic clock, fine to some milliseconds.
    fn now(&self) -> u64;

    /// Calls `step` until it returns false, `count` times at the most.
    fn repeat<S: Step>(count: u32, step: &mut S);
}

/// The body of a bounded loop; a type and not a closure, so that the kernel can verify it once (`bpf_loop`).
pub trait Step {
    /// One round; false ends the loop.
    fn step(&mut self) -> bool;
}
