//! Giving rows back. A row may go when its site has had nothing live for a while, or its process is gone. Calls in
//! flight may still remember it: its identity is taken away first, so that they look it up again, then every
//! program that might have seen the old identity is waited for, and only a row that is still empty then is cleared.

use std::collections::{HashMap, HashSet};

use leaktrace_common::record::{Cell, OVERFLOW_ROW, Row, SiteKey, row_state};
use tokio::task::{JoinHandle, spawn_blocking};

use super::retired::Retired;
use crate::{
    kernel::{Kernel, KernelError, wait_for_running_programs},
    ledger::{Ages, Ledger},
    report::model::Amount,
};

/// Rows of running processes handled at a time.
const BATCH: usize = 1024;
/// Rows of processes that have gone handled at a time: a storm of them leaves many.
const GONE_BATCH: usize = 16 * 1024;
/// Rows of running processes are only recycled when more than this share of the table is in use.
const PRESSURE: f64 = 0.5;
/// How often a row must have been found idle before it goes: at two reports.
const IDLE_READINGS: u8 = 2;

/// Rows on their way back.
#[derive(Default)]
pub struct Recycler {
    idle: HashMap<u32, (u64, u8)>,
    leaving: Vec<(u32, Row)>,
    waiting: Option<JoinHandle<()>>,
    free: usize,
}

impl Recycler {
    /// How many rows are free again and waiting to be used.
    pub fn free_rows(&self) -> usize {
        self.free
    }

    /// The row as it was, if it is on its way back and has lost its identity for now.
    pub fn identity_of(&self, index: u32) -> Option<u64> {
        self.leaving.iter().find(|(leaving, _)| *leaving == index).map(|(_, row)| row.stack_id)
    }

    /// Looks at the rows once per report and sends a batch on its way. `retired` says which serials are gone for good.
    pub fn begin(
        &mut self,
        kernel: &mut Kernel,
        retired: &mut Retired,
        keep: &HashSet<(u32, u64)>,
        rules_off: u64,
    ) {
        if self.waiting.is_some() || !self.leaving.is_empty() {
            return;
        }
        let used = kernel.rows_in_use();
        let pressed = f64::from(used) > f64::from(kernel.rows.capacity()) * PRESSURE;
        let mut idle = HashMap::new();
        let mut with_rows = HashSet::new();
        for index in OVERFLOW_ROW + 1..used {
            let Some(row) = kernel.rows.read(index) else { continue };
            if row.state != row_state::USED || row.stack_id == 0 {
                continue;
            }
            let gone = retired.contains(row.serial);
            if gone {
                with_rows.insert(row.serial);
            }
            let empty =
                Ages::live(&row.cells) == Amount::default() && !keep.contains(&(row.serial, row.stack_id));
            let may_go = gone || (pressed && empty);
            if !may_go {
                continue;
            }
            let seen = match self.idle.get(&index) {
                Some((total, readings)) if *total == row.total_blocks => readings + 1,
                _ => 1,
            };
            let batch = if gone { GONE_BATCH } else { BATCH };
            if (gone || seen > IDLE_READINGS) && self.leaving.len() < batch {
                self.leaving.push((index, row));
            } else {
                idle.insert(index, (row.total_blocks, seen));
            }
        }
        self.idle = idle;
        retired.have_rows(&with_rows);
        if self.leaving.is_empty() {
            return;
        }
        for (index, row) in &self.leaving {
            kernel.rows.set_stack_id(*index, 0);
            kernel.remove_site(&key_of(row));
        }
        self.waiting = Some(spawn_blocking(move || wait_for_running_programs(rules_off)));
    }

    /// Finishes a batch whose wait is over.
    ///
    /// # Errors
    /// If a row could not be handed back.
    pub fn finish_if_ready(
        &mut self,
        kernel: &mut Kernel,
        ledger: &mut Ledger,
        retired: &Retired,
    ) -> Result<(), KernelError> {
        if !self.waiting.as_ref().is_some_and(JoinHandle::is_finished) {
            return Ok(());
        }
        self.waiting = None;
        for (index, before) in std::mem::take(&mut self.leaving) {
            let Some(now) = kernel.rows.read(index) else { continue };
            if !retired.contains(before.serial) && holds_something(&now) {
                kernel.rows.set_stack_id(index, before.stack_id);
                // If another row has taken the site meanwhile, both count for it.
                kernel.restore_site(&key_of(&before), index);
                continue;
            }
            if !retired.contains(before.serial) {
                ledger.take_over(&Row { stack_id: before.stack_id, ..now });
            }
            kernel.rows.clear(index);
            kernel.give_row_back(index)?;
            self.free += 1;
        }
        Ok(())
    }
}

/// Only a row whose every cell is zero is empty.
fn holds_something(row: &Row) -> bool {
    row.cells.iter().any(|cell| *cell != Cell::default())
}

fn key_of(row: &Row) -> SiteKey {
    SiteKey { stack_id: row.stack_id, serial: row.serial, domain: row.domain }
}
