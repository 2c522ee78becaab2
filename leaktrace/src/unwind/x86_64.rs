//! What call frame information means on x86-64: which DWARF rows a [`Rule`] can express, and how a signal trampoline
//! looks. Another architecture provides the same names.

use gimli::{
    CfaRule, CommonInformationEntry, Encoding, EndianSlice, LittleEndian, Operation, Register, RegisterRule,
    UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow,
};
use leaktrace_common::unwind::{Cfa, Rule, Saved};
use memchr::memmem;

use crate::object::address::VirtualOffset;

/// Bytes of an address.
pub const ADDRESS_BYTES: u8 = 8;

/// DWARF's numbers for registers (System V ABI, AMD64 supplement, figure 3.36).
const BX: Register = Register(3);
const BP: Register = Register(6);
const SP: Register = Register(7);
const RETURN_ADDRESS: Register = Register(16);

/// Where a call leaves the return address, from the CFA.
const RETURN_ADDRESS_OFFSET: i64 = -8;

/// Positions in the context that a signal frame holds, from the stack pointer at the trampoline on.
mod context {
    pub const BP: i64 = 120;
    pub const BX: i64 = 128;
    pub const SP: i64 = 160;
    pub const PC: i64 = 168;
}

/// The rule of a jump at a function's entry: nothing has been pushed but the return address.
pub const JUMP: Rule = match Rule::cfa_at(Cfa::SP, 8) {
    Some(rule) => rule,
    None => Rule::UNSUPPORTED,
};

/// How the sections are read.
pub type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Why a row has no rule of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unsupported {
    /// The CFA is counted from a register that a walk does not know.
    CfaRegister(u16),
    /// The CFA is an expression of no known form.
    CfaExpression,
    /// The CFA is too far from its register.
    CfaOffset,
    /// The return address is not where a call leaves it.
    ReturnAddress,
    /// A signal frame of no known form.
    SignalFrame,
}

/// The rule that says the same as a row. `cie` is what the row's function refers to.
///
/// # Errors
/// What stands against it.
pub fn rule<'a, S: UnwindSection<Bytes<'a>>>(
    row: &UnwindTableRow<usize, impl UnwindContextStorage<usize>>,
    cie: &CommonInformationEntry<Bytes<'a>>,
    section: &S,
) -> Result<Rule, Unsupported> {
    let reader = Reader { section, encoding: cie.encoding() };
    if cie.is_signal_trampoline() {
        return if reader.is_signal_frame(row) { Ok(Rule::SIGNAL) } else { Err(Unsupported::SignalFrame) };
    }
    match row.register(cie.return_address_register()) {
        _ if cie.return_address_register() != RETURN_ADDRESS => return Err(Unsupported::ReturnAddress),
        Some(RegisterRule::Undefined) => return Ok(Rule::END),
        Some(RegisterRule::Offset(RETURN_ADDRESS_OFFSET)) => {}
        _ => return Err(Unsupported::ReturnAddress),
    }
    let rule = reader.cfa(row.cfa())?;
    let (saved, offset) = reader.saved(row.register(BP).as_ref());
    let rule = rule.with_bp(saved, offset).or_else(|| rule.with_bp(Saved::LOST, 0)).unwrap_or(rule);
    let (saved, offset) = reader.saved(row.register(BX).as_ref());
    Ok(rule.with_bx(saved, offset).or_else(|| rule.with_bx(Saved::LOST, 0)).unwrap_or(rule))
}

/// The operations that compilers and linkers use in call frame information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// Pushes register + offset.
    Register(Register, i64),
    /// Replaces an address by the word there.
    Load,
    /// Adds a constant.
    AddConstant(u64),
    /// Pushes a constant.
    Literal(u64),
    And,
    AtLeast,
    ShiftLeft,
    Add,
}

/// Operations of the longest expression that is known: the linker's for its procedure linkage table.
const MAX_OPERATIONS: usize = 9;

struct Reader<'s, S> {
    section: &'s S,
    encoding: Encoding,
}

impl<'s, S> Reader<'s, S> {
    fn cfa<'a>(&self, cfa: &CfaRule<usize>) -> Result<Rule, Unsupported>
    where
        S: UnwindSection<Bytes<'a>>,
    {
        match cfa {
            CfaRule::RegisterAndOffset { register, offset } => {
                let kind = match *register {
                    SP => Cfa::SP,
                    BP => Cfa::BP,
                    BX => Cfa::BX,
                    Register(other) => return Err(Unsupported::CfaRegister(other)),
                };
                Rule::cfa_at(kind, *offset).ok_or(Unsupported::CfaOffset)
            }
            CfaRule::Expression(expression) => self.cfa_expression(expression),
        }
    }

