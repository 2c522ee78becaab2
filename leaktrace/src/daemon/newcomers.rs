//! Processes that come into scope while tracing: forked by a target, or started somewhere else in the scope. Most live for
//! milliseconds, so one is only entered when it has lived for a while; until then its gate is closed. Where its probes were
//! there before it (shared links), the kernel side has opened its gate at the fork, and it is entered at once.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use leaktrace_common::{
    event::{Event, fork, kind},
    record::{Target, gate},
    rule,
};
use rustix::time::{ClockId, clock_gettime};

use super::{sharers::Sharers, tracer::Tracer};
use crate::{
    cli::Failure,
    kernel::Attachment,
    process::{self, RunState, status},
    python::{Inherited, leftover::Records},
    report::model::{self, Gaps},
    target::{discover, image::Image},
};

/// How long a process has to live before it is worth its probes.
const CHILDHOOD: Duration = Duration::from_millis(100);
/// When one is looked at again that is in the middle of a change.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long after its fork or exec a process may be in the middle of a change.
const SETTLING: Duration = Duration::from_secs(10);
/// Processes entered before anything else is looked at.
const ENTERED_AT_A_TIME: usize = 16;
/// Newcomers waited for at once; further ones are found when the scope is looked through.
const MAX_WAITING: usize = 65_536;
/// Forked processes that may be traced from their first allocation on, each time the house is kept.
pub(super) const NEWBORNS: i32 = 16;
/// Gaps kept for the report.
const MAX_GAPS: usize = 4096;

/// A process that has not been entered yet.
#[derive(Clone, Debug)]
pub(super) struct Newcomer {
    /// The serial that the kernel side has given it; 0: it has none.
    pub(super) serial: u32,
    /// Serial of the image whose copy it is: its parent's, or the next one above that is traced. 0: none.
    pub(super) image: u32,
    /// When it was made, or first heard of.
    pub(super) born: Duration,
    /// When it executed a program, the last one: it is nobody's copy then.
    pub(super) executed: Option<Duration>,
    /// When it is to be entered.
    due: Duration,
    /// It is traced already: its gate was opened at its fork.
    open: bool,
    /// It may have been there before tracing began: how late it is traced is not known.
    found: bool,
    /// It runs in its parent's memory.
    pub(super) shares_memory: bool,
    /// What it has of what was written to its parent.
    pub(super) inherited: Option<Arc<Inherited>>,
}

impl Newcomer {
    /// One of which nothing is known but that it is there now.
    fn heard_of(now: Duration) -> Self {
        Self {
            serial: 0,
            image: 0,
            born: now,
            executed: None,
            due: now + CHILDHOOD,
            open: false,
            found: false,
            shares_memory: false,
            inherited: None,
        }
    }

    /// Since when it is what it is.
    fn since(&self) -> Duration {
        self.executed.map_or(self.born, |at| at.max(self.born))
    }

    /// It is still the copy of its parent that it was made as.
    fn is_copy(&self) -> bool {
        self.serial != 0 && self.executed.is_none()
    }

    /// Its serial is nobody else's.
    fn has_own_serial(&self) -> bool {
        self.serial != 0 && !self.shares_memory
    }

    /// What it allocates has been counted since it was made, although it is not entered yet.
    fn is_counted(&self) -> bool {
        self.open && self.has_own_serial()
    }
}

/// What came of a try to enter a process.
enum Tried {
    Entered,
    /// It is in the middle of a change.
    Later,
}

/// What became of newcomers.
#[derive(Clone, Debug, Default)]
struct Statistics {
    entered: u64,
    from_birth: u64,
    short_lived: u64,
    refused: u64,
    last_refusal: Option<String>,
    /// Times between being made and being traced, milliseconds; the latest ones.
    gaps_ms: VecDeque<f64>,
}

impl Statistics {
    fn note_gap(&mut self, gap: Duration) {
        self.gaps_ms.push_back(gap.as_secs_f64() * 1e3);
        if self.gaps_ms.len() > MAX_GAPS {
            self.gaps_ms.pop_front();
        }
    }

