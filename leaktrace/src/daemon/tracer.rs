//! The state of a running trace, and how it begins. What is done to it: `entering`, `events`, `upkeep`, `compose`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use leaktrace_common::hook::domain;
use tokio::sync::oneshot;

use super::{
    announcements::Announcements,
    check_target,
    code::{CodeKeeper, UnwindMode},
    epoch_keeper::EpochKeeper,
    merging::Unmerged,
    newcomers::{NEWBORNS, Newcomers},
    placement::{Circumstances, Placements},
    recycle::Recycler,
    retired::Retired,
    stacks::Stacks,
};
use crate::{
    cli::{Failure, meant::TracePlan},
    kernel::{Attachment, CodeCapacity, Kernel, LinkMode, LoadOptions, Logger, Rings, StackRecord, Sweeper},
    ledger::Ledger,
    probe::cost::CostTable,
    process::{host::unix_now, maps},
    python::Finder,
    report::aside::say,
    report::model::{EndedProcesses, Report},
    symbolize::FrameStore,
    target::{Scope, TargetSpec, image::Image},
    unwind::Cache,
};

/// A PID whose image was replaced and whose new one is not traced yet.
pub(super) struct Replaced {
    pub(super) since: Instant,
    /// Keeps the probe on the dynamic linker: it says when the new image has its libraries.
    pub(super) linker: Attachment,
}

/// See the module.
pub struct Tracer {
    pub(super) plan: TracePlan,
    pub(super) kernel: Kernel,
    pub(super) ledger: Ledger,
    pub(super) frames: FrameStore,
    pub(super) images: BTreeMap<u32, Image>,
    pub(super) stacks: Stacks,
    pub(super) keeper: EpochKeeper,
    pub(super) code: CodeKeeper,
    pub(super) finder: Finder,
    pub(super) recycler: Recycler,
    pub(super) started: Instant,
    pub(super) started_unix_s: f64,
    pub(super) sequence: u64,
    pub(super) full_since: Option<Duration>,
    pub(super) rows_full_since: Option<Duration>,
    pub(super) swept: u64,
    pub(super) stacks_unknown: u64,
    pub(super) unmerged: Unmerged,
    pub(super) rings: Rings,
    pub(super) sweeper: Sweeper,
    pub(super) costs: CostTable,
    pub(super) placements: Placements,
    pub(super) announcements: Announcements,
    pub(super) replaced: HashMap<u32, Replaced>,
    pub(super) retired: Retired,
    /// Images that run, by PID.
    pub(super) traced_pids: HashMap<u32, u32>,
    /// Stacks of processes that are not entered yet, and when they came.
    pub(super) early: VecDeque<(Instant, StackRecord)>,
    /// The image that was looked after last.
    pub(super) looked_after: u32,
    pub(super) scope: Scope,
    pub(super) scope_looked_through: Instant,
    pub newcomers: Newcomers,
    pub(super) ended_reports: Vec<Report>,
    /// Images that have ended and are not listed any more, in sum.
    pub(super) ended: EndedProcesses,
    /// Serials of processes that were counted from their birth and have ended before they could be entered.
    pub(super) ended_newborns: Vec<u32>,
    /// Probes are being taken away: nobody is entered any more.
    pub(super) detaching: bool,
    pub(super) last_end: Option<String>,
    /// The command that we started; it may be stopped, others never.
    pub(super) own_child: Option<u32>,
    pub(super) command: Option<(u32, oneshot::Receiver<i32>)>,
    pub(super) events_lost: u64,
    pub(super) log_refilled: Instant,
    pub(super) logger: Option<Logger>,
}

