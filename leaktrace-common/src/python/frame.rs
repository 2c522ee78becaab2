//! What a frame of the interpreter says: a frame object up to 3.10, `_PyInterpreterFrame` from 3.11 on.

use super::{
    Layout, NOT_BEGUN,
    code::Code,
    entry,
    window::{Window, byte, half, word},
};

/// A frame as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Address of its code object.
    pub code: u64,
    /// The next frame further out; 0: there is none.
    pub previous: u64,
    /// `f_lasti` as the 64 bits of a signed number (up to 3.10), else the address of the instruction in progress.
    pub instruction: u64,
    /// Whose it is (3.11 and later).
    pub owner: u32,
    /// A run of the interpreter's loop begins with it, as far as the frame itself says so.
    pub begins_run: bool,
}

/// No code object lies from here on: the address space of a process has 56 bits at most.
const ADDRESS_LIMIT: u64 = 1 << 56;

/// Longest code, bytes. The compiler's own limit is not far above.
const MAX_CODE_BYTES: u64 = 1 << 30;

/// Bytes of a code unit, 3.11 and later.
const CODE_UNIT: u64 = 2;

impl Frame {
    /// Reads a frame's fields out of its first [`Layout::frame_bytes`].
    #[inline(always)]
    pub const fn decode(layout: &Layout, window: &Window) -> Self {
        let by_object = layout.entry == entry::EVERY_FRAME;
        Self {
            code: word(window, layout.frame_code) & !(layout.code_tag as u64),
            previous: word(window, layout.frame_previous),
            instruction: if by_object {
                half(window, layout.frame_instruction) as i32 as i64 as u64
            } else {
                word(window, layout.frame_instruction)
            },
            owner: if by_object { 0 } else { byte(window, layout.frame_owner) as u32 },
            begins_run: by_object
                || (layout.entry == entry::FLAG && byte(window, layout.frame_is_entry) != 0),
        }
    }

    /// Whether it stands for a call of the interpreter's loop and has no code of its own (3.12 and later).
    #[inline(always)]
    pub const fn is_shim(&self, layout: &Layout) -> bool {
        layout.entry == entry::SHIM && self.owner >= layout.shim_owner
    }

    /// Whether its code can be an object's address.
    #[inline(always)]
    pub const fn is_plausible(&self) -> bool {
        self.code != 0 && self.code & 7 == 0 && self.code < ADDRESS_LIMIT
    }

    /// Where the call in progress stands, bytes from the code's first instruction; [`NOT_BEGUN`] in front of that. `None` if
    /// it stands in no code there can be.
    #[inline(always)]
    pub const fn position(&self, layout: &Layout) -> Option<u32> {
        let offset = if layout.entry == entry::EVERY_FRAME {
            self.instruction.wrapping_mul(layout.instruction_scale as u64)
        } else {
            self.instruction.wrapping_sub(self.code.wrapping_add(layout.code_instructions as u64))
        };
        if offset >> 63 != 0 {
            return if offset >= MAX_CODE_BYTES.wrapping_neg() { Some(NOT_BEGUN) } else { None };
        }
        if offset < MAX_CODE_BYTES { Some(offset as u32) } else { None }
    }

    /// Whether `sys._getframe` passes it over: its cells or its generator are still being made (3.11 and later).
    #[inline(always)]
    pub const fn is_incomplete(&self, layout: &Layout, code: &Code) -> bool {
        if layout.entry == entry::EVERY_FRAME || self.owner == layout.generator_owner {
            return false;
        }
        let begin = self.code.wrapping_add(layout.code_instructions as u64);
        self.instruction < begin.wrapping_add(code.first_traceable as u64 * CODE_UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::samples::{FROM_3_11, FROM_3_12, samples, window};

    #[test]
    fn frames_of_every_kind_say_what_the_interpreter_said() {
        for sample in samples() {
            let frame = Frame::decode(&sample.layout, &sample.frame);
            let code = Code::decode(&sample.layout, &sample.code);
            assert_eq!((frame.code, frame.previous), (sample.code_address, sample.previous));
            assert_eq!(frame.position(&sample.layout), Some(sample.position));
            assert_eq!(frame.begins_run, sample.layout.entry == entry::EVERY_FRAME);
            assert!(frame.is_plausible() && !frame.is_shim(&sample.layout));
            assert!(!frame.is_incomplete(&sample.layout, &code));
        }
    }

    #[test]
    fn a_flag_begins_a_run_in_3_11() {
        let flagged = window(&[0, 0, 0, 0, 0x1000, 0, 0, 0x2000, 1 << 32]);
        assert!(Frame::decode(&FROM_3_11, &flagged).begins_run);
    }

    #[test]
    fn a_frame_of_the_c_stack_is_a_shim_from_3_12_on() {
        let owned_by =
            |owner: u64| Frame::decode(&FROM_3_12, &window(&[0, 0, 0, 0, 0, 0, 0, 0, owner << 48]));
        assert!(owned_by(3).is_shim(&FROM_3_12) && owned_by(4).is_shim(&FROM_3_12));
        assert!(!owned_by(1).is_shim(&FROM_3_12));
        assert!(!owned_by(3).is_shim(&FROM_3_11));
    }

    #[test]
    fn a_frame_is_incomplete_until_its_first_traceable_instruction_unless_a_generator_owns_it() {
        let begin = 0x1000 + u64::from(FROM_3_12.code_instructions);
        let code = Code { first_traceable: 3, ..Code::default() };
        let at = |instruction, owner| Frame { code: 0x1000, instruction, owner, ..Frame::default() };
        assert!(at(begin - 2, 0).is_incomplete(&FROM_3_12, &code));
        assert!(at(begin + 4, 0).is_incomplete(&FROM_3_12, &code));
        assert!(!at(begin + 6, 0).is_incomplete(&FROM_3_12, &code));
        assert!(!at(begin + 4, 1).is_incomplete(&FROM_3_12, &code));
    }

    #[test]
    fn tags_are_no_part_of_the_address() {
        let tagged = Layout { code_tag: 3, ..FROM_3_12 };
        assert_eq!(Frame::decode(&tagged, &window(&[0x1003])).code, 0x1000);
    }

    #[test]
    fn what_has_not_begun_has_no_position_and_what_is_too_far_is_no_frame() {
        let at = |instruction: u64| Frame { code: 0x1000, instruction, ..Frame::default() };
        let begin = 0x1000 + u64::from(FROM_3_12.code_instructions);
        assert_eq!(at(begin - 2).position(&FROM_3_12), Some(NOT_BEGUN));
        assert_eq!(at(0x7f00_0000_0000).position(&FROM_3_12), None);
        let [first, ..] = samples();
        assert_eq!(at(u64::MAX).position(&first.layout), Some(NOT_BEGUN));
    }

    #[test]
    fn no_address_of_a_process_sets_the_bit_that_marks_entries() {
        let with_code = |code| Frame { code, ..Frame::default() };
        assert!(with_code(0x7fff_ffff_fff8).is_plausible());
        for code in [0, 4, 1 << 56, 1 << 63 | 0x1000, !7] {
            assert!(!with_code(code).is_plausible(), "{code:#x}");
        }
    }
}
