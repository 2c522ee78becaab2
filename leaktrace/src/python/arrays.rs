//! Free lists that are arrays (dict headers, dict keys, list headers up to 3.13). Their counter is an index, so they cannot be closed;
//! instead the places are found at which the interpreter's code looks whether there is a block in them, and probed: whoever is
//! handed a block is booked for it.
//!
//! In the code such a place reads the counter at a known offset from a pointer to the interpreter's state, compares it with
//! zero, and branches. The branch is what is probed: kernels emulate it. Where a block is put into a list the counter is compared
//! with the list's length, 80; that both kinds are there is the proof that the offset is right.
//!
//! Lists of linked objects are kept closed (see `free_lists`), but a full collection opens them until they are closed again. For
//! that moment the places are probed at which the pointer to a list's first object is compared with null.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::{Deref, Range};

use iced_x86::{Code as Form, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use leaktrace_common::{
    hook::{HookCookie, MAX_HOOKS, domain, kind},
    python::{ArrayList, FreeList, LinkedLists},
};
use memchr::memmem;
use thiserror::Error;

use super::{Interpreter, text::Text};
use crate::kernel::AttachPoint;
use crate::object::address::VirtualOffset;
use crate::object::remembered::Remembered;

/// Pointers in one of these lists (`PyList_MAXFREELIST`, `PyDict_MAXFREELIST`).
const LENGTH: u64 = 80;
/// How far behind the reading of a counter its comparison is looked for, instructions.
const REACH: usize = 10;
/// Most places in one interpreter; builds with everything inlined have some forty.
const MAX_PLACES: usize = 256;
/// Longest function that is decoded; the interpreter's loop has 60 KiB.
const MAX_FUNCTION: u64 = 1 << 20;

/// Where a list lies in `PyInterpreterState`, printed by `offsetof` against the version's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    what: &'static str,
    counter: u32,
    items: u32,
    block_bytes: u32,
    header: u32,
}

/// The collector's header in front of an object.
const COLLECTED: u32 = 16;

const fn dict(counter: u32, items: u32) -> Place {
    Place { what: "dict headers", counter, items, block_bytes: 64, header: COLLECTED }
}

const fn keys(counter: u32, items: u32, block_bytes: u32) -> Place {
    Place { what: "dict keys", counter, items, block_bytes, header: 0 }
}

const fn list(counter: u32, items: u32) -> Place {
    Place { what: "list headers", counter, items, block_bytes: 56, header: COLLECTED }
}

/// By minor version of Python 3. Offsets are the same in every micro version known; the code is the proof.
fn places(minor: u8) -> &'static [Place] {
    match minor {
        10 => const { &[dict(0x2c40, 0x29c0), keys(0x2ec8, 0x2c48, 168), list(0x29b8, 0x2738)] },
        11 => const { &[dict(0x1428, 0x11a8), keys(0x16b0, 0x1430, 120), list(0x11a0, 0xf20)] },
        12 => const { &[dict(0x42690, 0x42190), keys(0x42694, 0x42410, 120), list(0x42178, 0x41ef8)] },
        13 => const { &[dict(0x30d0, 0x2e50), keys(0x3358, 0x30d8, 120), list(0x2e48, 0x2bc8)] },
        _ => &[],
    }
}

/// Lists whose reuse is watched, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// For the kernel side, in the order that the probes' cookies count in.
    pub lists: Vec<ArrayList>,
    /// Probes.
    pub points: Vec<AttachPoint>,
    /// What cannot be watched, one sentence each.
    pub notes: Vec<String>,
}

/// Why a list is not watched.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// No place takes or puts a block as is expected of such a list.
    #[error("the code that uses it was not recognised")]
    NotRecognised,
    /// More places than are probed.
    #[error("its code is inlined in more than {MAX_PLACES} places")]
    TooMany,
}

