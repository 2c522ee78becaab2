//! Birth epochs and age classes. A live block remembers the epoch it was born in, for ever; a row has only
//! [`CELLS`] cells. The class table says which cell stands for which range of epochs: ranges are contiguous and
//! ascending, so the cell of an epoch is found by binary search and ranges are merged by leaving a boundary out.
//! No live block has to be touched for that, and neither rows nor tables grow with uptime.

/// Age classes per row. One cell is always being emptied, so [`CELLS`] - 1 ranges can be in force.
pub const CELLS: usize = 32;

/// Which cell takes which epochs. Ranges `i` are `starts[i] .. starts[i + 1]`; the last is open.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassTable {
    /// The epoch in which blocks are being born now; the start of the last range.
    pub current_epoch: u32,
    /// How many ranges are in force, at least 1.
    pub len: u32,
    /// First epoch of each range, ascending; `starts[0]` is 0.
    pub starts: [u32; CELLS],
    /// The cell of each range.
    pub cells: [u32; CELLS],
}

impl ClassTable {
    /// The table of a tracer that has just started: epoch 0 in cell 0.
    pub const fn new() -> Self {
        Self { current_epoch: 0, len: 1, starts: [0; CELLS], cells: [0; CELLS] }
    }

    /// The cell that counts blocks born in `epoch`. Always below [`CELLS`], whatever the table holds.
    #[inline(always)]
    pub fn cell_of(&self, epoch: u32) -> usize {
        let mut range = 0usize;
        let mut step = CELLS / 2;
        while step > 0 {
            let probe = (range + step) & (CELLS - 1);
            if probe < self.len as usize && self.starts[probe] <= epoch {
                range = probe;
            }
            step /= 2;
        }
        self.cells[range & (CELLS - 1)] as usize & (CELLS - 1)
    }
}

impl Default for ClassTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_falls_into_the_range_that_holds_it() {
        let mut table = ClassTable::new();
        table.len = 31;
        for range in 0..31u32 {
            table.starts[range as usize] = range * range;
            table.cells[range as usize] = (range + 7) % 32;
        }
        for epoch in 0..1000u32 {
            let range = (0..31u32).rev().find(|range| range * range <= epoch).unwrap();
            assert_eq!(table.cell_of(epoch), ((range + 7) % 32) as usize, "epoch {epoch}");
        }
    }

    #[test]
    fn a_forged_table_stays_inside_the_row() {
        let table =
            ClassTable { current_epoch: 9, len: u32::MAX, starts: [0; CELLS], cells: [u32::MAX; CELLS] };
        assert!(table.cell_of(u32::MAX) < CELLS);
    }
}
