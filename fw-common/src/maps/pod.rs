//! Records that are copied to and from maps as they are.

// SAFETY: `repr(C)`, plain integers, no padding, size asserted where it is defined.
unsafe impl aya::Pod for super::Port {}
// SAFETY: `repr(C)`, four integers.
unsafe impl aya::Pod for crate::wire::Address {}
// SAFETY: as above.
unsafe impl aya::Pod for super::PortKey {}
// SAFETY: as above.
unsafe impl aya::Pod for super::FragmentKey {}
// SAFETY: as above.
unsafe impl aya::Pod for super::FragmentValue {}
// SAFETY: as above.
unsafe impl aya::Pod for super::Counter {}
// SAFETY: as above.
unsafe impl aya::Pod for super::PortCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::ledger::LogLimit {}
// SAFETY: as above.
unsafe impl aya::Pod for super::Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for super::RuleKey {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::flow::FlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::flow::Flow {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::limit::Bucket {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::ban::Ban {}
// SAFETY: as above.
unsafe impl aya::Pod for super::Station {}
