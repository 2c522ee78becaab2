//! The sites of all processes: what their rows say, what rows that were recycled said, and how survivors develop.

use std::{collections::HashMap, time::Duration};

use leaktrace_common::{
    epoch::CELLS,
    record::{Cell, Row, SiteKey},
};

use super::{Epochs, GrowthTracker};
use crate::report::model::{AgeClass, Amount, Change};

/// Age bounds of the cells in force, computed once per report.
pub struct Ages {
    bounds: Vec<(usize, Duration, Duration)>,
    min_age: Duration,
}

impl Ages {
    /// The cells in force at `now`; survivors are at least `min_age` old.
    pub fn new(epochs: &Epochs, now: Duration, min_age: Duration) -> Self {
        Self { bounds: epochs.ages(now), min_age }
    }

    /// Live blocks by age, youngest first; empty classes are left out.
    pub fn classes(&self, cells: &[Cell; CELLS]) -> Vec<AgeClass> {
        self.bounds
            .iter()
            .filter_map(|(cell, least, most)| {
                let live = amount(cells.get(*cell)?);
                (live != Amount::default()).then_some(AgeClass {
                    youngest_s: least.as_secs_f64(),
                    oldest_s: most.as_secs_f64(),
                    live,
                })
            })
            .collect()
    }

    /// Blocks that are certainly at least the minimum age old.
    pub fn survivors(&self, cells: &[Cell; CELLS]) -> Amount {
        let old = self.bounds.iter().filter(|(_, least, _)| *least >= self.min_age);
        sum(old.filter_map(|(cell, ..)| cells.get(*cell)))
    }

    /// All blocks, of whatever age. Sums every cell, also one that is just being emptied.
    pub fn live(cells: &[Cell; CELLS]) -> Amount {
        sum(cells.iter())
    }
}

/// Sums are taken signed and cut at zero last: a cell may be negative for the moment between an addition to one
/// and a subtraction from another.
fn sum<'a>(cells: impl Iterator<Item = &'a Cell>) -> Amount {
    let total = cells.fold(Cell::default(), |sum, cell| Cell {
        bytes: sum.bytes.wrapping_add(cell.bytes),
        blocks: sum.blocks.wrapping_add(cell.blocks),
    });
    amount(&total)
}

fn amount(cell: &Cell) -> Amount {
    Amount { bytes: cell.bytes.max(0).unsigned_abs(), blocks: cell.blocks.max(0).unsigned_abs() }
}

/// One site of one process image.
#[derive(Clone, Debug, Default)]
pub struct SiteState {
    /// Its cells at the last reading.
    pub cells: Option<Box<[Cell; CELLS]>>,
    /// Live blocks in the pools of CPython's small-object allocator at the last reading (`Row::small_blocks`); may be
    /// negative for a moment.
    pub small_blocks: i64,
    /// Ever allocated, the totals of recycled rows included.
    pub allocated: Amount,
    /// Survivors at the last report.
    pub survivors: Amount,
    /// Change of survivors between the last two reports.
    pub change: Change,
    /// Readings of survivors' bytes.
    pub growth: GrowthTracker,
    /// Totals of rows of this site that were recycled.
    taken_over: Amount,
    /// Totals of rows in use, while they are being read.
    in_rows: Amount,
}

/// All sites, by process image.
#[derive(Debug)]
pub struct Ledger {
    processes: HashMap<u32, HashMap<SiteKey, SiteState>>,
    cap: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { processes: HashMap::new(), cap: MAX_SITES }
    }
}

/// Sites kept, some 1 KiB each. Those whose rows were recycled hold nothing but what they once allocated; past the cap
/// that goes to the process as a whole.
const MAX_SITES: usize = 1 << 18;

impl Ledger {
    /// Begins a reading: forgets what rows said before.
    pub fn begin(&mut self) {
        for site in self.processes.values_mut().flat_map(HashMap::values_mut) {
            site.cells = None;
            site.small_blocks = 0;
            site.in_rows = Amount::default();
        }
    }

