//! Where tables lie in the kernel side's memory. Objects with the same call frame information share one table, and
//! all tables share their rules, of which real programs have a few thousand.
//!
//! A table without users stays until its room is needed. A walk that began before may still be reading it then, so
//! giving room back has two steps: [`Store::evict`] takes tables out of the books, and when no walk can see them any
//! more (an RCU grace period later) [`Store::reuse`] makes their ranges free.

use std::collections::{BTreeMap, HashMap};

use leaktrace_common::unwind::{IndexedPage, LINE_ROWS, Page, Rule, row, rule_number};

use super::Table;
use super::pool::{Pool, Span};
use crate::object::address::VirtualOffset;

/// Most tables, with and without users.
pub const MAX_TABLES: usize = 1 << 16;

/// What a table is made of: digest of all that its making depends on. A build ID would not do: whoever builds a
/// container image can give an object any build ID, and would thereby change other containers' stacks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableKey(pub [u8; 16]);

impl std::fmt::Display for TableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for TableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TableKey({self})")
    }
}

/// A placed table. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(u64);

/// What a code mapping needs to know of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into UNWIND_PAGES.
    pub first_page: u32,
    /// How many.
    pub page_count: u32,
    /// Where page 0 begins in the object's own addresses.
    pub base: VirtualOffset,
}

/// The kernel side's memory. Indexes are below the capacities that [`Store::new`] was told, rules aside, which have
/// [`leaktrace_common::unwind::MAX_RULES`] places. What is written may be read by walks as soon as it is published, not before.
pub trait Memory {
    /// Writes UNWIND_ROWS from row number `first` on, counted in rows.
    fn write_rows(&mut self, first: u32, rows: &[u32]);
    /// Writes UNWIND_PAGES from page number `first` on.
    fn write_pages(&mut self, first: u32, pages: &[IndexedPage]);
    /// Writes one element of UNWIND_RULES.
    fn write_rule(&mut self, number: u16, rule: Rule);
}

/// There is no room for a table. [`Store::evict`] may make some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel side's memory has no room for an unwind table of {rows} rows and {pages} pages \
     (capacity {row_capacity} rows, {page_capacity} pages)"
)]
pub struct Full {
    /// Rows that were asked for.
    pub rows: usize,
    /// Pages that were asked for.
    pub pages: usize,
    /// Rows in all.
    pub row_capacity: u32,
    /// Pages in all.
    pub page_capacity: u32,
}

/// The room of an evicted table, to be given to [`Store::reuse`] after a grace period. Dropped, it is lost.
#[derive(Debug)]
#[must_use = "room that is not handed to `Store::reuse` after a grace period is lost"]
pub struct Retired {
    key: TableKey,
    rows: Span,
    pages: Span,
}

impl Retired {
    /// The table that was here.
    pub fn key(&self) -> TableKey {
        self.key
    }
}

/// How full the store is, and what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Tables placed now.
    pub tables: u64,
    /// Of these, tables that no process maps any more.
    pub unused_tables: u64,
    /// Rows taken, those of evicted tables whose room is not free yet included.
    pub rows: u32,
    /// Rows in all.
    pub row_capacity: u32,
    /// Pages taken, as `rows`.
    pub pages: u32,
    /// Pages in all.
    pub page_capacity: u32,
    /// Bytes of the rows and pages taken.
    pub bytes: u64,
    /// Distinct rules, of at most [`leaktrace_common::unwind::MAX_RULES`].
    pub rules: u64,
    /// Rules of tables that got no number and are followed no further.
    pub rules_refused: u64,
    /// Times that a process found its object's table placed.
    pub shared: u64,
    /// Tables evicted.
    pub evicted: u64,
    /// Tables that there was no room for, and that none could be made for.
    pub refused: u64,
}

#[derive(Debug)]
struct Placed {
    key: TableKey,
    base: VirtualOffset,
    rows: Span,
    pages: Span,
    users: u32,
    had_users: bool,
    /// Orders tables without users by when they lost the last one, and is their key in `unused`.
    idle_since: u64,
}

/// See the module.
pub struct Store {
    rows: Pool,
    pages: Pool,
    rules: HashMap<Rule, u16>,
    tables: HashMap<TableId, Placed>,
    by_key: HashMap<TableKey, TableId>,
    /// Tables without users, those longest without first.
    unused: BTreeMap<u64, TableId>,
    /// Counts up: identities and times.
    clock: u64,
    counts: StoreStatistics,
}

