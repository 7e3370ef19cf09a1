//! Layout of a policy in the arena, in words from its first.
//!
//! ```text
//! 0                 length in words | rules << 32 | bit 48 + field: some rule looks at the field | bit 56 + field: it has a common vector
//! KNOWN             small classes known | big classes known << 32 | bits of a small class << 48
//! SPACES            class space of the small sets | class space of the big ones << 32
//! IDENTITY          digest of the policy, not 0; of one of few rules 0
//! ENTRIES + field   place of the field's map | top entries << 21 | place of its references << 42
//! HEAD              rule words
//! HEAD + rules      field: reference of the field's common vector; only if there is any
//! map               top entries, and one that has no bit;  blocks, and one that has no bit
//!   top entry       bitmap of 32 blocks that have a boundary | number of such blocks before << 32
//!   block           bitmap of 32 values that begin an interval | number of boundaries before << 32
//! references        one per interval
//! rule word         rule identity | verdict << 32 | reason << 40 | log level << 48
//! ```
//!
//! Of a policy of [`FEW_RULES`](policy::FEW_RULES) or less a reference is the rules that the interval satisfies. Else it is that of a vector:
//!
//! ```text
//! reference         bit g: record of group g follows | place of the first record << 32
//! record            bit w: word w of the group follows | for each w, words before it << (8 + 3 w) | place of the first word << 32
//! word              bit r: rule r is satisfied
//! ```
//!
//! A group is [`GROUP_WORDS`](policy::GROUP_WORDS) words of 64 rules. Equal runs of records and of words are stored once.
//!
//! Rules without a condition on a field are in all its references; where that would take too much room they are in the field's common vector, and the
//! rules that a value satisfies are the union of that and its interval's. A field that no rule looks at has neither.
//!
//! A class is, in the maps of source and destination, the small one and above its bits the big one. One that the policy does not know is looked up as
//! its nearest ancestor that it knows ([`crate::lineage`]). A policy that knows one class, 0, makes no difference between classes, and asks for none.

/// Word that says how many classes the policy knows.
pub const KNOWN: usize = 1;
/// Word that says where their parents are.
pub const SPACES: usize = 2;
/// Word that is another in another policy (see [`crate::decision`]).
pub const IDENTITY: usize = 3;
/// First of the words that say where the fields' maps are.
pub const ENTRIES: usize = 4;
/// Words before the rule words.
pub const HEAD: usize = ENTRIES + FIELDS;
/// Bits of a place in an entry, which is less than the words of the arena.
pub const PLACE_BITS: u32 = 21;

/// A packet's source class.
pub const SOURCE: usize = 0;
/// Its destination class.
pub const DEST: usize = 1;
/// Its source port; [`NO_PORT`] if it has none.
pub const SPORT: usize = 2;
/// Its destination port likewise; of a frame that is not IP the EtherType.
pub const DPORT: usize = 3;
/// Its protocol, plus [`PROTOCOL_V6`] for IPv6; [`NOT_IP`] for a frame that is neither.
pub const PROTOCOL: usize = 4;
/// Its [`super::traits`].
pub const TRAITS: usize = 5;
/// Number of fields.
pub const FIELDS: usize = 6;

/// Added to the protocol number of IPv6 packets.
pub const PROTOCOL_V6: u32 = 256;
/// Value of the protocol field of a frame that is not IP. Source and destination are an ARP's sender and target then.
pub const NOT_IP: u32 = 512;
/// Value of the port fields of a packet without ports.
pub const NO_PORT: u32 = 65_536;
/// Rules of a policy whose references need no vectors, at the most.
pub const FEW_RULES: u32 = 64;
/// Groups of a policy at the most.
pub const GROUPS: u32 = 32;
/// Words of 64 rules in a group.
pub const GROUP_WORDS: u32 = 8;
/// Rules of one policy at the most.
pub const MAX_RULES: usize = (GROUPS * GROUP_WORDS * 64) as usize;
