//! The build ID: an object's identity, whatever its path.

use std::fmt;

use super::elf::{E, first};
use object::LittleEndian as Little;
use object::elf::{ELF_NOTE_GNU, NT_GNU_BUILD_ID, NoteHeader64};

/// Longest build ID that is believed; SHA-1 has 20 bytes.
const MAX_BUILD_ID: usize = 64;

/// A GNU build ID. Prints as lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Finds the build ID in a piece of notes. `align` is the segment's: notes are padded to 8 where it says 8, else to 4.
pub fn build_id(notes: &[u8], align: u64) -> Option<BuildId> {
    let align = if align == 8 { 8 } else { 4 };
    let mut rest = notes;
    // Every round takes at least a header off, so this ends.
    loop {
        let header: NoteHeader64<Little> = first(rest)?;
        let start = size_of::<NoteHeader64<Little>>();
        let name_bytes = usize::try_from(header.n_namesz.get(E)).ok()?;
        let name = rest.get(start..start.checked_add(name_bytes)?)?;
        let start = start.checked_add(name_bytes)?.checked_next_multiple_of(align)?;
        let content_bytes = usize::try_from(header.n_descsz.get(E)).ok()?;
        let content = rest.get(start..start.checked_add(content_bytes)?)?;
        let is_gnu = name.strip_suffix(&[0]) == Some(ELF_NOTE_GNU);
        if is_gnu && header.n_type.get(E) == NT_GNU_BUILD_ID && (1..=MAX_BUILD_ID).contains(&content_bytes) {
            return Some(BuildId(content.to_vec()));
        }
        rest = rest.get(start.checked_add(content_bytes)?.checked_next_multiple_of(align)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [name.len(), content.len()] {
            bytes.extend(u32::try_from(field).expect("small").to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut bytes = note(b"GNU\0", 1, &[1; 16]);
        bytes.extend(note(b"abcde\0", 3, &[2; 3]));
        bytes.extend(note(b"GNU\0", 3, &[0xab, 0xcd, 0x01]));
        assert_eq!(build_id(&bytes, 4).expect("found").to_string(), "abcd01");
        assert_eq!(build_id(&bytes[..bytes.len() - 4], 4), None);
    }

    #[test]
    fn sizes_that_overflow_end_the_search() {
        let mut bytes = vec![0xff; 12];
        bytes.extend([0; 64]);
        assert_eq!(build_id(&bytes, 8), None);
    }
}
