//! Processes that come into scope while tracing: forked by a target, or started somewhere else in the scope. Most live for
//! milliseconds, so one is only entered when it has lived for a while; until then its gate is closed. Where its probes were
//! there before it (shared links), the kernel side has opened its gate at the fork, and it is entered at once.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use leaktrace_common::{
    event::{Event, fork, kind},
    record::gate,
};
use rustix::time::{ClockId, clock_gettime};

use super::tracer::Tracer;
use crate::{
    cli::Failure,
    process::{Identity, RunState},
    report::model::{self, Gaps},
    target::discover,
};

/// How long a process has to live before it is worth its probes.
pub(super) const CHILDHOOD: Duration = Duration::from_millis(100);
/// Processes entered before anything else is looked at.
const ENTERED_AT_A_TIME: usize = 4;
/// Newcomers waited for at once; further ones are found when the scope is looked through.
const MAX_WAITING: usize = 65_536;
/// Forked processes that may be traced from their first allocation on, each time the house is kept.
pub(super) const NEWBORNS: i32 = 16;
/// Gaps kept for the report.
const MAX_GAPS: usize = 4096;

/// A process that has not been entered yet.
#[derive(Clone, Debug)]
struct Newcomer {
    /// The serial that the kernel side has given it; 0: none, or it has executed a program since.
    serial: u32,
    /// Serial of the image that it was forked from; 0: not known.
    parent: u32,
    /// When it was made, or first heard of.
    born: Duration,
    /// It runs in its parent's memory.
    shares_memory: bool,
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
    due: VecDeque<(Duration, u32)>,
    /// Processes in scope that could not be entered: not tried again before they execute something else.
    refused: HashMap<u32, u64>,
    statistics: Statistics,
}

impl Newcomers {
    fn add(&mut self, pid: u32, newcomer: Newcomer) {
        if self.waiting.len() >= MAX_WAITING {
            return;
        }
        self.due.push_back((newcomer.born + CHILDHOOD, pid));
        self.waiting.insert(pid, newcomer);
    }

    /// The next one that has lived long enough.
    fn take_due(&mut self, now: Duration) -> Option<(u32, Newcomer)> {
        while self.due.front().is_some_and(|(due, _)| *due <= now) {
            let (due, pid) = self.due.pop_front()?;
            // The PID may have been given to a younger one meanwhile, which has its own place in the queue.
            if self.waiting.get(&pid).is_some_and(|newcomer| newcomer.born + CHILDHOOD <= due) {
                return self.waiting.remove(&pid).map(|newcomer| (pid, newcomer));
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
        let start = Identity::read(pid).map_or(0, |identity| identity.start_ticks);
        self.refused.insert(pid, start);
    }

    /// Whether any are waited for.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How long until the next one is due; `None`: nobody waits.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.front().map(|(due, _)| due.saturating_sub(monotonic()))
    }
}

impl Tracer {
    /// A target has made a process.
    pub(super) fn forked(&mut self, event: &Event) {
        let newcomer = Newcomer {
            serial: event.serial,
            parent: u32::try_from(event.address).unwrap_or(0),
            born: Duration::from_nanos(event.length),
            shares_memory: event.extra & fork::SHARES_MEMORY != 0,
        };
        self.newcomers.refused.remove(&event.tgid);
        if event.extra & fork::OPEN != 0 {
            self.enter_newcomer(event.tgid, &newcomer);
        } else {
            self.newcomers.add(event.tgid, newcomer);
        }
    }

    /// A process that is no target was made somewhere on the host, or has executed a program.
    pub(super) fn newcomer(&mut self, event: &Event) {
        self.newcomers.refused.remove(&event.tgid);
        if !self.newcomers.waiting.contains_key(&event.tgid) {
            let born = monotonic();
            let newcomer = Newcomer { serial: 0, parent: 0, born, shares_memory: false };
            self.newcomers.add(event.tgid, newcomer);
        }
    }

    /// Whether an exec or exit was that of a process which has not been entered yet.
    pub(super) fn newcomer_ends(&mut self, event: &Event) -> bool {
        if event.kind == kind::EXEC { self.newcomer_executed(event) } else { self.newcomer_ended(event) }
    }

