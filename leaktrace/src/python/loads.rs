//! Which words of static data a function loads, in order: how an exported function leads to what it works with.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::Memory;
use crate::object::address::AbsoluteAddress;

/// Most code of a function that is looked at, bytes.
pub const MAX_BYTES: u64 = 512;
/// Most instructions.
const MAX_INSTRUCTIONS: usize = 96;

/// The addresses of words that `code`, loaded at `address`, loads or jumps through: static ones, and those at a fixed
/// distance behind a pointer that was loaded from a static address (as a shared library reaches its own data).
pub fn addresses(code: &[u8], address: AbsoluteAddress, memory: &dyn Memory) -> Vec<AbsoluteAddress> {
    let mut known: HashMap<Register, u64> = HashMap::new();
    let mut found = Vec::new();
    let decoder = Decoder::with_ip(64, code, address.0, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(MAX_INSTRUCTIONS) {
        if instruction.is_invalid() {
            break;
        }
        let loaded = memory_operand(&instruction, &known);
        found.extend(loaded.map(AbsoluteAddress));
        note_result(&instruction, loaded, memory, &mut known);
    }
    found
}

/// The address that an instruction's memory operand has, where it is known.
fn memory_operand(instruction: &Instruction, known: &HashMap<Register, u64>) -> Option<u64> {
    let has_memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    let plain =
        instruction.segment_prefix() == Register::None && instruction.memory_index() == Register::None;
    if !has_memory || !plain {
        return None;
    }
    let displacement = instruction.memory_displacement64();
    match instruction.memory_base() {
        // iced has added the address of the next instruction already.
        Register::RIP | Register::None => Some(displacement),
        base => known.get(&base).map(|value| value.wrapping_add(displacement)),
    }
}

/// Takes note of what a register holds now: a pointer that was loaded from a known address, or an address itself.
fn note_result(
    instruction: &Instruction,
    loaded: Option<u64>,
    memory: &dyn Memory,
    known: &mut HashMap<Register, u64>,
) {
    if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
        return;
    }
    let register = instruction.op0_register().full_register();
    let value = match instruction.mnemonic() {
        iced_x86::Mnemonic::Mov => loaded.and_then(|address| memory.word(address)),
        iced_x86::Mnemonic::Lea => loaded,
        // Comparisons write no register.
        iced_x86::Mnemonic::Test | iced_x86::Mnemonic::Cmp => return,
        _ => None,
    };
    match value {
        Some(value) => drop(known.insert(register, value)),
        None => drop(known.remove(&register)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One word at one address.
    #[derive(Clone, Copy)]
    struct Word(u64, u64);

    impl Memory for Word {
        fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
            let fits = address == self.0 && buffer.len() == 8;
            if fits {
                buffer.copy_from_slice(&self.1.to_le_bytes());
            }
            fits
        }
    }

    fn found(code: &[u8], address: u64, memory: Word) -> Vec<u64> {
        addresses(code, AbsoluteAddress(address), &memory).into_iter().map(|address| address.0).collect()
    }

    /// `PyObject_Malloc` of a plain 3.11: mov rsi, rdi; test rdi, rdi; js; mov rdi, [rip+..]; jmp [rip+..].
    #[test]
    fn static_words_are_found() {
        let code = [
            0x48, 0x89, 0xfe, 0x48, 0x85, 0xff, 0x78, 0x10, 0x48, 0x8b, 0x3d, 0x71, 0xd0, 0x2a, 0x00, 0xff,
            0x25, 0x73, 0xd0, 0x2a, 0x00,
        ];
        assert_eq!(found(&code, 0x1af1e0, Word(0, 0)), [0x45c260, 0x45c268]);
    }

    /// The same of 3.12: mov rax, [rip+..] (the address of `_PyRuntime`); mov rdi, [rax+0xb0]; jmp [rax+0xb8].
    #[test]
    fn words_behind_a_loaded_pointer_are_found() {
        let code = [
            0x48, 0x8b, 0x05, 0xc1, 0x48, 0x37, 0x00, 0x48, 0x8b, 0xb8, 0xb0, 0, 0, 0, 0xff, 0xa0, 0xb8, 0,
            0, 0,
        ];
        let found = found(&code, 0x1cf438, Word(0x543d00, 0x643340));
        assert_eq!(found, [0x543d00, 0x6433f0, 0x6433f8]);
    }

    /// sub rsp, 0x18; mov rax, fs:[-0x18]; mov rdx, [rsi]
    #[test]
    fn what_is_not_static_is_passed_over() {
        let code =
            [0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0xe8, 0xff, 0xff, 0xff, 0x48, 0x8b, 0x16];
        assert_eq!(found(&code, 0x1000, Word(0, 0)), [0_u64; 0]);
    }

    #[test]
    fn any_bytes_are_decoded_within_bounds() {
        use proptest::prelude::*;
        proptest!(|(code in proptest::collection::vec(any::<u8>(), 0..600), address: u64)| {
            prop_assert!(found(&code, address, Word(0, 0)).len() <= MAX_INSTRUCTIONS);
        });
    }
}
