//! The unwind table of one object: sorted rows, cut into pages of 64 KiB, and the distinct rules they point to.

use leaktrace_common::unwind::{IndexedPage, PAGE_SHIFT, Page, Rule, last_not_behind};

use crate::object::address::VirtualOffset;

/// See the module. Rows are as in [`leaktrace_common::unwind::row`], but their rule numbers index [`Self::rules`], and
/// [`Page::first`] counts from the beginning of [`Self::rows`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Where page 0 begins in the object's own addresses: a multiple of 64 KiB.
    pub base: VirtualOffset,
    /// By position: `(address - base) >> 16`. Each has at least one row, the first of which begins at its first byte.
    pub pages: Vec<Page>,
    /// All rows, page after page, sorted within each.
    pub rows: Vec<u32>,
    /// Distinct rules; number 0 is [`Rule::NONE`].
    pub rules: Vec<Rule>,
    /// How it came about.
    pub statistics: Statistics,
}

/// What was read, and what was left out, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of call frame information.
    pub frame_bytes: u64,
    /// Functions described (frame description entries).
    pub functions: u64,
    /// Functions left out because their description is malformed.
    pub malformed: u64,
    /// Rows whose rule the table cannot express.
    pub unsupported: u64,
    /// Functions left out because a cap was reached.
    pub beyond_caps: u64,
}

impl Table {
    /// The rule for an address, as the kernel side finds it; [`Rule::NONE`] outside of the table.
    pub fn rule_at(&self, address: VirtualOffset) -> Rule {
        self.find(address).unwrap_or(Rule::NONE)
    }

    fn find(&self, address: VirtualOffset) -> Option<Rule> {
        let inside = address.offset_from(self.base)?;
        let page = self.pages.get(usize::try_from(inside >> PAGE_SHIFT).ok()?)?;
        let low = inside as u32 & 0xffff;
        let row = |index: u32| self.rows.get(index as usize).copied();
        let found = last_not_behind(page.first, page.count, |index| row(index).map(|row| row >> 16 > low))?;
        self.rules.get(row(found)? as usize & 0xffff).copied()
    }

    /// Bytes that it takes in the kernel side's memory, the rules aside, which objects share.
    pub fn bytes(&self) -> u64 {
        (size_of_val(self.rows.as_slice()) + self.pages.len() * size_of::<IndexedPage>()) as u64
    }
}