    fn gaps(&self) -> Option<Gaps> {
        let mut sorted: Vec<f64> = self.gaps_ms.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let share = |percent: usize| {
            sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
        };
        let max_ms = *sorted.last()?;
        Some(Gaps { p50_ms: share(50), p99_ms: share(99), max_ms })
    }
}

/// See the module.
#[derive(Default)]
pub struct Newcomers {
    waiting: HashMap<u32, Newcomer>,
    serials: HashMap<u32, u32>,
    /// When whose turn comes; those that are not waited for any more are passed over then.
    due: BinaryHeap<Reverse<(Duration, u32)>>,
    /// Processes in scope that could not be entered: not tried again before they execute something else.
    refused: HashSet<u32>,
    /// Processes that run in the memory of an image.
    pub(super) sharers: Sharers,
    statistics: Statistics,
}

impl Newcomers {
    /// Waits for one. Another that had the same PID is gone.
    pub(super) fn add(&mut self, pid: u32, newcomer: Newcomer) {
        if self.remove(pid).is_some() {
            self.statistics.short_lived += 1;
        }
        if self.waiting.len() >= MAX_WAITING {
            return;
        }
        self.due.push(Reverse((newcomer.due, pid)));
        if newcomer.has_own_serial() {
            self.serials.insert(newcomer.serial, pid);
        }
        self.waiting.insert(pid, newcomer);
    }

    /// Waits for one no longer.
    fn remove(&mut self, pid: u32) -> Option<Newcomer> {
        let newcomer = self.waiting.remove(&pid)?;
        if newcomer.has_own_serial() {
            self.serials.remove(&newcomer.serial);
        }
        Some(newcomer)
    }

    /// One that is waited for, by its serial.
    pub(super) fn by_serial(&self, serial: u32) -> Option<&Newcomer> {
        self.waiting.get(self.serials.get(&serial)?)
    }

    /// Those that run in the memory of an image.
    pub(super) fn waiting_in_memory_of(&self, serial: u32) -> Vec<u32> {
        let shares = |newcomer: &Newcomer| newcomer.shares_memory && newcomer.serial == serial;
        self.waiting.iter().filter(|(_, newcomer)| shares(newcomer)).map(|(pid, _)| *pid).collect()
    }

    /// The next one that has lived long enough.
    fn take_due(&mut self, now: Duration) -> Option<(u32, Newcomer)> {
        while self.due.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Reverse((due, pid)) = self.due.pop()?;
            // The PID may have been given to a younger one meanwhile, which has its own place in the queue.
            if self.waiting.get(&pid).is_some_and(|newcomer| newcomer.due == due) {
                return self.remove(pid).map(|newcomer| (pid, newcomer));
            }
        }
        None
    }

    /// What a report says of them.
    pub fn report(&self) -> model::Newcomers {
        let Statistics { entered, from_birth, short_lived, refused, ref last_refusal, .. } = self.statistics;
        model::Newcomers {
            entered,
            from_birth,
            short_lived,
            refused,
            last_refusal: last_refusal.clone(),
            waiting: self.waiting.len() as u64,
            gaps: self.statistics.gaps(),
        }
    }

    /// Remembers that a process cannot be traced.
    pub(super) fn refuse(&mut self, pid: u32, failure: &Failure) {
        tracing::info!("process {pid} is not traced: {failure}");
        self.statistics.refused += 1;
        self.statistics.last_refusal = Some(failure.to_string());
        self.refused.insert(pid);
    }

    /// One is traced as a part of the process in whose memory it runs.
    pub(super) fn count_sharer(&mut self) {
        self.statistics.entered += 1;
    }

    /// Whether any are waited for.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How long until the next one is due; `None`: nobody waits.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((due, _))| due.saturating_sub(monotonic()))
    }
}

