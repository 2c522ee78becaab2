//! Unwind tables: what the daemon makes of an object's `.eh_frame`, and how a walk uses it.
//!
//! A *row* says from which address on which *rule* holds. Rows are sorted and cut into *pages* of 64 KiB of code, so
//! that an address needs 16 bits and a row 32: `low 16 bits of the address << 16 | number of the rule`. The first row of a page
//! begins at its first byte, so every address has a rule; [`Rule::NONE`] where the object says nothing. Pages belong to
//! an object and are shared by every process that maps it; the list of a process's *code mappings* leads to them.

mod rule;
mod x86_64;

pub use rule::{Cfa, Rule, Saved};
pub use x86_64::{ADDRESS_LIMIT, Reader, Registers, step};

/// A page covers `1 << PAGE_SHIFT` bytes of code.
pub const PAGE_SHIFT: u32 = 16;

/// Rows in one element of UNWIND_ROWS: a cache line.
pub const LINE_ROWS: usize = 16;

/// Most distinct rules: a row has 16 bits for its number.
pub const MAX_RULES: usize = 1 << 16;

/// Most code mappings of one process; the search takes one step for each doubling.
pub const MAX_CODE_MAPPINGS: u32 = 1 << 16;

/// Elements of UNWIND_CACHE, a power of two.
pub const CACHE_ENTRIES: u32 = 1 << 16;

/// Rule numbers that every table shares.
pub mod rule_number {
    /// [`super::Rule::NONE`].
    pub const NONE: u16 = 0;
    /// [`super::Rule::FRAME_POINTER`].
    pub const FRAME_POINTER: u16 = 1;
    /// [`super::Rule::UNSUPPORTED`]; also stands for rules that came after the table of rules was full.
    pub const UNSUPPORTED: u16 = 2;
}

/// Set in a frame whose address is the very instruction that was interrupted (by a signal), not a return address.
pub const FRAME_EXACT: u64 = 1 << 63;

/// One element of UNWIND_ROWS.
pub type RowLine = [u32; LINE_ROWS];

/// A row: low 16 bits of the address at which it begins, and the number of its rule.
pub const fn row(low: u16, rule: u16) -> u32 {
    (low as u32) << 16 | rule as u32
}

/// The rows of 64 KiB of code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Index of its first row, counted in rows over all of UNWIND_ROWS.
    pub first: u32,
    /// How many rows, at least 1.
    pub count: u32,
}

/// A block covers `1 << BLOCK_SHIFT` bytes of a page: some twenty rows of real code.
pub const BLOCK_SHIFT: u32 = 10;

/// Blocks of a page.
pub const BLOCKS: usize = 1 << (PAGE_SHIFT - BLOCK_SHIFT);

/// UNWIND_PAGES value: a page, and where to begin to search in it. A search in a block looks at one or two cache lines of
/// rows, one in a whole page at seven.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedPage {
    /// Its rows, counted over all of UNWIND_ROWS.
    pub page: Page,
    /// For each block the number, counted from the page's first row, of the row that holds at the block's first byte; then
    /// that of the page's last row, and padding.
    pub blocks: [u16; BLOCKS + 4],
}

impl IndexedPage {
    /// Indexes a page whose rows are `rows` and will lie from row number `first` on.
    pub fn new(first: u32, rows: &[u32]) -> Self {
        let mut blocks = [0; BLOCKS + 4];
        for (block, slot) in (0u32..).zip(&mut blocks) {
            let behind = rows.partition_point(|row| row >> 16 <= block << BLOCK_SHIFT);
            *slot = u16::try_from(behind.saturating_sub(1)).unwrap_or(u16::MAX);
        }
        Self { page: Page { first, count: u32::try_from(rows.len()).unwrap_or(0) }, blocks }
    }

    /// Which rows can hold at the address whose low 16 bits are `low`: the first, counted over all of UNWIND_ROWS, and
    /// how many.
    #[inline(always)]
    pub const fn candidates(&self, low: u32) -> (u32, u32) {
        let block = (low >> BLOCK_SHIFT) as usize % BLOCKS;
        let first = self.blocks[block] as u32;
        let next = self.blocks[block + 1] as u32 + 1;
        let behind = if next < self.page.count { next } else { self.page.count };
        (self.page.first.wrapping_add(first), behind.wrapping_sub(first))
    }
}

/// CODE value. A process's list is a [`code_kind::HEADER`] followed by its mappings, sorted by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeEntry {
    /// First address. Header: number of this list, never given twice.
    pub start: u64,
    /// First address behind it. Header: mapping generation that the list was made for.
    pub end: u64,
    /// What is taken from an address to get its position in the object's pages, which begin at 0.
    pub bias: u64,
    /// Index into UNWIND_PAGES of the object's first page.
    pub first_page: u32,
    /// How many pages the object has.
    pub page_count: u32,
    /// One of [`code_kind`].
    pub kind: u32,
    /// Header: how many mappings follow.
    pub count: u32,
}

