//! How probes are placed. Links of one process cost nobody else anything, but each is visited at every hit of its instruction,
//! in whichever process: with many processes they add up. One link that is shared by every process of a file costs the same
//! whoever hits it, neighbours included. So: few processes have links of their own, many share; which of the two is
//! decided at the start, and once more when it turns out that there are many. There is no way back while tracing.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use leaktrace_common::{
    hook::HookCookie,
    record::{MAX_SHARED_LINKS, Target, target_flag},
    rule,
};

use super::{
    forks::Parentage,
    link_closer::LinkCloser,
    shared_links::{FileId, MAX_SETS, ProbeSet, SharedLinks},
    tracer::Tracer,
};
use crate::{
    kernel::{AttachPoint, AttachScope, Attachment, KernelError},
    probe::cost::{CostTable, InstructionClass},
    process,
    report::{aside::say, human::noun_of},
    target::image::Image,
};

/// Few processes: up to so many that map one file have links of their own, and up to so many traced ones are told of one by one.
pub const FEW: usize = 16;
/// Processes from which on `--strict-scope` is worth a warning.
const MANY_OF_THEIR_OWN: usize = 50;
/// Changes to and fro with the rule switched off that keeps them out of hits.
const CHANGES_WITHOUT_THE_RULE: usize = 300;

/// Whose the links are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Each process has its own.
    PerProcess,
    /// All processes of a file share them; the kernel side tells who counts.
    Shared,
}

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Processes in scope now.
    pub processes: usize,
    /// The whole host is.
    pub whole_host: bool,
    /// `--strict-scope`.
    pub strict: bool,
    /// Asked for by a test.
    pub forced: Option<Placement>,
    /// A shared link has return probes in neighbours, some of which may filter their system calls: whether that is safe.
    pub returns_are_safe: bool,
}

impl Circumstances {
    /// Which it is.
    pub fn decide(&self) -> Placement {
        let many = self.whole_host || self.processes > FEW;
        match self.forced {
            _ if self.strict => Placement::PerProcess,
            Some(forced) => forced,
            None if many && self.returns_are_safe => Placement::Shared,
            None => Placement::PerProcess,
        }
    }

    /// One process with probes of its own is what everybody expects.
    pub fn are_worth_telling(&self) -> bool {
        self.processes > 1 || self.strict || self.decide() == Placement::Shared
    }

    /// The decision in one line.
    pub fn sentence(&self, costs: &CostTable) -> String {
        let Self { processes, .. } = *self;
        let count = format!("{processes} {}", noun_of(processes as u64, "process"));
        match self.decide() {
            Placement::Shared => format!(
                "{count} in scope: probes are shared by all processes of a file, in scope or not; each call of an allocator costs others some {} ns (--strict-scope: nothing)",
                others_pay_ns(costs)
            ),
            Placement::PerProcess if self.strict && processes > MANY_OF_THEIR_OWN => format!(
                "{count} in scope have probes of their own (--strict-scope): that makes each call of an allocator some {} ns dearer than shared probes would",
                costs.visits_ns(processes)
            ),
            Placement::PerProcess if !self.returns_are_safe => format!(
                "{count} in scope have probes of their own: shared ones would kill processes that filter their system calls on this kernel"
            ),
            Placement::PerProcess => format!("{count} in scope: no other process is touched"),
        }
    }
}

/// What a call of an allocator costs a process that is not traced.
pub fn others_pay_ns(costs: &CostTable) -> u32 {
    costs.cost(InstructionClass::Push).return_ns
}

/// Probes of one file that were placed together in a process.
pub struct Batch {
    file: FileId,
    /// Leads to the very file, whatever becomes of its names.
    opened: File,
    points: Vec<AttachPoint>,
}

