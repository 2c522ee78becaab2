//! Legal probe sites in x86-64 code.
//!
//! The walk goes from a function's first instruction in a straight line and ends at the first thing that could make
//! a later site miss calls: a jump, a call, a return, or a conditional exit that is not known to be harmless. A
//! separate pass over the whole function collects every jump target: a site that a jump can reach, or bypass from
//! behind, is not passed exactly once per call.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, InstructionInfoFactory, Mnemonic,
    NasmFormatter, OpAccess, OpKind, Register,
};

use super::cost::InstructionClass;
use super::site::{Candidate, Function, Requirements, SiteError};

/// Straight-line instructions looked at; prologues are much shorter.
const MAX_STRAIGHT: usize = 64;

/// The cookie has a byte for pushed words, but a prologue that deep is not one.
const MAX_PUSHED_WORDS: u64 = 16;

/// Argument registers of the System V calling convention.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// Every legal site, in order of offset.
pub(super) fn candidates(function: Function<'_>, needs: Requirements) -> Result<Vec<Candidate>, SiteError> {
    if function.bytes.is_empty() {
        return Err(SiteError::Empty);
    }
    if decoder(function).decode().is_invalid() {
        return Err(SiteError::Undecodable);
    }
    Ok(Walk::new(function, needs).run())
}

fn decoder(function: Function<'_>) -> Decoder<'_> {
    Decoder::with_ip(64, function.bytes, function.address.0, DecoderOptions::NONE)
}

/// Where the function's own jumps lead.
struct Jumps {
    /// Targets inside the function, as offsets, sorted.
    targets: Vec<u64>,
    /// Every jump and its target is known.
    known: bool,
}

impl Jumps {
    fn of(function: Function<'_>) -> Self {
        let mut jumps = Self { targets: Vec::new(), known: function.complete };
        let length = function.bytes.len() as u64;
        for instruction in &mut decoder(function) {
            jumps.known &= !instruction.is_invalid() && !is_computed_jump(&instruction);
            let target = instruction.near_branch_target().wrapping_sub(function.address.0);
            // A call of the function itself is a call like any other; one of its middle reaches a site twice.
            let reaches = is_direct_jump(&instruction) || is_call(&instruction) && target != 0;
            if reaches && target < length {
                jumps.targets.push(target);
            }
        }
        jumps.targets.sort_unstable();
        jumps
    }

    /// A jump leads behind the first instruction and not past the site that ends at `end`.
    fn disturb(&self, end: u64) -> bool {
        let first = self.targets.partition_point(|target| *target == 0);
        self.targets.get(first).is_some_and(|target| *target < end)
    }

    fn reenter(&self) -> bool {
        self.targets.first() == Some(&0)
    }
}

fn is_direct_jump(instruction: &Instruction) -> bool {
    use FlowControl::{ConditionalBranch, UnconditionalBranch, XbeginXabortXend};
    matches!(instruction.flow_control(), ConditionalBranch | UnconditionalBranch | XbeginXabortXend)
}

fn is_call(instruction: &Instruction) -> bool {
    instruction.code() == Code::Call_rel32_64
}

/// A jump table, or a tail call through a register. A jump through one fixed slot is how a call to another object
/// ends a function, and leaves the function.
fn is_computed_jump(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::IndirectBranch && !instruction.is_ip_rel_memory_operand()
}

/// The straight line from the function's entry, and what is known at each point of it.
struct Walk<'a> {
    function: Function<'a>,
    needs: Requirements,
    jumps: Jumps,
    info: InstructionInfoFactory,
    /// Bytes put on the stack so far.
    pushed: u64,
    /// The last instruction compared this argument with null.
    tested: Option<Register>,
    found: Vec<Candidate>,
}

impl<'a> Walk<'a> {
    fn new(function: Function<'a>, needs: Requirements) -> Self {
        let jumps = Jumps::of(function);
        let info = InstructionInfoFactory::new();
        Self { function, needs, jumps, info, pushed: 0, tested: None, found: Vec::new() }
    }

