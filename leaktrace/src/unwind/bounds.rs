//! Where an object's functions begin and end, as its call frame information says: for objects without symbols, which
//! is what distributions ship.

use std::ops::Range;

use gimli::{DebugFrame, EhFrame, LittleEndian, UnwindSection};

use super::compile::Limits;
use super::functions::{Budget, Functions};
use super::sections::{self, FrameKind, Frames, SectionsError};
use super::x86_64::Bytes;
use crate::object::address::VirtualOffset;
use crate::object::elf::Elf;

/// The code of one function, or of a part that the compiler has put elsewhere.
pub type Bounds = Range<VirtualOffset>;

/// Every described function, sorted by its beginning, one for each beginning. Malformed descriptions are passed over.
///
/// # Errors
/// The file cannot be read or contradicts itself.
pub fn functions(elf: &Elf, limits: &Limits) -> Result<Vec<Bounds>, SectionsError> {
    let Some(frames) = sections::frames(elf)? else { return Ok(Vec::new()) };
    let Frames { kind, address, bytes } = &frames;
    let work = (bytes.len() as u64).saturating_mul(limits.work).min(limits.work_bytes);
    let budget = Budget { work, rows: 0, common: limits.common_entries };
    let reader = Bytes::new(bytes, LittleEndian);
    let mut found = match kind {
        FrameKind::EhFrame => {
            collect(Functions::new(EhFrame::from(reader), bytes, address.0, budget), limits)
        }
        FrameKind::DebugFrame => {
            collect(Functions::new(DebugFrame::from(reader), bytes, address.0, budget), limits)
        }
    };
    found.sort_unstable_by_key(|bounds| (bounds.start, bounds.end));
    found.dedup_by_key(|bounds| bounds.start);
    Ok(found)
}

fn collect<'a, S: UnwindSection<Bytes<'a>>>(mut described: Functions<'a, S>, limits: &Limits) -> Vec<Bounds> {
    let entries = described.entries();
    let functions = entries.filter_map(|entry| described.function(entry.start).ok().flatten());
    let bounds = functions.map(|function| VirtualOffset(function.start)..VirtualOffset(function.end));
    bounds.take(limits.functions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_functions_are_found_in_order() {
        let own = Elf::open("/proc/self/exe".as_ref()).expect("own executable");
        let found = functions(&own, &Limits::default()).expect("readable");
        assert!(found.len() > 1000, "{}", found.len());
        assert!(found.windows(2).all(|pair| pair[0].start < pair[1].start));
        assert!(found.iter().all(|bounds| bounds.start < bounds.end));
        assert!(found.iter().filter(|bounds| own.is_code(bounds.start)).count() * 10 > found.len() * 9);
    }
}