impl Batch {
    /// Sorts probes by the file they lie in.
    fn sort(points: &[AttachPoint]) -> io::Result<Vec<Self>> {
        let mut batches: Vec<Self> = Vec::new();
        let mut paths: Vec<&PathBuf> = points.iter().map(|point| &point.path).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let points = points.iter().filter(|point| point.path == *path).cloned();
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
            let data = opened.metadata()?;
            let file = FileId { device: data.dev(), inode: data.ino() };
            match batches.iter_mut().find(|batch| batch.file == file) {
                Some(batch) => batch.points.extend(points),
                None => batches.push(Self { file, opened, points: points.collect() }),
            }
        }
        batches.iter_mut().for_each(Self::drop_doubles);
        Ok(batches)
    }

    /// Adds it to those of the same process: what lies in one file is shared by one link later, in whichever steps it was placed.
    fn add_to(mut self, batches: &mut Vec<Self>) {
        match batches.iter_mut().find(|batch| batch.file == self.file) {
            Some(known) => {
                known.points.append(&mut self.points);
                known.drop_doubles();
            }
            None => batches.push(self),
        }
    }

    /// A file can be reached by several paths, one for each of its mappings.
    fn drop_doubles(&mut self) {
        let mut seen = HashSet::new();
        self.points.retain(|point| seen.insert((point.offset.0, point.cookie.pack())));
    }

    /// The probes as a shared link places them.
    fn shared_points(&self, number: u16) -> Vec<AttachPoint> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.opened.as_raw_fd()));
        let point = |point: &AttachPoint| AttachPoint {
            path: path.clone(),
            cookie: HookCookie { link: number, ..point.cookie },
            ..point.clone()
        };
        self.points.iter().map(point).collect()
    }
}

/// A probe of a process, for those that are forked from it.
#[derive(Clone, Debug)]
pub struct Placed {
    purpose: Purpose,
    point: AttachPoint,
}

impl Placed {
    /// The same in a forked process.
    fn below(&self, parent: u32, child: u32) -> Self {
        let path = process::reroot(&self.point.path, parent, child);
        Self { point: AttachPoint { path, ..self.point.clone() }, ..*self }
    }
}

/// What probes are for. Those that tell of changes outlive an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The dynamic linker's notification; there since before the exec, if there was one.
    Linker,
    /// The interpreter's set-up.
    SetUp,
    Allocators,
}

/// What is shared, and what is on its way to be.
pub struct Placements {
    mode: Placement,
    /// Whether processes that have links of their own may change over to shared ones.
    may_change: bool,
    links: SharedLinks<Attachment>,
    /// Closes what is not needed any more.
    pub(super) closer: LinkCloser,
}

impl Placements {
    /// Begins as circumstances tell.
    pub fn new(circumstances: &Circumstances) -> Self {
        let may_change =
            !circumstances.strict && circumstances.forced.is_none() && circumstances.returns_are_safe;
        Self {
            mode: circumstances.decide(),
            may_change,
            links: SharedLinks::default(),
            closer: LinkCloser::default(),
        }
    }

    /// Gives up everything that is shared.
    pub fn take_all(&mut self) -> Vec<Attachment> {
        self.links.take_all()
    }
}

impl Tracer {
    /// Places probes that are not there yet.
    pub(super) fn attach_new(
        &mut self,
        image: &mut Image,
        points: Vec<AttachPoint>,
    ) -> Result<(), KernelError> {
        self.attach_in_order(image, Purpose::Allocators, vec![points])
    }

    /// The same for two groups, of which the first must not come later than the second: the gate may be open already.
    pub(super) fn attach_first_and_then(
        &mut self,
        image: &mut Image,
        first: Vec<AttachPoint>,
        then: Vec<AttachPoint>,
    ) -> Result<(), KernelError> {
        self.attach_in_order(image, Purpose::Allocators, vec![first, then])
    }

    /// Places probes on the dynamic linker, unless the image has them since before its exec.
    pub(super) fn attach_linker(
        &mut self,
        image: &mut Image,
        points: Vec<AttachPoint>,
    ) -> Result<(), KernelError> {
        self.attach_in_order(image, Purpose::Linker, vec![points])
    }

    /// A process that was forked has its parent's links: those of the files that both map.
    pub(super) fn inherit_links(&self, image: &mut Image) {
        let entry = self.kernel.target(image.pid).filter(|entry| entry.serial == image.serial);
        if let Some(entry) = entry.filter(|entry| entry.flags & target_flag::SHARED_LINKS != 0) {
            image.links = entry.links;
        }
    }

    /// Places a probe on what is called once an interpreter is set up.
    pub(super) fn attach_set_up(&mut self, image: &mut Image, point: AttachPoint) -> Result<(), KernelError> {
        self.attach_in_order(image, Purpose::SetUp, vec![vec![point]])
    }

