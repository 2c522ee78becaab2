//! What time does to the state: epochs, sweeping, losses, the end.

use std::{
    ops::Bound,
    time::{Duration, Instant},
};

use leaktrace_common::{
    counter,
    record::{OVERFLOW_ROW, Target, gate, row_state},
};
use tokio::sync::oneshot::error::TryRecvError;

use super::{Ending, entering::target, newcomers::NEWBORNS, tracer::Tracer};
use crate::{
    kernel::{LinkMode, close_together, wait_for_running_programs},
    report::aside::say,
    report::model::{Reason, Report},
    target::image::Image,
};

/// Kernel-side log lines per second.
const LOG_LINES: i64 = 20;
/// How often the scope is looked through for processes that nobody was told of.
const LOOK_THROUGH: Duration = Duration::from_secs(1);
/// Images looked after each time the house is kept.
const LOOKED_AFTER_AT_A_TIME: usize = 64;
/// Batches of the live map that one housekeeping turn sweeps.
const SWEEP_TURNS: usize = 16;

impl Tracer {
    /// How long epochs are if they do not end with reports.
    pub fn epoch_length(&self) -> Option<Duration> {
        self.keeper.length_of_its_own(self.plan.interval)
    }

    /// Begins the next epoch.
    pub fn next_epoch(&mut self) {
        let now = self.now();
        self.keeper.advance(&self.kernel, now);
    }

    /// Sends idle rows on their way.
    pub fn recycle(&mut self) {
        let keep = self
            .images
            .values()
            .flat_map(|image| image.intervals.iter().map(|(_, piece)| (image.serial, piece.stack_id)))
            .collect();
        self.recycler.begin(&mut self.kernel, &mut self.retired, &keep, self.plan.rules_off);
    }

    /// What no event announces.
    pub async fn keep_house(&mut self) {
        self.keeper.settle_if_ready(&self.kernel);
        let recycled = self.recycler.finish_if_ready(&mut self.kernel, &mut self.ledger, &self.retired);
        if let Err(error) = recycled {
            tracing::error!("{error}");
        }
        self.code.keep_house(&mut self.kernel.code);
        self.tables_made();
        self.sweep();
        self.look_after_links();
        self.watch_losses();
        self.refill_log();
        let some = self.next_images();
        self.look_after(&some);
        self.watch_main_threads();
        self.kernel.control.set_newborns(NEWBORNS);
        self.tell_of_newcomers();
        if self.scope_looked_through.elapsed() > LOOK_THROUGH {
            self.scope_looked_through = Instant::now();
            self.look_through_scope();
        }
        let waiting: Vec<u32> = self.replaced.keys().copied().collect();
        waiting.into_iter().for_each(|pid| self.try_new_image(pid));
    }

    /// The images whose turn it is. Few are looked after each time, many in turns: what is looked at takes some 50 us each.
    fn next_images(&mut self) -> Vec<u32> {
        let behind = (Bound::Excluded(self.looked_after), Bound::Unbounded);
        let next: Vec<u32> =
            self.images.range(behind).map(|(serial, _)| *serial).take(LOOKED_AFTER_AT_A_TIME).collect();
        self.looked_after =
            if next.len() < LOOKED_AFTER_AT_A_TIME { 0 } else { next.last().copied().unwrap_or(0) };
        next
    }

    /// Looks at what no event tells of images: memory figures, interpreters, silent ends.
    fn look_after(&mut self, serials: &[u32]) {
        for serial in serials {
            let Some(image) = self.images.get_mut(serial) else { continue };
            image.read_memory();
            if image.has_ended_silently() {
                self.drain();
                self.image_ended(*serial, "ended");
                continue;
            }
            self.watch_python(*serial);
            self.look_for_python(*serial, false);
        }
    }

    pub(super) fn sweep(&mut self) {
        // With the only process gone tracing ends, and the map goes with it.
        for _ in 0..SWEEP_TURNS {
            if !self.retired.wants_walk() {
                return;
            }
            let retired = &self.retired;
            match self.sweeper.turn(|serial| retired.contains(serial)) {
                Ok((removed, at_end)) => {
                    self.swept += removed;
                    self.retired.walked(at_end);
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    return;
                }
            }
        }
    }

