//! One unwind rule in 64 bits: where the caller's frame begins (the *canonical frame address*, CFA: what the stack
//! pointer was before the call) and where the two registers that later rules may need have been saved.

/// A packed rule:
///
/// | bits | |
/// | --- | --- |
/// | 0-3 | [`Cfa`] |
/// | 4-5 | [`Saved`] of the frame pointer |
/// | 6-7 | [`Saved`] of the base register (rbx) |
/// | 8-31 | offset of the CFA, bytes, signed; where a word in memory is read for it: bits 8-23 where, and bits 24-31 what is added to that word, 8-byte words |
/// | 32-47 | offset of the saved frame pointer, 8-byte words, signed |
/// | 48-63 | offset of the saved base register, 8-byte words, signed |
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule(pub u64);

/// How the CFA is found. Numbers, not an enum: rules come out of shared memory and files.
pub struct Cfa;

impl Cfa {
    /// The object says nothing about this code.
    pub const NONE: u8 = 0;
    /// There is no caller: `_start`, `clone`.
    pub const END: u8 = 1;
    /// The object says something that this table cannot express.
    pub const UNSUPPORTED: u8 = 2;
    /// Stack pointer + offset.
    pub const SP: u8 = 3;
    /// Frame pointer + offset.
    pub const BP: u8 = 4;
    /// Base register (rbx) + offset: glibc's lazy binding.
    pub const BX: u8 = 5;
    /// The word at frame pointer + offset, and some more: functions that realign the stack, hand-written code that saves its
    /// stack pointer.
    pub const AT_BP: u8 = 6;
    /// The word at stack pointer + offset, and some more.
    pub const AT_SP: u8 = 7;
    /// An entry of the procedure linkage table: stack pointer + 8, and 8 more from byte `offset` of its 16 on.
    pub const PLT: u8 = 9;
    /// The stack pointer points at the context that a signal has interrupted.
    pub const SIGNAL: u8 = 10;
    /// Code that has no table: frame pointer + 16, frame pointer and return address just below.
    pub const FRAME_POINTER: u8 = 11;
}

/// Where a register of the caller is found.
pub struct Saved;

impl Saved {
    /// Still in the register.
    pub const SAME: u8 = 0;
    /// In memory at CFA + offset.
    pub const AT_CFA: u8 = 1;
    /// In memory at this frame's frame pointer + offset.
    pub const AT_BP: u8 = 2;
    /// Cannot be found.
    pub const LOST: u8 = 3;
}

impl Rule {
    /// [`Cfa::NONE`]. Always rule number 0.
    pub const NONE: Self = Self(Cfa::NONE as u64);
    /// [`Cfa::END`].
    pub const END: Self = Self(Cfa::END as u64);
    /// [`Cfa::UNSUPPORTED`].
    pub const UNSUPPORTED: Self = Self(Cfa::UNSUPPORTED as u64);
    /// [`Cfa::SIGNAL`].
    pub const SIGNAL: Self = Self(Cfa::SIGNAL as u64);
    /// [`Cfa::FRAME_POINTER`].
    pub const FRAME_POINTER: Self = Self(Cfa::FRAME_POINTER as u64);

    /// The rule `CFA = kind(offset)`, both registers still in place. `None` if the offset does not fit.
    pub const fn cfa_at(kind: u8, offset: i64) -> Option<Self> {
        if offset < -(1 << 23) || offset >= 1 << 23 {
            return None;
        }
        Some(Self((kind & 0xf) as u64 | (offset as u64 & 0xff_ffff) << 8))
    }

    /// The rule `CFA = the word at kind(offset) + more`, for [`Cfa::AT_BP`] and [`Cfa::AT_SP`]. `None` if a number does not
    /// fit, or `more` is no multiple of 8.
    pub const fn cfa_in_memory(kind: u8, offset: i64, more: u64) -> Option<Self> {
        if offset < i16::MIN as i64 || offset > i16::MAX as i64 || more & 7 != 0 || more > 0xff * 8 {
            return None;
        }
        Some(Self((kind & 0xf) as u64 | (offset as u16 as u64) << 8 | (more >> 3) << 24))
    }

    /// The same rule with the frame pointer saved at `offset` bytes. `None` if the offset is no multiple of 8 or too far.
    pub const fn with_bp(self, saved: u8, offset: i64) -> Option<Self> {
        match words(offset) {
            Some(words) => Some(Self(
                self.0 & !(0x3 << 4 | 0xffff << 32) | (saved as u64 & 3) << 4 | (words as u16 as u64) << 32,
            )),
            None => None,
        }
    }

