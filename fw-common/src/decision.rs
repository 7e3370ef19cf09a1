//! Which rule the last packets like this one came to: saves the search among the vectors of a policy of many rules.
//!
//! In: a policy's [identity](policy::IDENTITY) and a packet's references in it. Out: the rule that [`crate::classify`] found for the same before.
//!
//! What a packet satisfies depends on the intervals that its values fall into, so packets of many flows share a decision. Each CPU remembers [`DECISIONS`]
//! of them by a digest; one that comes to an occupied place replaces what was there. The first packet of a kind pays for the search and for
//! remembering it.
//!
//! Invariant: a remembered rule is the one that the search would find. It is used only where the identity and all references are those that it was found
//! for, and of two policies with one identity all words that the search reads are equal: the identity is a digest of them. So nothing has to
//! be forgotten when policies change or take each other's place.

use crate::maps::policy::FIELDS;

/// Decisions that a CPU remembers: with 64 bytes each they stay in its second cache.
pub const DECISIONS: u32 = 1 << 10;

/// Words of a decision: the identity (0: none is here), the references, the rule.
pub type Decision = [u64; 1 + FIELDS + 1];

/// Index of the identity in a [`Decision`].
pub const IDENTITY: usize = 0;
/// Index of the first reference.
pub const REFERENCES: usize = 1;
/// Index of the rule's number.
pub const RULE: usize = REFERENCES + FIELDS;

/// A policy's references that a packet has, one per field.
pub type References = [u64; FIELDS];

/// Where the decision for these references is, if it is remembered.
#[inline(always)]
pub const fn place(identity: u64, references: &References) -> u32 {
    // Odd numbers without a pattern. Three products do not wait for each other.
    const FACTORS: [u64; 3] = [
        0x9E37_79B9_7F4A_7C15,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
    ];
    let [source, dest, sport, dport, protocol, traits] = *references;
    let digest = (identity ^ source ^ dest.rotate_left(16)).wrapping_mul(FACTORS[0])
        ^ (sport ^ dport.rotate_left(16)).wrapping_mul(FACTORS[1])
        ^ (protocol ^ traits.rotate_left(16)).wrapping_mul(FACTORS[2]);
    (digest >> 48) as u32 % DECISIONS
}

/// The rule, if the decision is one for these references.
#[inline(always)]
pub const fn rule(decision: &Decision, identity: u64, references: &References) -> Option<u32> {
    let [known, source, dest, sport, dport, protocol, traits, rule] = *decision;
    let differs = known ^ identity
        | source ^ references[0]
        | dest ^ references[1]
        | sport ^ references[2]
        | dport ^ references[3]
        | protocol ^ references[4]
        | traits ^ references[5];
    if differs != 0 || identity == 0 {
        return None;
    }
    Some(rule as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_for_its_policy_and_references_only() {
        let references = [1, 2, 3, 4, 5, 6];
        let decision = [7, 1, 2, 3, 4, 5, 6, 9];
        assert_eq!(rule(&decision, 7, &references), Some(9));
        assert_eq!(rule(&decision, 8, &references), None);
        for field in 0..FIELDS {
            let mut other = references;
            other[field] ^= 1 << 63;
            assert_eq!(rule(&decision, 7, &other), None);
        }
        assert_eq!(rule(&Decision::default(), 0, &[0; FIELDS]), None);
    }

    #[test]
    fn references_that_differ_in_one_interval_are_spread() {
        let of_port = |port: u64| [0, 0, 0, (port << 32) | 1, 1 << 32 | 3, 1 << 33 | 3];
        let mut taken = [false; DECISIONS as usize];
        for port in 0..u64::from(DECISIONS) {
            taken[place(11, &of_port(port)) as usize] = true;
        }
        // Thrown at random, all but one in e places would be taken.
        assert!(taken.iter().filter(|taken| **taken).count() > 600);
    }
}