impl Store {
    /// An empty store over `row_capacity` rows and `page_capacity` pages; writes the reserved rules.
    pub fn new(row_capacity: u32, page_capacity: u32, memory: &mut impl Memory) -> Self {
        let reserved = [(rule_number::NONE, Rule::NONE), (rule_number::FRAME_POINTER, Rule::FRAME_POINTER)];
        let reserved = reserved.into_iter().chain([(rule_number::UNSUPPORTED, Rule::UNSUPPORTED)]);
        let rules = reserved.inspect(|(number, rule)| memory.write_rule(*number, *rule));
        Self {
            rules: rules.map(|(number, rule)| (rule, number)).collect(),
            rows: Pool::new(row_capacity - row_capacity % LINE_ROWS as u32),
            pages: Pool::new(page_capacity),
            tables: HashMap::new(),
            by_key: HashMap::new(),
            unused: BTreeMap::new(),
            clock: 0,
            counts: StoreStatistics::default(),
        }
    }

    /// The table made of the same, if it is placed.
    pub fn find(&self, key: TableKey) -> Option<TableId> {
        self.by_key.get(&key).copied()
    }

    /// Writes a table to the kernel side's memory, unless it is there. It has no user yet: [`Self::acquire`] it before
    /// anything else is evicted, publish it, and no sooner will a walk read it.
    ///
    /// # Errors
    /// When there is no room. Nothing is evicted here.
    pub fn insert(
        &mut self,
        key: TableKey,
        table: &Table,
        memory: &mut impl Memory,
    ) -> Result<TableId, Full> {
        if let Some(id) = self.find(key) {
            return Ok(id);
        }
        let (rows, pages) = self.take(table).ok_or_else(|| self.full(table))?;
        self.write(table, &rows, &pages, memory);
        let id = TableId(self.tick());
        let idle_since = self.tick();
        let placed = Placed { key, base: table.base, rows, pages, users: 0, had_users: false, idle_since };
        self.tables.insert(id, placed);
        self.by_key.insert(key, id);
        self.unused.insert(idle_since, id);
        Ok(id)
    }

    /// One more process maps the object. `None` if the table has been evicted.
    pub fn acquire(&mut self, id: TableId) -> Option<Place> {
        let table = self.tables.get_mut(&id)?;
        self.counts.shared += u64::from(table.had_users);
        table.had_users = true;
        self.unused.remove(&table.idle_since);
        table.users += 1;
        Some(table.place())
    }

    /// One process less maps the object: to be called once for each [`Self::acquire`].
    pub fn release(&mut self, id: TableId) {
        let now = self.tick();
        let Some(table) = self.tables.get_mut(&id).filter(|table| table.users > 0) else { return };
        table.users -= 1;
        if table.users == 0 {
            table.idle_since = now;
            self.unused.insert(now, id);
        }
    }

    /// Where a table lies; `None` if it has been evicted.
    pub fn place(&self, id: TableId) -> Option<Place> {
        self.tables.get(&id).map(Placed::place)
    }

    /// Takes tables without users out of the books, those longest without first, so that `table` fits once they are
    /// handed to [`Self::reuse`]. Empty if it fits already, or would not fit without all of them: then they stay.
    pub fn evict(&mut self, table: &Table) -> Vec<Retired> {
        let Some(chosen) = self.choose(table) else {
            self.counts.refused += 1;
            return Vec::new();
        };
        let retired: Vec<_> = chosen.into_iter().filter_map(|id| self.retire(id)).collect();
        self.counts.evicted += retired.len() as u64;
        retired
    }

    /// Makes the room of evicted tables free. No walk may be able to see them: an RCU grace period must have passed
    /// since [`Self::evict`], and since the last list of mappings that named them was replaced.
    pub fn reuse(&mut self, retired: Vec<Retired>) {
        for table in retired {
            self.rows.give_back(table.rows);
            self.pages.give_back(table.pages);
        }
    }

    /// See [`StoreStatistics`].
    pub fn statistics(&self) -> StoreStatistics {
        let (rows, pages) = (self.rows.used(), self.pages.used());
        StoreStatistics {
            tables: self.tables.len() as u64,
            unused_tables: self.unused.len() as u64,
            rows,
            row_capacity: self.rows.capacity(),
            pages,
            page_capacity: self.pages.capacity(),
            bytes: u64::from(rows) * size_of::<u32>() as u64
                + u64::from(pages) * size_of::<IndexedPage>() as u64,
            rules: self.rules.len() as u64,
            ..self.counts
        }
    }

    /// Takes ranges for a table from both pools, or from none.
    fn take(&mut self, table: &Table) -> Option<(Span, Span)> {
        let (rows, pages) = needed(table)?;
        if self.tables.len() >= MAX_TABLES {
            return None;
        }
        let rows = self.rows.take(rows)?;
        match self.pages.take(pages) {
            Some(pages) => Some((rows, pages)),
            None => {
                self.rows.give_back(rows);
                None
            }
        }
    }

    fn full(&self, table: &Table) -> Full {
        Full {
            rows: table.rows.len(),
            pages: table.pages.len(),
            row_capacity: self.rows.capacity(),
            page_capacity: self.pages.capacity(),
        }
    }

