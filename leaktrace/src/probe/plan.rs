//! The plan for one target: every probe with its place, its cookie and its price. Made before anything is attached,
//! so that `doctor` shows exactly what `trace` does.

use std::path::{Path, PathBuf};

use leaktrace_common::hook::{HookCookie, kind};
use thiserror::Error;

use super::allocator::{Allocators, ResolvedHook};
use super::cost::{CostSource, CostTable, InstructionClass};
use super::hooks::{self, HookId};
use super::loaded::LoadedObject;
use super::site::{
    Architecture, Choice, Function, MAX_FUNCTION_BYTES, Requirements, Site, SiteError, WINDOW_BYTES, choose,
};
use crate::object::address::{FileOffset, VirtualOffset};
use crate::object::elf::ElfError;

/// One probe to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedProbe {
    /// Which function.
    pub hook: HookId,
    /// Other names of the same code, served by the same probe.
    pub aliases: Vec<&'static str>,
    /// Index into [`Plan::objects`].
    pub object: usize,
    /// Where the function begins.
    pub function: VirtualOffset,
    /// Where the probe goes: entry and return probe alike.
    pub offset: FileOffset,
    /// What the probe tells the kernel side.
    pub cookie: HookCookie,
    /// Whether a return probe goes with it.
    pub needs_return: bool,
    /// The instruction it sits on.
    pub site: Site,
    /// Other legal sites.
    pub alternatives: Vec<Site>,
}

/// An object with at least one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedObject {
    /// As the target sees it.
    pub path: PathBuf,
    /// Openable from here.
    pub attach_path: PathBuf,
    /// Device of the file: with the inode what tells files apart.
    pub device: (u32, u32),
    /// Inode of the file.
    pub inode: u64,
}

/// Everything to be placed in one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Objects that probes lie in.
    pub objects: Vec<PlannedObject>,
    /// In the order in which they are to be placed: what gives memory back first.
    pub probes: Vec<PlannedProbe>,
    /// More than one allocator is hooked.
    pub layered: bool,
    /// What will not be seen and why, one sentence each.
    pub notes: Vec<String>,
}

/// A line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRow {
    /// Function, aliases included.
    pub function: String,
    /// Path of the object as the target sees it.
    pub object: PathBuf,
    /// Address of the probe in the object.
    pub address: VirtualOffset,
    /// Distance from the function's first instruction, bytes; negative in the padding in front of it.
    pub offset: i64,
    /// The instruction under the probe.
    pub instruction: String,
    /// Its class.
    pub class: InstructionClass,
    /// Whether the kernel emulates it.
    pub emulated: bool,
    /// Whether there is a return probe.
    pub needs_return: bool,
    /// Nanoseconds per call of the function, entry and return together.
    pub cost_ns: u32,
    /// Measured on this host or predicted.
    pub source: CostSource,
}

/// Why a target cannot be probed.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A function's code could not be read.
    #[error(transparent)]
    Object(#[from] ElfError),
    /// No site in a function that gives memory back: what it frees would look leaked.
    #[error("no probe can be placed in {function} of {}: {reason}", path.display())]
    NoSite {
        /// The function.
        function: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        reason: SiteError,
    },
}

impl Plan {
    /// Plans every probe for what was found in a process.
    pub fn new(allocators: &Allocators, costs: &CostTable) -> Result<Self, PlanError> {
        let mut plan =
            Self { layered: allocators.is_layered(), notes: allocators.notes.clone(), ..Self::default() };
        let extra = allocators.extra.iter().flat_map(|extra| &extra.hooks);
        for resolved in allocators.primary.iter().chain(extra).chain(&allocators.linker) {
            if let Some(object) = allocators.objects.get(resolved.object) {
                plan.add(*resolved, object, costs)?;
            }
        }
        plan.probes.sort_by_key(|probe| (probe.hook.hook().priority(), probe.hook));
        Ok(plan)
    }

    /// Adds the probes of another plan for the same process.
    pub fn absorb(&mut self, other: Self) {
        let places: Vec<usize> = other.objects.into_iter().map(|object| self.place_of(object)).collect();
        for mut probe in other.probes {
            let Some(object) = places.get(probe.object) else { continue };
            probe.object = *object;
            self.probes.push(probe);
        }
        self.probes.sort_by_key(|probe| (probe.hook.hook().priority(), probe.hook));
        self.layered |= other.layered;
        self.notes.extend(other.notes);
    }

    /// Where an object stands in the list; it is added if it is new.
    pub fn place_of(&mut self, planned: PlannedObject) -> usize {
        if let Some(known) = self.objects.iter().position(|object| *object == planned) {
            return known;
        }
        self.objects.push(planned);
        self.objects.len() - 1
    }

    /// Probes by object, in the order of [`Self::objects`].
    pub fn by_object(&self) -> impl Iterator<Item = (&PlannedObject, Vec<&PlannedProbe>)> {
        self.objects.iter().enumerate().map(|(index, object)| {
            (object, self.probes.iter().filter(|probe| probe.object == index).collect())
        })
    }

