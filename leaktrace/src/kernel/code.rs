//! What the kernel side's stack walks look things up in, shared through memory: unwind tables and each process's list of
//! code mappings.

use std::{
    mem::size_of,
    os::fd::AsFd,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use leaktrace_common::unwind::{CodeEntry, IndexedPage, LINE_ROWS, MAX_RULES, RowLine, Rule};
use memmap2::MmapRaw;

use super::{KernelError, shared::map_fd};

/// How many processes can have a list: elements of CODE_HEADS.
pub const CODE_SLOTS: u32 = 16_384;

/// How large the shared arrays are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeCapacity {
    /// Rows of all unwind tables, 4 bytes each.
    pub rows: u32,
    /// Pages of all unwind tables, each for 64 KiB of code, 144 bytes each.
    pub pages: u32,
    /// Code mappings of all processes and a header for each, 40 bytes each.
    pub entries: u32,
}

impl Default for CodeCapacity {
    fn default() -> Self {
        Self { rows: 8 << 20, pages: 64 << 10, entries: 128 << 10 }
    }
}

impl CodeCapacity {
    /// Elements of UNWIND_ROWS.
    pub(super) fn lines(self) -> u32 {
        self.rows.div_ceil(LINE_ROWS as u32).max(1)
    }
}

/// The arrays, mapped. Nothing that a walk can reach is overwritten: new things are written first and pointed to then,
/// and what nothing points to any more is reused after [`super::wait_for_running_programs`].
pub struct CodeMemory {
    capacity: CodeCapacity,
    rows: MmapRaw,
    pages: MmapRaw,
    rules: MmapRaw,
    entries: MmapRaw,
    heads: MmapRaw,
}

impl CodeMemory {
    pub(super) fn map(
        capacity: CodeCapacity,
        fd: impl Fn(&'static str) -> Result<std::os::fd::OwnedFd, KernelError>,
    ) -> Result<Self, KernelError> {
        let map = |name, bytes| map_fd(fd(name)?.as_fd(), bytes, name);
        Ok(Self {
            capacity,
            rows: map("UNWIND_ROWS", capacity.lines() as usize * size_of::<RowLine>())?,
            pages: map("UNWIND_PAGES", capacity.pages as usize * size_of::<IndexedPage>())?,
            rules: map("UNWIND_RULES", MAX_RULES * size_of::<Rule>())?,
            entries: map("CODE", capacity.entries as usize * size_of::<CodeEntry>())?,
            heads: map("CODE_HEADS", CODE_SLOTS as usize * size_of::<u64>())?,
        })
    }

    /// How much fits.
    pub fn capacity(&self) -> CodeCapacity {
        self.capacity
    }

    /// Writes rows from index `first` on; what does not fit is left out.
    pub fn write_rows(&mut self, first: u32, rows: &[u32]) {
        write(&self.rows, first, rows);
    }

    /// Writes pages from index `first` on; what does not fit is left out.
    pub fn write_pages(&mut self, first: u32, pages: &[IndexedPage]) {
        write(&self.pages, first, pages);
    }

    /// Writes one rule.
    pub fn write_rule(&mut self, number: u16, rule: Rule) {
        write(&self.rules, u32::from(number), &[rule]);
    }

    /// Writes code entries from index `first` on; what does not fit is left out.
    pub fn write_entries(&mut self, first: u32, entries: &[CodeEntry]) {
        write(&self.entries, first, entries);
    }

    /// Puts the list that begins at `index` into force for a slot; 0: none. Walks that are running go on with the old one.
    pub fn set_head(&mut self, slot: u32, index: u32) {
        if slot >= CODE_SLOTS {
            return;
        }
        let heads: *mut u64 = self.heads.as_mut_ptr().cast();
        // SAFETY: inside the mapping; aligned, since maps are page-aligned.
        unsafe { AtomicU64::from_ptr(heads.add(slot as usize)).store(u64::from(index), Ordering::Release) };
    }
}

/// Copies values into an array of them.
fn write<T: Copy>(memory: &MmapRaw, first: u32, values: &[T]) {
    let room = (memory.len() / size_of::<T>()).saturating_sub(first as usize);
    let count = values.len().min(room);
    let start: *mut T = memory.as_mut_ptr().cast();
    // SAFETY: `count` values fit behind `first`; `values` is our own memory and does not overlap. Walks may read
    // beside, never what is written here (see `CodeMemory`).
    unsafe { ptr::copy_nonoverlapping(values.as_ptr(), start.add(first as usize), count) };
}