/// Finds every array list of an interpreter and the places where it hands out blocks.
pub fn watch(interpreter: &Interpreter, text: &Text) -> Watched {
    let mut watched = Watched::default();
    let code = LazyCell::new(|| Code::of(text));
    for place in places(interpreter.version.minor) {
        match remembered_takes(text, &code, place.counter) {
            Ok(takes) => {
                let size_arg = u8::try_from(watched.lists.len()).unwrap_or(u8::MAX);
                let cookie = HookCookie { kind: kind::REUSE, size_arg, ..HookCookie::default() };
                watched.points.extend(takes.into_iter().filter_map(|at| point(text, at, cookie)));
                watched.lists.push(ArrayList {
                    counter: interpreter.main.0.wrapping_add(place.counter.into()),
                    items: interpreter.main.0.wrapping_add(place.items.into()),
                    block_bytes: place.block_bytes,
                    header: place.header,
                });
            }
            Err(reason) => watched.notes.push(format!(
                "Python's free list of {} is not watched ({reason}): a block that it hands on stays booked on its first line",
                place.what
            )),
        }
    }
    watched
}

/// Watches the lists of linked objects, which are `lists` in the order of [`super::free_lists`]: the main interpreter's floats,
/// then its tuples by length. A list in other places than the others is left out.
pub fn watch_linked(
    interpreter: &Interpreter,
    text: &Text,
    lists: &[FreeList],
) -> (Vec<LinkedLists>, Vec<AttachPoint>) {
    let Some((floats, others)) = lists.split_first() else { return Default::default() };
    let neighbours = others
        .iter()
        .enumerate()
        .take_while(|(at, list)| others.first().is_some_and(|first| list.head == first.head + *at as u64 * 8))
        .count();
    let tuples = others.get(..neighbours).unwrap_or_default();
    let mut found = (Vec::new(), Vec::new());
    let code = LazyCell::new(|| Code::of(text));
    for (lists, block_bytes) in [(std::slice::from_ref(floats), FLOAT_BYTES), (tuples, TUPLE_BYTES)] {
        let Some(first) = lists.first() else { continue };
        let size_arg = u8::try_from(found.0.len()).unwrap_or(u8::MAX);
        let state = first.head.wrapping_sub(interpreter.main.0);
        let Ok(offset) = u32::try_from(state) else { continue };
        let heads = offset..offset.saturating_add(u32::try_from(lists.len()).unwrap_or(0) * 8);
        found.1.extend(remembered_heads(text, &code, &heads).into_iter().filter_map(|(at, ptr_arg)| {
            let cookie = HookCookie { kind: kind::REUSE_LINKED, size_arg, ptr_arg, ..HookCookie::default() };
            point(text, at, cookie)
        }));
        found.0.push(LinkedLists {
            heads: first.head,
            count: u32::try_from(lists.len()).unwrap_or(0),
            header: first.header,
            block_bytes,
            step_bytes: 8,
        });
    }
    found
}

/// Searches of interpreters that are remembered; five for each.
const MAX_REMEMBERED: usize = 256;

static TAKES: Remembered<u32, Result<Vec<VirtualOffset>, Reason>> = Remembered::new(MAX_REMEMBERED);
static HEADS: Remembered<(u32, u32), BTreeMap<VirtualOffset, u8>> = Remembered::new(MAX_REMEMBERED);

/// As [`takes`]; a file that has not changed is searched once.
fn remembered_takes<'a>(
    text: &Text,
    code: &impl Deref<Target = Code<'a>>,
    counter: u32,
) -> Result<Vec<VirtualOffset>, Reason> {
    let found = TAKES.or_find(text.elf().identity(), counter, || Ok::<_, Infallible>(takes(code, counter)));
    found.unwrap_or_else(|never| match never {})
}

/// As [`heads_taken`]; a file that has not changed is searched once.
fn remembered_heads<'a>(
    text: &Text,
    code: &impl Deref<Target = Code<'a>>,
    heads: &Range<u32>,
) -> BTreeMap<VirtualOffset, u8> {
    let key = (heads.start, heads.end);
    let found = HEADS.or_find(text.elf().identity(), key, || Ok::<_, Infallible>(heads_taken(code, heads)));
    found.unwrap_or_else(|never| match never {})
}

/// A float.
const FLOAT_BYTES: u32 = 24;
/// The shortest tuple that has a list, with the collector's header.
const TUPLE_BYTES: u32 = 48;

/// The branches that decide whether an object is taken from one of neighbouring lists, and the number of the register that
/// holds it then.
fn heads_taken(code: &Code<'_>, heads: &Range<u32>) -> BTreeMap<VirtualOffset, u8> {
    // The offset may be split: some of it, in words, is added to the length before.
    let split = bases(heads).flat_map(|base| (0..=2).map(move |words| (base / 8).saturating_sub(words)));
    let spelled = heads.clone().step_by(8).chain(bases(heads)).chain(split);
    let functions: BTreeSet<VirtualOffset> = spelled.flat_map(|head| code.functions_naming(head)).collect();
    let mut taken = BTreeMap::new();
    for function in functions {
        taken.extend(heads_in(&code.function(function), heads));
        if taken.len() > MAX_PLACES * 2 {
            break;
        }
    }
    taken
}

