//! Whether an object's code names the address of one of its functions where calls through a pointer are made. Where it does, a
//! compiler may have inlined the function behind a comparison of that pointer with its address; where it does not, every call
//! through the allocator table is a call.
//!
//! The encodings of an address are searched for at every byte, without decoding, so that nothing is missed where data lies
//! between code. Around each, the function is decoded: one that neither calls nor jumps through a pointer (it fills in a
//! table, or tells which allocator is in use) has inlined nothing; nor has one that only stores the address. What is found too much only costs a byte that is written.

use std::collections::{BTreeSet, HashMap, HashSet};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register, UsedRegister,
};
use memchr::memmem;

use crate::object::address::{AbsoluteAddress, VirtualOffset};
use crate::object::elf::{ElfError, ObjectKind};
use crate::object::remembered::Remembered;

use super::text::Text;
use crate::unwind::bounds::Bounds;

/// How much code is read at a time.
const PIECE: u64 = 4 << 20;
/// Most code that is searched; a program that embeds an interpreter may be large.
const MAX_CODE: u64 = 512 << 20;
/// An encoding that begins in one piece may end in the next; what lies in both is one.
const OVERLAP: u64 = 16;
/// `lea` with an address relative to the next instruction: opcode, operand byte, displacement.
const LEA: u8 = 0x8d;
/// Bytes of `lea` from its opcode on.
const LEA_BYTES: usize = 6;

/// Most pieces of one function that are decoded: its cold parts lie elsewhere.
const MAX_PIECES: usize = 16;

/// How much code is decoded at a time, bytes.
const WINDOW: u64 = 256;
/// Most instructions that an address is followed through.
const MAX_FOLLOWED: usize = 512;
/// Registers that keep their value across calls.
const CALLEE_SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// How often a function's address is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// In code that calls nothing through a pointer.
    pub harmless: usize,
    /// Elsewhere: the function may be inlined there.
    pub inlined: usize,
}

/// Most answers that are remembered, two for each file.
const MAX_REMEMBERED: usize = 64;

static REMEMBERED: Remembered<Vec<VirtualOffset>, Vec<References>> = Remembered::new(MAX_REMEMBERED);

/// As [`find`]; a file that has not changed is searched once.
///
/// # Errors
/// As for [`find`].
pub fn remembered(text: &Text, functions: &[AbsoluteAddress]) -> Result<Vec<References>, ElfError> {
    let own: Vec<VirtualOffset> = functions.iter().map(|function| text.own(*function)).collect();
    REMEMBERED.or_find(text.elf().identity(), own, || find(text, functions))
}

/// References to each of `functions`, in that order.
///
/// # Errors
/// The code cannot be read.
pub fn find(text: &Text, functions: &[AbsoluteAddress]) -> Result<Vec<References>, ElfError> {
    let own: Vec<VirtualOffset> = functions.iter().map(|function| text.own(*function)).collect();
    let mut found = vec![References::default(); own.len()];
    let mut harmless: HashMap<VirtualOffset, bool> = HashMap::new();
    for (index, at) in sites(text, &own)? {
        let Some(found) = found.get_mut(index) else { continue };
        let function = text.enclosing(at);
        let is_harmless = function.is_some_and(|function| {
            let known = *harmless.entry(function.start).or_insert_with(|| calls_no_pointer(text, function));
            known || is_only_stored(text, at)
        });
        match is_harmless {
            true => found.harmless += 1,
            false => found.inlined += 1,
        }
    }
    Ok(found)
}

/// Which function is named where.
fn sites(text: &Text, functions: &[VirtualOffset]) -> Result<BTreeSet<(usize, VirtualOffset)>, ElfError> {
    let mut found = BTreeSet::new();
    let mut searched = 0;
    let fixed = text.elf().kind() == ObjectKind::FixedExecutable;
    for segment in text.elf().segments().filter(|segment| segment.executable) {
        let mut done = 0;
        while done < segment.file_bytes && searched < MAX_CODE {
            let Some(address) = segment.address.checked_add(done) else { break };
            let piece = text.elf().code_at(address, PIECE + OVERLAP)?;
            search(&piece, address, fixed, functions, &mut found);
            done += PIECE;
            searched += PIECE;
        }
    }
    Ok(found)
}