    /// Rules first, then rows, then pages: nothing points to what is not there yet.
    fn write(&mut self, table: &Table, rows: &Span, pages: &Span, memory: &mut impl Memory) {
        let numbers: Vec<u16> = table.rules.iter().map(|rule| self.number(*rule, memory)).collect();
        let global =
            |local: u32| numbers.get(local as usize & 0xffff).copied().unwrap_or(rule_number::UNSUPPORTED);
        let moved: Vec<u32> = table.rows.iter().map(|old| row((old >> 16) as u16, global(*old))).collect();
        memory.write_rows(rows.first(), &moved);
        let moved: Vec<IndexedPage> = table.pages.iter().map(|page| moved_page(*page, table, rows)).collect();
        memory.write_pages(pages.first(), &moved);
    }

    /// The number of a rule for all tables.
    fn number(&mut self, rule: Rule, memory: &mut impl Memory) -> u16 {
        if let Some(number) = self.rules.get(&rule) {
            return *number;
        }
        // The numbers are those of a row, 16 bits: there are MAX_RULES of them.
        let Ok(number) = u16::try_from(self.rules.len()) else {
            self.counts.rules_refused += 1;
            return rule_number::UNSUPPORTED;
        };
        memory.write_rule(number, rule);
        self.rules.insert(rule, number);
        number
    }

    /// The tables that [`Self::evict`] evicts: of those longest without users, the ones that lie where `table` would go
    /// if all these were gone. Their number doubles until it fits, since each try costs as much as there are holes.
    /// `None` if it would not fit without all of them.
    fn choose(&self, table: &Table) -> Option<Vec<TableId>> {
        let needed = needed(table)?;
        let too_many = self.tables.len() >= MAX_TABLES;
        if !too_many && fits(&self.rows, &self.pages, needed) {
            return Some(Vec::new());
        }
        let idle: Vec<_> = self.unused.values().filter_map(|id| Some((*id, self.tables.get(id)?))).collect();
        let mut count = 1;
        while count < idle.len() && !self.fits_without(&idle[..count], needed) {
            count *= 2;
        }
        let oldest = idle.get(..count.min(idle.len()))?;
        let (mut rows, mut pages) = self.without(oldest);
        let (rows, pages) = (rows.take(needed.0)?, pages.take(needed.1)?);
        let in_the_way = |table: &Placed| table.rows.overlaps(&rows) || table.pages.overlaps(&pages);
        let chosen = oldest.iter().filter(|(_, table)| in_the_way(table)).map(|(id, _)| *id);
        let chosen: Vec<_> = chosen.collect();
        if chosen.is_empty() {
            // There is room enough and only too many tables.
            return oldest.first().map(|(id, _)| vec![*id]);
        }
        Some(chosen)
    }

    fn fits_without(&self, tables: &[(TableId, &Placed)], needed: (u32, u32)) -> bool {
        let (rows, pages) = self.without(tables);
        fits(&rows, &pages, needed)
    }

    /// What would be free if these tables were gone.
    fn without(&self, tables: &[(TableId, &Placed)]) -> (Pool, Pool) {
        let rows = tables.iter().map(|(_, table)| &table.rows);
        let pages = tables.iter().map(|(_, table)| &table.pages);
        (self.rows.with_free(rows), self.pages.with_free(pages))
    }

    fn retire(&mut self, id: TableId) -> Option<Retired> {
        let table = self.tables.remove(&id)?;
        self.by_key.remove(&table.key);
        self.unused.remove(&table.idle_since);
        Some(Retired { key: table.key, rows: table.rows, pages: table.pages })
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Placed {
    fn place(&self) -> Place {
        Place { first_page: self.pages.first(), page_count: self.pages.length(), base: self.base }
    }
}

/// Rows and pages that a table takes: its rows begin and end with a cache line. `None` if beyond all bounds.
fn needed(table: &Table) -> Option<(u32, u32)> {
    let rows = u32::try_from(table.rows.len()).ok()?.checked_next_multiple_of(LINE_ROWS as u32)?;
    Some((rows, u32::try_from(table.pages.len()).ok()?))
}

fn fits(rows: &Pool, pages: &Pool, needed: (u32, u32)) -> bool {
    rows.longest() >= needed.0 && pages.longest() >= needed.1
}

/// A page of a table whose rows have moved to `rows`. One that lies outside of its table becomes empty: the kernel side
/// finds no rule there, and no other table's rows.
fn moved_page(page: Page, table: &Table, rows: &Span) -> IndexedPage {
    let first = page.first as usize;
    let of_page = first.checked_add(page.count as usize).and_then(|end| table.rows.get(first..end));
    match of_page {
        Some(of_page) => IndexedPage::new(rows.first() + page.first, of_page),
        None => IndexedPage::new(0, &[]),
    }
}

#[cfg(test)]
mod tests;