    fn attach_in_order(
        &mut self,
        image: &mut Image,
        purpose: Purpose,
        groups: Vec<Vec<AttachPoint>>,
    ) -> Result<(), KernelError> {
        let is_new = |point: &AttachPoint| !image.probed.contains(&(point.path.clone(), point.offset.0));
        let groups: Vec<Vec<AttachPoint>> =
            groups.into_iter().map(|group| group.into_iter().filter(is_new).collect()).collect();
        let all = groups.concat();
        if all.is_empty() {
            return Ok(());
        }
        let batches = self.batches(&all)?;
        self.change_if_crowded(image, &batches);
        if self.placements.mode == Placement::Shared && image.hooks.is_empty() {
            self.share(image, &batches, target_flag::SHARED_LINKS)?;
            let own = std::mem::take(&mut image.linker);
            self.placements.closer.close(vec![own]);
        } else {
            self.attach_own(image, purpose, &groups)?;
            batches.into_iter().for_each(|batch| batch.add_to(&mut image.batches));
        }
        image.probed.extend(all.iter().map(|point| (point.path.clone(), point.offset.0)));
        image.points.extend(all.into_iter().map(|point| Placed { purpose, point }));
        Ok(())
    }

    /// Places in a forked process what its parent has. Links that are shared count for it already.
    pub(super) fn attach_as_in(&mut self, image: &mut Image, parent: &Parentage) -> Result<(), KernelError> {
        let points = parent.points.iter().map(|placed| placed.below(parent.pid, image.pid));
        let points: Vec<Placed> = points.collect();
        if parent.links != [0; MAX_SHARED_LINKS] {
            image.links = parent.links;
            image
                .probed
                .extend(points.iter().map(|placed| (placed.point.path.clone(), placed.point.offset.0)));
            image.points = points;
            return Ok(());
        }
        for purpose in [Purpose::Linker, Purpose::SetUp, Purpose::Allocators] {
            let of = points.iter().filter(|placed| placed.purpose == purpose);
            let of = of.map(|placed| placed.point.clone()).collect();
            self.attach_in_order(image, purpose, vec![of])?;
        }
        Ok(())
    }

    /// Places the probes of an image in a process that runs in its memory.
    pub(super) fn attach_to_sharer(&mut self, pid: u32, serial: u32) -> Result<Attachment, KernelError> {
        let image = self.images.get(&serial).filter(|image| image.links == [0; MAX_SHARED_LINKS]);
        let Some(image) = image else { return Ok(Attachment::default()) };
        let points: Vec<AttachPoint> =
            image.points.iter().map(|placed| placed.below(image.pid, pid).point).collect();
        self.kernel.attach(AttachScope::Process(pid), &points)
    }

    /// By file, where that will ever matter: each holds a descriptor.
    fn batches(&self, points: &[AttachPoint]) -> Result<Vec<Batch>, KernelError> {
        if self.placements.mode == Placement::PerProcess && !self.placements.may_change {
            return Ok(Vec::new());
        }
        let what = || "opening a file that is to be probed".to_owned();
        Batch::sort(points).map_err(|source| KernelError::Io { what: what(), source })
    }

    fn attach_own(
        &mut self,
        image: &mut Image,
        purpose: Purpose,
        groups: &[Vec<AttachPoint>],
    ) -> Result<(), KernelError> {
        if purpose == Purpose::Linker && !image.linker.is_empty() {
            return Ok(());
        }
        for group in groups {
            let placed = self.kernel.attach(AttachScope::Process(image.pid), group)?;
            match purpose {
                Purpose::Linker | Purpose::SetUp => image.linker.merge(placed),
                Purpose::Allocators => image.hooks.merge(placed),
            }
        }
        Ok(())
    }

    /// Makes an image take part in shared links, all at once.
    fn share(&mut self, image: &mut Image, batches: &[Batch], flags: u32) -> Result<(), KernelError> {
        let mut links = image.links;
        for batch in batches {
            let Some(number) = self.shared_link(batch)? else {
                image.note(format!(
                    "{} probes were left out: more than {MAX_SETS} sets of probes are shared",
                    batch.points.len()
                ));
                continue;
            };
            if links.contains(&number) {
                continue;
            }
            match links.iter_mut().find(|link| **link == 0) {
                Some(free) => *free = number,
                None => image.note(format!(
                    "{} probes were left out: the process uses more than {MAX_SHARED_LINKS} sets of shared probes",
                    batch.points.len()
                )),
            }
        }
        image.links = links;
        self.tell_links(image, flags)
    }

