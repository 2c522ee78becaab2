//! The interpreter's own count of allocated blocks, what `sys.getallocatedblocks()` returns, computed from outside.
//!
//! The small-object allocator ("pymalloc") cuts arenas into pools and every pool's header says how many of its blocks are in
//! use; blocks above 512 bytes are counted in one word. From 3.12 on the bookkeeping lies in the interpreters, which the
//! offsets tell; in 3.9 to 3.11 in static variables, which the code of `_Py_GetAllocatedBlocks` names; 3.8 counts all blocks
//! in one word, and that function returns it.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use thiserror::Error;

use super::bounded::{Bounded, QUESTION};
use super::{Interpreter, Memory, free_lists, validate};
use crate::object::address::AbsoluteAddress;
use crate::process::{Mapping, maps};

/// `struct arena_object`, the same in every version: its address, and how far pools have been carved off it.
const ARENA_OBJECT: usize = 48;

/// Most arenas: 256 GiB of them, 64 GiB up to 3.9.
const MAX_ARENAS: u32 = 1 << 18;

/// Pools whose headers are read at once.
const POOLS_AT_ONCE: usize = 8192;

/// Alignment of a block: none is smaller.
const MIN_BLOCK: u32 = 16;

/// A state of its own is what an interpreter without this flag has (`Py_RTFLAGS_USE_MAIN_OBMALLOC`).
const USES_MAIN_STATE: u64 = 1 << 5;

/// How much code of `_Py_GetAllocatedBlocks` is looked at.
const MAX_CODE: u64 = 256;

/// How often a count is tried while the process changes what it counts.
const ATTEMPTS: u32 = 3;

/// Why nothing is counted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// `PYTHONMALLOC=malloc`, or mimalloc.
    #[error("the interpreter does not use its small-object allocator")]
    NoPools,
    /// Where the arenas are is not known.
    #[error("the code that counts blocks does not show where the arenas are")]
    Unknown,
    /// Which of several interpreters share their arenas is not known in this build.
    #[error("several interpreters, of a build whose structures are not known exactly")]
    Several,
    /// What was found is no bookkeeping of arenas.
    #[error("what should be the arenas does not look like them")]
    Implausible,
}

/// How many blocks are allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// What `sys.getallocatedblocks()` would return.
    pub blocks: u64,
    /// How many of them are larger than 512 bytes and came from the C library's allocator; `None` in 3.8, which does not
    /// tell them apart.
    pub large: Option<u64>,
}

/// Where the allocator keeps its books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Books {
    /// One word with the number of all blocks (3.8).
    Word(u64),
    /// Addresses of the variables (3.9 to 3.11).
    Variables { arenas: u64, arena_count: u64, large_blocks: u64 },
    /// In the interpreters (3.12 and later), so far from where the table has it.
    Interpreters { shift: i64 },
}

/// Counts blocks of one interpreter.
#[derive(Clone, Debug)]
pub struct Census {
    interpreter: Interpreter,
    books: Books,
}

/// One allocator's books, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    arenas: Vec<Arena>,
    large: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arena {
    address: u64,
    /// First address of it that is no pool yet.
    end: u64,
}

impl Census {
    /// Finds the books and checks them against the process's mappings.
    pub fn find(
        interpreter: &Interpreter,
        memory: &dyn Memory,
        mappings: &[Mapping],
    ) -> Result<Self, Reason> {
        let candidates = match interpreter.offsets.pools.state {
            0 => by_code(interpreter, memory),
            _ if interpreter.exact => vec![Books::Interpreters { shift: 0 }],
            _ => free_lists::shifts().map(|shift| Books::Interpreters { shift }).collect(),
        };
        let mut reason = Reason::Unknown;
        for books in candidates {
            let census = Self { interpreter: interpreter.clone(), books };
            match census.check(memory, mappings) {
                Ok(()) => return Ok(census),
                Err(found) => reason = found,
            }
        }
        Err(reason)
    }

    /// How many blocks are allocated now; `None` if that cannot be told, because the process is gone or changes its arenas
    /// faster than they can be read. Some microseconds per MiB of small blocks.
    pub fn count(&self, memory: &dyn Memory) -> Option<Count> {
        (0..ATTEMPTS).find_map(|_| self.try_count(memory).ok())
    }