    fn cfa_expression<'a>(&self, expression: &UnwindExpression<usize>) -> Result<Rule, Unsupported>
    where
        S: UnwindSection<Bytes<'a>>,
    {
        let mut space = [Op::Add; MAX_OPERATIONS];
        let rule = match self.operations(expression, &mut space).unwrap_or_default() {
            [Op::Register(register @ (BP | SP), offset), Op::Load, more @ ..] => {
                let kind = if *register == BP { Cfa::AT_BP } else { Cfa::AT_SP };
                let more = match more {
                    [] => 0,
                    [Op::AddConstant(more)] | [Op::Literal(more), Op::Add] => *more,
                    _ => return Err(Unsupported::CfaExpression),
                };
                Rule::cfa_in_memory(kind, *offset, more)
            }
            [
                Op::Register(SP, 8),
                Op::Register(RETURN_ADDRESS, 0),
                Op::Literal(15),
                Op::And,
                Op::Literal(pushed_from @ 0..16),
                Op::AtLeast,
                Op::Literal(3),
                Op::ShiftLeft,
                Op::Add,
            ] => Rule::cfa_at(Cfa::PLT, pushed_from.cast_signed()),
            _ => return Err(Unsupported::CfaExpression),
        };
        rule.ok_or(Unsupported::CfaOffset)
    }

    fn saved<'a>(&self, rule: Option<&RegisterRule<usize>>) -> (u8, i64)
    where
        S: UnwindSection<Bytes<'a>>,
    {
        match rule {
            None | Some(RegisterRule::SameValue) => (Saved::SAME, 0),
            Some(RegisterRule::Offset(offset)) => (Saved::AT_CFA, *offset),
            Some(RegisterRule::Expression(expression)) => match self.register_offset(expression) {
                Some((BP, offset)) => (Saved::AT_BP, offset),
                _ => (Saved::LOST, 0),
            },
            _ => (Saved::LOST, 0),
        }
    }

    /// Whether the row restores everything from the context that the kernel laid down: the one description that C
    /// libraries use.
    fn is_signal_frame<'a>(&self, row: &UnwindTableRow<usize, impl UnwindContextStorage<usize>>) -> bool
    where
        S: UnwindSection<Bytes<'a>>,
    {
        let mut space = [Op::Add; MAX_OPERATIONS];
        let cfa = match row.cfa() {
            CfaRule::Expression(expression) => self.operations(expression, &mut space).unwrap_or_default(),
            CfaRule::RegisterAndOffset { .. } => &[],
        };
        let in_context = |register, offset| match row.register(register) {
            Some(RegisterRule::Expression(at)) => self.register_offset(&at) == Some((SP, offset)),
            _ => false,
        };
        cfa == [Op::Register(SP, context::SP), Op::Load]
            && in_context(RETURN_ADDRESS, context::PC)
            && in_context(BP, context::BP)
            && in_context(BX, context::BX)
    }

    /// An expression that is but a register and an offset.
    fn register_offset<'a>(&self, expression: &UnwindExpression<usize>) -> Option<(Register, i64)>
    where
        S: UnwindSection<Bytes<'a>>,
    {
        let mut space = [Op::Add; MAX_OPERATIONS];
        match self.operations(expression, &mut space)? {
            [Op::Register(register, offset)] => Some((*register, *offset)),
            _ => None,
        }
    }

    /// The operations of an expression; `None` if there are others than in [`Op`], or too many.
    fn operations<'a, 'o>(
        &self,
        expression: &UnwindExpression<usize>,
        space: &'o mut [Op; MAX_OPERATIONS],
    ) -> Option<&'o [Op]>
    where
        S: UnwindSection<Bytes<'a>>,
    {
        let mut operations = expression.get(self.section).ok()?.operations(self.encoding);
        let mut count = 0;
        while let Some(operation) = operations.next().ok()? {
            *space.get_mut(count)? = known(&operation)?;
            count += 1;
        }
        space.get(..count)
    }
}

fn known(operation: &Operation<Bytes<'_>>) -> Option<Op> {
    Some(match *operation {
        Operation::RegisterOffset { register, offset, .. } => Op::Register(register, offset),
        Operation::Deref { size: ADDRESS_BYTES, space: false, .. } => Op::Load,
        Operation::PlusConstant { value } => Op::AddConstant(value),
        Operation::UnsignedConstant { value } => Op::Literal(value),
        Operation::And => Op::And,
        Operation::Ge => Op::AtLeast,
        Operation::Shl => Op::ShiftLeft,
        Operation::Plus => Op::Add,
        _ => return None,
    })
}

/// Code that a signal handler returns to: it asks the kernel to resume what was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trampoline {
    /// Its first instruction.
    pub start: VirtualOffset,
    /// Bytes.
    pub length: u64,
}

/// Bytes of the longest trampoline.
pub const LONGEST_TRAMPOLINE: u64 = 9;

/// `rt_sigreturn`'s number as the immediate operand of a move to `eax` or `rax`, then `syscall`.
const TRAMPOLINE_TAIL: [u8; 6] = [0x0f, 0, 0, 0, 0x0f, 0x05];
/// `mov $15, %rax` and `mov $15, %eax`, up to the operand.
const TRAMPOLINE_HEADS: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0], &[0xb8]];

/// Appends the trampolines in a piece of code that lies at an address.
pub fn find_trampolines(code: &[u8], address: VirtualOffset, found: &mut Vec<Trampoline>) {
    found.extend(memmem::find_iter(code, &TRAMPOLINE_TAIL).filter_map(|tail| {
        let before = code.get(..tail)?;
        let head = TRAMPOLINE_HEADS.iter().find(|head| before.ends_with(head))?;
        let start = address.checked_add((tail - head.len()) as u64)?;
        Some(Trampoline { start, length: (head.len() + TRAMPOLINE_TAIL.len()) as u64 })
    }));
}