    pub(super) fn watch_losses(&mut self) {
        let Ok(counters) = self.kernel.counters() else { return };
        let now = self.now();
        if counters[counter::LOST_LIVE_FULL] > 0 {
            self.full_since.get_or_insert(now);
        }
        if counters[counter::ROWS_FULL] > 0 {
            self.rows_full_since.get_or_insert(now);
        }
        if counters[counter::EVENT_SEND_FAILED] > self.events_lost {
            self.events_lost = counters[counter::EVENT_SEND_FAILED];
            // An unmapping may be among what was lost: believe the kernel's own list instead.
            for image in self.images.values_mut().filter(|image| image.ended.is_none()) {
                image.read_mappings();
                let ranges = image.anonymous_ranges();
                image.intervals.settle();
                image.intervals.intersect(&ranges);
            }
        }
    }

    /// A perf link compares the memory of the thread that it was opened on, which a thread gives up when it ends: from
    /// then on the kernel takes the probes out wherever one is hit. Multi links compare the process, shared ones nothing.
    pub(super) fn watch_main_threads(&mut self) {
        if self.kernel.link_mode() == LinkMode::Multi {
            return;
        }
        let now = self.now().as_secs();
        let own_probes = |image: &&mut Image| !image.lost_main_thread && !image.shares_probes();
        let seeing = self.images.values_mut().filter(own_probes);
        for image in seeing.filter(|image| image.is_without_main_thread()) {
            image.lost_main_thread = true;
            image.blind.push(format!("process {} since {now} s: its main thread has ended", image.pid));
            say(format_args!(
                "process {}: its main thread has ended, and with it the probes: before Linux 6.10 they \
                 depend on that thread",
                image.pid
            ));
        }
    }

    pub(super) fn refill_log(&mut self) {
        if self.logger.is_some() && self.log_refilled.elapsed() >= Duration::from_secs(1) {
            self.log_refilled = Instant::now();
            self.kernel.control.set_log_budget(LOG_LINES);
        }
    }

    /// Reports of process images that ended since the last call.
    pub fn take_ended_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.ended_reports)
    }

    /// Why tracing ends, if there is nothing left to trace.
    pub fn all_gone(&mut self) -> Option<Ending> {
        let alive = self.images.values().any(|image| image.ended.is_none());
        if alive || !self.replaced.is_empty() || !self.newcomers.is_empty() {
            return None;
        }
        let how = self.scope.has_ended()?;
        if self.scope.is_open() {
            return Some(Ending::ScopeGone(how));
        }
        Some(Ending::TargetGone(self.last_end.clone().unwrap_or(how)))
    }

    /// Closes the gates and makes the final report.
    pub async fn finish(&mut self, ending: &Ending) -> Report {
        for image in self.images.values().filter(|image| image.ended.is_none()) {
            let entry = self.kernel.target(image.pid).unwrap_or_else(|| target(image, gate::CLOSED));
            let _ = self.kernel.set_target(image.pid, &Target { gate: gate::CLOSED, ..entry });
        }
        self.keeper.settle(&self.kernel).await;
        let _ = tokio::task::spawn_blocking(|| wait_for_running_programs(0)).await;
        self.drain_to_the_end();
        self.watch_losses();
        self.watch_main_threads();
        self.report(Reason::Final(ending.to_string()))
    }

    /// Takes every probe away. A command that we started is sent the signal that ended us, as a shell would.
    pub fn detach(&mut self, ending: &Ending) {
        let mut attachments = Vec::new();
        self.detaching = true;
        for image in self.images.values_mut() {
            image.python.release();
            attachments.extend([std::mem::take(&mut image.hooks), std::mem::take(&mut image.linker)]);
        }
        attachments.extend(self.replaced.drain().map(|(_, replaced)| replaced.linker));
        attachments.extend(self.placements.take_all());
        attachments.extend(self.newcomers.sharers.take_all());
        self.take_last_forks();
        self.undo_in_newcomers();
        close_together(attachments);
        self.placements.closer.finish();
        if let (Ending::Signal(signal), Some((pid, ended))) = (ending, &mut self.command)
            && matches!(ended.try_recv(), Err(TryRecvError::Empty))
        {
            // SAFETY: a signal to our own child, which has not been waited for.
            unsafe { libc::kill(i32::try_from(*pid).unwrap_or(0), signal.number()) };
        }
    }

    /// Reads every row into the ledger.
    pub(super) fn read_rows(&mut self) {
        let used = self.kernel.rows_in_use();
        self.ledger.begin();
        for index in 0..used {
            let Some(mut row) = self.kernel.rows.read(index) else { continue };
            if self.retired.contains(row.serial) {
                continue;
            }
            if index != OVERFLOW_ROW {
                if row.state != row_state::USED {
                    continue;
                }
                if row.stack_id == 0 {
                    row.stack_id = self.recycler.identity_of(index).unwrap_or(0);
                }
            }
            self.ledger.read_row(&row);
        }
    }
}
