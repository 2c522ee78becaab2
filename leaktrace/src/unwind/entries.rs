//! The outermost layer of call frame information: a sequence of entries, each with its length in front. Walked here
//! and not by gimli, so that one malformed entry does not hide those behind it.

use std::ops::Range;

/// Entries of a section, as ranges of offsets. A length of 0 is passed over: linkers leave terminators in the middle.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    broken: bool,
}

/// What lies at an offset.
enum Found {
    Entry(usize),
    Terminator,
    Broken,
    End,
}

impl<'a> Entries<'a> {
    /// From the beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, broken: false }
    }

    /// Whether it ended at a length that leads out of the section, instead of at its end.
    pub fn broken(&self) -> bool {
        self.broken
    }

    fn found(&self) -> Found {
        let Some(rest) = self.bytes.get(self.at..).filter(|rest| !rest.is_empty()) else { return Found::End };
        let Some((word, behind)) = rest.split_first_chunk::<4>() else { return Found::Broken };
        let (head, length) = match u32::from_le_bytes(*word) {
            0 => return Found::Terminator,
            // 64-bit form.
            u32::MAX => match behind.first_chunk::<8>() {
                Some(length) => (12, u64::from_le_bytes(*length)),
                None => return Found::Broken,
            },
            // Reserved.
            0xffff_fff0.. => return Found::Broken,
            length => (4, u64::from(length)),
        };
        let end =
            usize::try_from(length).ok().and_then(|length| self.at.checked_add(head)?.checked_add(length));
        end.filter(|end| *end <= self.bytes.len()).map_or(Found::Broken, Found::Entry)
    }
}

impl Iterator for Entries<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            match self.found() {
                Found::Entry(end) => {
                    let entry = self.at..end;
                    self.at = end;
                    return Some(entry);
                }
                Found::Terminator => self.at += 4,
                Found::Broken => {
                    self.broken = true;
                    self.at = self.bytes.len();
                }
                Found::End => return None,
            }
        }
    }
}

/// Where the first terminator lies; `None` if it is not among these bytes.
pub fn terminator(bytes: &[u8]) -> Option<usize> {
    let mut entries = Entries::new(bytes);
    loop {
        match entries.found() {
            Found::Entry(end) => entries.at = end,
            Found::Terminator => return Some(entries.at),
            Found::Broken | Found::End => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminators_are_passed_over_and_a_length_that_leads_out_ends_the_walk() {
        let mut bytes = vec![4, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0, 0, 0, 9];
        let mut entries = Entries::new(&bytes);
        assert_eq!(entries.by_ref().collect::<Vec<_>>(), [0..8, 12..17]);
        assert!(!entries.broken());
        assert_eq!(terminator(&bytes), Some(8));
        bytes.pop();
        let mut entries = Entries::new(&bytes);
        assert!(entries.by_ref().eq(std::iter::once(0..8)));
        assert!(entries.broken());
    }

    #[test]
    fn the_64_bit_form_is_understood_and_reserved_lengths_are_not() {
        let mut bytes = vec![0xff; 4];
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend([5, 6]);
        assert!(Entries::new(&bytes).eq(std::iter::once(0..14)));
        bytes[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Entries::new(&bytes).count(), 0);
        bytes[0] = 0xf0;
        assert_eq!(Entries::new(&bytes).count(), 0);
        assert_eq!(terminator(&[]), None);
    }
}