impl Tracer {
    /// Loads the kernel side and enters every target.
    ///
    /// # Errors
    /// Anything that keeps tracing from beginning. Nothing is left behind then.
    pub async fn begin(plan: TracePlan) -> Result<Self, Failure> {
        if let TargetSpec::Pids(pids) = &plan.target {
            pids.iter().try_for_each(|pid| check_target(*pid).map(drop))?;
        }
        let scope = Scope::resolve(&plan.target)?;
        let mut finder = Finder::default();
        let options = LoadOptions {
            max_live_blocks: plan.max_live_blocks,
            max_sites: plan.max_sites,
            rules_off: plan.rules_off,
            log: plan.verbose,
            stop_one_in: plan.stop_one_in,
            close_free_lists: plan.target_writes && may_be_python(&plan.target, &mut finder),
            count_hits: plan.count_hits,
            follow_forks: plan.follow_forks,
            watch_host: scope.is_open(),
            code: CodeCapacity { rows: plan.max_unwind_rows, ..CodeCapacity::default() },
            link_mode: plan.link_mode,
            ..LoadOptions::default()
        };
        let (mut kernel, rings, sweeper) = Kernel::load(&options)?;
        let logger = if plan.verbose { kernel.logger() } else { None };
        // With perf links the measurement would take seconds: they close one by one.
        let costs = match kernel.link_mode() {
            LinkMode::Multi => kernel.calibrate()?,
            LinkMode::Perf => CostTable::default(),
        };
        let circumstances = circumstances(&plan, &scope, &mut kernel)?;
        if circumstances.are_worth_telling() {
            say(circumstances.sentence(&costs));
        }
        let cache = match plan.unwind {
            UnwindMode::Tables => plan.unwind_cache.as_deref().and_then(open_cache),
            UnwindMode::FramePointers => None,
        };
        let code = CodeKeeper::new(plan.unwind, plan.rules_off, cache, &mut kernel.code)?;
        let mut tracer = Self {
            code,
            finder,
            keeper: EpochKeeper::new(plan.min_age, plan.interval, plan.rules_off),
            started: Instant::now(),
            started_unix_s: unix_now(),
            ledger: Ledger::default(),
            frames: FrameStore::default(),
            images: BTreeMap::new(),
            stacks: Stacks::default(),
            recycler: Recycler::default(),
            sequence: 0,
            full_since: None,
            rows_full_since: None,
            swept: 0,
            stacks_unknown: 0,
            unmerged: Unmerged::default(),
            replaced: HashMap::new(),
            retired: Retired::default(),
            traced_pids: HashMap::new(),
            early: VecDeque::new(),
            looked_after: 0,
            scope,
            scope_looked_through: Instant::now(),
            newcomers: Newcomers::default(),
            ended_reports: Vec::new(),
            ended: EndedProcesses::default(),
            ended_newborns: Vec::new(),
            detaching: false,
            last_end: None,
            own_child: None,
            command: None,
            events_lost: 0,
            log_refilled: Instant::now(),
            logger,
            plan,
            kernel,
            rings,
            sweeper,
            costs,
            placements: Placements::new(&circumstances),
            announcements: Announcements::new(circumstances.processes),
        };
        tracer.kernel.control.set_newborns(NEWBORNS);
        tracer.clean_up_leftovers();
        tracer.enter_targets().await?;
        tracer.tell_of_the_beginning();
        Ok(tracer)
    }

    async fn enter_targets(&mut self) -> Result<(), Failure> {
        match self.plan.target.clone() {
            TargetSpec::Pids(pids) => pids.into_iter().try_for_each(|pid| self.enter(pid)),
            TargetSpec::Command(words) => self.start_command(&words).await,
            _ => {
                self.enter_members();
                Ok(())
            }
        }
    }

    /// Descriptors to wait for.
    ///
    /// # Errors
    /// If no more descriptors can be had.
    pub fn ring_fds(&self) -> Result<[OwnedFd; 2], Failure> {
        Ok(self.rings.fds()?)
    }

    /// Time since tracing began.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Whether a target is, or may become, a Python program. Only then the kernel side is asked to write to a process, of which the
/// kernel warns in its log.
fn may_be_python(target: &TargetSpec, finder: &mut Finder) -> bool {
    let TargetSpec::Pids(pids) = target else { return true };
    pids.iter().any(|pid| {
        let mappings = maps::read(*pid).unwrap_or_default();
        !matches!(finder.find(*pid, &mappings), Ok(None))
    })
}

/// What the placement of probes depends on. Whether return probes are safe in everybody is tried on a child of ours.
fn circumstances(plan: &TracePlan, scope: &Scope, kernel: &mut Kernel) -> Result<Circumstances, Failure> {
    let processes = match &plan.target {
        TargetSpec::Command(_) => 1,
        _ => scope.members().len(),
    };
    Ok(Circumstances {
        processes,
        whole_host: plan.target == TargetSpec::All,
        strict: plan.strict_scope,
        forced: plan.placement,
        returns_are_safe: plan.strict_scope || kernel.return_probes_survive_filters()?,
    })
}

/// The disk cache of unwind tables. Tracing does without if it cannot be had.
fn open_cache(directory: &Path) -> Option<Cache> {
    match Cache::open(directory, Cache::DEFAULT_BYTES) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!("{error}; unwind tables are made anew");
            None
        }
    }
}

/// Domain number of mappings, as site keys spell it.
pub(super) const MMAP_DOMAIN: u32 = domain::MMAP as u32;