impl Tracer {
    /// A target has made a process.
    pub(super) fn forked(&mut self, event: &Event) {
        let pid = event.tgid;
        // Whoever had this PID has ended, even if nobody has said so.
        self.newcomers.refused.remove(&pid);
        let left = self.newcomers.sharers.remove(pid);
        self.placements.closer.close(left.into_iter().collect());
        if let Some(gone) = self.newcomers.remove(pid) {
            self.newcomer_is_gone(&gone);
        }
        if let Some(serial) = self.traced(pid) {
            self.image_ended(serial, "ended");
        }
        let born = Duration::from_nanos(event.length);
        let (image, inherited) = self.ancestry(u32::try_from(event.address).unwrap_or(0));
        let newcomer = Newcomer {
            serial: event.serial,
            image,
            due: born + CHILDHOOD,
            open: event.extra & fork::OPEN != 0,
            shares_memory: event.extra & fork::SHARES_MEMORY != 0,
            inherited,
            ..Newcomer::heard_of(born)
        };
        if newcomer.is_counted() && !self.detaching {
            self.enter_newcomer(pid, newcomer);
        } else {
            self.newcomers.add(pid, newcomer);
        }
    }

    /// A process that is no target was made somewhere on the host, or has executed a program.
    pub(super) fn newcomer(&mut self, event: &Event) {
        self.newcomers.refused.remove(&event.tgid);
        let now = monotonic();
        let executed = (event.extra != 0).then_some(now);
        match self.newcomers.waiting.get_mut(&event.tgid) {
            Some(newcomer) if executed.is_some() => newcomer.executed = executed,
            // One that was waited for had the same PID, and nobody has told of its end.
            _ => self.newcomers.add(event.tgid, Newcomer { executed, ..Newcomer::heard_of(now) }),
        }
    }

    /// Whether an exec or exit was that of a process which has not been entered.
    pub(super) fn newcomer_ends(&mut self, event: &Event) -> bool {
        if event.kind == kind::EXEC { self.newcomer_executed(event) } else { self.newcomer_ended(event) }
    }

    fn newcomer_executed(&mut self, event: &Event) -> bool {
        let (pid, now) = (event.tgid, monotonic());
        let own = Newcomer { serial: event.serial, executed: Some(now), ..Newcomer::heard_of(now) };
        if let Some(newcomer) = self.newcomers.remove(pid) {
            // It goes on waiting for as long as it would have.
            let (born, due) = (newcomer.born, newcomer.due);
            self.count_newborn(&newcomer);
            self.newcomers.add(pid, Newcomer { born, due, ..own });
            return true;
        }
        let left = self.newcomers.sharers.remove(pid);
        let known = left.is_some() || self.newcomers.refused.remove(&pid);
        self.placements.closer.close(left.into_iter().collect());
        if known {
            self.newcomers.add(pid, own);
        }
        known
    }

    fn newcomer_ended(&mut self, event: &Event) -> bool {
        let pid = event.tgid;
        let left = self.newcomers.sharers.remove(pid);
        let waited = self.newcomers.remove(pid);
        let known = waited.is_some() || left.is_some() || self.newcomers.refused.remove(&pid);
        if let Some(gone) = waited {
            self.newcomer_is_gone(&gone);
        }
        self.placements.closer.close(left.into_iter().collect());
        if known {
            self.remove_entry(pid, event.serial);
        }
        known
    }

    /// Enters processes that have lived long enough.
    pub fn enter_newcomers(&mut self) {
        for _ in 0..ENTERED_AT_A_TIME {
            // What they have done since: one that has executed something is not what it was.
            self.drain();
            let Some((pid, newcomer)) = self.newcomers.take_due(monotonic()) else { return };
            if newcomer.shares_memory {
                self.join_memory(pid, newcomer);
            } else {
                self.enter_newcomer(pid, newcomer);
            }
        }
    }

    fn enter_newcomer(&mut self, pid: u32, newcomer: Newcomer) {
        if self.traced(pid).is_some() || newcomer.serial == 0 && !self.scope.contains(pid) {
            return;
        }
        match self.try_newcomer(pid, &newcomer) {
            Ok(Tried::Entered) => self.newcomer_entered(pid, &newcomer),
            Ok(Tried::Later) => self.look_again(pid, newcomer),
            Err(Failure::NoTarget(_)) if newcomer.serial != 0 && may_still_change(pid, &newcomer) => {
                self.look_again(pid, newcomer);
            }
            Err(Failure::NoTarget(_)) => {
                self.newcomer_is_gone(&newcomer);
                self.remove_entry(pid, newcomer.serial);
            }
            Err(_) if newcomer.executed.is_some() && may_still_change(pid, &newcomer) => {
                self.look_again(pid, newcomer);
            }
            Err(failure) => self.refuse_newcomer(pid, &newcomer, &failure),
        }
    }