    fn shared_link(&mut self, batch: &Batch) -> Result<Option<u16>, KernelError> {
        let set = ProbeSet::new(batch.file, &batch.points);
        let kernel = &mut self.kernel;
        self.placements.links.number_of(set, |number| {
            kernel.attach(AttachScope::Everyone, &batch.shared_points(number)).map_err(|error| match error {
                // The path by which it was opened says nothing to anybody.
                KernelError::Attach { count, scope, reason, .. } => {
                    let path = batch.points.first().map(|point| point.path.clone()).unwrap_or_default();
                    KernelError::Attach { count, path, scope, reason }
                }
                other => other,
            })
        })
    }

    /// Has the kernel side know which links count for an image, if it knows the image.
    fn tell_links(&mut self, image: &Image, flags: u32) -> Result<(), KernelError> {
        let entry = self.kernel.target(image.pid).filter(|entry| entry.serial == image.serial);
        let Some(entry) = entry else { return Ok(()) };
        self.kernel.set_target(image.pid, &Target { links: image.links, flags: entry.flags | flags, ..entry })
    }

    /// Changes over to shared links when more processes than a few map a file that is about to be probed.
    fn change_if_crowded(&mut self, newcomer: &mut Image, batches: &[Batch]) {
        let Placements { mode: Placement::PerProcess, may_change: true, .. } = self.placements else {
            return;
        };
        let uses = |image: &Image, file| {
            image.ended.is_none() && image.batches.iter().any(|batch| batch.file == file)
        };
        let users = |batch: &Batch| self.images.values().filter(|image| uses(image, batch.file)).count();
        let Some(count) = batches.iter().map(users).max().filter(|count| *count >= FEW) else { return };
        if let Err(error) = self.change_to_shared(newcomer) {
            say(format_args!("processes keep probes of their own: {error}"));
            self.placements.may_change = false;
            return;
        }
        say(format_args!(
            "{} processes use the same files: from now on probes are shared by all processes of a file, in scope or not; each call of an allocator costs others some {} ns (--strict-scope: nothing)",
            count + 1,
            others_pay_ns(&self.costs)
        ));
    }

    /// Every image changes over: shared links are placed, one write to its entry makes them count, and its own go once no
    /// hit is under way any more that only they have counted. Until then both fire, and the kernel side takes care.
    fn change_to_shared(&mut self, newcomer: &mut Image) -> Result<(), KernelError> {
        let fence = self.kernel.fence()?;
        self.placements.mode = Placement::Shared;
        let (mut own, mut serials) = (Vec::new(), HashSet::new());
        let known: Vec<u32> = self.images.keys().copied().collect();
        for serial in known {
            let Some(mut image) = self.images.remove(&serial) else { continue };
            self.change_image(&mut image, &mut own, &mut serials);
            self.images.insert(serial, image);
        }
        self.change_image(newcomer, &mut own, &mut serials);
        self.change_in_the_middle_of_hits();
        self.placements.closer.close_behind(fence, own, serials);
        Ok(())
    }

    fn change_image(&mut self, image: &mut Image, own: &mut Vec<Attachment>, serials: &mut HashSet<u32>) {
        let batches = std::mem::take(&mut image.batches);
        if image.ended.is_some() || batches.is_empty() {
            return;
        }
        let flags = target_flag::SHARED_LINKS | target_flag::CHANGING_LINKS;
        match self.share(image, &batches, flags) {
            Ok(()) => {
                own.extend([std::mem::take(&mut image.hooks), std::mem::take(&mut image.linker)]);
                serials.insert(image.serial);
            }
            Err(error) => {
                image.links = [0; MAX_SHARED_LINKS];
                image.note(format!("it keeps probes of its own: {error}"));
            }
        }
    }

