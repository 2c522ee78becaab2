//! The choice of a probe site: which instruction of a function carries the probe. Pure over bytes.
//!
//! The kernel emulates a few kinds of instructions and single-steps all others, at up to twenty times the cost, so
//! the cheapest legal instruction is taken. Legal means: every call of the function passes it exactly once, the
//! argument registers and the frame pointer still hold what the caller put there, and the stack pointer is known.

use thiserror::Error;

use super::cost::{Cost, CostTable, InstructionClass};
use super::x86_64;
use crate::object::address::VirtualOffset;

/// Functions above this size are treated as if their size were unknown: only their beginning is decoded.
pub const MAX_FUNCTION_BYTES: u64 = 64 * 1024;

/// How many bytes are decoded where a function's size is unknown.
pub const WINDOW_BYTES: u64 = 64;

/// How many other sites a choice remembers.
const MAX_ALTERNATIVES: usize = 8;

/// Instruction sets with a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    X86_64,
}

/// The code of one function.
#[derive(Clone, Copy, Debug)]
pub struct Function<'a> {
    /// Where it begins in its object; only for printing jump targets.
    pub address: VirtualOffset,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether `bytes` is the whole function. If not, nothing is assumed about jumps from what was not seen.
    pub complete: bool,
}

/// What a probe needs from its site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// How many leading argument registers must be intact.
    pub arguments: u8,
    /// Whether a return probe goes with it: the stack pointer must still point at the return address.
    pub needs_return: bool,
    /// An argument that makes the call do nothing when null; the path for that may bypass the probe.
    pub no_op_when_null: Option<u8>,
}

/// A place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Bytes from the function's first instruction.
    pub offset: u64,
    /// Bytes before the function's first instruction, for a site in the padding in front of it; `offset` is 0 then.
    pub in_front: u64,
    /// The instruction there, for people.
    pub instruction: String,
    /// Its class.
    pub class: InstructionClass,
    /// How many 8-byte words the function has put on the stack before it.
    pub pushed_words: u8,
    /// What a hit costs here.
    pub cost: Cost,
    /// The function jumps back to its first instruction, so one call may hit the probe more than once.
    pub reentered: bool,
}

impl Site {
    /// Where it lies if the function begins at `function`.
    pub fn address(&self, function: VirtualOffset) -> VirtualOffset {
        VirtualOffset(function.0.saturating_add(self.offset).saturating_sub(self.in_front))
    }

    /// Bytes from the function's first instruction, negative in front of it.
    pub fn distance(&self) -> i64 {
        i64::try_from(self.offset).unwrap_or(i64::MAX) - i64::try_from(self.in_front).unwrap_or(0)
    }
}

/// The site chosen, and what else would have been legal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The cheapest; of several equally cheap ones the earliest.
    pub site: Site,
    /// Others by offset, at most 8.
    pub alternatives: Vec<Site>,
}

/// Why no site was found.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SiteError {
    /// No bytes.
    #[error("the function has no code")]
    Empty,
    /// The first bytes are no instruction.
    #[error("the function does not begin with a valid instruction")]
    Undecodable,
    /// Decoded, but nowhere may a probe be placed.
    #[error("the kernel accepts no probe at the beginning of the function")]
    Nowhere,
}

/// A legal site as the architecture module finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) offset: u64,
    pub(super) instruction: String,
    pub(super) class: InstructionClass,
    pub(super) pushed_words: u8,
    pub(super) reentered: bool,
}

/// Chooses the cheapest legal site of a function.
///
/// ```
/// use leaktrace::object::address::VirtualOffset;
/// use leaktrace::probe::cost::CostTable;
/// use leaktrace::probe::site::{Architecture, Function, Requirements, choose};
///
/// // test rdi, rdi; je +1; push rbp; ret
/// let bytes = [0x48, 0x85, 0xff, 0x74, 0x01, 0x55, 0xc3];
/// let function = Function { address: VirtualOffset(0x1000), bytes: &bytes, complete: true };
/// let needs = Requirements { arguments: 1, ..Requirements::default() };
/// let choice = choose(Architecture::X86_64, function, needs, &CostTable::default())?;
/// assert_eq!(choice.site.offset, 3);
/// # Ok::<(), leaktrace::probe::site::SiteError>(())
/// ```
pub fn choose(
    architecture: Architecture,
    function: Function<'_>,
    needs: Requirements,
    costs: &CostTable,
) -> Result<Choice, SiteError> {
    let candidates = match architecture {
        Architecture::X86_64 => x86_64::candidates(function, needs)?,
    };
    let mut sites: Vec<Site> = candidates.into_iter().map(|candidate| priced(candidate, costs)).collect();
    // `min_by_key` returns the first of equals, and candidates come in order of offset.
    let best = sites
        .iter()
        .enumerate()
        .min_by_key(|(_, site)| site.cost.per_hit_ns(needs.needs_return))
        .map(|(index, _)| index)
        .ok_or(SiteError::Nowhere)?;
    let site = sites.remove(best);
    sites.truncate(MAX_ALTERNATIVES);
    Ok(Choice { site, alternatives: sites })
}

fn priced(candidate: Candidate, costs: &CostTable) -> Site {
    Site {
        offset: candidate.offset,
        in_front: 0,
        instruction: candidate.instruction,
        cost: costs.cost(candidate.class),
        class: candidate.class,
        pushed_words: candidate.pushed_words,
        reentered: candidate.reentered,
    }
}