/// Adds what one piece of code names. `fixed`: it is always loaded at `address`.
fn search(
    code: &[u8],
    address: VirtualOffset,
    fixed: bool,
    functions: &[VirtualOffset],
    found: &mut BTreeSet<(usize, VirtualOffset)>,
) {
    let place = |at: usize| VirtualOffset(address.0.wrapping_add(at as u64));
    // Code that can be loaded anywhere holds no absolute addresses: what looks like one is something else.
    for (index, function) in functions.iter().enumerate().filter(|_| fixed) {
        let Ok(constant) = u32::try_from(function.0) else { continue };
        let constant = constant.to_le_bytes();
        found.extend(memmem::find_iter(code, &constant).map(|at| (index, place(at))));
    }
    let wanted: HashMap<u64, usize> = functions.iter().enumerate().map(|(index, f)| (f.0, index)).collect();
    for at in memchr::memchr_iter(LEA, code) {
        let target = relative_target(code.get(at..at + LEA_BYTES), place(at).0);
        if let Some(index) = target.and_then(|target| wanted.get(&target)) {
            found.insert((*index, place(at)));
        }
    }
}

/// Whether the address that the `lea` whose opcode lies at `at` takes goes to memory and nowhere else: a table is filled in.
fn is_only_stored(text: &Text, at: VirtualOffset) -> bool {
    // The opcode has a prefix in front of it that says that the register is a whole one.
    let Some(start) = at.0.checked_sub(1).map(VirtualOffset) else { return false };
    let code = text.code(text.absolute(start), WINDOW);
    let lea = Decoder::with_ip(64, &code, start.0, DecoderOptions::NONE).decode();
    if lea.mnemonic() != Mnemonic::Lea || CALLEE_SAVED.contains(&lea.op0_register()) {
        return false;
    }
    let mut use_ =
        Use { register: lea.op0_register(), stored: false, ahead: vec![lea.next_ip()], seen: HashSet::new() };
    while let Some(next) = use_.ahead.pop() {
        if !use_.follow(text, VirtualOffset(next)) {
            return false;
        }
    }
    use_.stored
}

/// What becomes of an address in a register.
struct Use {
    register: Register,
    stored: bool,
    /// Where the register still holds it.
    ahead: Vec<u64>,
    seen: HashSet<u64>,
}

impl Use {
    /// Follows the register to the end of its use; false if it is put to any use but being stored.
    fn follow(&mut self, text: &Text, from: VirtualOffset) -> bool {
        let code = text.code(text.absolute(from), WINDOW);
        let mut info = InstructionInfoFactory::new();
        for instruction in &mut Decoder::with_ip(64, &code, from.0, DecoderOptions::NONE) {
            if self.seen.len() > MAX_FOLLOWED || instruction.is_invalid() {
                return false;
            }
            if !self.seen.insert(instruction.ip()) {
                return true;
            }
            let mut uses = info.info(&instruction).used_registers().iter();
            match uses.find(|used| used.register().full_register() == self.register).map(UsedRegister::access)
            {
                None => {}
                Some(OpAccess::Write) => return true,
                Some(OpAccess::Read) if stores(&instruction, self.register) => self.stored = true,
                Some(_) => return false,
            }
            match instruction.flow_control() {
                FlowControl::Next => {}
                // It does not survive the call.
                FlowControl::Call | FlowControl::Return => return true,
                FlowControl::ConditionalBranch => self.ahead.push(instruction.near_branch_target()),
                FlowControl::UnconditionalBranch => {
                    let target = instruction.near_branch_target();
                    if !leads_to_other_object(text, VirtualOffset(target)) {
                        self.ahead.push(target);
                    }
                    return true;
                }
                _ => return false,
            }
        }
        false
    }
}

/// Whether an instruction copies a register to memory, or on its way there to a vector register.
fn stores(instruction: &Instruction, register: Register) -> bool {
    let copies = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Movq);
    let to_memory = instruction.op0_kind() == OpKind::Memory || instruction.op0_register().is_xmm();
    let is_address = instruction.memory_base() == register || instruction.memory_index() == register;
    copies && to_memory && instruction.op1_register() == register && !is_address
}

/// Whether a function, its cold parts and whatever it jumps to call and jump to fixed places only.
fn calls_no_pointer(text: &Text, function: Bounds) -> bool {
    let mut pieces = vec![function];
    let mut next = 0;
    while let Some(piece) = pieces.get(next).cloned() {
        next += 1;
        let Some(leaves) = jumps_out(text, &piece) else { return false };
        for target in leaves.into_iter().filter(|target| !leads_to_other_object(text, *target)) {
            let Some(other) = text.enclosing(target) else { return false };
            if !pieces.contains(&other) {
                pieces.push(other);
            }
        }
        if pieces.len() > MAX_PIECES {
            return false;
        }
    }
    true
}