    /// The same rule with the base register saved at `offset` bytes. `None` as in [`Self::with_bp`].
    pub const fn with_bx(self, saved: u8, offset: i64) -> Option<Self> {
        match words(offset) {
            Some(words) => Some(Self(
                self.0 & !(0x3 << 6 | 0xffff << 48) | (saved as u64 & 3) << 6 | (words as u16 as u64) << 48,
            )),
            None => None,
        }
    }

    /// One of [`Cfa`].
    #[inline(always)]
    pub const fn cfa(self) -> u8 {
        self.0 as u8 & 0xf
    }

    /// Bytes.
    #[inline(always)]
    pub const fn cfa_offset(self) -> i64 {
        (self.0 << 32) as i64 >> 40
    }

    /// Where the word lies that [`Self::cfa_in_memory`] reads, bytes.
    #[inline(always)]
    pub const fn cfa_word_offset(self) -> i64 {
        (self.0 << 40) as i64 >> 48
    }

    /// What is added to it, bytes.
    #[inline(always)]
    pub const fn cfa_more(self) -> u64 {
        (self.0 >> 24 & 0xff) * 8
    }

    /// One of [`Saved`].
    #[inline(always)]
    pub const fn bp(self) -> u8 {
        (self.0 >> 4) as u8 & 3
    }

    /// Bytes.
    #[inline(always)]
    pub const fn bp_offset(self) -> i64 {
        ((self.0 << 16) as i64 >> 48) * 8
    }

    /// One of [`Saved`].
    #[inline(always)]
    pub const fn bx(self) -> u8 {
        (self.0 >> 6) as u8 & 3
    }

    /// Bytes.
    #[inline(always)]
    pub const fn bx_offset(self) -> i64 {
        (self.0 as i64 >> 48) * 8
    }
}

/// Bytes as 8-byte words, if they fit into 16 bits.
const fn words(offset: i64) -> Option<i16> {
    let words = offset >> 3;
    if offset & 7 != 0 || words < i16::MIN as i64 || words > i16::MAX as i64 {
        None
    } else {
        Some(words as i16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        for offset in [-(1 << 23), -8, 0, 8, 16, 4096, (1 << 23) - 1] {
            for word in [i64::from(i16::MIN) * 8, -16, 0, 24, i64::from(i16::MAX) * 8] {
                let rule = Rule::cfa_at(Cfa::BP, offset)
                    .and_then(|rule| rule.with_bx(Saved::AT_BP, word))
                    .and_then(|rule| rule.with_bp(Saved::AT_CFA, -word - 8))
                    .filter(|rule| rule.bp_offset() == -word - 8);
                let Some(rule) = rule else { continue };
                assert_eq!((rule.cfa(), rule.cfa_offset()), (Cfa::BP, offset));
                assert_eq!((rule.bx(), rule.bx_offset()), (Saved::AT_BP, word));
                assert_eq!((rule.bp(), rule.bp_offset()), (Saved::AT_CFA, -word - 8));
            }
        }
    }

    #[test]
    fn a_word_in_memory_keeps_its_place_and_what_is_added_to_it() {
        for (offset, more) in [(i64::from(i16::MIN), 0), (-8, 8), (i64::from(i16::MAX), 0xff * 8)] {
            let rule = Rule::cfa_in_memory(Cfa::AT_SP, offset, more)
                .and_then(|rule| rule.with_bp(Saved::AT_CFA, -16))
                .expect("fits");
            assert_eq!((rule.cfa(), rule.cfa_word_offset(), rule.cfa_more()), (Cfa::AT_SP, offset, more));
            assert_eq!((rule.bp(), rule.bp_offset()), (Saved::AT_CFA, -16));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Rule::cfa_in_memory(Cfa::AT_SP, 1 << 15, 0), None);
        assert_eq!(Rule::cfa_in_memory(Cfa::AT_SP, 0, 4), None);
        assert_eq!(Rule::cfa_in_memory(Cfa::AT_SP, 0, 0x100 * 8), None);
        assert_eq!(Rule::cfa_at(Cfa::SP, 1 << 23), None);
        assert_eq!(Rule::cfa_at(Cfa::SP, -(1 << 23) - 1), None);
        let rule = Rule::cfa_at(Cfa::SP, 8).expect("fits");
        assert_eq!(rule.with_bp(Saved::AT_CFA, 4), None);
        assert_eq!(rule.with_bx(Saved::AT_CFA, 8 << 15), None);
    }
}
