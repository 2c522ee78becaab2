//! From an instruction to its line, as `PyCode_Addr2Line` finds it. Three generations of tables, all pure functions over
//! their bytes: whatever those say, the work is one pass.

/// How a code object's line table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Pairs of address increment and signed line increment (up to 3.9).
    Lnotab,
    /// Pairs of length and signed line increment, -128 for "no line" (3.10, PEP 626).
    Pairs,
    /// Entries of a head byte and variable-length numbers (3.11 and later, PEP 657).
    Locations,
}

/// Stands for "no line" in a table of 3.10.
const NO_LINE: i8 = -128;

/// Bytes of an instruction's unit, in which [`Format::Locations`] counts.
const UNIT: i64 = 2;

/// The line of the instruction `instruction` bytes after the first one, in code that begins in line `first`; `None` where
/// the compiler gave it none. Below 0 nothing has been executed yet.
pub fn line(format: Format, table: &[u8], first: i32, instruction: i32) -> Option<u32> {
    let (first, instruction) = (i64::from(first), i64::from(instruction));
    let found = match format {
        Format::Lnotab => Some(from_lnotab(table, first, instruction)),
        _ if instruction < 0 => Some(first),
        Format::Pairs => from_pairs(table, first, instruction),
        Format::Locations => from_locations(table, first, instruction),
    };
    found.and_then(|line| u32::try_from(line).ok())
}

/// line = first + sum of the line increments whose address has been reached.
fn from_lnotab(table: &[u8], first: i64, instruction: i64) -> i64 {
    let (mut line, mut address) = (first, 0);
    for [step, lines] in table.as_chunks().0 {
        address += i64::from(*step);
        if address > instruction {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    line
}

/// line = first + sum of the increments up to the range that holds the instruction.
fn from_pairs(table: &[u8], first: i64, instruction: i64) -> Option<i64> {
    let (mut line, mut end) = (first, 0);
    for [length, lines] in table.as_chunks().0 {
        end += i64::from(*length);
        let lines = lines.cast_signed();
        if lines != NO_LINE {
            line += i64::from(lines);
        }
        if end > instruction {
            return (lines != NO_LINE).then_some(line);
        }
    }
    None
}

/// line = first + sum of the increments up to the entry that holds the instruction.
fn from_locations(table: &[u8], first: i64, instruction: i64) -> Option<i64> {
    let (mut line, mut end, mut rest) = (first, 0, table);
    while let Some((&head, tail)) = rest.split_first() {
        // The first byte of an entry has its highest bit set, no other byte has.
        let length = tail.iter().take_while(|byte| **byte & 0x80 == 0).count();
        let (numbers, next) = tail.split_at_checked(length)?;
        let kind = head >> 3 & 15;
        line += line_increment(kind, numbers);
        end += (i64::from(head & 7) + 1) * UNIT;
        if end > instruction {
            return (kind != kind::NONE).then_some(line);
        }
        rest = next;
    }
    None
}

/// Kinds of entries in a location table.
mod kind {
    /// Same line, columns in one byte: 10, and 11 and 12 for the next line and the one after it.
    pub const ONE_LINE_0: u8 = 10;
    pub const ONE_LINE_2: u8 = 12;
    pub const NO_COLUMNS: u8 = 13;
    pub const LONG: u8 = 14;
    pub const NONE: u8 = 15;
}

fn line_increment(kind: u8, numbers: &[u8]) -> i64 {
    match kind {
        kind::NO_COLUMNS | kind::LONG => signed(numbers),
        kind::ONE_LINE_0..=kind::ONE_LINE_2 => i64::from(kind - kind::ONE_LINE_0),
        _ => 0,
    }
}

/// The first of some variable-length numbers: six bits a byte, the lowest first; the lowest bit of all is the sign.
/// CPython reads it into an `unsigned int`.
fn signed(bytes: &[u8]) -> i64 {
    let (mut value, mut shift) = (0_u32, 0);
    for byte in bytes {
        value |= u32::from(byte & 63).checked_shl(shift).unwrap_or(0);
        shift += 6;
        if byte & 64 == 0 {
            break;
        }
    }
    let magnitude = i64::from(value >> 1);
    if value & 1 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests;