/// Kinds of [`CodeEntry`].
pub mod code_kind {
    /// The head of a list.
    pub const HEADER: u32 = 1;
    /// Has a table.
    pub const TABLE: u32 = 2;
    /// Has none and never will: code made at run time, objects without `.eh_frame`. Frame pointers are believed.
    pub const FRAME_POINTER: u32 = 3;
    /// Its table is being built.
    pub const PENDING: u32 = 4;
    /// There was no room for its table.
    pub const NO_ROOM: u32 = 5;
    /// Its unwind information could not be read.
    pub const UNREADABLE: u32 = 6;
    /// The kernel's own, where functions with a return probe return to.
    pub const TRAMPOLINE: u32 = 7;
}

/// UNWIND_CACHE value: what a search found. Two CPUs may write one entry at a time, so half of it may be another's: the
/// tag covers the address and the list, and mixed halves do not match.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheEntry {
    /// The address looked up.
    pub address: u64,
    /// `hash of address and list << 16 | rule number`.
    pub tag: u64,
}

/// Hash over an address and the number of the list it was looked up in. The low bits choose the entry, the high 48
/// are the tag.
#[inline(always)]
pub const fn cache_hash(address: u64, list: u64) -> u64 {
    let mixed = (address ^ list.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// A search for the last of some sorted things that does not begin behind a point. One step at a time: the kernel
/// side's verifier wants to look at a step once, not at a loop of them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bisection {
    /// Everything below begins at or before the point.
    low: u32,
    /// Everything from here on begins behind it.
    high: u32,
    first: u32,
}

/// Steps that any [`Bisection`] of up to 2^17 things is done in.
pub const BISECTION_STEPS: u32 = 18;

impl Bisection {
    /// Over `count` things from index `first` on.
    #[inline(always)]
    pub const fn new(first: u32, count: u32) -> Self {
        Self { low: first, high: first.wrapping_add(count), first }
    }

    /// Which one to look at next; `None` when the search is over.
    #[inline(always)]
    pub const fn middle(&self) -> Option<u32> {
        if self.low < self.high { Some(self.low + ((self.high - self.low) >> 1)) } else { None }
    }

    /// Takes in whether the one in the middle begins behind the point.
    #[inline(always)]
    pub const fn narrow(&mut self, middle: u32, begins_behind: bool) {
        if begins_behind {
            self.high = middle;
        } else {
            self.low = middle.wrapping_add(1);
        }
    }

    /// What was found, once the search is over; `None` if everything begins behind the point.
    #[inline(always)]
    pub const fn found(&self) -> Option<u32> {
        if self.low == self.first { None } else { Some(self.low.wrapping_sub(1)) }
    }
}

/// The whole search. `begins_behind` says whether the thing at an index begins behind the point; it returns `None`
/// where it cannot say, and the search fails.
pub fn last_not_behind(first: u32, count: u32, begins_behind: impl Fn(u32) -> Option<bool>) -> Option<u32> {
    let mut search = Bisection::new(first, count);
    while let Some(middle) = search.middle() {
        search.narrow(middle, begins_behind(middle)?);
    }
    search.found()
}

const _: () = {
    assert!(size_of::<Page>() == 8);
    assert!(size_of::<IndexedPage>() == 144);
    assert!(size_of::<CodeEntry>() == 40);
    assert!(size_of::<CacheEntry>() == 16);
    assert!(size_of::<Rule>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_agrees_with_counting() {
        for count in 0..40u32 {
            for point in 0..90u64 {
                let begins = |index: u32| u64::from(index - 5) * 2 + 1;
                let found = last_not_behind(5, count, |index| Some(begins(index) > point));
                let expected = (5..5 + count).rev().find(|index| begins(*index) <= point);
                assert_eq!(found, expected, "{count} things, point {point}");
            }
        }
    }

    #[test]
    fn the_index_leads_to_the_row_that_a_search_of_the_whole_page_finds() {
        let lows = [0, 1, 0x3ff, 0x400, 0x401, 0x402, 0x1000, 0x13ff, 0x8000, 0xfbff, 0xfc00, 0xffff];
        for count in 1..=lows.len() {
            let rows: Vec<u32> = lows[..count].iter().map(|low| row(*low, 7)).collect();
            let page = IndexedPage::new(100, &rows);
            for low in 0..=0xffffu32 {
                let begins_behind = |index: u32| Some(rows[index as usize - 100] >> 16 > low);
                let (first, candidates) = page.candidates(low);
                let found = last_not_behind(first, candidates, begins_behind);
                assert_eq!(
                    found,
                    last_not_behind(100, count as u32, begins_behind),
                    "{count} rows, {low:#x}"
                );
            }
        }
    }

    #[test]
    fn a_cache_tag_depends_on_both_address_and_list() {
        let tag = |address, list| cache_hash(address, list) >> 16;
        assert_ne!(tag(0x7f00_1234_5678, 1), tag(0x7f00_1234_5678, 2));
        assert_ne!(tag(0x7f00_1234_5678, 1), tag(0x7f00_1234_5679, 1));
    }
}