fn heads_in(code: &Instructions, heads: &Range<u32>) -> Vec<(VirtualOffset, u8)> {
    let reads = (0..code.all.len()).filter(|at| reads_head(&code.all, *at, heads));
    reads.filter_map(|at| head_tested(code, at)).collect()
}

/// What is added to a length times eight: lists begin at length 0 or 1, and compilers may count one further.
fn bases(heads: &Range<u32>) -> impl Iterator<Item = u32> + use<> {
    [16, 8, 0].map(|before| heads.start.saturating_sub(before)).into_iter()
}

fn reads_head(instructions: &[Instruction], at: usize, heads: &Range<u32>) -> bool {
    let Some(instruction) = instructions.get(at) else { return false };
    if instruction.code() != Form::Mov_r64_rm64
        || instruction.op1_kind() != OpKind::Memory
        || matches!(instruction.memory_base(), Register::None | Register::RIP)
    {
        return false;
    }
    let Ok(offset) = u32::try_from(instruction.memory_displacement64()) else { return false };
    match instruction.memory_index() {
        Register::None => heads.contains(&offset) && (offset - heads.start).is_multiple_of(8),
        _ if instruction.memory_index_scale() != 8 => false,
        // Some of the offset may have been added to the length before: `lea index, [length + words]`.
        index => {
            let before = instructions.get(at.saturating_sub(REACH)..at).unwrap_or_default();
            let made = before.iter().rev().find(|earlier| {
                earlier.op0_kind() == OpKind::Register && earlier.op0_register().full_register() == index
            });
            let lea = made.filter(|made| made.mnemonic() == Mnemonic::Lea);
            let words = lea.map_or(0, Instruction::memory_displacement64);
            bases(heads).any(|base| words.wrapping_mul(8).wrapping_add(offset.into()) == u64::from(base))
        }
    }
}

/// The branch behind the comparison with null of what an instruction has read, and the register it is in.
fn head_tested(code: &Instructions, at: usize) -> Option<(VirtualOffset, u8)> {
    let holds = code.get(at)?.op0_register();
    let mut next = at;
    for _ in 0..REACH {
        next = code.following(next)?;
        let instruction = code.get(next)?;
        let touches = instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == holds.full_register();
        if touches && instruction.mnemonic() == Mnemonic::Test {
            let branch = code.branch_behind(next)?;
            return Some((VirtualOffset(branch), u8::try_from(holds.number()).ok()?));
        }
        if touches || instruction.flow_control() == FlowControl::ConditionalBranch {
            return None;
        }
    }
    None
}

/// The branches that decide whether a block is taken from the list with its counter at `counter`.
fn takes(code: &Code<'_>, counter: u32) -> Result<Vec<VirtualOffset>, Reason> {
    let (mut takes, mut puts) = (BTreeSet::new(), 0);
    for function in code.functions_naming(counter) {
        let uses = uses(&code.function(function), counter);
        takes.extend(uses.takes);
        puts += uses.puts;
    }
    match takes.len() {
        0 => Err(Reason::NotRecognised),
        _ if puts == 0 => Err(Reason::NotRecognised),
        count if count > MAX_PLACES => Err(Reason::TooMany),
        _ => Ok(takes.into_iter().collect()),
    }
}

/// All code of an object, read once for the many offsets that are searched for in it.
struct Code<'a> {
    text: &'a Text,
    segments: Vec<(VirtualOffset, Vec<u8>)>,
}

impl<'a> Code<'a> {
    fn of(text: &'a Text) -> Self {
        let code = text.elf().segments().filter(|segment| segment.executable);
        let read = code.map(|segment| {
            let bytes = text.elf().code_at(segment.address, segment.file_bytes).unwrap_or_default();
            (segment.address, bytes)
        });
        Self { text, segments: read.collect() }
    }

