//! One step of a walk on x86-64: from the registers in a function to those in its caller. Memory is read through a
//! closure, so that the same code runs in the kernel and in plain tests.

use super::{Cfa, Rule, Saved};
use crate::walk::end;

/// What a walk knows of the registers in one frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Where the code stands: a return address, or the very instruction if `exact`.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
    /// Base register (rbx), if `bx_at` is 0.
    pub bx: u64,
    /// Where in memory it lies, else 0. Few walks ever need it, so it is read only then.
    pub bx_at: u64,
    /// 1 if `pc` was interrupted by a signal and is no return address.
    pub exact: u64,
    /// Bits of [`lost`]: registers whose value is not known.
    pub lost: u64,
}

/// Bits of [`Registers::lost`].
pub mod lost {
    /// The frame pointer.
    pub const BP: u64 = 1;
    /// The base register.
    pub const BX: u64 = 2;
}

/// Reads a word of the target's memory.
pub trait Reader {
    /// The 8 bytes at `address`, or `None` if they cannot be read.
    fn word(&mut self, address: u64) -> Option<u64>;
}

impl<F: FnMut(u64) -> Option<u64>> Reader for F {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        self(address)
    }
}

/// Saved registers in the `ucontext` of a signal frame, from its beginning (`struct ucontext` and `struct sigcontext`
/// of the kernel's x86 ABI).
mod context {
    pub const BP: u64 = 120;
    pub const BX: u64 = 128;
    pub const SP: u64 = 160;
    pub const PC: u64 = 168;
}

/// First address that no process can map.
pub const ADDRESS_LIMIT: u64 = 1 << 56;
/// Lowest address that can be code.
const LOWEST_CODE: u64 = 0x1000;

/// Follows a rule to the caller.
///
/// # Errors
/// The reason for the end of the walk, one of [`end`]: [`end::COMPLETE`] at the outermost frame.
#[inline(always)]
pub fn step<R: Reader>(rule: Rule, at: &mut Registers, memory: &mut R) -> Result<(), u8> {
    let cfa = match rule.cfa() {
        Cfa::SP => at.sp.wrapping_add(rule.cfa_offset() as u64),
        Cfa::BP if at.lost & lost::BP == 0 => at.bp.wrapping_add(rule.cfa_offset() as u64),
        Cfa::SIGNAL => return interrupted(at, memory),
        Cfa::FRAME_POINTER => return frame_record(at, memory),
        _ => rare_cfa(rule, at, memory)?,
    };
    if cfa & 7 != 0 || cfa <= at.sp {
        return Err(end::NOT_ASCENDING);
    }
    let caller = memory.word(cfa.wrapping_sub(8)).ok_or(end::UNREADABLE)?;
    save_bx(rule, at, cfa);
    match rule.bp() {
        Saved::AT_CFA => {
            at.bp = memory.word(cfa.wrapping_add(rule.bp_offset() as u64)).ok_or(end::UNREADABLE)?;
            at.lost &= !lost::BP;
        }
        Saved::AT_BP if at.lost & lost::BP == 0 => {
            at.bp = memory.word(at.bp.wrapping_add(rule.bp_offset() as u64)).ok_or(end::UNREADABLE)?;
        }
        Saved::LOST => at.lost |= lost::BP,
        _ => {}
    }
    at.sp = cfa;
    at.exact = 0;
    returned_to(caller, at)
}

/// The kinds of CFA that few functions have.
#[inline(always)]
fn rare_cfa<R: Reader>(rule: Rule, at: &Registers, memory: &mut R) -> Result<u64, u8> {
    let offset = rule.cfa_offset() as u64;
    match rule.cfa() {
        Cfa::AT_BP if at.lost & lost::BP == 0 => cfa_in_memory(rule, at.bp, memory),
        Cfa::AT_SP => cfa_in_memory(rule, at.sp, memory),
        Cfa::BX if at.lost & lost::BX == 0 => {
            let base = if at.bx_at == 0 { at.bx } else { memory.word(at.bx_at).ok_or(end::UNREADABLE)? };
            Ok(base.wrapping_add(offset))
        }
        Cfa::PLT => Ok(at.sp.wrapping_add(if at.pc & 15 >= offset { 16 } else { 8 })),
        Cfa::END => Err(end::COMPLETE),
        Cfa::NONE => Err(end::NO_RULE),
        Cfa::BP | Cfa::AT_BP | Cfa::BX => Err(end::REGISTER_LOST),
        _ => Err(end::UNSUPPORTED_RULE),
    }
}

#[inline(always)]
fn cfa_in_memory<R: Reader>(rule: Rule, register: u64, memory: &mut R) -> Result<u64, u8> {
    let word = memory.word(register.wrapping_add(rule.cfa_word_offset() as u64)).ok_or(end::UNREADABLE)?;
    Ok(word.wrapping_add(rule.cfa_more()))
}

