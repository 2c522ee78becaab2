//! A `str` of the target as text that can be shown anywhere. What is long is cut and says so; what would disturb a line or
//! cannot be encoded (control characters, the surrogates that stand for bytes of file names that are not UTF-8) is
//! spelled as Python spells it, and so is the backslash, so that no two names look the same.

use std::fmt::Write;

use super::objects::{Objects, half_at, word_at};

/// Longest string that is believed, characters.
const MAX_LENGTH: u64 = 1 << 40;
/// Most of a string's header that is read: `PyUnicodeObject` has 80 bytes.
const MAX_HEADER: usize = 128;

/// Bits of `PyASCIIObject.state`, the same in all versions.
mod state {
    pub const KIND_SHIFT: u32 = 2;
    pub const KIND: u32 = 7;
    pub const COMPACT: u32 = 1 << 5;
    pub const ASCII: u32 = 1 << 6;
    /// Up to 3.11; later the bit means something else.
    pub const READY: u32 = 1 << 7;
}

/// Where the characters of a string lie.
#[derive(Clone, Copy, Debug)]
struct Characters {
    address: u64,
    length: u64,
    /// Bytes of each: 1, 2 or 4.
    kind: usize,
}

/// The string at `address`, at most `cap` characters of it; `None` if there is no readable string.
pub fn read(objects: &Objects<'_>, address: u64, cap: usize) -> Option<String> {
    let characters = locate(objects, address)?;
    let shown = usize::try_from(characters.length).unwrap_or(usize::MAX).min(cap);
    let mut bytes = vec![0; shown * characters.kind];
    objects.memory.fill(characters.address, &mut bytes).then_some(())?;
    let mut text = String::with_capacity(bytes.len());
    for character in bytes.chunks_exact(characters.kind) {
        append(&mut text, code_point(character))?;
    }
    if (shown as u64) < characters.length {
        let _ = write!(text, "[... {} characters]", characters.length);
    }
    Some(text)
}

fn locate(objects: &Objects<'_>, address: u64) -> Option<Characters> {
    let offsets = objects.offsets;
    let mut bytes = [0; MAX_HEADER];
    let header = bytes.get_mut(..(offsets.compact_size as usize).checked_add(8)?)?;
    // A string may end with its memory: what is read must be no longer than the shortest one.
    let short = header.get_mut(..offsets.ascii_size as usize)?;
    objects.memory.fill(address, short).then_some(())?;
    objects.is_derived(short, "str").then_some(())?;
    let state = half_at(short, offsets.unicode_state as usize)?;
    let length = word_at(short, offsets.unicode_length as usize).filter(|length| *length < MAX_LENGTH)?;
    let kind = (state >> state::KIND_SHIFT & state::KIND) as usize;
    let has_ready_bit = offsets.ascii_size == SIZE_WITH_READY_BIT;
    if !matches!(kind, 1 | 2 | 4) || has_ready_bit && state & state::READY == 0 {
        return None;
    }
    let address = match (state & state::COMPACT != 0, state & state::ASCII != 0) {
        (true, true) if kind == 1 => address.checked_add(u64::from(offsets.ascii_size))?,
        (true, true) => return None,
        (true, false) => address.checked_add(u64::from(offsets.compact_size))?,
        // An instance of a derived type: its characters lie elsewhere.
        (false, _) => objects.memory.word(address.checked_add(u64::from(offsets.compact_size))?)?,
    };
    Some(Characters { address, length, kind })
}

/// `sizeof(PyASCIIObject)` up to 3.11.
const SIZE_WITH_READY_BIT: u32 = 48;

fn code_point(character: &[u8]) -> u32 {
    character.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

/// `None` if it is no code point: then it was no string.
fn append(text: &mut String, code_point: u32) -> Option<()> {
    let shown = match char::from_u32(code_point) {
        Some('\\') => text.write_str("\\\\"),
        Some('\n') => text.write_str("\\n"),
        Some('\r') => text.write_str("\\r"),
        Some('\t') => text.write_str("\\t"),
        Some(plain) if !disturbs(plain) => text.write_char(plain),
        None if code_point > 0x10_ffff => return None,
        _ if code_point < 0x100 => write!(text, "\\x{code_point:02x}"),
        _ if code_point < 0x1_0000 => write!(text, "\\u{code_point:04x}"),
        _ => write!(text, "\\U{code_point:08x}"),
    };
    shown.ok()
}

/// Moves the cursor, ends the line, changes the direction of writing or shows nothing.
fn disturbs(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    ) || character.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(code_points: &[u32]) -> Option<String> {
        let mut text = String::new();
        code_points.iter().try_for_each(|&one| append(&mut text, one))?;
        Some(text)
    }

    #[test]
    fn whatever_disturbs_a_line_is_spelled_out() {
        let text: Vec<u32> =
            "a/b\\c\n\r\t\u{1b}\u{7f}\u{85}é\u{202e}\u{2028}😀".chars().map(u32::from).collect();
        let expected = r"a/b\\c\n\r\t\x1b\x7f\x85é\u202e\u2028😀";
        assert_eq!(shown(&text).as_deref(), Some(expected));
    }

    #[test]
    fn bytes_that_are_not_utf8_keep_their_value() {
        assert_eq!(shown(&[0x2f, 0xdcff, 0xdc80, 0xd800]).as_deref(), Some(r"/\udcff\udc80\ud800"));
        assert_eq!(shown(&[0xe0001]).as_deref(), Some(r"\U000e0001"));
    }

    #[test]
    fn what_is_no_code_point_is_no_string() {
        assert_eq!(shown(&[0x11_0000]), None);
        assert_eq!(shown(&[u32::MAX]), None);
    }
}
