//! What a DWARF parser would do with an object's debug information, found out before it is let loose on it.
//!
//! blazesym descends into nested inlined calls by recursion and expands line programs and functions into tables; small
//! hostile input can make it overflow the stack, which no handler survives, or fill memory. One linear pass over all
//! entries shows the depth and the numbers. It also takes about as long as parsing would, so what exceeds
//! [`MAX_TIME`] here is not parsed either. No limit is anywhere near what compilers emit.

use std::time::{Duration, Instant};

use gimli::{Dwarf, EndianSlice, LittleEndian, Reader, Unit, UnitHeader};

/// Deepest nesting of entries. A level costs the parser some hundred bytes of stack.
const MAX_DEPTH: isize = 512;
/// Most units.
const MAX_UNITS: usize = 256 << 10;
/// Most functions and inlined calls.
const MAX_CALLS: usize = 16 << 20;
/// Most bytes of line programs, each counted by every compilation unit that refers to it; a byte can become a row of 24.
const MAX_LINES: u64 = 64 << 20;
/// Longest time that the pass may take.
const MAX_TIME: Duration = Duration::from_secs(10);

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What one object may still use up.
struct Budget {
    units: usize,
    calls: usize,
    lines: u64,
    until: Instant,
}

/// Whether the debug information in the sections that `section` hands out by name is fit to be parsed.
pub fn is_parsable<'a>(section: impl Fn(&str) -> &'a [u8]) -> bool {
    let load = |id: gimli::SectionId| Ok::<_, gimli::Error>(Slice::new(section(id.name()), LittleEndian));
    let Ok(dwarf) = Dwarf::load(load) else { return false };
    let mut budget =
        Budget { units: MAX_UNITS, calls: MAX_CALLS, lines: MAX_LINES, until: Instant::now() + MAX_TIME };
    let (mut units, mut types) = (dwarf.units(), dwarf.type_units());
    let mut next = || match units.next() {
        Ok(None) => types.next(),
        other => other,
    };
    loop {
        match next() {
            Ok(None) => return true,
            Ok(Some(header)) if budget.admits(&dwarf, header).is_some() => {}
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

impl Budget {
    /// `None` if the unit is damaged or exceeds what is left.
    fn admits(&mut self, dwarf: &Dwarf<Slice<'_>>, header: UnitHeader<Slice<'_>>) -> Option<()> {
        self.units = self.units.checked_sub(1)?;
        let is_types = matches!(header.type_(), gimli::UnitType::Type { .. });
        let unit = dwarf.unit(header).ok()?;
        // Type units share the line program of a compilation unit and have no code to look up in it.
        if let Some(program) = unit.line_program.as_ref().filter(|_| !is_types) {
            self.lines = self.lines.checked_sub(program.header().unit_length() as u64)?;
        }
        self.admits_entries(&unit)
    }

    fn admits_entries<R: Reader>(&mut self, unit: &Unit<R>) -> Option<()> {
        let mut entries = unit.entries_raw(None).ok()?;
        let mut count = 0_u32;
        while !entries.is_empty() {
            count = count.wrapping_add(1);
            let late = count.is_multiple_of(1 << 16) && Instant::now() > self.until;
            if late || entries.next_depth() > MAX_DEPTH {
                return None;
            }
            let Some(abbreviation) = entries.read_abbreviation().ok()? else { continue };
            if matches!(abbreviation.tag(), gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine) {
                self.calls = self.calls.checked_sub(1)?;
            }
            entries.skip_attributes(abbreviation.attributes()).ok()?;
        }
        (Instant::now() <= self.until).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One unit of version 4 whose root entry is followed by `entries`.
    fn unit(entries: &[u8]) -> Vec<u8> {
        let mut body = vec![4, 0, 0, 0, 0, 0, 8, 1];
        body.extend(entries);
        let length = u32::try_from(body.len()).expect("small");
        [&length.to_le_bytes()[..], &body].concat()
    }

    fn check(info: &[u8]) -> bool {
        // 1: compilation unit with children; 2: inlined call with children; neither has attributes.
        let abbreviations = [1, 0x11, 1, 0, 0, 2, 0x1d, 1, 0, 0, 0];
        is_parsable(|name| match name {
            ".debug_info" => info,
            ".debug_abbrev" => &abbreviations,
            _ => &[],
        })
    }

    #[test]
    fn nesting_is_admitted_as_deep_as_compilers_go_and_not_without_end() {
        assert!(check(&unit(&[[2; 200], [0; 200]].concat())));
        assert!(!check(&unit(&[[2; 2000], [0; 2000]].concat())));
    }

    #[test]
    fn damaged_entries_are_refused() {
        assert!(check(&unit(&[0])));
        assert!(!check(&unit(&[77])), "no such abbreviation");
        assert!(!check(&[5, 0, 0, 0, 4]), "shorter than it says");
    }

    #[test]
    fn units_without_number_are_refused() {
        let one = unit(&[0]);
        assert!(check(&one.repeat(1000)));
        assert!(!check(&one.repeat(MAX_UNITS + 1)));
    }
}