#[inline(always)]
fn save_bx(rule: Rule, at: &mut Registers, cfa: u64) {
    match rule.bx() {
        Saved::AT_CFA => {
            at.bx_at = cfa.wrapping_add(rule.bx_offset() as u64);
            at.lost &= !lost::BX;
        }
        Saved::AT_BP => {
            at.bx_at = at.bp.wrapping_add(rule.bx_offset() as u64);
            at.lost = at.lost & !lost::BX | (at.lost & lost::BP) << 1;
        }
        Saved::LOST => at.lost |= lost::BX,
        _ => {}
    }
}

/// From a signal handler's return to what the signal interrupted. The handler may have run on a stack of its own, so the
/// stack pointer can go anywhere.
#[inline(always)]
fn interrupted<R: Reader>(at: &mut Registers, memory: &mut R) -> Result<(), u8> {
    let context = at.sp;
    let pc = memory.word(context.wrapping_add(context::PC)).ok_or(end::UNREADABLE)?;
    at.sp = memory.word(context.wrapping_add(context::SP)).ok_or(end::UNREADABLE)?;
    at.bp = memory.word(context.wrapping_add(context::BP)).ok_or(end::UNREADABLE)?;
    at.bx_at = context.wrapping_add(context::BX);
    at.lost = 0;
    at.exact = 1;
    returned_to(pc, at)
}

/// `[bp]` is the caller's frame pointer, `[bp + 8]` the return address.
#[inline(always)]
fn frame_record<R: Reader>(at: &mut Registers, memory: &mut R) -> Result<(), u8> {
    if at.lost & lost::BP != 0 {
        return Err(end::REGISTER_LOST);
    }
    let frame = at.bp;
    if frame == 0 {
        // The outermost frame: the ABI asks for a zero frame pointer at process and thread start.
        return Err(end::COMPLETE);
    }
    if frame & 7 != 0 {
        return Err(end::MISALIGNED);
    }
    if frame < at.sp {
        return Err(end::NO_FRAME_POINTER);
    }
    at.bp = memory.word(frame).ok_or(end::UNREADABLE)?;
    let caller = memory.word(frame.wrapping_add(8)).ok_or(end::UNREADABLE)?;
    at.sp = frame.wrapping_add(16);
    at.exact = 0;
    at.lost |= lost::BX;
    returned_to(caller, at)
}

