//! Free lists of 3.8 and 3.9: static variables without names, found in the code of the functions that take objects out of
//! them, `PyFloat_FromDouble` and `PyTuple_New`. What the code names is only a guess; that the lists are as long as the counters
//! say, and hold what they must, is the proof.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
use leaktrace_common::python::FreeList;

use super::free_lists::{self, Kind, Look, Reason};
use super::{Interpreter, Memory};

/// Lengths of tuples that are kept, from 1 on; in the arrays' first element lies the empty tuple.
const LONGEST_TUPLE: u32 = 19;

/// How many lists of tuples must hold some before the arrays are believed.
const NEEDED: usize = 3;

/// How much code is looked at.
const MAX_CODE: u64 = 2048;

/// Most addresses that are tried.
const MAX_CANDIDATES: usize = 32;

/// Finds both kinds.
pub(super) fn find(interpreter: &Interpreter, memory: &dyn Memory) -> Result<Vec<FreeList>, Reason> {
    let float = floats(&code(interpreter, memory, "PyFloat_FromDouble")?);
    let float = float.ok_or(Reason::Unknown)?;
    free_lists::confirm(memory, &[float], 0)?;
    let code = code(interpreter, memory, "PyTuple_New")?;
    let tuples = tuples(interpreter, memory, &code).ok_or(Reason::Unknown)?;
    Ok([float].into_iter().chain(tuples).map(|kind| kind.list).collect())
}

fn code(interpreter: &Interpreter, memory: &dyn Memory, name: &str) -> Result<Vec<Instruction>, Reason> {
    let address = interpreter.address(name).ok_or(Reason::Unknown)?;
    let bytes = interpreter.code_of(memory, name, MAX_CODE).ok_or(Reason::Unreadable)?;
    let decoder = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE);
    Ok(decoder.into_iter().take_while(|instruction| !instruction.is_invalid()).collect())
}

/// The one word that is both loaded and stored, and the one `int` that is subtracted from or stored.
fn floats(code: &[Instruction]) -> Option<Kind> {
    let of = |wanted: &[Code]| -> Vec<u64> {
        code.iter().filter(|found| wanted.contains(&found.code())).filter_map(fixed).collect()
    };
    let stored = of(&[Code::Mov_rm64_r64]);
    let heads = of(&[Code::Mov_r64_rm64]).into_iter().filter(|address| stored.contains(address));
    let counters = of(&[Code::Sub_rm32_imm8, Code::Add_rm32_imm8, Code::Dec_rm32, Code::Mov_rm32_r32]);
    Some(free_lists::floats(only(heads)?, only(counters.into_iter())?))
}

/// The one value that all are.
fn only(mut values: impl Iterator<Item = u64>) -> Option<u64> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// The address of a variable that an instruction names, without any register.
fn fixed(instruction: &Instruction) -> Option<u64> {
    let absolute =
        instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    let memory =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == iced_x86::OpKind::Memory);
    (memory && (absolute || instruction.is_ip_rel_memory_operand()))
        .then(|| instruction.memory_displacement64())
}

/// Where an array of elements of that size may begin: code indexes it directly, or computes its address first.
fn arrays(code: &[Instruction], element: u32) -> Vec<u64> {
    let mut arrays = Vec::new();
    for instruction in code {
        let place = instruction.memory_displacement64();
        let indexed = instruction.memory_base() == Register::None
            && instruction.memory_index() != Register::None
            && instruction.memory_index_scale() == element;
        let computed = instruction.code() == Code::Lea_r64_m && instruction.is_ip_rel_memory_operand();
        let fits = (indexed || computed) && place != 0 && place % u64::from(element) == 0;
        if fits && !arrays.contains(&place) {
            arrays.push(place);
        }
    }
    arrays.truncate(MAX_CANDIDATES);
    arrays
}

/// The only two arrays of which one holds lists of tuples and the other one how long they are.
fn tuples(interpreter: &Interpreter, memory: &dyn Memory, code: &[Instruction]) -> Option<Vec<Kind>> {
    let (heads, counters) = (arrays(code, 8), arrays(code, 4));
    let pairs = heads.iter().flat_map(|heads| counters.iter().map(move |counters| (*heads, *counters)));
    let mut fitting = pairs.filter(|(heads, counters)| heads != counters).filter_map(|(heads, counters)| {
        let kind = |length| free_lists::tuples(interpreter, heads, counters, length, length);
        let kinds: Vec<Kind> = (1..=LONGEST_TUPLE).map(kind).collect();
        is_likely(memory, &kinds).then_some(kinds)
    });
    let found = fitting.next()?;
    fitting.next().is_none().then_some(found)
}

fn is_likely(memory: &dyn Memory, kinds: &[Kind]) -> bool {
    // Most pairs fail at the first look, and a busy process makes all of them worth a second one.
    let broken = |kind: &Kind| free_lists::look(memory, kind) == Look::Broken;
    !kinds.iter().any(broken) && free_lists::confirm(memory, kinds, NEEDED).is_ok()
}
