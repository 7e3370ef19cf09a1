//! Types of the kernel and of programs, as far as the probe has to know them: the number of a function, and the offset of a struct's member.
//!
//! In: the raw bytes of BTF (`include/uapi/linux/btf.h`). Invariant: any bytes are looked at or refused, nothing panics.

/// Kinds of types whose records have something behind them, by the header's numbers.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// Bytes of a type's record without what is behind it.
const RECORD: usize = 12;

/// Parsed BTF.
pub(super) struct Btf<'b> {
    bytes: &'b [u8],
    /// Where the record of each type begins; type 0 has none.
    types: Vec<usize>,
    strings: usize,
}

impl<'b> Btf<'b> {
    pub(super) fn parse(bytes: &'b [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let header = word(bytes, 4)? as usize;
        let section = |at| Some(header.checked_add(word(bytes, at)? as usize)?);
        let (start, strings) = (section(8)?, section(16)?);
        let end = start.checked_add(word(bytes, 12)? as usize)?;
        if magic != MAGIC || end > bytes.len() {
            return None;
        }
        let mut types = vec![0];
        let mut at = start;
        while at < end {
            types.push(at);
            let info = word(bytes, at + 4)?;
            let count = (info & 0xffff) as usize;
            let behind = match info >> 24 & 0x1f {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
                kind::ENUM | kind::FUNC_PROTO => 8 * count,
                _ => 0,
            };
            at += RECORD + behind;
        }
        Some(Self {
            bytes,
            types,
            strings,
        })
    }

    /// The number of a function's type.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        let found = self.find(kind::FUNC, name)?;
        u32::try_from(found).ok()
    }

    /// Bytes before a member of a struct, also one of an unnamed struct or union in it.
    pub(super) fn offset(&self, of: &str, member: &str) -> Option<u32> {
        self.member(self.find(kind::STRUCT, of)?, member, 8)
    }

    fn find(&self, kind: u32, name: &str) -> Option<usize> {
        (1..self.types.len()).find(|number| {
            self.kind(*number) == Some(kind) && self.name_at(self.types[*number]) == Some(name.as_bytes())
        })
    }

    fn kind(&self, number: usize) -> Option<u32> {
        let info = word(self.bytes, self.types.get(number)? + 4)?;
        Some(info >> 24 & 0x1f)
    }

    fn member(&self, number: usize, name: &str, depth: u32) -> Option<u32> {
        let start = *self.types.get(number).filter(|start| **start != 0)?;
        if !matches!(self.kind(number)?, kind::STRUCT | kind::UNION) || depth == 0 {
            return None;
        }
        let info = word(self.bytes, start + 4)?;
        let has_bits = info >> 31 != 0;
        for index in 0..(info & 0xffff) as usize {
            let at = start + RECORD + 12 * index;
            let offset = word(self.bytes, at + 8)?;
            let offset = if has_bits { offset & 0x00ff_ffff } else { offset };
            let found = self.name_at(at)?;
            if found == name.as_bytes() {
                return Some(offset / 8);
            }
            if found.is_empty() {
                let inner = word(self.bytes, at + 4)? as usize;
                if let Some(inner) = self.member(inner, name, depth - 1) {
                    return Some(offset / 8 + inner);
                }
            }
        }
        None
    }

    /// The name whose offset stands at a place.
    fn name_at(&self, at: usize) -> Option<&'b [u8]> {
        let from = self.strings.checked_add(word(self.bytes, at)? as usize)?;
        self.bytes.get(from..)?.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF of `int`, `struct in { union { int a; int b; }; int c; }` and a function `f`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0in\0a\0b\0c\0f\0";
        let types: &[u32] = &[
            1, 1 << 24, 4, 32, // 1: int
            0, 5 << 24 | 2, 4, 8, 1, 0, 10, 1, 0, // 2: union
            5, 4 << 24 | 2, 8, 0, 2, 32, 12, 1, 64, // 3: struct
            0, 13 << 24, 1, // 4: int ()
            14, 12 << 24, 4, // 5: f
        ];
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let sizes = [24, 0, 4 * types.len() as u32, 4 * types.len() as u32, strings.len() as u32];
        for word in sizes.iter().chain(types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn functions_and_members_of_unnamed_unions_are_found() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.function("f"), Some(5));
        assert_eq!(btf.function("in"), None);
        assert_eq!(btf.offset("in", "b"), Some(4));
        assert_eq!(btf.offset("in", "c"), Some(8));
        assert_eq!(btf.offset("in", "d"), None);
    }

    #[test]
    fn bytes_that_are_cut_or_changed_do_not_panic() {
        let bytes = sample();
        for at in 0..bytes.len() {
            for bytes in [bytes[..at].to_vec(), {
                let mut changed = bytes.clone();
                changed[at] = !changed[at];
                changed
            }] {
                if let Some(btf) = Btf::parse(&bytes) {
                    let found = (btf.function("f"), btf.offset("in", "b"));
                    assert!(found.0.is_none_or(|number| number < 64), "{found:?}");
                }
            }
        }
    }
}