/// A jump through one fixed slot: how calls to another object, or to what another may replace, are made.
fn leads_to_other_object(text: &Text, target: VirtualOffset) -> bool {
    let code = text.code(text.absolute(target), 16);
    let mut decoder = Decoder::with_ip(64, &code, target.0, DecoderOptions::NONE);
    let mut instruction = decoder.decode();
    if instruction.code() == Code::Endbr64 {
        instruction = decoder.decode();
    }
    instruction.flow_control() == FlowControl::IndirectBranch && instruction.is_ip_rel_memory_operand()
}

/// Where a piece of code jumps to outside of itself; `None`: it calls or jumps through a pointer, or cannot be decoded.
fn jumps_out(text: &Text, piece: &Bounds) -> Option<Vec<VirtualOffset>> {
    let length = piece.end.offset_from(piece.start)?;
    let code = text.code(text.absolute(piece.start), length);
    let mut out = Vec::new();
    for instruction in &mut Decoder::with_ip(64, &code, piece.start.0, DecoderOptions::NONE) {
        match instruction.flow_control() {
            _ if instruction.is_invalid() => return None,
            FlowControl::IndirectBranch | FlowControl::IndirectCall => return None,
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = VirtualOffset(instruction.near_branch_target());
                if !piece.contains(&target) {
                    out.push(target);
                }
            }
            _ => {}
        }
    }
    (code.len() as u64 == length).then_some(out)
}

/// Where `lea register, [rip + displacement]` points, if that is what begins at `address`.
fn relative_target(bytes: Option<&[u8]>, address: u64) -> Option<u64> {
    let [_, operands, displacement @ ..] = bytes? else { return None };
    let displacement = i32::from_le_bytes(displacement.try_into().ok()?);
    // Mode 0, register or memory 5: relative to the next instruction.
    let relative = operands & 0xc7 == 0x05;
    let next = address.wrapping_add(LEA_BYTES as u64);
    relative.then(|| next.wrapping_add_signed(displacement.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &[u8], address: u64, fixed: bool, functions: &[u64]) -> Vec<(usize, u64)> {
        let functions: Vec<_> = functions.iter().copied().map(VirtualOffset).collect();
        let mut found = BTreeSet::new();
        search(code, VirtualOffset(address), fixed, &functions, &mut found);
        found.into_iter().map(|(index, at)| (index, at.0)).collect()
    }

    /// `PyObject_Malloc` of Debian 12's python3.11: `cmp rax, 0x4fb800`.
    #[test]
    fn a_comparison_with_a_constant_is_found() {
        let code = [0x48, 0x8b, 0x3d, 0x32, 0xf8, 0x45, 0x00, 0x48, 0x3d, 0x00, 0xb8, 0x4f, 0x00, 0x0f, 0x85];
        assert_eq!(found(&code, 0x4fb707, true, &[0x4fb800, 0x4fb700]), [(0, 0x4fb710)]);
        assert!(found(&code, 0x4fb707, false, &[0x4fb800]).is_empty());
    }

    /// The same function of a shared library: `lea rdx, [rip+0xe8]` at 0x1fa651.
    #[test]
    fn a_relative_address_is_found() {
        let code = [0x48, 0x8d, 0x15, 0xe8, 0x00, 0x00, 0x00, 0x48, 0x89, 0xfb];
        assert_eq!(found(&code, 0x1fa651, false, &[0x1fa740, 0x1fa741]), [(0, 0x1fa652)]);
    }

    #[test]
    fn a_cut_instruction_is_none() {
        assert!(found(&[0x48, 0x8d, 0x15, 0xe8, 0x00], 0x1fa651, false, &[0x1fa740]).is_empty());
        assert!(found(&[], 0, true, &[5]).is_empty());
    }

    /// Our own functions: one that calls what it is given, and one that only compares.
    #[test]
    fn a_call_through_a_pointer_is_told_from_a_comparison() {
        #[inline(never)]
        fn calls(pointer: fn() -> u32) -> u32 {
            if pointer as usize == one as *const () as usize { 1 } else { pointer() }
        }
        #[inline(never)]
        fn compares(pointer: fn() -> u32) -> bool {
            pointer as usize == one as *const () as usize
        }
        #[inline(never)]
        fn one() -> u32 {
            std::hint::black_box(1)
        }
        assert!(compares(one) && calls(one) == 1);
        let own = AbsoluteAddress(calls as *const () as usize as u64);
        let maps = crate::process::maps::read(std::process::id()).expect("own mappings");
        let mapping = crate::process::maps::find(&maps, own).expect("mapped");
        let text = Text::of_mapping(std::process::id(), mapping).expect("own executable");
        let harmless = |function: *const ()| {
            let start = AbsoluteAddress(function as usize as u64);
            calls_no_pointer(&text, text.function_at(start).expect("described"))
        };
        assert!(harmless(compares as *const ()));
        assert!(!harmless(calls as *const ()));
    }
}
