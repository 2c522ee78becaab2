//! The state of a running trace and what each event does to it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::{OsStr, OsString},
    os::fd::OwnedFd,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use leaktrace_common::{
    counter,
    event::{Event, kind},
    hook::domain,
    record::{Target, gate, row_state, target_flag},
    rule,
};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{Ending, epoch_keeper::EpochKeeper, recycle::Recycler};
use crate::{
    cli::{Failure, meant::TracePlan},
    kernel::{
        Attachment, Kernel, LinkMode, LoadOptions, Logger, Rings, StackRecord, Sweeper,
        wait_for_running_programs,
    },
    ledger::{Ledger, MappingLabel},
    probe::{
        command::Command as CommandPlan,
        cost::CostTable,
        plan::{Plan, PlannedProbe},
    },
    process::{Identity, ProcessError, RunState, SeccompMode, exit},
    report::model::{Reason, Report},
    symbolize::{FrameId, FrameStore},
    target::{
        TargetSpec,
        command::Held,
        discover::{self, Discovered},
        image::Image,
    },
};

/// How long after an exec the new image may take until its allocator can be found.
const EXEC_PATIENCE: Duration = Duration::from_secs(10);
/// Kernel-side log lines per second.
const LOG_LINES: i64 = 20;
/// Batches of the live map that one housekeeping turn sweeps.
const SWEEP_TURNS: usize = 16;
/// Stacks kept; the site table's cap bounds how many can be in use.
const MAX_STACKS: usize = 1 << 18;

/// A stack whose frames have been normalised.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<FrameId>,
    /// Why the walk ended.
    pub walk_end: u8,
}

/// A PID whose image was replaced and whose new one is not traced yet.
struct Replaced {
    since: Instant,
    /// Keeps the probe on the dynamic linker: it says when the new image has its libraries.
    linker: Attachment,
}