    /// Tries again in a moment.
    pub(super) fn look_again(&mut self, pid: u32, newcomer: Newcomer) {
        tracing::debug!("process {pid} is in the middle of a change: it is looked at again in a moment");
        self.newcomers.add(pid, Newcomer { due: monotonic() + LOOK_AGAIN, ..newcomer });
    }

    fn newcomer_entered(&mut self, pid: u32, newcomer: &Newcomer) {
        let gap = monotonic().saturating_sub(newcomer.since());
        let statistics = &mut self.newcomers.statistics;
        statistics.entered += 1;
        if newcomer.open {
            statistics.from_birth += 1;
        } else if !newcomer.found {
            statistics.note_gap(gap);
            let serial = self.traced(pid).unwrap_or(0);
            if let Some(image) = self.images.get_mut(&serial) {
                image.late_s = Some(gap.as_secs_f64());
            }
        }
    }

    /// One that cannot be traced. What it forks, and what it may execute, is followed all the same.
    fn refuse_newcomer(&mut self, pid: u32, newcomer: &Newcomer, failure: &Failure) {
        if let Some(inherited) = newcomer.inherited.as_ref().filter(|_| newcomer.is_copy()) {
            inherited.undo_in(pid, &Records::default());
        }
        self.count_newborn(newcomer);
        if newcomer.serial != 0 {
            let entry = Target { serial: newcomer.serial, gate: gate::CLOSED, ..Target::default() };
            if let Err(error) = self.kernel.set_target(pid, &entry) {
                tracing::warn!("{error}");
            }
        }
        self.newcomers.refuse(pid, failure);
    }

    fn try_newcomer(&mut self, pid: u32, newcomer: &Newcomer) -> Result<Tried, Failure> {
        let identity = super::check_target(pid)?;
        if newcomer.is_copy() && self.entry_in_force(pid, newcomer.serial).is_none() {
            // It has executed something or ended, which an event is about to tell.
            return Ok(Tried::Later);
        }
        self.refuse_deadly_filter(&identity)?;
        if newcomer.is_copy() {
            if self.plan.rules_off & rule::FORKS_INHERIT_NOTHING != 0 {
                self.join_memory(pid, newcomer.clone());
                return Ok(Tried::Entered);
            }
            if self.enter_copy(&identity, newcomer)? {
                return Ok(Tried::Entered);
            }
        }
        let discovered = discover::required(pid, &self.costs)?;
        if !discovered.consistent {
            return Ok(Tried::Later);
        }
        if newcomer.is_copy() {
            let mut image = Image::new(newcomer.serial, identity);
            image.forked = true;
            self.enter_image(image, &discovered)?;
        } else {
            self.enter_discovered(identity, &discovered, Attachment::default())?;
        }
        Ok(Tried::Entered)
    }

    /// The image of a process that is traced.
    pub(super) fn traced(&self, pid: u32) -> Option<u32> {
        let serial = *self.traced_pids.get(&pid)?;
        self.images.get(&serial).filter(|image| image.ended.is_none()).map(|image| image.serial)
    }

    /// Processes that came into scope although nobody was told: moved into a cgroup, or an event was lost.
    pub(super) fn look_through_scope(&mut self) {
        self.newcomers.refused.retain(|pid| process::exists(*pid));
        if !self.scope.is_open() {
            return;
        }
        let is_known = |pid: u32| {
            self.traced(pid).is_some()
                || self.newcomers.waiting.contains_key(&pid)
                || self.newcomers.refused.contains(&pid)
                || self.replaced.contains_key(&pid)
        };
        for pid in self.scope.members_except(is_known) {
            let newcomer = Newcomer { found: true, ..Newcomer::heard_of(monotonic()) };
            self.newcomers.add(pid, newcomer);
        }
    }