#[inline(always)]
fn returned_to(pc: u64, at: &mut Registers) -> Result<(), u8> {
    if pc == 0 {
        return Err(end::COMPLETE);
    }
    if !(LOWEST_CODE..ADDRESS_LIMIT).contains(&pc) {
        return Err(end::BAD_RETURN_ADDRESS);
    }
    at.pc = pc;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: u64 = 0x40_1000;

    /// A stack of words, the first at 0x1000.
    fn stack(words: &[u64]) -> impl FnMut(u64) -> Option<u64> {
        let words = words.to_vec();
        move |address| {
            let offset = address.checked_sub(0x1000).filter(|offset| offset % 8 == 0)?;
            words.get(usize::try_from(offset / 8).ok()?).copied()
        }
    }

    fn at(sp: u64, bp: u64) -> Registers {
        Registers { pc: CODE, sp, bp, bx: 0x1010, ..Registers::default() }
    }

    fn rule(cfa: u8, offset: i64) -> Rule {
        Rule::cfa_at(cfa, offset).expect("fits")
    }

    fn stepped(rule: Rule, mut from: Registers, words: &[u64]) -> Result<Registers, u8> {
        step(rule, &mut from, &mut stack(words)).map(|()| from)
    }

    #[test]
    fn a_frame_by_the_stack_pointer_restores_the_saved_frame_pointer() {
        let saves = rule(Cfa::SP, 24).with_bp(Saved::AT_CFA, -16).expect("fits");
        let to = stepped(saves, at(0x1000, 7), &[1, 0x5550, CODE + 4]).expect("a caller");
        assert_eq!((to.pc, to.sp, to.bp), (CODE + 4, 0x1018, 0x5550));
        let keeps = stepped(rule(Cfa::SP, 24), at(0x1000, 7), &[1, 2, CODE + 4]).expect("a caller");
        assert_eq!(keeps.bp, 7);
    }

    #[test]
    fn a_realigned_frame_is_found_through_the_word_below_the_frame_pointer() {
        // CFA = [bp - 8], bp saved at [bp + 0], as GCC describes functions that realign the stack.
        let in_memory = Rule::cfa_in_memory(Cfa::AT_BP, -8, 0).expect("fits");
        let realigned = in_memory.with_bp(Saved::AT_BP, 0).expect("fits");
        let words = [0, 0x1030, 0x7770, 0, 0, CODE + 8];
        let to = stepped(realigned, at(0x1000, 0x1010), &words).expect("a caller");
        assert_eq!((to.pc, to.sp, to.bp), (CODE + 8, 0x1030, 0x7770));
    }

    #[test]
    fn hand_written_code_that_saves_its_stack_pointer_and_pushes_more_is_followed() {
        // CFA = [sp + 16] + 24.
        let saved = Rule::cfa_in_memory(Cfa::AT_SP, 16, 24).expect("fits");
        let to = stepped(saved, at(0x1000, 0), &[0, 0, 0x1018, 0, 0, CODE + 8]).expect("a caller");
        assert_eq!((to.pc, to.sp), (CODE + 8, 0x1030));
    }

    #[test]
    fn a_frame_by_the_base_register_uses_the_saved_one() {
        let mut from = at(0x1000, 0);
        let to = stepped(rule(Cfa::BX, 16), from, &[0, 0, 0, CODE + 12]).expect("a caller");
        assert_eq!((to.pc, to.sp), (CODE + 12, 0x1020));
        (from.bx, from.bx_at) = (0, 0x1000);
        let to = stepped(rule(Cfa::BX, 16), from, &[0x1010, 0, 0, CODE + 12]).expect("a caller");
        assert_eq!(to.pc, CODE + 12);
        from.lost = lost::BX;
        assert_eq!(stepped(rule(Cfa::BX, 16), from, &[0; 8]), Err(end::REGISTER_LOST));
    }

    #[test]
    fn a_plt_entry_has_pushed_a_word_from_a_certain_byte_on() {
        let plt = rule(Cfa::PLT, 11);
        let mut from = Registers { pc: CODE + 6, exact: 1, ..at(0x1000, 0) };
        assert_eq!(stepped(plt, from, &[CODE + 1, CODE + 2]).expect("a caller").pc, CODE + 1);
        from.pc = CODE + 11;
        assert_eq!(stepped(plt, from, &[3, CODE + 2]).expect("a caller").pc, CODE + 2);
    }

    #[test]
    fn a_signal_frame_leads_to_the_very_instruction_that_was_interrupted() {
        let mut words = [0; 32];
        (words[15], words[16], words[20], words[21]) = (0xb, 0x1010, 0x9000, CODE + 77);
        let to = stepped(Rule::SIGNAL, Registers { lost: lost::BP | lost::BX, ..at(0x1000, 0) }, &words)
            .expect("what was interrupted");
        assert_eq!((to.pc, to.sp, to.bp, to.exact, to.lost), (CODE + 77, 0x9000, 0xb, 1, 0));
        assert_eq!(to.bx_at, 0x1000 + 128);
    }

    #[test]
    fn frame_records_are_followed_where_there_is_no_table() {
        let to = stepped(Rule::FRAME_POINTER, at(0x1000, 0x1010), &[0, 0, 0x1030, CODE + 1]).expect("caller");
        assert_eq!((to.pc, to.sp, to.bp), (CODE + 1, 0x1020, 0x1030));
        assert_eq!(stepped(Rule::FRAME_POINTER, at(0x1000, 0), &[]), Err(end::COMPLETE));
        assert_eq!(stepped(Rule::FRAME_POINTER, at(0x1000, 0x1011), &[]), Err(end::MISALIGNED));
        assert_eq!(stepped(Rule::FRAME_POINTER, at(0x1018, 0x1010), &[]), Err(end::NO_FRAME_POINTER));
    }

    #[test]
    fn every_other_end_has_its_reason() {
        let from = at(0x1000, 0x1010);
        assert_eq!(stepped(Rule::END, from, &[]), Err(end::COMPLETE));
        assert_eq!(stepped(Rule::NONE, from, &[]), Err(end::NO_RULE));
        assert_eq!(stepped(Rule::UNSUPPORTED, from, &[]), Err(end::UNSUPPORTED_RULE));
        assert_eq!(stepped(rule(Cfa::SP, 8), from, &[0]), Err(end::COMPLETE));
        assert_eq!(stepped(rule(Cfa::SP, 8), from, &[5]), Err(end::BAD_RETURN_ADDRESS));
        assert_eq!(stepped(rule(Cfa::SP, 8), from, &[]), Err(end::UNREADABLE));
        assert_eq!(stepped(rule(Cfa::SP, 0), from, &[0, 0]), Err(end::NOT_ASCENDING));
        assert_eq!(stepped(rule(Cfa::SP, 12), from, &[0, 0]), Err(end::NOT_ASCENDING));
        let loses = rule(Cfa::SP, 8).with_bp(Saved::LOST, 0).expect("fits");
        let lost = stepped(loses, from, &[CODE + 1]).expect("a caller");
        assert_eq!(stepped(rule(Cfa::BP, 16), lost, &[0; 8]), Err(end::REGISTER_LOST));
        assert_eq!(stepped(Rule::FRAME_POINTER, lost, &[0; 8]), Err(end::REGISTER_LOST));
    }
}
