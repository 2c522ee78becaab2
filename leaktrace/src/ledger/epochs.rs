//! Decides which epochs share a cell of a row. New epochs get a cell of their own; old ones are merged with their
//! neighbours, so that a range is never wider than half its age. With 31 ranges that covers any uptime.
//!
//! Merging is a change of the class table: the boundary between two ranges is left out and the cell of one of
//! them is no longer used. Its amounts have to be moved once no program can be using the old table; until then
//! the cell is not given to anybody.

use std::time::Duration;

use leaktrace_common::epoch::{CELLS, ClassTable};

/// From this many ranges on old ones are merged.
const MERGE_FROM: usize = 24;
/// Never more ranges than this: one cell is being emptied, one must be free for the next epoch.
const MAX_RANGES: usize = CELLS - 2;
/// A range younger than the minimum age of survivors is at most this fraction of it, so that the boundary
/// between survivors and others stays sharp.
const MIN_AGE_FRACTION: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    first_epoch: u32,
    cell: usize,
    /// When its first epoch began, since tracing began.
    began: Duration,
}

/// Amounts that have to be moved from one cell of every row into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Not in force any more.
    pub from: usize,
    /// Stands for its epochs now.
    pub to: usize,
}

/// The ranges in force.
#[derive(Clone, Debug)]
pub struct Epochs {
    ranges: Vec<Range>,
    free_cells: Vec<usize>,
    pending: Option<Fold>,
    current: u32,
    min_age_epochs: u32,
}

impl Epochs {
    /// Epoch 0 begins now. `min_age` and `epoch` are the survivors' minimum age and the length of an epoch.
    pub fn new(min_age: Duration, epoch: Duration) -> Self {
        let epochs = min_age.as_nanos().checked_div(epoch.as_nanos()).unwrap_or(1);
        Self {
            ranges: vec![Range { first_epoch: 0, cell: 0, began: Duration::ZERO }],
            free_cells: (1..CELLS).rev().collect(),
            pending: None,
            current: 0,
            min_age_epochs: u32::try_from(epochs).unwrap_or(u32::MAX),
        }
    }

    /// Begins the next epoch. `None` while the last fold is not finished or no cell is free: the epoch goes on.
    /// Otherwise the table to publish; [`Self::pending_fold`] says what has to be moved once it is in force and
    /// every program that saw the table before has ended.
    pub fn advance(&mut self, now: Duration) -> Option<ClassTable> {
        if self.pending.is_some() {
            return None;
        }
        let cell = self.free_cells.pop()?;
        self.current = self.current.checked_add(1)?;
        self.ranges.push(Range { first_epoch: self.current, cell, began: now });
        self.merge_one();
        Some(self.table())
    }

    /// What has to be moved.
    pub fn pending_fold(&self) -> Option<Fold> {
        self.pending
    }

    /// The fold is done in every row.
    pub fn fold_finished(&mut self) {
        if let Some(fold) = self.pending.take() {
            self.free_cells.push(fold.from);
        }
    }

    /// The age bounds of every cell in force, youngest first: cell, least age, greatest age.
    pub fn ages(&self, now: Duration) -> Vec<(usize, Duration, Duration)> {
        let ended = |index: usize| self.ranges.get(index + 1).map_or(now, |next| next.began);
        let mut ages: Vec<_> = self
            .ranges
            .iter()
            .enumerate()
            .rev()
            .map(|(index, range)| {
                (range.cell, now.saturating_sub(ended(index)), now.saturating_sub(range.began))
            })
            .collect();
        // Amounts on the way from one cell to another are as old as where they go.
        if let Some(fold) = self.pending {
            let target = ages.iter().find(|(cell, ..)| *cell == fold.to).copied();
            ages.extend(target.map(|(_, least, most)| (fold.from, least, most)));
        }
        ages
    }

    /// The epoch that is running.
    pub fn current(&self) -> u32 {
        self.current
    }

    fn merge_one(&mut self) {
        if self.ranges.len() < MERGE_FROM {
            return;
        }
        let index = (0..self.ranges.len() - 2)
            .rev()
            .find(|index| self.may_merge(*index))
            .or_else(|| (self.ranges.len() > MAX_RANGES).then_some(0));
        let Some(index) = index else { return };
        let younger = self.ranges.remove(index + 1);
        if let Some(older) = self.ranges.get(index) {
            self.pending = Some(Fold { from: younger.cell, to: older.cell });
        }
    }