    fn try_count(&self, memory: &dyn Memory) -> Result<Count, Reason> {
        if let Books::Word(at) = self.books {
            let blocks = memory.word(at).filter(|blocks| *blocks < 1 << 40).ok_or(Reason::Implausible)?;
            return Ok(Count { blocks, large: None });
        }
        let mut small = 0;
        let mut large = 0;
        for state in self.states(memory)? {
            small += self.small_blocks(memory, &state)?;
            large += state.large;
        }
        large += self.leaked(memory)?;
        Ok(Count { blocks: small + large, large: Some(large) })
    }

    fn check(&self, memory: &dyn Memory, mappings: &[Mapping]) -> Result<(), Reason> {
        let memory = &Bounded::new(memory, QUESTION);
        let count = self.try_count(memory)?;
        if matches!(self.books, Books::Word(_)) {
            return if count.blocks > 0 { Ok(()) } else { Err(Reason::NoPools) };
        }
        let states = self.states(memory)?;
        let mut arenas = states.iter().flat_map(|state| &state.arenas).peekable();
        arenas.peek().ok_or(Reason::NoPools)?;
        let is_own = |arena: &Arena| {
            let mapping = maps::find(mappings, AbsoluteAddress(arena.address));
            mapping.is_some_and(|mapping| mapping.is_anonymous() && mapping.writable)
        };
        if arenas.all(is_own) { Ok(()) } else { Err(Reason::Implausible) }
    }

    fn states(&self, memory: &dyn Memory) -> Result<Vec<State>, Reason> {
        match self.books {
            Books::Word(_) => Ok(Vec::new()),
            Books::Variables { arenas, arena_count, large_blocks } => {
                Ok(vec![self.state(memory, arenas, arena_count, large_blocks)?])
            }
            Books::Interpreters { shift } => self.interpreters(memory, shift),
        }
    }

    fn interpreters(&self, memory: &dyn Memory, shift: i64) -> Result<Vec<State>, Reason> {
        let offsets = &self.interpreter.offsets;
        let pools = &offsets.pools;
        let all = validate::interpreters(memory, self.interpreter.runtime.0, offsets);
        let mut states = Vec::new();
        let all = all.map_err(|_| Reason::Implausible)?;
        if all.len() > 1 && !self.interpreter.exact {
            return Err(Reason::Several);
        }
        for interpreter in all {
            let features = memory.word(interpreter.wrapping_add(pools.features.into()));
            let shares = features.ok_or(Reason::Implausible)? & USES_MAIN_STATE != 0;
            if shares && interpreter != self.interpreter.main.0 {
                continue;
            }
            let mut state = interpreter.wrapping_add(pools.state.into()).wrapping_add_signed(shift);
            if pools.indirect != 0 {
                state = memory.word(state).ok_or(Reason::Implausible)?;
            }
            if state != 0 {
                let at = |offset: u32| state.wrapping_add(offset.into());
                states.push(self.state(
                    memory,
                    at(pools.arenas),
                    at(pools.arena_count),
                    at(pools.large_blocks),
                )?);
            }
        }
        Ok(states)
    }

    fn state(&self, memory: &dyn Memory, arenas: u64, count: u64, large: u64) -> Result<State, Reason> {
        let count = memory.half(count).filter(|count| *count <= MAX_ARENAS).ok_or(Reason::Implausible)?;
        let array = memory.word(arenas).ok_or(Reason::Implausible)?;
        let large = memory.word(large).filter(|large| *large < 1 << 40).ok_or(Reason::Implausible)?;
        let mut objects = vec![0; count as usize * ARENA_OBJECT];
        if count > 0 && !memory.fill(array, &mut objects) {
            return Err(Reason::Implausible);
        }
        let found: Option<Vec<Arena>> = objects
            .chunks_exact(ARENA_OBJECT)
            .map(arena)
            .filter(|arena| arena.address != 0)
            .map(|arena| self.plausible(arena))
            .collect();
        Ok(State { arenas: found.ok_or(Reason::Implausible)?, large })
    }