    /// Functions in whose code an offset occurs as a displacement.
    fn functions_naming(&self, offset: u32) -> BTreeSet<VirtualOffset> {
        let finder = memmem::Finder::new(&offset.to_le_bytes()).into_owned();
        let mut functions = BTreeSet::new();
        for (start, bytes) in &self.segments {
            for at in finder.find_iter(bytes) {
                let address = VirtualOffset(start.0.saturating_add(at as u64));
                functions.extend(self.text.enclosing(address).map(|bounds| bounds.start));
            }
        }
        functions
    }

    /// The instructions of a function.
    fn function(&self, start: VirtualOffset) -> Instructions {
        let bounds = self.text.enclosing(start);
        let size = bounds.and_then(|bounds| bounds.end.offset_from(bounds.start)).unwrap_or(0);
        let bytes = self.text.elf().code_at(start, size.min(MAX_FUNCTION)).unwrap_or_default();
        Instructions::decode(&bytes, start)
    }
}

fn point(text: &Text, at: VirtualOffset, cookie: HookCookie) -> Option<AttachPoint> {
    let hook = u8::try_from(MAX_HOOKS - 1).ok()?;
    let cookie = HookCookie { domain: domain::PY, hook, ..cookie };
    let offset = text.file_offset(at)?;
    Some(AttachPoint { path: text.openable.clone(), offset, cookie, needs_return: false })
}

/// A function, decoded.
struct Instructions {
    all: Vec<Instruction>,
    by_address: BTreeMap<u64, usize>,
}

impl Instructions {
    fn decode(bytes: &[u8], start: VirtualOffset) -> Self {
        let all: Vec<Instruction> =
            Decoder::with_ip(64, bytes, start.0, DecoderOptions::NONE).into_iter().collect();
        let by_address =
            all.iter().enumerate().map(|(index, instruction)| (instruction.ip(), index)).collect();
        Self { all, by_address }
    }

    fn get(&self, at: usize) -> Option<&Instruction> {
        self.all.get(at)
    }

    /// The instruction that is executed next; through direct jumps within the function.
    fn following(&self, at: usize) -> Option<usize> {
        let instruction = self.get(at)?;
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Call => Some(at + 1),
            FlowControl::UnconditionalBranch => {
                self.by_address.get(&instruction.near_branch_target()).copied()
            }
            _ => None,
        }
    }

    /// The conditional branch that a comparison is for.
    fn branch_behind(&self, at: usize) -> Option<u64> {
        let mut next = at;
        for _ in 0..REACH {
            next = self.following(next)?;
            let instruction = self.get(next)?;
            if instruction.flow_control() == FlowControl::ConditionalBranch {
                return Some(instruction.ip());
            }
            if instruction.rflags_modified() != 0 {
                return None;
            }
        }
        None
    }
}

/// What one function does with a list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Uses {
    takes: Vec<VirtualOffset>,
    puts: usize,
}

fn uses(code: &Instructions, counter: u32) -> Uses {
    let mut uses = Uses::default();
    for (index, instruction) in code.all.iter().enumerate() {
        if !names(instruction, counter) {
            continue;
        }
        match judge(code, index) {
            Some(Use::Take(branch)) => uses.takes.push(VirtualOffset(branch)),
            Some(Use::Put) => uses.puts += 1,
            None => {}
        }
    }
    uses
}

/// What a reading of the counter is for.
enum Use {
    /// A block is taken if there is one; the branch that decides.
    Take(u64),
    /// A block is put if there is room.
    Put,
}

/// Whether an instruction's operand lies at that offset from some pointer.
fn names(instruction: &Instruction, counter: u32) -> bool {
    let has_memory = (0..instruction.op_count()).any(|at| instruction.op_kind(at) == OpKind::Memory);
    let pointer = instruction.memory_base();
    has_memory
        && instruction.memory_displacement64() == u64::from(counter)
        && pointer != Register::None
        && pointer != Register::RIP
        && instruction.memory_index() == Register::None
}

fn judge(code: &Instructions, at: usize) -> Option<Use> {
    let reading = code.get(at)?;
    if reading.mnemonic() == Mnemonic::Cmp {
        return compared(reading, code.branch_behind(at)?);
    }
    if !matches!(reading.code(), Form::Mov_r32_rm32 | Form::Movsxd_r64_rm32) {
        return None;
    }
    let holds = reading.op0_register().full_register();
    let mut next = at;
    for _ in 0..REACH {
        next = code.following(next)?;
        let instruction = code.get(next)?;
        let first = instruction.op0_register().full_register();
        match instruction.mnemonic() {
            Mnemonic::Test if first == holds => {
                return code.branch_behind(next).map(Use::Take);
            }
            Mnemonic::Cmp if first == holds && instruction.op0_kind() == OpKind::Register => {
                return compared(instruction, code.branch_behind(next)?);
            }
            _ if instruction.flow_control() == FlowControl::ConditionalBranch => return None,
            _ => {}
        }
    }
    None
}

