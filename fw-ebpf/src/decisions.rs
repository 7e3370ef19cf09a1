//! The decisions that this CPU remembers as a BPF map. What they are and why none is wrong: `fw_common::decision`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use fw_common::decision::{self, Decision, IDENTITY, REFERENCES, RULE, References};

#[map]
static DECISIONS: PerCpuArray<Decision> = PerCpuArray::with_max_entries(decision::DECISIONS, 0);

/// The rule that is remembered for these references.
#[inline(always)]
pub fn find(identity: u64, references: &References) -> Option<u32> {
    let decision = DECISIONS.get(decision::place(identity, references))?;
    decision::rule(decision, identity, references)
}

/// Remembers a rule for these references.
#[inline(always)]
pub fn note(identity: u64, references: &References, rule: u32) {
    let Some(decision) = DECISIONS.get_ptr_mut(decision::place(identity, references)) else {
        return;
    };
    let word = decision.cast::<u64>();
    // SAFETY: this CPU's own value, and its words are as many as that; programs at these hooks do not interrupt each other. Written one at a time: of a
    // copy the kernel's compiler would make a call of a loop over bytes.
    unsafe {
        word.add(IDENTITY).write_volatile(identity);
        for (field, reference) in references.iter().enumerate() {
            word.add(REFERENCES + field).write_volatile(*reference);
        }
        word.add(RULE).write_volatile(u64::from(rule));
    }
}