    /// Takes in one row. Two rows of one site (which can happen for a moment) add up.
    pub fn read_row(&mut self, row: &Row) {
        let site = self.site(key_of(row));
        site.in_rows.bytes = site.in_rows.bytes.wrapping_add(row.total_bytes);
        site.in_rows.blocks = site.in_rows.blocks.wrapping_add(row.total_blocks);
        site.small_blocks = site.small_blocks.wrapping_add(row.small_blocks);
        match &mut site.cells {
            None => site.cells = Some(Box::new(row.cells)),
            Some(cells) => cells.iter_mut().zip(&row.cells).for_each(|(sum, cell)| {
                sum.bytes = sum.bytes.wrapping_add(cell.bytes);
                sum.blocks = sum.blocks.wrapping_add(cell.blocks);
            }),
        }
    }

    /// Ends a reading made for a report: survivors, their change and growth.
    pub fn finish(&mut self, ages: &Ages, now: Duration) {
        self.forget_idle_sites();
        for site in self.processes.values_mut().flat_map(HashMap::values_mut) {
            site.allocated = Amount {
                bytes: site.taken_over.bytes.wrapping_add(site.in_rows.bytes),
                blocks: site.taken_over.blocks.wrapping_add(site.in_rows.blocks),
            };
            let survivors = site.cells.as_ref().map(|cells| ages.survivors(cells)).unwrap_or_default();
            site.set_survivors(survivors, now);
        }
    }

    /// Everything that one process image has ever allocated, as of the last reading.
    pub fn allocated(&self, serial: u32) -> Amount {
        let sites = self.of_process(serial).map(|(_, site)| site.taken_over.plus(site.in_rows));
        sites.fold(Amount::default(), Amount::plus)
    }

    /// Keeps the totals of a row that is about to be recycled.
    pub fn take_over(&mut self, row: &Row) {
        let site = self.site(key_of(row));
        site.taken_over.bytes = site.taken_over.bytes.wrapping_add(row.total_bytes);
        site.taken_over.blocks = site.taken_over.blocks.wrapping_add(row.total_blocks);
    }

    /// Makes room: what sites without live blocks have ever allocated is kept in one sum for each process.
    fn forget_idle_sites(&mut self) {
        if self.processes.values().map(HashMap::len).sum::<usize>() <= self.cap {
            return;
        }
        for (serial, sites) in &mut self.processes {
            let nowhere = SiteKey { stack_id: 0, serial: *serial, domain: 0 };
            let mut kept = sites.remove(&nowhere).unwrap_or_default();
            let idle = sites.extract_if(|_, site| site.cells.is_none());
            for (_, site) in idle {
                kept.taken_over = kept.taken_over.plus(site.taken_over);
            }
            sites.insert(nowhere, kept);
        }
    }

    fn site(&mut self, key: SiteKey) -> &mut SiteState {
        self.processes.entry(key.serial).or_default().entry(key).or_default()
    }

    /// Every site of one process image.
    pub fn of_process(&self, serial: u32) -> impl Iterator<Item = (&SiteKey, &SiteState)> {
        self.processes.get(&serial).into_iter().flatten()
    }

    /// Live blocks of one process image in the pools of CPython's small-object allocator.
    pub fn small_blocks(&self, serial: u32) -> u64 {
        let sum = self.of_process(serial).fold(0i64, |sum, (_, site)| sum.wrapping_add(site.small_blocks));
        sum.max(0).unsigned_abs()
    }

    /// Live blocks of one allocator of a process image.
    pub fn live_blocks(&self, serial: u32, domain: u32) -> u64 {
        let sites = self.of_process(serial).filter(|(key, _)| key.domain == domain);
        sites.filter_map(|(_, site)| site.cells.as_ref()).map(|cells| Ages::live(cells).blocks).sum()
    }

    /// One site.
    pub fn get(&self, key: &SiteKey) -> Option<&SiteState> {
        self.processes.get(&key.serial)?.get(key)
    }

    /// Forgets a process image.
    pub fn forget(&mut self, serial: u32) {
        self.processes.remove(&serial);
    }
}

