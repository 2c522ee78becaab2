//! What every object of CPython begins with, and whether that is to be believed: memory that was given back keeps most of
//! what it held, so an object is taken for one only while it is referred to and has the type that it should have.

use super::{Memory, Offsets};

/// `PyTypeObject.tp_name`.
const TYPE_NAME: u64 = 24;
/// `PyTypeObject.tp_base`.
const TYPE_BASE: u64 = 256;
/// Size of `ob_refcnt` and `ob_type`, where an object's own members begin.
const HEADER: u64 = 16;
/// Longest line of base types that is followed.
const MAX_BASES: usize = 8;

/// Reads objects of one interpreter.
#[derive(Clone, Copy)]
pub struct Objects<'a> {
    /// Where they lie.
    pub memory: &'a dyn Memory,
    /// Where things lie in them.
    pub offsets: &'a Offsets,
}

impl Objects<'_> {
    /// Whether an object that begins with `head` is in use and of the built-in type `name`.
    pub fn is_exactly(&self, head: &[u8], name: &str) -> bool {
        is_referred_to(head) && type_of(head).is_some_and(|of| self.is_type(of, name))
    }

    /// The same, or of a type derived from it.
    pub fn is_derived(&self, head: &[u8], name: &str) -> bool {
        let mut of = type_of(head).filter(|_| is_referred_to(head));
        for _ in 0..MAX_BASES {
            match of {
                Some(this) if self.is_type(this, name) => return true,
                Some(this) => of = this.checked_add(TYPE_BASE).and_then(|at| self.memory.word(at)),
                None => break,
            }
        }
        false
    }

    /// Whether a type is the built-in one of that name.
    pub fn is_type(&self, of: u64, name: &str) -> bool {
        let expected = [name.as_bytes(), b"\0"].concat();
        let mut found = vec![0; expected.len()];
        let at = of.checked_add(TYPE_NAME).and_then(|at| self.memory.word(at));
        at.is_some_and(|at| self.memory.fill(at, &mut found)) && found == expected
    }
}

/// A block that was given back to the small-object allocator begins with the address of the next one, or with 0. The count
/// has 32 bits; from 3.14 on the uppermost 16 bits are flags.
pub fn is_referred_to(head: &[u8]) -> bool {
    let count = word_at(head, 0).unwrap_or(0);
    count & 0xffff_ffff != 0 && count & 0xffff_0000_0000 == 0
}

/// Address of an object's type.
pub fn type_of(head: &[u8]) -> Option<u64> {
    word_at(head, HEADER as usize - 8)
}

/// A word of what was read.
pub fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Four bytes of what was read.
pub fn half_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|half| u32::from_le_bytes(*half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_not_referred_to() {
        let counted = |count: u64| is_referred_to(&count.to_le_bytes());
        assert!(counted(1) && counted(0xffff_ffff) && counted(0x0050_0000_c000_0000));
        assert!(!counted(0) && !counted(0x7f12_3456_7890) && !counted(0xdddd_dddd_dddd_dddd));
        assert!(!is_referred_to(&[]));
    }
}