    /// With the rule switched off that keeps a change out of hits: goes back and forth until it has fallen into some, which on a
    /// busy machine the one write would rarely do.
    fn change_in_the_middle_of_hits(&mut self) {
        if self.plan.rules_off & rule::CHANGE_BETWEEN_HITS == 0 {
            return;
        }
        let entry = |(pid, serial): (&u32, &u32)| Some((*pid, self.entry_in_force(*pid, *serial)?));
        let changed: Vec<(u32, Target)> = self.traced_pids.iter().filter_map(entry).collect();
        for turn in 0..2 * CHANGES_WITHOUT_THE_RULE {
            std::thread::sleep(Duration::from_millis(1));
            for (pid, changed) in &changed {
                let flags = changed.flags & !(target_flag::SHARED_LINKS | target_flag::CHANGING_LINKS);
                let before = Target { links: [0; MAX_SHARED_LINKS], flags, ..*changed };
                let entry = if turn % 2 == 0 { &before } else { changed };
                if let Err(error) = self.kernel.set_target(*pid, entry) {
                    tracing::warn!("{error}");
                }
            }
        }
    }

    /// Images whose own links are gone need no more care; links that nobody uses are given up.
    pub(super) fn look_after_links(&mut self) {
        for serial in self.placements.closer.take_finished() {
            let Some(pid) = self.images.get(&serial).map(|image| image.pid) else { continue };
            let Some(entry) = self.kernel.target(pid).filter(|entry| entry.serial == serial) else {
                continue;
            };
            let flags = entry.flags & !target_flag::CHANGING_LINKS;
            if let Err(error) = self.kernel.set_target(pid, &Target { flags, ..entry }) {
                tracing::warn!("{error}");
            }
        }
        let living = self.images.values().filter(|image| image.ended.is_none());
        let used: HashSet<u16> = living.flat_map(|image| image.links).collect();
        let idle = self.placements.links.give_up(&used, Instant::now());
        self.placements.closer.close(idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW_PROCESSES: Circumstances = Circumstances {
        processes: FEW,
        whole_host: false,
        strict: false,
        forced: None,
        returns_are_safe: true,
    };

    #[test]
    fn few_processes_have_links_of_their_own_and_many_share_them() {
        let many = Circumstances { processes: FEW + 1, ..FEW_PROCESSES };
        assert_eq!(FEW_PROCESSES.decide(), Placement::PerProcess);
        assert_eq!(many.decide(), Placement::Shared);
        assert_eq!(Circumstances { whole_host: true, ..FEW_PROCESSES }.decide(), Placement::Shared);
        assert_eq!(Circumstances { returns_are_safe: false, ..many }.decide(), Placement::PerProcess);
    }

    #[test]
    fn a_strict_scope_beats_everything_and_a_forced_placement_the_rest() {
        let shared = Circumstances { forced: Some(Placement::Shared), ..FEW_PROCESSES };
        assert_eq!(shared.decide(), Placement::Shared);
        assert_eq!(
            Circumstances { strict: true, whole_host: true, ..shared }.decide(),
            Placement::PerProcess
        );
    }

    #[test]
    fn the_sentence_says_who_pays_how_much() {
        let costs = CostTable::default();
        let say = |circumstances: Circumstances| circumstances.sentence(&costs);
        assert_eq!(say(FEW_PROCESSES), "16 processes in scope: no other process is touched");
        assert!(say(Circumstances { whole_host: true, ..FEW_PROCESSES }).contains("some 809 ns"));
        let strict = Circumstances { processes: 100, strict: true, ..FEW_PROCESSES };
        assert!(say(strict).contains("3000 ns dearer"), "{}", say(strict));
        let deadly = Circumstances { processes: 100, returns_are_safe: false, ..FEW_PROCESSES };
        assert!(say(deadly).contains("would kill"), "{}", say(deadly));
    }

    #[test]
    fn probes_are_sorted_by_file_whatever_path_leads_to_it() {
        let point = |path: &str, offset| AttachPoint {
            path: path.into(),
            offset: crate::object::address::FileOffset(offset),
            cookie: HookCookie::default(),
            needs_return: false,
        };
        let own = format!("/proc/{}/exe", std::process::id());
        let points =
            [point("/proc/self/exe", 1), point("/dev/null", 1), point(&own, 1), point("/proc/self/exe", 2)];
        let batches = Batch::sort(&points).expect("files that exist");
        let offsets = |batch: &Batch| batch.points.iter().map(|point| point.offset.0).collect::<Vec<_>>();
        assert_eq!(batches.iter().map(offsets).collect::<Vec<_>>(), [vec![1], vec![1, 2]]);
        let shared = batches[1].shared_points(9);
        assert!(shared.iter().all(|point| point.cookie.link == 9 && point.path.starts_with("/proc/self/fd")));
        assert!(Batch::sort(&[point("/no/such/file", 1)]).is_err());
    }
}