    fn plausible(&self, arena: Arena) -> Option<Arena> {
        let carved = arena.end.checked_sub(arena.address)?;
        let pool = u64::from(self.interpreter.offsets.pool_bytes);
        (carved <= u64::from(self.interpreter.offsets.pools.arena_bytes) + pool
            && arena.end.is_multiple_of(pool))
        .then_some(arena)
    }

    fn small_blocks(&self, memory: &dyn Memory, state: &State) -> Result<u64, Reason> {
        let pool_bytes = self.interpreter.offsets.pool_bytes;
        let pool = u64::from(pool_bytes).max(1);
        let pools = state
            .arenas
            .iter()
            .flat_map(|arena| (round_up(arena.address, pool)..arena.end).step_by(pool as usize));
        let mut pools = pools.peekable();
        let mut blocks = 0;
        let (mut addresses, mut counts) = (Vec::new(), Vec::new());
        while pools.peek().is_some() {
            addresses.clear();
            addresses.extend(pools.by_ref().take(POOLS_AT_ONCE));
            if !memory.halves(&addresses, &mut counts)
                || counts.iter().any(|count| *count > pool_bytes / MIN_BLOCK)
            {
                return Err(Reason::Implausible);
            }
            blocks += counts.iter().copied().map(u64::from).sum::<u64>();
        }
        Ok(blocks)
    }

    /// Blocks that interpreters which have ended left behind.
    fn leaked(&self, memory: &dyn Memory) -> Result<u64, Reason> {
        let at = self.interpreter.offsets.pools.leaked_blocks;
        if at == 0 {
            return Ok(0);
        }
        let leaked = memory.word(self.interpreter.runtime.0.wrapping_add(at.into()));
        leaked.filter(|leaked| *leaked < 1 << 40).ok_or(Reason::Implausible)
    }
}

/// The first multiple of `unit` that is not below; the address itself where that is none.
fn round_up(address: u64, unit: u64) -> u64 {
    address.checked_next_multiple_of(unit).unwrap_or(address)
}

fn arena(object: &[u8]) -> Arena {
    let word = |at: usize| {
        object.get(at..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    Arena { address: word(0), end: word(8) }
}

/// What the code of `_Py_GetAllocatedBlocks` loads, put together in every way that its sizes allow: which of two pointers is
/// the array of arenas shows when it is read.
fn by_code(interpreter: &Interpreter, memory: &dyn Memory) -> Vec<Books> {
    const NAME: &str = "_Py_GetAllocatedBlocks";
    let code = interpreter.code_of(memory, NAME, MAX_CODE);
    let Some((address, code)) = interpreter.address(NAME).zip(code) else { return Vec::new() };
    books(&code, address)
}

fn books(code: &[u8], address: u64) -> Vec<Books> {
    let (words, halves) = loads(code, address);
    match (words.as_slice(), halves.as_slice()) {
        ([word], []) => vec![Books::Word(*word)],
        ([one, other], [arena_count]) => [(one, other), (other, one)]
            .map(|(arenas, large)| Books::Variables {
                arenas: *arenas,
                arena_count: *arena_count,
                large_blocks: *large,
            })
            .to_vec(),
        _ => Vec::new(),
    }
}

/// Distinct addresses of variables that a function loads, of eight and of four bytes.
fn loads(code: &[u8], address: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut words, mut halves) = (Vec::new(), Vec::new());
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take_while(|instruction| !instruction.is_invalid()) {
        let list = match instruction.code() {
            Code::Mov_r64_rm64 => &mut words,
            Code::Mov_r32_rm32 => &mut halves,
            _ => continue,
        };
        if let Some(variable) = variable(&instruction).filter(|variable| !list.contains(variable)) {
            list.push(variable);
        }
    }
    (words, halves)
}

fn variable(instruction: &Instruction) -> Option<u64> {
    let absolute =
        instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
    let fixed = instruction.is_ip_rel_memory_operand() || absolute;
    (instruction.op1_kind() == OpKind::Memory && fixed).then(|| instruction.memory_displacement64())
}