    fn run(mut self) -> Vec<Candidate> {
        let mut decoder = decoder(self.function);
        for _ in 0..MAX_STRAIGHT {
            if !decoder.can_decode() {
                break;
            }
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                break;
            }
            self.consider(&instruction);
            if !self.step_over(&instruction) {
                break;
            }
        }
        self.found
    }

    fn consider(&mut self, instruction: &Instruction) {
        let offset = instruction.ip().wrapping_sub(self.function.address.0);
        let class = classify(self.bytes_of(instruction), instruction);
        if self.is_legal(offset, class, instruction.len() as u64) {
            let pushed_words = u8::try_from(self.pushed / 8).unwrap_or(u8::MAX);
            let text = text(instruction);
            let reentered = self.jumps.reenter();
            self.found.push(Candidate { offset, instruction: text, class, pushed_words, reentered });
        }
    }

    fn is_legal(&self, offset: u64, class: InstructionClass, length: u64) -> bool {
        let anywhere = match class {
            InstructionClass::Refused => false,
            // The `call` that newer kernels put there overwrites the red zone of a leaf function.
            InstructionClass::Nop5 => offset == 0,
            _ => true,
        };
        anywhere && self.stack_is_usable() && (offset == 0 || self.is_passed_once(class, offset + length))
    }

    fn stack_is_usable(&self) -> bool {
        match self.needs.needs_return {
            true => self.pushed == 0,
            false => self.pushed.is_multiple_of(8) && self.pushed / 8 <= MAX_PUSHED_WORDS,
        }
    }

    /// Where jumps are unknown, only a `push` is safe: a jump back to it would unbalance the stack.
    fn is_passed_once(&self, class: InstructionClass, end: u64) -> bool {
        !self.jumps.disturb(end) && (self.jumps.known || class == InstructionClass::Push)
    }

    /// Whether the walk may go on behind this instruction; takes note of what it changed.
    fn step_over(&mut self, instruction: &Instruction) -> bool {
        let goes_on = match instruction.flow_control() {
            FlowControl::Next => self.keeps_registers(instruction) && self.tracks_stack(instruction),
            FlowControl::ConditionalBranch => self.skips_only_null(instruction),
            _ => false,
        };
        self.tested = tested_register(instruction);
        goes_on
    }

    /// Neither an argument register nor one that the walk of the stack begins with is written.
    fn keeps_registers(&mut self, instruction: &Instruction) -> bool {
        let arguments = ARGUMENTS.iter().take(usize::from(self.needs.arguments));
        let needed: Vec<Register> = arguments.copied().chain([Register::RBP, Register::RBX]).collect();
        let used = self.info.info(instruction).used_registers();
        !used.iter().any(|use_| is_write(use_.access()) && needed.contains(&use_.register().full_register()))
    }

    /// The stack pointer moves by a known amount, downwards.
    fn tracks_stack(&mut self, instruction: &Instruction) -> bool {
        let used = self.info.info(instruction).used_registers();
        let moves = used
            .iter()
            .any(|use_| is_write(use_.access()) && use_.register().full_register() == Register::RSP);
        if !moves {
            return true;
        }
        match stack_growth(instruction).and_then(|bytes| self.pushed.checked_add(bytes)) {
            Some(pushed) => self.pushed = pushed,
            None => return false,
        }
        true
    }

    /// The exit is the one taken by a call that does nothing anyway. Whether that path comes back is not asked:
    /// a jump back to before a site makes that site illegal by itself.
    fn skips_only_null(&self, instruction: &Instruction) -> bool {
        let position = self.needs.no_op_when_null.and_then(|argument| argument.checked_sub(1));
        let argument = position.and_then(|index| ARGUMENTS.get(usize::from(index)));
        let on_equal = matches!(instruction.mnemonic(), Mnemonic::Je);
        self.jumps.known && on_equal && argument.is_some() && self.tested == argument.copied()
    }

    fn bytes_of(&self, instruction: &Instruction) -> &'a [u8] {
        let start = instruction.ip().wrapping_sub(self.function.address.0);
        usize::try_from(start)
            .ok()
            .and_then(|start| self.function.bytes.get(start..start.checked_add(instruction.len())?))
            .unwrap_or_default()
    }
}

fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Bytes by which the stack grows, where that is plain to see.
fn stack_growth(instruction: &Instruction) -> Option<u64> {
    match instruction.mnemonic() {
        Mnemonic::Push => u64::try_from(-i64::from(instruction.stack_pointer_increment())).ok(),
        Mnemonic::Sub if instruction.op0_register() == Register::RSP => {
            instruction.try_immediate(1).ok().filter(|bytes| *bytes < 1 << 20)
        }
        _ => None,
    }
}

/// The register that `test r, r` or `cmp r, 0` compares with null.
fn tested_register(instruction: &Instruction) -> Option<Register> {
    let register = instruction.op0_register();
    let compares = match instruction.mnemonic() {
        Mnemonic::Test => {
            instruction.op1_kind() == OpKind::Register && instruction.op1_register() == register
        }
        Mnemonic::Cmp => instruction.try_immediate(1).is_ok_and(|value| value == 0),
        _ => false,
    };
    let whole = instruction.op0_kind() == OpKind::Register && register.full_register() == register;
    (compares && whole).then_some(register)
}

/// How the kernel treats a probe on this instruction: follows `arch/x86/kernel/uprobes.c`.
pub(super) fn classify(bytes: &[u8], instruction: &Instruction) -> InstructionClass {
    use InstructionClass as Class;
    if has_refused_prefix(bytes) || is_refused(instruction) {
        return Class::Refused;
    }
    let Some(opcode) = bytes.iter().copied().find(|byte| !is_legacy_prefix(*byte)) else {
        return Class::Refused;
    };
    let overridden = bytes.iter().take_while(|byte| is_legacy_prefix(**byte)).any(|byte| *byte == 0x66);
    match instruction.code() {
        Code::Endbr64 => Class::Endbr,
        _ if is_nop(instruction) => nop_class(bytes.len()),
        // Only the plain encodings: with other prefixes the kernel single-steps.
        Code::Push_r64 if bytes.len() == 1 || bytes.first() == Some(&0x41) && bytes.len() == 2 => Class::Push,
        // The operand size override on a branch is refused at registration.
        _ if overridden && is_relative_branch(instruction) => Class::Refused,
        _ if matches!(opcode, 0xeb | 0xe9) => Class::Jmp,
        _ if opcode == 0xe8 => Class::Call,
        _ if instruction.is_jcc_short_or_near() => Class::Jcc,
        _ => Class::Other,
    }
}

fn is_relative_branch(instruction: &Instruction) -> bool {
    instruction.is_jcc_short_or_near()
        || instruction.is_jmp_short_or_near()
        || instruction.code() == Code::Call_rel32_64
}

fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x66 | 0x67 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0xf0)
}

/// Segment overrides other than `fs` and `gs`, and `lock`.
fn has_refused_prefix(bytes: &[u8]) -> bool {
    let mut prefixes = bytes.iter().take_while(|byte| is_legacy_prefix(**byte));
    prefixes.any(|byte| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
}

fn is_refused(instruction: &Instruction) -> bool {
    let flow = instruction.flow_control();
    let system = matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Hlt);
    system
        || instruction.is_privileged()
        || matches!(flow, FlowControl::Interrupt | FlowControl::Exception | FlowControl::XbeginXabortXend)
}

pub(super) fn is_nop(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Nop
        || matches!(instruction.code(), Code::Xchg_r16_AX if instruction.op0_register() == Register::AX)
}

fn nop_class(length: usize) -> InstructionClass {
    match length {
        1 => InstructionClass::Nop1,
        2 => InstructionClass::Nop2,
        3 => InstructionClass::Nop3,
        4 => InstructionClass::Nop4,
        5 => InstructionClass::Nop5,
        7 => InstructionClass::Nop7,
        8 => InstructionClass::Nop8,
        _ => InstructionClass::MultiByteNop,
    }
}

pub(super) fn text(instruction: &Instruction) -> String {
    let mut formatter = NasmFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

#[cfg(test)]
mod tests;