impl SiteState {
    /// Takes survivors as of `now` and what follows from them.
    pub fn set_survivors(&mut self, survivors: Amount, now: Duration) {
        self.change = change(self.survivors, survivors);
        self.survivors = survivors;
        self.growth.record(now, survivors.bytes);
    }
}

fn key_of(row: &Row) -> SiteKey {
    SiteKey { stack_id: row.stack_id, serial: row.serial, domain: row.domain }
}

/// `after - before`, for amounts that fit in an i64.
pub(crate) fn change(before: Amount, after: Amount) -> Change {
    let difference =
        |before: u64, after: u64| i64::try_from(i128::from(after) - i128::from(before)).unwrap_or(i64::MAX);
    Change { bytes: difference(before.bytes, after.bytes), blocks: difference(before.blocks, after.blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stack_id: u64, cell: usize, bytes: i64) -> Row {
        let mut row = Row {
            stack_id,
            serial: 1,
            domain: 0,
            state: 1,
            sent: 1,
            total_bytes: bytes.unsigned_abs(),
            total_blocks: 1,
            small_blocks: 2,
            cells: [Cell::default(); CELLS],
        };
        row.cells[cell] = Cell { bytes, blocks: 1 };
        row
    }

    #[test]
    fn past_the_cap_idle_sites_become_one_sum() {
        let second = Duration::from_secs(1);
        let epochs = Epochs::new(second, second);
        let ages = Ages::new(&epochs, second, second);
        let mut ledger = Ledger { cap: 4, ..Ledger::default() };
        (1..=5).for_each(|stack_id| ledger.take_over(&row(stack_id, 0, 100)));
        ledger.begin();
        ledger.read_row(&row(5, 0, 50));
        ledger.finish(&ages, second);
        let allocated =
            |ledger: &Ledger| ledger.of_process(1).map(|(_, site)| site.allocated.bytes).sum::<u64>();
        assert_eq!((ledger.of_process(1).count(), allocated(&ledger)), (2, 550));
        let key = |stack_id| SiteKey { stack_id, serial: 1, domain: 0 };
        assert_eq!(ledger.get(&key(5)).map(|site| site.allocated.bytes), Some(150));
        assert_eq!(ledger.get(&key(4)).map(|site| site.allocated.bytes), None);
    }

    #[test]
    fn only_blocks_of_closed_epochs_survive() {
        let second = Duration::from_secs(1);
        let mut epochs = Epochs::new(second, second);
        epochs.advance(second).unwrap();
        let young = epochs.ages(second)[0].0;
        let ages = Ages::new(&epochs, second * 2, second);
        let mut ledger = Ledger::default();
        ledger.begin();
        ledger.read_row(&row(7, young, 100));
        ledger.read_row(&row(8, 0, 50));
        ledger.finish(&ages, second * 2);
        let survivors =
            |id| ledger.of_process(1).find(|(key, _)| key.stack_id == id).unwrap().1.survivors.bytes;
        assert_eq!(survivors(7), 0);
        assert_eq!(survivors(8), 50);
    }

    #[test]
    fn small_blocks_are_those_of_the_last_reading() {
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            ledger.begin();
            ledger.read_row(&row(7, 0, 100));
            ledger.read_row(&row(8, 0, 50));
        }
        assert_eq!((ledger.small_blocks(1), ledger.small_blocks(2)), (4, 0));
    }

    #[test]
    fn a_recycled_row_keeps_its_totals() {
        let second = Duration::from_secs(1);
        let ages = Ages::new(&Epochs::new(second, second), second, second);
        let mut ledger = Ledger::default();
        ledger.take_over(&row(7, 0, 100));
        ledger.begin();
        ledger.read_row(&row(7, 0, 11));
        ledger.finish(&ages, second);
        let (_, site) = ledger.of_process(1).next().unwrap();
        assert_eq!(site.allocated, Amount { bytes: 111, blocks: 2 });
        assert_eq!(site.survivors_change(), 0);
    }

    impl SiteState {
        fn survivors_change(&self) -> i64 {
            self.change.bytes
        }
    }
}
