//! Process images that have ended. The next report lists those of note once more; from then on they are only counted, so that what
//! is listed and what is counted together are everything that was traced.

use std::time::Duration;

use leaktrace_common::rule;

use super::{
    FEW,
    tracer::{MMAP_DOMAIN, Tracer},
};
use crate::{
    kernel::close_together,
    ledger::{Ages, MappingLabel},
    report::model::{Amount, ProcessReport, Reason},
    target::{TargetSpec, image::Image},
};

/// An image that was traced for less is not listed when it has ended, unless it was named.
const OF_NOTE: Duration = Duration::from_secs(1);
/// Ended images that one report lists.
const MAX_LISTED: usize = 64;
/// Ended images that are kept until the next report.
const MAX_KEPT: usize = 256;

impl Tracer {
    /// A process is gone, and its image with it.
    pub(super) fn image_ended(&mut self, serial: u32, how: &str) {
        self.image_gone(serial, how, false);
    }

    /// A process goes on with the image of another program.
    pub(super) fn image_replaced(&mut self, serial: u32, program: &str) {
        self.image_gone(serial, &format!("replaced itself by {program} (exec)"), true);
    }

    /// Probes away; its blocks are counted as dropped by the next report.
    fn image_gone(&mut self, serial: u32, how: &str, replaced: bool) {
        let alive = self.images.values().filter(|image| image.ended.is_none()).count();
        let Some(image) = self.images.get_mut(&serial).filter(|image| image.ended.is_none()) else { return };
        let pid = image.pid;
        image.end(how);
        // What its own files say of generated code is read while they can be reached.
        self.frames.process_ending(serial);
        image.python.release();
        let links = vec![std::mem::take(&mut image.hooks), std::mem::take(&mut image.linker)];
        image.batches.clear();
        image.points.clear();
        if replaced {
            // At once: its PID goes on, and would be seen by the next image's links and by these.
            close_together(links);
        } else {
            self.placements.closer.close(links);
            self.remove_entry(pid, serial);
        }
        if self.traced_pids.get(&pid) == Some(&serial) {
            self.traced_pids.remove(&pid);
        }
        self.last_end = Some(how.to_owned());
        self.release_sharers(serial);
        if self.ends_with_a_report(pid, replaced, alive) {
            let report = self.report(Reason::ProcessEnded);
            self.ended_reports.push(report);
        } else {
            self.count_if_many();
        }
    }

    /// Drops what belonged to an image that has been reported.
    fn retire(&mut self, serial: u32) {
        if self.plan.rules_off & rule::SERIAL != 0 {
            self.images.remove(&serial);
            return;
        }
        if let Some(image) = self.images.remove(&serial) {
            self.kernel.python.release_slot(image.python_slot);
        }
        self.code.forget(&mut self.kernel.code, serial);
        self.retired.insert(serial);
        self.ledger.forget(serial);
        self.frames.forget_process(serial);
        self.stacks.forget(serial);
    }

    /// Whether the end of an image is worth a report of its own: while few are traced, for those that the user has named.
    fn ends_with_a_report(&self, pid: u32, replaced: bool, alive: usize) -> bool {
        // The last one's report is the final one, which is made when tracing ends.
        alive <= FEW && (replaced || self.is_named(pid) && alive > 1)
    }

    /// Whether the user has named it, or started it.
    fn is_named(&self, pid: u32) -> bool {
        let listed = matches!(&self.plan.target, TargetSpec::Pids(pids) if pids.contains(&pid));
        listed || self.own_child == Some(pid)
    }

    /// Counts ended images that no report will list. To be called when rows have just been read.
    pub(super) fn count_unlisted(&mut self) {
        let mut listed = 0;
        let mut unlisted = Vec::new();
        for image in self.images.values().filter(|image| image.ended.is_some()) {
            let of_note = image.traced.is_some_and(|traced| traced >= OF_NOTE) || self.is_named(image.pid);
            if of_note && listed < MAX_LISTED {
                listed += 1;
            } else {
                unlisted.push(image.serial);
            }
        }
        unlisted.append(&mut self.ended_newborns);
        for serial in unlisted {
            let (allocated, live) = self.amounts(serial);
            self.count_ended(serial, allocated, live);
        }
    }

    /// Counts the ended images that a report has listed.
    pub(super) fn count_listed(&mut self, processes: &[ProcessReport], reason: &Reason) {
        // A report that was asked for by a signal goes to files; the next one on stdout lists them too. The last one is the last.
        if matches!(reason, Reason::Requested | Reason::Final(_)) {
            return;
        }
        for process in processes.iter().filter(|process| process.ended.is_some()) {
            self.count_ended(process.serial, process.allocated, process.live);
        }
    }

    /// Keeps the number of ended images bounded between two reports.
    pub(super) fn count_if_many(&mut self) {
        let ended = self.images.values().filter(|image| image.ended.is_some()).count();
        if ended + self.ended_newborns.len() <= MAX_KEPT {
            return;
        }
        self.read_rows();
        self.count_unlisted();
    }

    fn count_ended(&mut self, serial: u32, allocated: Amount, live: Amount) {
        self.ended.processes += 1;
        self.ended.allocated = self.ended.allocated.plus(allocated);
        self.ended.live_at_end = self.ended.live_at_end.plus(live);
        self.retire(serial);
    }

    /// What an image has allocated, and what of it is live.
    fn amounts(&self, serial: u32) -> (Amount, Amount) {
        let blocks = self.ledger.of_process(serial).filter(|(key, _)| key.domain != MMAP_DOMAIN);
        let cells = blocks.filter_map(|(_, site)| site.cells.as_ref());
        let live = cells.fold(Amount::default(), |live, cells| live.plus(Ages::live(cells)));
        let mapped = self.images.get(&serial).map(mapped).unwrap_or_default();
        (self.ledger.allocated(serial), live.plus(mapped))
    }
}

/// Anonymous mappings that an image has made and still has.
fn mapped(image: &Image) -> Amount {
    let sums = image.intervals.sums(Duration::ZERO, Duration::ZERO);
    let counted = sums.into_iter().filter(|((_, label), _)| label.text() != MappingLabel::Reserved.text());
    counted.fold(Amount::default(), |all, (_, sum)| {
        let (bytes, blocks) = sum.live();
        all.plus(Amount { bytes, blocks })
    })
}