    /// Whether ranges `index` and `index + 1` may become one: at most half as wide as its youngest epoch is old.
    fn may_merge(&self, index: usize) -> bool {
        let (Some(older), Some(after)) = (self.ranges.get(index), self.ranges.get(index + 2)) else {
            return false;
        };
        let width = after.first_epoch - older.first_epoch;
        let age = self.current - after.first_epoch + 1;
        let sharp = age >= self.min_age_epochs || width <= (self.min_age_epochs / MIN_AGE_FRACTION).max(1);
        width.saturating_mul(2) <= age && sharp
    }

    fn table(&self) -> ClassTable {
        let mut table = ClassTable::new();
        table.current_epoch = self.current;
        table.len = u32::try_from(self.ranges.len()).unwrap_or(1);
        for ((range, start), cell) in self.ranges.iter().zip(&mut table.starts).zip(&mut table.cells) {
            *start = range.first_epoch;
            *cell = u32::try_from(range.cell).unwrap_or(0);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn run(epochs: u32, min_age: u32) -> (Epochs, ClassTable) {
        let mut state = Epochs::new(SECOND * min_age, SECOND);
        let mut table = ClassTable::new();
        for number in 1..=epochs {
            table = state.advance(SECOND * number).expect("a cell is free");
            state.fold_finished();
        }
        (state, table)
    }

    #[test]
    fn there_is_always_a_cell_for_the_next_epoch() {
        for epochs in [1, 22, 23, 24, 100, 5_000] {
            let (state, table) = run(epochs, 1);
            assert!(table.len as usize <= MAX_RANGES, "{epochs} epochs: {} ranges", table.len);
            assert_eq!(state.current(), epochs);
        }
    }

    #[test]
    fn a_million_epochs_need_no_more_ranges() {
        let (_, table) = run(1_000_000, 1);
        assert!(table.len as usize <= MAX_RANGES);
    }

    #[test]
    fn the_two_youngest_epochs_never_share_a_cell() {
        let (_, table) = run(1_000, 1);
        let current = table.cell_of(1_000);
        assert_ne!(current, table.cell_of(999));
        assert_ne!(table.cell_of(999), table.cell_of(998));
    }

    #[test]
    fn blocks_keep_their_cell_sum_through_every_fold() {
        // A block born in each epoch; cells move as the folds say. The table must lead each block to a cell that
        // holds it.
        let mut state = Epochs::new(SECOND, SECOND);
        let mut cells = [0i64; CELLS];
        cells[0] = 1;
        for number in 1..=3_000u32 {
            let table = state.advance(SECOND * number).unwrap();
            if let Some(fold) = state.pending_fold() {
                cells[fold.to] += std::mem::take(&mut cells[fold.from]);
                state.fold_finished();
            }
            cells[table.cell_of(number)] += 1;
            let mut counted = [0i64; CELLS];
            (0..=number).for_each(|epoch| counted[table.cell_of(epoch)] += 1);
            assert_eq!(cells, counted, "after epoch {number}");
        }
    }

    #[test]
    fn an_unfinished_fold_holds_the_next_epoch_back() {
        let mut state = Epochs::new(SECOND, SECOND);
        let mut number = 0;
        while state.pending_fold().is_none() {
            number += 1;
            state.advance(SECOND * number).unwrap();
        }
        assert_eq!(state.advance(SECOND * (number + 1)), None);
        state.fold_finished();
        assert!(state.advance(SECOND * (number + 2)).is_some());
    }

    #[test]
    fn the_boundary_of_survivors_stays_sharp() {
        let (state, _) = run(2_000, 80);
        let now = SECOND * 2_000;
        let straddling =
            state.ages(now).into_iter().find(|(_, least, most)| *least < SECOND * 80 && *most > SECOND * 80);
        let (_, least, most) = straddling.expect("a range straddles the minimum age");
        assert!(most - least <= SECOND * 12, "{least:?}..{most:?}");
    }
}