/// A comparison with zero takes, one with the length puts.
fn compared(comparison: &Instruction, branch: u64) -> Option<Use> {
    match comparison.op1_kind() {
        OpKind::Immediate8 | OpKind::Immediate8to32 | OpKind::Immediate8to64 | OpKind::Immediate32 => {
            match comparison.immediate(1) {
                0 => Some(Use::Take(branch)),
                limit if limit == LENGTH || limit + 1 == LENGTH => Some(Use::Put),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: VirtualOffset = VirtualOffset(0x1000);

    #[test]
    fn a_reading_compared_with_zero_takes_a_block() {
        // mov eax,[rdx+0x1428]; test eax,eax; jle +0x10; sub eax,1; mov [rdx+0x1428],eax (PyDict_New of 3.13, other offset)
        let code = [
            0x8b, 0x82, 0x28, 0x14, 0, 0, 0x85, 0xc0, 0x7e, 0x10, 0x83, 0xe8, 1, 0x89, 0x82, 0x28, 0x14, 0, 0,
        ];
        assert_eq!(
            uses(&Instructions::decode(&code, START), 0x1428),
            Uses { takes: vec![VirtualOffset(0x1008)], puts: 0 }
        );
        assert_eq!(uses(&Instructions::decode(&code, START), 0x1429), Uses::default());
    }

    #[test]
    fn a_reading_compared_with_the_length_puts_one() {
        // movsxd rax,[rdx+0x1428]; mov rcx,[rbp+8]; cmp eax,0x4f; jbe +0x10 (dict_dealloc)
        let code = [0x48, 0x63, 0x82, 0x28, 0x14, 0, 0, 0x48, 0x8b, 0x4d, 8, 0x83, 0xf8, 0x4f, 0x76, 0x10];
        assert_eq!(uses(&Instructions::decode(&code, START), 0x1428), Uses { takes: Vec::new(), puts: 1 });
    }

    #[test]
    fn a_head_compared_with_null_is_taken_in_its_register() {
        // mov rbx,[rax+0xe20]; test rbx,rbx; je +0x10 (PyFloat_FromDouble of 3.11); then one overwritten before it is tested
        let code = [
            0x48, 0x8b, 0x98, 0x20, 0x0e, 0, 0, 0x48, 0x85, 0xdb, 0x74, 0x10, 0x48, 0x8b, 0x98, 0x20, 0x0e,
            0, 0, 0x48, 0x89, 0xc3, 0x48, 0x85, 0xdb, 0x74, 0x10,
        ];
        assert_eq!(
            heads_in(&Instructions::decode(&code, START), &(0xe20..0xe28)),
            [(VirtualOffset(0x100a), 3)]
        );
        assert_eq!(heads_in(&Instructions::decode(&code, START), &(0xe28..0xe30)), []);
    }

    #[test]
    fn a_head_chosen_by_length_is_taken_too() {
        // lea rdx,[rdi+0x1c5]; mov rbp,[rax+rdx*8]; test rbp,rbp; je +0x10 (PyTuple_New of 3.11: lists from length 1 on)
        let code = [0x48, 0x8d, 0x97, 0xc5, 0x01, 0, 0, 0x48, 0x8b, 0x2c, 0xd0, 0x48, 0x85, 0xed, 0x74, 0x10];
        assert_eq!(
            heads_in(&Instructions::decode(&code, START), &(0xe30..0xed0)),
            [(VirtualOffset(0x100e), 5)]
        );
    }

    #[test]
    fn flags_that_are_overwritten_decide_nothing() {
        // mov eax,[rdx+0x1428]; test eax,eax; add ebx,1; jle +0x10
        let code = [0x8b, 0x82, 0x28, 0x14, 0, 0, 0x85, 0xc0, 0x83, 0xc3, 1, 0x7e, 0x10];
        assert_eq!(uses(&Instructions::decode(&code, START), 0x1428), Uses::default());
    }
}