    /// Waits for a process whose image, in whose memory it ran, has ended.
    pub(super) fn left_alone(&mut self, pid: u32) {
        self.newcomers.remove(pid);
        let serial = self.kernel.control.next_serial();
        let entry = Target { serial, gate: gate::CLOSED, ..Target::default() };
        if process::exists(pid) && self.kernel.set_target(pid, &entry).is_ok() {
            let now = monotonic();
            // What was found in the image that has ended does not hold for it any more.
            let newcomer = Newcomer { serial, executed: Some(now), ..Newcomer::heard_of(now) };
            self.newcomers.add(pid, newcomer);
        }
    }

    /// Undoes what forked processes have inherited that were not traced yet when tracing ended.
    pub(super) fn undo_in_newcomers(&self) {
        for (pid, newcomer) in &self.newcomers.waiting {
            if let Some(inherited) = &newcomer.inherited
                && newcomer.is_copy()
                && self.entry_in_force(*pid, newcomer.serial).is_some()
            {
                inherited.undo_in(*pid, &Records::default());
            }
        }
    }

    /// It has ended before it could be entered.
    fn newcomer_is_gone(&mut self, newcomer: &Newcomer) {
        let from_birth = u64::from(newcomer.is_counted());
        let statistics = &mut self.newcomers.statistics;
        statistics.entered += from_birth;
        statistics.from_birth += from_birth;
        statistics.short_lived += 1 - from_birth;
        self.count_newborn(newcomer);
    }

    /// What was counted from its birth on, and no image will have, goes into the sum of what has ended.
    fn count_newborn(&mut self, newcomer: &Newcomer) {
        if newcomer.is_counted() {
            self.ended_newborns.push(newcomer.serial);
            self.count_if_many();
        }
    }

    /// Takes a process out of the kernel side's table, unless its PID belongs to another one by now.
    pub(super) fn remove_entry(&mut self, pid: u32, serial: u32) {
        if self.kernel.target(pid).is_some_and(|entry| entry.serial == serial) {
            self.kernel.remove_target(pid);
        }
    }
}

/// Whether a process that could not be entered may become what can.
fn may_still_change(pid: u32, newcomer: &Newcomer) -> bool {
    let runs = status::read(pid).is_ok_and(|status| status.state != RunState::Zombie);
    runs && monotonic().saturating_sub(newcomer.since()) < SETTLING
}

/// The clock of the kernel side's events.
pub(super) fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_secs(5);

    #[test]
    fn a_pid_that_is_given_again_waits_for_its_own_time() {
        let mut newcomers = Newcomers::default();
        newcomers.add(7, Newcomer { serial: 1, ..Newcomer::heard_of(MOMENT) });
        let later = MOMENT + Duration::from_millis(50);
        newcomers.add(7, Newcomer { serial: 2, ..Newcomer::heard_of(later) });
        assert_eq!(newcomers.statistics.short_lived, 1);
        assert!(newcomers.by_serial(1).is_none() && newcomers.by_serial(2).is_some());
        assert!(newcomers.take_due(MOMENT + CHILDHOOD).is_none());
        let (pid, newcomer) = newcomers.take_due(later + CHILDHOOD).expect("due");
        assert_eq!((pid, newcomer.serial), (7, 2));
        assert!(newcomers.is_empty() && newcomers.serials.is_empty());
    }

    #[test]
    fn gaps_are_shares_of_the_latest() {
        let mut statistics = Statistics::default();
        assert_eq!(statistics.gaps(), None);
        (1..=200u64).for_each(|ms| statistics.note_gap(Duration::from_millis(ms)));
        let gaps = statistics.gaps().expect("gaps");
        assert_eq!((gaps.p50_ms, gaps.p99_ms, gaps.max_ms), (100.0, 198.0, 200.0));
        (0..MAX_GAPS).for_each(|_| statistics.note_gap(MOMENT));
        assert_eq!(statistics.gaps().map(|gaps| gaps.p50_ms), Some(5000.0));
    }
}