    /// What `doctor` prints.
    pub fn rows(&self) -> Vec<ProbeRow> {
        self.probes.iter().map(|probe| self.row(probe)).collect()
    }

    fn row(&self, probe: &PlannedProbe) -> ProbeRow {
        let names: Vec<_> =
            [probe.hook.hook().name].into_iter().chain(probe.aliases.iter().copied()).collect();
        ProbeRow {
            function: names.join(", "),
            object: self.objects.get(probe.object).map(|object| object.path.clone()).unwrap_or_default(),
            address: probe.site.address(probe.function),
            offset: probe.site.distance(),
            instruction: probe.site.instruction.clone(),
            class: probe.site.class,
            emulated: probe.site.cost.emulated,
            needs_return: probe.needs_return,
            cost_ns: probe.site.cost.per_hit_ns(probe.needs_return),
            source: probe.site.cost.source,
        }
    }

    fn add(&mut self, found: ResolvedHook, from: &LoadedObject, costs: &CostTable) -> Result<(), PlanError> {
        let object = self.object(from);
        let same = |probe: &&mut PlannedProbe| probe.object == object && probe.function == found.address;
        if let Some(probe) = self.probes.iter_mut().find(same) {
            let note = merge(probe, found.hook, &from.path);
            self.notes.extend(note);
            return Ok(());
        }
        match place(found, from, costs)? {
            Ok((offset, choice)) => {
                self.note_reentry(found.hook, &choice.site, &from.path);
                self.probes.push(PlannedProbe {
                    hook: found.hook,
                    aliases: Vec::new(),
                    object,
                    function: found.address,
                    offset,
                    cookie: hooks::cookie(found.hook, choice.site.pushed_words),
                    needs_return: found.hook.hook().needs_return(),
                    site: choice.site,
                    alternatives: choice.alternatives,
                });
                Ok(())
            }
            Err(reason) => self.refuse(found.hook, &from.path, reason),
        }
    }

    fn object(&mut self, from: &LoadedObject) -> usize {
        let planned = PlannedObject {
            path: from.path.clone(),
            attach_path: from.attach_path.clone(),
            device: from.device,
            inode: from.inode,
        };
        self.place_of(planned)
    }

    /// Without a probe on what gives memory back, leaks would be invented; without one on the rest, some are missed.
    fn refuse(&mut self, hook: HookId, path: &Path, reason: SiteError) -> Result<(), PlanError> {
        let function = hook.hook().name;
        if matches!(hook.hook().kind, kind::FREE | kind::REALLOC | kind::MUNMAP | kind::MREMAP) {
            return Err(PlanError::NoSite { function, path: path.to_owned(), reason });
        }
        self.notes.push(format!("{function} of {} is not seen: {reason}", path.display()));
        Ok(())
    }

    fn note_reentry(&mut self, hook: HookId, site: &Site, path: &Path) {
        if site.reentered {
            self.notes.push(format!(
                "{} of {} jumps back to its first instruction: one call may count more than once",
                hook.hook().name,
                path.display()
            ));
        }
    }
}

/// A second name for code that has a probe already.
fn merge(probe: &mut PlannedProbe, alias: HookId, path: &Path) -> Option<String> {
    let (first, second) = (probe.hook.hook(), alias.hook());
    if first.same_behaviour(second) {
        if alias != probe.hook && !probe.aliases.contains(&second.name) {
            probe.aliases.push(second.name);
        }
        return None;
    }
    Some(format!(
        "{} and {} of {} are the same code; calls of either are recorded as {}",
        first.name,
        second.name,
        path.display(),
        first.name
    ))
}

/// Reads the function and chooses the site.
fn place(
    found: ResolvedHook,
    from: &LoadedObject,
    costs: &CostTable,
) -> Result<Result<(FileOffset, Choice), SiteError>, ElfError> {
    let complete = (1..=MAX_FUNCTION_BYTES).contains(&found.size);
    let length = if complete { found.size } else { WINDOW_BYTES };
    let bytes = from.elf.code_at(found.address, length)?;
    let complete = complete && bytes.len() as u64 == found.size;
    let function = Function { address: found.address, bytes: &bytes, complete };
    let choice = match choose(Architecture::X86_64, function, requirements(found.hook), costs) {
        Ok(choice) => choice,
        Err(reason) => return Ok(Err(reason)),
    };
    let address = found.address.checked_add(choice.site.offset);
    let offset = address.and_then(|address| from.elf.file_offset(address));
    Ok(offset.map(|offset| (offset, choice)).ok_or(SiteError::Empty))
}

/// What a hook needs from its site.
pub fn requirements(hook: HookId) -> Requirements {
    let hook = hook.hook();
    Requirements {
        arguments: hook.arguments,
        needs_return: hook.needs_return(),
        no_op_when_null: hook.no_op_when_null(),
    }
}
