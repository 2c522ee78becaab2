//! Opening epochs and folding old ones. The order is what makes it exact: publish the table, wait until every
//! program that saw the one before has ended, move the amounts, give the cell free.

use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    kernel::{Kernel, wait_for_running_programs},
    ledger::Epochs,
};

/// The shortest epoch: it must be longer than the grace period that closes it, and each costs a pass over all rows where two are merged.
pub const SHORTEST_EPOCH: Duration = Duration::from_millis(100);

/// The epochs, and the wait that is under way.
pub struct EpochKeeper {
    /// Which epochs share a cell.
    pub epochs: Epochs,
    /// How long an epoch is.
    length: Duration,
    waiting: Option<JoinHandle<()>>,
    rules_off: u64,
}

impl EpochKeeper {
    /// Epoch 0 begins now.
    pub fn new(min_age: Duration, interval: Duration, rules_off: u64) -> Self {
        let length = length(min_age, interval);
        Self { epochs: Epochs::new(min_age, length), length, waiting: None, rules_off }
    }

    /// How long epochs are if they do not end with reports.
    pub fn length_of_its_own(&self, interval: Duration) -> Option<Duration> {
        (self.length < interval).then_some(self.length)
    }

    /// Begins the next epoch, unless the last table is not settled yet: then the epoch goes on.
    pub fn advance(&mut self, kernel: &Kernel, now: Duration) {
        self.settle_if_ready(kernel);
        if self.waiting.is_some() {
            return;
        }
        if let Some(table) = self.epochs.advance(now) {
            kernel.control.publish(&table);
            if self.rules_off & leaktrace_common::rule::GRACE_PERIOD != 0 {
                self.fold(kernel);
                return;
            }
            let rules_off = self.rules_off;
            // Also without a fold: the table that is not in force may only be rewritten once nobody reads it.
            self.waiting = Some(spawn_blocking(move || wait_for_running_programs(rules_off)));
        }
    }

    /// Moves amounts if the wait is over.
    pub fn settle_if_ready(&mut self, kernel: &Kernel) {
        if self.waiting.as_ref().is_some_and(JoinHandle::is_finished) {
            self.waiting = None;
            self.fold(kernel);
        }
    }

    /// Waits for the wait, then moves amounts.
    pub async fn settle(&mut self, kernel: &Kernel) {
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.await;
            self.fold(kernel);
        }
    }

    fn fold(&mut self, kernel: &Kernel) {
        if let Some(fold) = self.epochs.pending_fold() {
            let used = kernel.rows_in_use();
            for index in 0..used {
                kernel.rows.fold_cell(index, fold.from, fold.to);
            }
            self.epochs.fold_finished();
        }
    }
}

/// Epochs end with reports, unless survivors are to be told from others before the second of these: then each is as long as the
/// minimum age.
fn length(min_age: Duration, interval: Duration) -> Duration {
    if min_age.is_zero() { interval } else { min_age.max(SHORTEST_EPOCH).min(interval) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_enough_is_known_before_the_first_report() {
        let seconds = Duration::from_secs;
        assert_eq!(length(seconds(2), seconds(60)), seconds(2));
        assert_eq!(length(seconds(60), seconds(10)), seconds(10));
        assert_eq!(length(seconds(10), seconds(10)), seconds(10));
        assert_eq!(length(Duration::ZERO, seconds(10)), seconds(10), "everything survives that");
        assert_eq!(length(Duration::from_millis(1), seconds(10)), SHORTEST_EPOCH);
        let keeper = EpochKeeper::new(seconds(2), seconds(60), 0);
        assert_eq!(keeper.length_of_its_own(seconds(60)), Some(seconds(2)));
    }
}