    /// Whether an exec was that of a process which has not been entered yet.
    fn newcomer_executed(&mut self, event: &Event) -> bool {
        let Some(newcomer) = self.newcomers.waiting.get_mut(&event.tgid) else { return false };
        (newcomer.serial, newcomer.parent, newcomer.shares_memory) = (0, 0, false);
        true
    }

    /// Whether an exit was that of a process which has not been entered yet.
    fn newcomer_ended(&mut self, event: &Event) -> bool {
        if self.newcomers.waiting.remove(&event.tgid).is_none() {
            return false;
        }
        self.newcomers.statistics.short_lived += 1;
        self.remove_entry(event.tgid, event.serial);
        true
    }

    /// Enters processes that have lived long enough.
    pub fn enter_newcomers(&mut self) {
        for _ in 0..ENTERED_AT_A_TIME {
            let Some((pid, newcomer)) = self.newcomers.take_due(monotonic()) else { return };
            if newcomer.shares_memory {
                // Still in its parent's memory, which waits for it: vfork.
                self.newcomers.add(pid, Newcomer { born: monotonic(), ..newcomer });
                continue;
            }
            self.enter_newcomer(pid, &newcomer);
        }
    }

    fn enter_newcomer(&mut self, pid: u32, newcomer: &Newcomer) {
        if self.images.values().any(|image| image.pid == pid && image.ended.is_none()) {
            return;
        }
        if newcomer.serial == 0 && newcomer.parent == 0 && !self.in_scope(pid) {
            return;
        }
        match self.try_newcomer(pid, newcomer) {
            Ok(()) => {
                let gap = monotonic().saturating_sub(newcomer.born);
                self.newcomers.statistics.entered += 1;
                self.newcomers.statistics.note_gap(gap);
            }
            Err(Failure::NoTarget(_)) => {
                self.newcomers.statistics.short_lived += 1;
                self.remove_entry(pid, newcomer.serial);
            }
            Err(failure) => {
                self.remove_entry(pid, newcomer.serial);
                self.newcomers.refuse(pid, &failure);
            }
        }
    }

    /// Whether a process that was heard of is to be traced: it is in scope itself, or was made by one that is traced and has
    /// executed a program since.
    fn in_scope(&self, pid: u32) -> bool {
        self.kernel.target(pid).is_some() || self.scope.contains(pid)
    }

    fn try_newcomer(&mut self, pid: u32, _newcomer: &Newcomer) -> Result<(), Failure> {
        let identity = super::check_target(pid)?;
        if identity.state == RunState::Zombie {
            return Err(Failure::NoTarget(format!("process {pid} has ended")));
        }
        self.refuse_deadly_filter(&identity)?;
        let discovered = discover::required(pid, &self.costs)?;
        self.enter_discovered(identity, &discovered, crate::kernel::Attachment::default())
    }

    /// Processes that came into scope although nobody was told: moved into a cgroup, or an event was lost.
    pub(super) fn look_through_scope(&mut self) {
        if !self.scope.is_open() {
            return;
        }
        let known: std::collections::HashSet<u32> = self.images.values().map(|image| image.pid).collect();
        let is_known = |pid: u32| {
            known.contains(&pid)
                || self.newcomers.waiting.contains_key(&pid)
                || self.newcomers.refused.contains_key(&pid)
                || self.replaced.contains_key(&pid)
        };
        for pid in self.scope.members_except(is_known) {
            let newcomer = Newcomer { serial: 0, parent: 0, born: monotonic(), shares_memory: false };
            self.newcomers.add(pid, newcomer);
        }
    }

    /// Takes a process out of the kernel side's table, unless its PID belongs to another one by now.
    pub(super) fn remove_entry(&mut self, pid: u32, serial: u32) {
        let same =
            |entry: &leaktrace_common::record::Target| entry.serial == serial || entry.gate == gate::RETIRED;
        if self.kernel.target(pid).as_ref().is_some_and(same) {
            self.kernel.remove_target(pid);
        }
    }
}

/// The clock of the kernel side's events.
fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
