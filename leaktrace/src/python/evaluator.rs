//! Which addresses belong to the interpreter's loop, `_PyEval_EvalFrameDefault`. Compilers put its rare parts elsewhere,
//! where stripped objects have no symbol for them: those are found by their frame descriptions, as code that the loop
//! jumps into and that jumps back into its middle. A function that is merely called, or jumped to at its end, does not.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, DebugFrame, EhFrame, EndianSlice, LittleEndian, UnwindSection};
use iced_x86::{Decoder, DecoderOptions, FlowControl};

use crate::object::address::VirtualOffset;
use crate::object::elf::{Elf, ElfError};
use crate::object::symbols::{Symbol, Table};
use crate::unwind::Sections;
use crate::unwind::sections::{FrameKind, Frames};

/// The loop. From 3.14 on it may be taken apart, one function per instruction; what is left of it calls them.
const LOOP: &str = "_PyEval_EvalFrameDefault";
/// Its rare parts, as compilers call them.
const COLD: [&str; 2] = ["_PyEval_EvalFrameDefault.cold", "_PyEval_EvalFrameDefault.cold.0"];
/// Longest function that is decoded; the largest seen has 60 KiB.
const MAX_BODY: u64 = 1 << 20;
/// Most parts of it.
const MAX_PARTS: usize = 64;
/// Most functions that are looked through.
const MAX_DESCRIBED: usize = 1 << 20;
/// Bytes of `endbr64`: who knows a function may jump behind it.
const LANDING: u64 = 4;

/// Where the loop lies in a process that has `elf` mapped with `bias`: absolute addresses, sorted. Empty if the object has
/// no such function, or no symbol for it.
///
/// # Errors
/// If the object cannot be read or contradicts itself.
pub fn find(elf: &Elf, bias: u64) -> Result<Vec<Range<u64>>, ElfError> {
    let Some(body) = body(elf)? else { return Ok(Vec::new()) };
    let described = Sections::of(elf)?.frames.map(|frames| described(&frames)).unwrap_or_default();
    let body = match body.is_empty() {
        true => holding(&described, body.start).unwrap_or(body),
        false => body,
    };
    let mut parts = vec![body.clone()];
    parts.extend(cold_symbols(elf)?);
    parts.extend(cold_parts(elf, &body, &described)?);
    parts.sort_by_key(|part| (part.start, part.end));
    parts.dedup();
    let absolute = |part: Range<u64>| part.start.wrapping_add(bias)..part.end.wrapping_add(bias);
    Ok(parts.into_iter().map(absolute).filter(|part| !part.is_empty()).collect())
}

/// The function itself; empty if its size is not known.
fn body(elf: &Elf) -> Result<Option<Range<u64>>, ElfError> {
    for table in [Table::Dynamic, Table::Full] {
        if let Ok(symbol) = elf.symbol(table, LOOP)? {
            let start = symbol.address.0;
            return Ok(Some(start..start.saturating_add(symbol.size.min(MAX_BODY))));
        }
    }
    Ok(None)
}

fn cold_symbols(elf: &Elf) -> Result<Vec<Range<u64>>, ElfError> {
    let found = elf.symbols(Table::Full, &COLD)?;
    let range = |symbol: Symbol| symbol.address.0..symbol.address.0.saturating_add(symbol.size.min(MAX_BODY));
    Ok(found.into_iter().flatten().map(range).collect())
}

/// Where functions and parts of them lie, sorted by their beginnings.
fn described(frames: &Frames) -> Vec<Range<u64>> {
    let bases = BaseAddresses::default().set_eh_frame(frames.address.0);
    let bytes = EndianSlice::new(&frames.bytes, LittleEndian);
    let mut found = match frames.kind {
        FrameKind::EhFrame => ranges(&EhFrame::from(bytes), &bases),
        FrameKind::DebugFrame => ranges(&DebugFrame::from(bytes), &bases),
    };
    found.sort_by_key(|range| range.start);
    found
}

fn ranges<'a, S: UnwindSection<EndianSlice<'a, LittleEndian>>>(
    section: &S,
    bases: &BaseAddresses,
) -> Vec<Range<u64>> {
    let mut entries = section.entries(bases);
    let mut found = Vec::new();
    // What lies behind a malformed entry is not needed badly enough.
    while let Ok(Some(entry)) = entries.next()
        && found.len() < MAX_DESCRIBED
    {
        let CieOrFde::Fde(partial) = entry else { continue };
        if let Ok(function) = partial.parse(S::cie_from_offset) {
            found.push(function.initial_address()..function.end_address());
        }
    }
    found
}

fn holding(described: &[Range<u64>], address: u64) -> Option<Range<u64>> {
    let at = described.partition_point(|range| range.start <= address).checked_sub(1)?;
    described.get(at).filter(|range| range.contains(&address)).cloned()
}

/// Parts elsewhere that the body jumps into and that jump back.
fn cold_parts(elf: &Elf, body: &Range<u64>, described: &[Range<u64>]) -> Result<Vec<Range<u64>>, ElfError> {
    let mut candidates: Vec<Range<u64>> = Vec::new();
    for target in jumps(elf, body)?.into_iter().filter(|target| !body.contains(target)) {
        if let Some(range) = holding(described, target)
            && !candidates.contains(&range)
            && candidates.len() < MAX_PARTS
        {
            candidates.push(range);
        }
    }
    let middle = body.start.saturating_add(LANDING + 1)..body.end;
    let mut parts = Vec::new();
    for range in candidates.into_iter().filter(|range| range.end - range.start <= MAX_BODY) {
        if jumps(elf, &range)?.iter().any(|target| middle.contains(target)) {
            parts.push(range);
        }
    }
    Ok(parts)
}

/// Where the direct jumps of a stretch of code lead.
fn jumps(elf: &Elf, range: &Range<u64>) -> Result<Vec<u64>, ElfError> {
    let code = elf.code_at(VirtualOffset(range.start), range.end - range.start)?;
    let decoder = Decoder::with_ip(64, &code, range.start, DecoderOptions::NONE);
    let is_jump = |flow| matches!(flow, FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch);
    let jumps = decoder.into_iter().filter(|instruction| is_jump(instruction.flow_control()));
    Ok(jumps.map(|jump| jump.near_branch_target()).collect())
}

#[cfg(test)]
mod tests;