/// See the module.
pub struct Tracer {
    pub(super) plan: TracePlan,
    pub(super) kernel: Kernel,
    pub(super) ledger: Ledger,
    pub(super) frames: FrameStore,
    pub(super) images: BTreeMap<u32, Image>,
    pub(super) stacks: HashMap<(u32, u64), Stack>,
    pub(super) keeper: EpochKeeper,
    pub(super) recycler: Recycler,
    pub(super) started: Instant,
    pub(super) started_unix_s: f64,
    pub(super) sequence: u64,
    pub(super) full_since: Option<Duration>,
    pub(super) rows_full_since: Option<Duration>,
    pub(super) swept: u64,
    pub(super) stacks_unknown: u64,
    rings: Rings,
    sweeper: Sweeper,
    costs: CostTable,
    replaced: HashMap<u32, Replaced>,
    retired: HashSet<u32>,
    sweeping: bool,
    next_serial: u32,
    ended_reports: Vec<Report>,
    last_end: Option<String>,
    /// The command that we started; it may be stopped, others never.
    own_child: Option<u32>,
    command: Option<(u32, oneshot::Receiver<i32>)>,
    events_lost: u64,
    log_refilled: Instant,
    logger: Option<Logger>,
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
        let options = LoadOptions {
            max_live_blocks: plan.max_live_blocks,
            max_sites: plan.max_sites,
            rules_off: plan.rules_off,
            log: plan.verbose,
            count_hits: false,
            link_mode: plan.link_mode,
        };
        let (mut kernel, rings, sweeper) = Kernel::load(&options)?;
        let logger = if plan.verbose { kernel.logger() } else { None };
        // With perf links the measurement would take seconds: they close one by one.
        let costs = match kernel.link_mode() {
            LinkMode::Multi => kernel.calibrate()?,
            LinkMode::Perf => CostTable::default(),
        };
        let mut tracer = Self {
            keeper: EpochKeeper::new(plan.min_age, plan.interval, plan.rules_off),
            started: Instant::now(),
            started_unix_s: unix_now(),
            ledger: Ledger::default(),
            frames: FrameStore::default(),
            images: BTreeMap::new(),
            stacks: HashMap::new(),
            recycler: Recycler::default(),
            sequence: 0,
            full_since: None,
            rows_full_since: None,
            swept: 0,
            stacks_unknown: 0,
            replaced: HashMap::new(),
            retired: HashSet::new(),
            sweeping: false,
            next_serial: 1,
            ended_reports: Vec::new(),
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
        };
        tracer.enter_targets().await?;
        Ok(tracer)
    }

    async fn enter_targets(&mut self) -> Result<(), Failure> {
        match self.plan.target.clone() {
            TargetSpec::Pids(pids) => pids.into_iter().try_for_each(|pid| self.enter(pid)),
            TargetSpec::Command(words) => self.start_command(&words).await,
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

    // ---- entering ----

    /// Enters a running process: every probe first, then the gate.
    fn enter(&mut self, pid: u32) -> Result<(), Failure> {
        let identity = check_target(pid)?;
        self.refuse_deadly_filter(&identity)?;
        let discovered =
            discover::discover(pid, &self.costs).map_err(|error| discover::failure(pid, &error))?;
        self.enter_discovered(identity, &discovered, Attachment::default())
    }

    /// A filtered process that this kernel would kill at its first return probe is left alone.
    fn refuse_deadly_filter(&mut self, identity: &Identity) -> Result<(), Failure> {
        if identity.seccomp == SeccompMode::Off || self.kernel.return_probes_survive_filters()? {
            return Ok(());
        }
        Err(Failure::Unsupported(format!(
            "process {} ({}) filters its system calls (seccomp), and this kernel would kill it at the first return probe: update the kernel (fixed in 6.12.14, 6.13.3 and 6.14)",
            identity.pid, identity.name
        )))
    }

    fn enter_discovered(
        &mut self,
        identity: Identity,
        discovered: &Discovered,
        linker: Attachment,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let pid = identity.pid;
        let mut image = Image::new(self.new_serial(), identity);
        image.linker = linker;
        image.r_debug = discovered.r_debug;
        image.layered = discovered.plan.layered;
        image.read_mappings();
        image.allocator_text = allocator_text(&image, &discovered.plan);
        let early = self.plan.rules_off & rule::GATE != 0;
        let flags = self.flags(&image);
        let entry = |gate| Target { flags, ..target(&image, gate) };
        self.kernel.set_target(pid, &entry(if early { gate::OPEN } else { gate::CLOSED }))?;
        if let Err(failure) = self.place(&mut image, &discovered.plan) {
            self.kernel.remove_target(pid);
            return Err(match check_target(pid) {
                Err(gone) => gone,
                Ok(_) => failure,
            });
        }
        self.look_at(&mut image);
        image.opened = self.now();
        let entry = Target { flags, ..target(&image, gate::OPEN) };
        self.kernel.set_target(pid, &entry)?;
        announce(&image, &discovered.plan, begun.elapsed());
        self.images.insert(image.serial, image);
        Ok(())
    }

    /// Takes first readings, and opens the objects that stacks will lead to.
    fn look_at(&mut self, image: &mut Image) {
        image.read_memory();
        image.read_mappings();
        image.rss_at_attach = image.rss;
        self.frames.learn(image.pid, image.serial, &image.mappings);
    }

    /// Places the probes of a plan that are not in place yet.
    fn place(&mut self, image: &mut Image, plan: &Plan) -> Result<(), Failure> {
        let (linker, mut hooks) = discover::attach_points(plan);
        hooks.retain(|point| !image.probed.contains(&(point.path.clone(), point.offset.0)));
        if image.linker.link_count() == 0 && !linker.is_empty() {
            image.linker = self.kernel.attach(image.pid, &linker)?;
        }
        if self.plan.rules_off & rule::GATE != 0 {
            // The gate is open already: until the probes of `free` follow, every block looks like a leak.
            let is_free =
                |point: &crate::kernel::AttachPoint| point.cookie.kind == leaktrace_common::hook::kind::FREE;
            let (frees, others) = hooks.into_iter().partition::<Vec<_>, _>(is_free);
            image.hooks.merge(self.kernel.attach(image.pid, &others)?);
            image.probed.extend(others.into_iter().map(|point| (point.path, point.offset.0)));
            std::thread::sleep(Duration::from_millis(20));
            hooks = frees;
        }
        image.hooks.merge(self.kernel.attach(image.pid, &hooks)?);
        image.probed.extend(hooks.into_iter().map(|point| (point.path, point.offset.0)));
        for note in &plan.notes {
            if !image.notes.contains(note) {
                image.notes.push(note.clone());
            }
        }
        Ok(())
    }

    /// Flags of an image on the kernel side.
    fn flags(&self, image: &Image) -> u32 {
        let stop = if self.own_child == Some(image.pid) { target_flag::STOP_AFTER_EXEC } else { 0 };
        target(image, gate::CLOSED).flags | stop
    }

    fn new_serial(&mut self) -> u32 {
        if self.plan.rules_off & rule::SERIAL == 0 {
            self.next_serial += 1;
        }
        self.next_serial
    }

    /// Starts the command: its dynamic linker is probed before it executes anything.
    async fn start_command(&mut self, words: &[OsString]) -> Result<(), Failure> {
        let name = words.first().map_or(OsStr::new(""), OsString::as_os_str);
        let path = std::env::var_os("PATH");
        let command = CommandPlan::resolve(name, path.as_deref())
            .map_err(|error| Failure::NoTarget(error.to_string()))?;
        let plan = Plan::new(&command.before_start, &self.costs)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let held = Held::start(words)?;
        let pid = held.pid;
        self.own_child = Some(pid);
        let (linker_points, own_points) = discover::attach_points(&plan);
        let identity = Identity::read(pid).map_err(|error| process_failure(&error))?;
        let mut image = Image::new(self.new_serial(), identity);
        // The image that is held now is our own copy: nothing of it counts.
        let mut entry = target(&image, gate::CLOSED);
        entry.flags |= target_flag::STOP_AFTER_EXEC;
        self.kernel.set_target(pid, &entry)?;
        let linker = self.kernel.attach(pid, &linker_points)?;
        if !own_points.is_empty() {
            image.hooks = self.kernel.attach(pid, &own_points)?;
        }
        let is_static = command.linker.is_none();
        if is_static {
            return self.release_static(held, image, name, &plan).await;
        }
        self.replaced.insert(pid, Replaced { since: Instant::now(), linker });
        let ended = held.release(name).await?;
        self.command = Some((pid, ended));
        Ok(())
    }

    /// A static executable has no dynamic linker to stop at. Its probes are in place before it runs, and exec is
    /// noticed before its first instruction: the entry is renewed by then or the gap is said.
    async fn release_static(
        &mut self,
        held: Held,
        mut image: Image,
        name: &OsStr,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let pid = held.pid;
        let mut entry = target(&image, gate::OPEN_AFTER_EXEC);
        entry.flags = self.flags(&image);
        self.kernel.set_target(pid, &entry)?;
        let ended = held.release(name).await?;
        self.command = Some((pid, ended));
        image.identity = Identity::read(pid).unwrap_or(image.identity);
        self.look_at(&mut image);
        announce(&image, plan, Duration::ZERO);
        self.images.insert(image.serial, image);
        Ok(())
    }

    // ---- events ----

    /// Takes in everything that has arrived. Stacks come first: mapping events refer to them.
    pub fn drain(&mut self) {
        while let Some(record) = self.rings.next_stack() {
            self.stack_seen(&record);
        }
        while let Some(event) = self.rings.next_event() {
            self.event(&event);
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    fn stack_seen(&mut self, record: &StackRecord) {
        let header = &record.header;
        let Some(image) = self.images.get_mut(&header.serial) else {
            self.stacks_unknown += 1;
            return;
        };
        if self.stacks.len() >= MAX_STACKS {
            self.stacks_unknown += 1;
            return;
        }
        if image.generation != header.generation || !image.knows(&record.frames) {
            image.read_mappings();
            image.generation = header.generation;
        }
        let frames = record
            .frames
            .iter()
            .map(|address| self.frames.intern(image.pid, image.serial, &image.mappings, *address, true))
            .collect();
        let walk_end = u8::try_from(header.walk_end).unwrap_or(u8::MAX);
        self.stacks.insert((header.serial, header.stack_id), Stack { frames, walk_end });
    }

    fn event(&mut self, event: &Event) {
        tracing::trace!("event {event:?}");
        match event.kind {
            kind::EXEC => self.replaced_image(event),
            kind::EXIT => {
                let status = i32::try_from(event.extra).unwrap_or(0);
                self.image_ended(event.serial, &exit::describe_wait_status(status));
            }
            kind::LINK_MAP => self.link_map_changed(event),
            _ => self.mapping_event(event),
        }
    }

    fn mapping_event(&mut self, event: &Event) {
        let now = self.now();
        let Some(image) = self.images.get_mut(&event.serial) else { return };
        let intervals = &mut image.intervals;
        match event.kind {
            kind::MAPPED => {
                let label = MappingLabel::of(event.extra >> 32, event.extra & 0xffff_ffff);
                intervals.map(event.address, event.length, event.stack_id, now, label);
            }
            kind::UNMAPPING | kind::REMAPPING => intervals.unmap(event.tid, event.address, event.length),
            kind::UNMAP_FAILED => intervals.unmap_failed(event.tid),
            kind::REMAPPED => intervals.remapped(event.tid, event.address, event.length, event.stack_id, now),
            _ => {}
        }
    }

    /// exec: the old image is reported and dropped, the new one entered as soon as its allocator can be found.
    fn replaced_image(&mut self, event: &Event) {
        let executable = std::fs::read_link(format!("/proc/{}/exe", event.tgid));
        let what =
            executable.map_or_else(|_| "another program".to_owned(), |path| path.display().to_string());
        let linker = match self.images.get_mut(&event.serial) {
            Some(image) => std::mem::take(&mut image.linker),
            // A command that has executed its program: nothing was traced before.
            None => return,
        };
        self.image_ended(event.serial, &format!("replaced itself by {what} (exec)"));
        self.replaced.insert(event.tgid, Replaced { since: Instant::now(), linker });
        self.try_new_image(event.tgid);
    }

    fn link_map_changed(&mut self, event: &Event) {
        if self.replaced.contains_key(&event.tgid) {
            self.try_new_image(event.tgid);
        } else if let Err(failure) = self.look_for_new_allocators(event.serial)
            && let Some(image) = self.images.get_mut(&event.serial)
        {
            let note = format!("a library was loaded and its allocator could not be probed: {failure}");
            tracing::warn!("{note}");
            image.notes.push(note);
        }
        // Whatever came of it: who was stopped goes on. Somebody else may have entered the image meanwhile.
        if event.extra != 0 {
            // SAFETY: a signal to the command that we started and stopped.
            unsafe { libc::kill(i32::try_from(event.tgid).unwrap_or(0), libc::SIGCONT) };
        }
    }

    /// A library that was loaded later may bring its own allocator.
    fn look_for_new_allocators(&mut self, serial: u32) -> Result<(), Failure> {
        let Some(mut image) = self.images.remove(&serial) else { return Ok(()) };
        let outcome = self.place_new_allocators(&mut image);
        self.images.insert(serial, image);
        outcome
    }

    fn place_new_allocators(&mut self, image: &mut Image) -> Result<(), Failure> {
        let discovered = match discover::discover(image.pid, &self.costs) {
            Ok(discovered) if discovered.consistent => discovered,
            // In the middle of a change: another notification follows.
            Ok(_) => return Ok(()),
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(discover::failure(image.pid, &error)),
        };
        let before = image.probed.len();
        if discovered.plan.layered && !image.layered {
            // Said to the kernel side before the second layer's probes are there.
            image.layered = true;
            if let Some(mut entry) = self.kernel.target(image.pid) {
                entry.flags |= target_flag::LAYERED;
                self.kernel.set_target(image.pid, &entry)?;
            }
        }
        self.place(image, &discovered.plan)?;
        if image.probed.len() > before {
            let note = format!(
                "a library loaded after {:.0} s brought its own allocator; what it allocated before {} probes were placed is not known",
                self.now().as_secs_f64(),
                image.probed.len() - before
            );
            eprintln!("leaktrace: process {}: {note}", image.pid);
            image.notes.push(note);
        }
        Ok(())
    }

    /// Tries to enter the new image of a process.
    fn try_new_image(&mut self, pid: u32) {
        let Some(replaced) = self.replaced.get(&pid) else { return };
        let patience_over = replaced.since.elapsed() > EXEC_PATIENCE;
        let outcome = match (Identity::read(pid), discover::discover(pid, &self.costs)) {
            (Ok(identity), Ok(discovered)) if discovered.consistent && identity.state != RunState::Zombie => {
                let gap = replaced.since.elapsed();
                let linker = self.replaced.remove(&pid).map(|replaced| replaced.linker).unwrap_or_default();
                let entered = self.enter_discovered(identity, &discovered, linker);
                self.note_gap(pid, gap);
                entered
            }
            (Err(error), _) if error.is_gone() => Err(Failure::NoTarget(error.to_string())),
            (_, Err(error)) if patience_over || error.is_gone() => Err(discover::failure(pid, &error)),
            _ => return,
        };
        if let Err(failure) = outcome {
            self.replaced.remove(&pid);
            self.kernel.remove_target(pid);
            self.last_end.get_or_insert_with(|| failure.to_string());
            eprintln!("leaktrace: process {pid} is not traced any more: {failure}");
        }
    }

    /// Between exec and the new image's probes nothing was seen, unless the program was stopped for them.
    fn note_gap(&mut self, pid: u32, gap: Duration) {
        if self.own_child == Some(pid) {
            return;
        }
        if let Some(image) = self.images.values_mut().find(|image| image.pid == pid && image.ended.is_none())
        {
            image
                .blind
                .push(format!("{:.0} ms after exec, until the probes were placed", gap.as_secs_f64() * 1e3));
        }
    }

    /// A process image is gone: last report, probes away, blocks dropped.
    fn image_ended(&mut self, serial: u32, how: &str) {
        let now_alive = self.images.values().filter(|image| image.ended.is_none()).count();
        let Some(image) = self.images.get_mut(&serial) else { return };
        if image.ended.is_some() {
            return;
        }
        image.ended = Some(how.to_owned());
        image.hooks = Attachment::default();
        image.linker = Attachment::default();
        self.last_end = Some(how.to_owned());
        let pid = image.pid;
        if self.kernel.target(pid).is_some_and(|entry| entry.serial == serial) {
            let replaced = how.contains("(exec)");
            if !replaced {
                self.kernel.remove_target(pid);
            }
        }
        // The last image's report is the final one; it is made when tracing ends.
        if now_alive > 1 || how.contains("(exec)") {
            let report = self.report(Reason::ProcessEnded);
            self.ended_reports.push(report);
            self.retire(serial);
        }
    }

    /// Drops what belonged to an image that has been reported.
    fn retire(&mut self, serial: u32) {
        if self.plan.rules_off & rule::SERIAL != 0 {
            self.images.remove(&serial);
            return;
        }
        self.images.remove(&serial);
        self.retired.insert(serial);
        self.sweeping = true;
        self.ledger.forget(serial);
        self.frames.forget_process(serial);
        self.stacks.retain(|(of, _), _| *of != serial);
    }

    // ---- time ----

    /// Begins the next epoch and sends idle rows on their way.
    pub fn next_epoch(&mut self) {
        let now = self.now();
        self.keeper.advance(&self.kernel, now);
        let keep = self
            .images
            .values()
            .flat_map(|image| image.intervals.iter().map(|(_, piece)| (image.serial, piece.stack_id)))
            .collect();
        self.recycler.begin(&mut self.kernel, &self.retired, &keep, self.plan.rules_off);
    }

    /// What no event announces.
    pub async fn keep_house(&mut self) {
        self.keeper.settle_if_ready(&self.kernel);
        let recycled = self.recycler.finish_if_ready(&mut self.kernel, &mut self.ledger, &self.retired);
        if let Err(error) = recycled {
            tracing::error!("{error}");
        }
        self.sweep();
        self.watch_losses();
        self.refill_log();
        self.images.values_mut().for_each(Image::read_memory);
        self.watch_main_threads();
        let silent: Vec<u32> = self
            .images
            .values()
            .filter(|image| image.has_ended_silently())
            .map(|image| image.serial)
            .collect();
        for serial in silent {
            self.drain();
            self.image_ended(serial, "ended");
        }
        let waiting: Vec<u32> = self.replaced.keys().copied().collect();
        waiting.into_iter().for_each(|pid| self.try_new_image(pid));
    }

    fn sweep(&mut self) {
        // With the only process gone tracing ends, and the map goes with it.
        for _ in 0..SWEEP_TURNS {
            if !self.sweeping {
                return;
            }
            let retired = &self.retired;
            match self.sweeper.turn(|serial| retired.contains(&serial)) {
                Ok((removed, at_end)) => {
                    self.swept += removed;
                    self.sweeping = !at_end;
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    self.sweeping = false;
                }
            }
        }
    }

    fn watch_losses(&mut self) {
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
    /// then on the kernel takes the probes out wherever one is hit. Multi links compare the process.
    fn watch_main_threads(&mut self) {
        if self.kernel.link_mode() == LinkMode::Multi {
            return;
        }
        let now = self.now().as_secs();
        let seeing = self.images.values_mut().filter(|image| !image.lost_main_thread);
        for image in seeing.filter(|image| image.is_without_main_thread()) {
            image.lost_main_thread = true;
            image.blind.push(format!("process {} since {now} s: its main thread has ended", image.pid));
            eprintln!(
                "leaktrace: process {}: its main thread has ended, and with it the probes: before Linux 6.10 they \
                 depend on that thread",
                image.pid
            );
        }
    }

    fn refill_log(&mut self) {
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
        if alive || !self.replaced.is_empty() {
            return None;
        }
        Some(Ending::TargetGone(self.last_end.clone().unwrap_or_else(|| "is gone".to_owned())))
    }

    /// Closes the gates and makes the final report.
    pub async fn finish(&mut self, ending: &Ending) -> Report {
        for image in self.images.values().filter(|image| image.ended.is_none()) {
            let entry = self.kernel.target(image.pid).unwrap_or_else(|| target(image, gate::CLOSED));
            let _ = self.kernel.set_target(image.pid, &Target { gate: gate::CLOSED, ..entry });
        }
        self.keeper.settle(&self.kernel).await;
        let _ = tokio::task::spawn_blocking(|| wait_for_running_programs(0)).await;
        self.drain();
        self.watch_losses();
        self.watch_main_threads();
        self.report(Reason::Final(ending.to_string()))
    }

    /// Takes every probe away. A command that we started is sent the signal that ended us, as a shell would.
    pub fn detach(&mut self, ending: &Ending) {
        for image in self.images.values_mut() {
            image.hooks = Attachment::default();
            image.linker = Attachment::default();
        }
        self.replaced.clear();
        if let (Ending::Signal(signal), Some((pid, ended))) = (ending, &mut self.command)
            && matches!(ended.try_recv(), Err(TryRecvError::Empty))
        {
            // SAFETY: a signal to our own child, which has not been waited for.
            unsafe { libc::kill(i32::try_from(*pid).unwrap_or(0), signal.number()) };
        }
    }

    /// Reads every row into the ledger.
    pub(super) fn read_rows(&mut self) {
        let used = self.kernel.control.rows_used().min(self.kernel.rows.capacity());
        self.ledger.begin();
        for index in 0..used {
            let Some(mut row) = self.kernel.rows.read(index) else { continue };
            if index != leaktrace_common::record::OVERFLOW_ROW {
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

/// What the kernel side is to know of an image.
fn target(image: &Image, gate: u32) -> Target {
    Target {
        serial: image.serial,
        gate,
        flags: if image.layered { target_flag::LAYERED } else { 0 },
        generation: image.generation,
        r_debug: image.r_debug,
        allocator_start: image.allocator_text.0,
        allocator_end: image.allocator_text.1,
    }
}

/// Where the code of the allocator that frees lies in the process: mappings that it makes inside `free` are its own.
fn allocator_text(image: &Image, plan: &Plan) -> (u64, u64) {
    let frees = |probe: &&PlannedProbe| probe.cookie.kind == leaktrace_common::hook::kind::FREE;
    let Some(object) = plan.probes.iter().find(frees).and_then(|probe| plan.objects.get(probe.object)) else {
        return (0, 0);
    };
    let text = image.mappings.iter().filter(|mapping| {
        mapping.executable && mapping.inode == object.inode && mapping.device == object.device
    });
    text.fold((0, 0), |(start, end), mapping| {
        if end == 0 {
            (mapping.start.0, mapping.end.0)
        } else {
            (start.min(mapping.start.0), end.max(mapping.end.0))
        }
    })
}

/// Whether a PID names something that can be traced.
pub fn check_target(pid: u32) -> Result<Identity, Failure> {
    let identity = Identity::read(pid).map_err(|error| process_failure(&error))?;
    if identity.kernel_thread {
        return Err(Failure::NoTarget(format!(
            "process {pid} ({}) is a thread of the kernel: it has no memory of its own to trace",
            identity.name
        )));
    }
    if identity.state == RunState::Zombie {
        return Err(Failure::NoTarget(format!(
            "process {pid} ({}) has already ended (it is a zombie)",
            identity.name
        )));
    }
    if !identity.thread_group_leader {
        return Err(Failure::NoTarget(format!(
            "{pid} is one thread of a process: name the process (the first column of ps, not a thread ID)"
        )));
    }
    Ok(identity)
}

fn process_failure(error: &ProcessError) -> Failure {
    match error {
        ProcessError::Gone { pid } => Failure::NoTarget(format!("there is no process {pid}")),
        ProcessError::Denied { .. } => Failure::Unsupported(error.to_string()),
        _ => Failure::Failed(error.to_string()),
    }
}

fn announce(image: &Image, plan: &Plan, took: Duration) {
    eprintln!(
        "leaktrace: tracing {} ({}): {} probes in {} objects, placed in {:.1} ms",
        image.pid,
        image.identity.name,
        plan.probes.len(),
        plan.objects.len(),
        took.as_secs_f64() * 1e3
    );
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Domain number of mappings, as site keys spell it.
pub(super) const MMAP_DOMAIN: u32 = domain::MMAP as u32;
