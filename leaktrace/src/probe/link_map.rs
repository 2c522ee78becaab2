//! The dynamic linker's list of loaded objects, read from the target's memory. Its order is the order in which
//! symbols are looked up. The target may be changing it, or may lie: every walk is bounded.

use std::collections::HashSet;

use thiserror::Error;

use super::view::View;
use crate::object::address::AbsoluteAddress;

/// Most objects believed.
const MAX_OBJECTS: usize = 16 * 1024;

/// `struct r_debug`: version, list, breakpoint, state.
mod r_debug {
    pub(super) const MAP: u64 = 8;
    pub(super) const BREAKPOINT: u64 = 16;
    pub(super) const STATE: u64 = 24;
}

/// `struct link_map`: bias, name, dynamic section, next.
mod entry {
    pub(super) const BIAS: usize = 0;
    pub(super) const DYNAMIC: usize = 16;
    pub(super) const NEXT: usize = 24;
    pub(super) const BYTES: usize = 32;
}

/// One loaded object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is added to the object's own addresses.
    pub bias: u64,
    /// Its dynamic section: tells which mapping, and so which file, it is. The name in the list is not used: it is
    /// relative, empty for the executable, and stale after a rename.
    pub dynamic: AbsoluteAddress,
}

/// The list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkMap {
    /// Where the linker keeps its `struct r_debug`.
    pub debug: AbsoluteAddress,
    /// The linker is not in the middle of a change.
    pub consistent: bool,
    /// The function that the linker calls around every change.
    pub breakpoint: AbsoluteAddress,
    /// In search order, the executable first.
    pub entries: Vec<Entry>,
}

/// Why the list could not be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LinkMapError {
    /// No `DT_DEBUG`.
    #[error("the executable has no place where the dynamic linker leaves its list")]
    NoEntry,
    /// The linker has not run yet.
    #[error("the dynamic linker has not filled in its list yet")]
    NotYet,
    /// Memory could not be read.
    #[error("the list leads to address {0:#x}, which cannot be read")]
    Unreadable(AbsoluteAddress),
    /// Not a list.
    #[error("the list of loaded objects does not end")]
    Endless,
}

/// Reads the list. `debug` is the address of the executable's `DT_DEBUG` entry in memory.
pub fn read(view: &dyn View, debug: AbsoluteAddress) -> Result<LinkMap, LinkMapError> {
    let value = debug.checked_add(8).ok_or(LinkMapError::Unreadable(debug))?;
    let head = AbsoluteAddress(word(view, value)?);
    if head.0 == 0 {
        return Err(LinkMapError::NotYet);
    }
    let field = |offset| head.checked_add(offset).ok_or(LinkMapError::Unreadable(head));
    let first = word(view, field(r_debug::MAP)?)?;
    let breakpoint = AbsoluteAddress(word(view, field(r_debug::BREAKPOINT)?)?);
    // A 32-bit field, the upper half is padding; 0 is RT_CONSISTENT.
    let consistent = word(view, field(r_debug::STATE)?)? & 0xffff_ffff == 0;
    match first {
        0 => Err(LinkMapError::NotYet),
        _ => {
            Ok(LinkMap { debug: head, consistent, breakpoint, entries: walk(view, AbsoluteAddress(first))? })
        }
    }
}

fn walk(view: &dyn View, first: AbsoluteAddress) -> Result<Vec<Entry>, LinkMapError> {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut at = first;
    while at.0 != 0 {
        if !seen.insert(at) || entries.len() == MAX_OBJECTS {
            return Err(LinkMapError::Endless);
        }
        let mut bytes = [0; entry::BYTES];
        if !view.read(at, &mut bytes) {
            return Err(LinkMapError::Unreadable(at));
        }
        let field = |offset: usize| {
            let bytes = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        entries.push(Entry { bias: field(entry::BIAS), dynamic: AbsoluteAddress(field(entry::DYNAMIC)) });
        at = AbsoluteAddress(field(entry::NEXT));
    }
    Ok(entries)
}

fn word(view: &dyn View, at: AbsoluteAddress) -> Result<u64, LinkMapError> {
    view.read_word(at).ok_or(LinkMapError::Unreadable(at))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use super::*;
    use crate::process::maps::Mapping;

    /// Memory made of words.
    struct Words(HashMap<u64, u64>);

    impl View for Words {
        fn read(&self, address: AbsoluteAddress, buffer: &mut [u8]) -> bool {
            buffer.chunks_exact_mut(8).zip(0_u64..).all(|(bytes, index)| {
                let at = address.checked_add(index * 8);
                let word = at.and_then(|at| self.0.get(&at.0));
                word.map(|word| bytes.copy_from_slice(&word.to_le_bytes())).is_some()
            })
        }
        fn mappings(&self) -> &[Mapping] {
            &[]
        }
        fn auxiliary(&self, _: u64) -> Option<u64> {
            None
        }
        fn executable(&self) -> PathBuf {
            PathBuf::new()
        }
        fn openable(&self, _: &Mapping) -> PathBuf {
            PathBuf::new()
        }
    }

    /// DT_DEBUG at 0x100, r_debug at 0x200, link maps from 0x1000 on; the last one leads to `last`.
    fn memory(objects: u64, last: u64, state: u64) -> Words {
        let mut words = HashMap::from([(0x100, 21), (0x108, 0x200)]);
        words.extend([(0x200, 1), (0x208, 0x1000), (0x210, 0x77), (0x218, 0xdead_0000_0000 << 16 | state)]);
        for index in 0..objects {
            let (at, next) = (0x1000 + index * 0x40, 0x1040 + index * 0x40);
            let next = if index + 1 == objects { last } else { next };
            words.extend([(at, index << 12), (at + 8, 0), (at + 16, 0x5000 + index), (at + 24, next)]);
        }
        Words(words)
    }

    #[test]
    fn the_list_is_read_in_order() {
        let list = read(&memory(3, 0, 0), AbsoluteAddress(0x100)).expect("a list");
        assert!(list.consistent);
        assert_eq!(list.breakpoint, AbsoluteAddress(0x77));
        assert_eq!(list.entries.len(), 3);
        assert_eq!(list.entries[2], Entry { bias: 0x2000, dynamic: AbsoluteAddress(0x5002) });
    }

    #[test]
    fn a_change_in_progress_is_told() {
        assert!(!read(&memory(1, 0, 1), AbsoluteAddress(0x100)).expect("a list").consistent);
    }

    #[test]
    fn a_cycle_ends() {
        assert_eq!(read(&memory(3, 0x1040, 0), AbsoluteAddress(0x100)), Err(LinkMapError::Endless));
    }

    #[test]
    fn a_list_without_end_ends() {
        let objects = MAX_OBJECTS as u64 + 1;
        assert_eq!(read(&memory(objects, 0, 0), AbsoluteAddress(0x100)), Err(LinkMapError::Endless));
    }

    #[test]
    fn a_wild_pointer_is_named() {
        let wild = AbsoluteAddress(u64::MAX);
        assert_eq!(read(&memory(2, wild.0, 0), AbsoluteAddress(0x100)), Err(LinkMapError::Unreadable(wild)));
        assert_eq!(read(&memory(2, 0, 0), wild), Err(LinkMapError::Unreadable(wild)));
    }

    #[test]
    fn before_the_linker_ran_there_is_no_list() {
        let words = Words(HashMap::from([(0x100, 21), (0x108, 0)]));
        assert_eq!(read(&words, AbsoluteAddress(0x100)), Err(LinkMapError::NotYet));
    }
}
