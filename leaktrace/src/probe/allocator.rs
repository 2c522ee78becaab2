//! Which functions of a process to hook: for each name the object that the dynamic linker would have chosen. A
//! preloaded or linked library that defines `malloc` wins over the C library, the executable over both.

use std::path::PathBuf;

use thiserror::Error;

use super::hooks::{self, HookId, Provider};
use super::link_map::LinkMap;
use super::loaded::{Loaded, LoadedObject, Scope};
use super::view::{LiveView, View};
use crate::object::address::{AbsoluteAddress, VirtualOffset};
use crate::object::elf::{Elf, ElfError};
use crate::object::symbols::{Absence, Symbol, Table};
use crate::process::{self, ProcessError, maps};

/// Most object names that an error message lists.
const MAX_NAMED: usize = 8;

/// A hooked function and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedHook {
    /// Which function.
    pub hook: HookId,
    /// Index into [`Allocators::objects`].
    pub object: usize,
    /// Where it begins.
    pub address: VirtualOffset,
    /// Bytes of code; 0 where the object does not say.
    pub size: u64,
}

/// An allocator beside the one that the process as a whole uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraAllocator {
    /// Index into [`Allocators::objects`].
    pub object: usize,
    /// Its functions.
    pub hooks: Vec<ResolvedHook>,
    /// Why it is one.
    pub reason: ExtraReason,
}

/// Why an allocator is not the primary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraReason {
    /// A library loaded with `dlopen`.
    LoadedLater,
    /// The executable keeps its `malloc` to itself: only its own calls go there.
    PrivateToExecutable,
}

/// What a process allocates with.
#[derive(Debug, Default)]
pub struct Allocators {
    /// The process's objects in search order, the executable first.
    pub objects: Vec<LoadedObject>,
    /// The functions that the process as a whole uses.
    pub primary: Vec<ResolvedHook>,
    /// Other allocators in it.
    pub extra: Vec<ExtraAllocator>,
    /// The function that the dynamic linker calls around every change of its list. `None` in a static executable.
    pub linker: Option<ResolvedHook>,
    /// Where the dynamic linker keeps its `struct r_debug`; `None` in a static executable.
    pub debug: Option<AbsoluteAddress>,
    /// The list is complete: the linker was not changing it. `None` where there is no list.
    pub consistent: Option<bool>,
    /// What could not be found out, one sentence each.
    pub notes: Vec<String>,
}

/// Why a process's allocator was not found.
#[derive(Debug, Error)]
pub enum AllocatorError {
    /// The process could not be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The executable could not be read.
    #[error(transparent)]
    Object(#[from] ElfError),
    /// Nothing defines `malloc` and `free`.
    #[error(
        "no known allocator in process {pid}: none of its {count} objects ({looked_at}) defines {missing}; a static \
         executable needs its symbol table for that"
    )]
    None {
        /// The process.
        pid: u32,
        /// How many were looked at.
        count: usize,
        /// Their names, the first few.
        looked_at: String,
        /// What is missing.
        missing: String,
    },
}

impl Allocators {
    /// Finds the allocators of a running process.
    pub fn discover(pid: u32) -> Result<Self, AllocatorError> {
        let found = Self::of(&LiveView::open(pid)?).map_err(|error| match process::exists(pid) {
            true => AllocatorError::Object(error),
            false => ProcessError::Gone { pid }.into(),
        })?;
        let missing = found.missing();
        if missing.is_empty() {
            return Ok(found);
        }
        Err(AllocatorError::None {
            pid,
            count: found.objects.len(),
            looked_at: found.object_names(),
            missing: missing.join(" and "),
        })
    }

    /// The same over any view of a process, and without insisting that there is an allocator.
    pub fn of(view: &dyn View) -> Result<Self, ElfError> {
        let loaded = Loaded::find(view)?;
        let mut found = Self { notes: loaded.notes, objects: loaded.objects, ..Self::default() };
        found.resolve();
        found.debug = loaded.link_map.as_ref().map(|list| list.debug);
        found.consistent = loaded.link_map.as_ref().map(|list| list.consistent);
        if found.linker.is_none() {
            found.linker = loaded.link_map.and_then(|list| found.linker_by_address(view, &list));
        }
        Ok(found)
    }

    /// For a static executable that has not started: only itself is looked at.
    pub(super) fn of_executable(object: LoadedObject) -> Self {
        let mut found = Self { objects: vec![object], ..Self::default() };
        found.resolve();
        found
    }

    /// For a dynamic linker that has not started: only its notification. Its own `malloc` serves nobody else.
    pub(super) fn of_linker(object: LoadedObject) -> Result<Self, ElfError> {
        let mut linker = None;
        for table in [Table::Dynamic, Table::Full] {
            let (found, _) = look_up(&object.elf, table, 0)?;
            let notification = found.into_iter().find(|found| found.hook.hook().provider == Provider::Linker);
            linker = linker.or(notification);
        }
        Ok(Self { objects: vec![object], linker, ..Self::default() })
    }

    /// Which of `malloc` and `free` nobody defines.
    pub fn missing(&self) -> Vec<&'static str> {
        let has = |name: &str| self.primary.iter().any(|found| found.hook.hook().name == name);
        ["malloc", "free"].into_iter().filter(|name| !has(name)).collect()
    }

    /// More than one object allocates, so that one block may pass two layers.
    pub fn is_layered(&self) -> bool {
        let allocators =
            self.primary.iter().filter(|found| found.hook.hook().provider == Provider::Allocator);
        let mut objects: Vec<usize> = allocators.map(|found| found.object).collect();
        objects.sort_unstable();
        objects.dedup();
        objects.len() > 1 || !self.extra.is_empty()
    }

    /// A static executable. A dynamic linker that was started by hand looks like one, but has loaded others.
    fn is_alone(&self) -> bool {
        matches!(self.objects.as_slice(), [only] if only.elf.is_static_executable())
    }

    fn resolve(&mut self) {
        let definitions: Vec<_> = (0..self.objects.len()).map(|index| self.definitions(index)).collect();
        let libc = self.objects.iter().position(LoadedObject::is_libc);
        let alone = self.is_alone();
        for hook in hooks::all() {
            let provider = hook.hook().provider;
            let by = definitions.iter().enumerate().filter(|(index, _)| match provider {
                Provider::Allocator => self.objects[*index].scope == Scope::Startup,
                Provider::Libc => alone || Some(*index) == libc,
                Provider::Linker => true,
                Provider::Python => false,
            });
            let first = by.flat_map(|(_, found)| found).find(|found| found.hook == hook).copied();
            match provider {
                Provider::Linker => self.linker = first.filter(|_| !alone),
                _ => self.primary.extend(first),
            }
        }
        self.find_later(&definitions, libc);
        self.find_private();
    }

    /// Everything of the table that an object defines for others to see; a static executable, for itself.
    fn definitions(&mut self, object: usize) -> Vec<ResolvedHook> {
        let Some(elf) = self.objects.get(object).map(|object| &object.elf) else { return Vec::new() };
        let alone = self.is_alone();
        let mut found = look_up(elf, Table::Dynamic, object);
        if alone && found.as_ref().is_ok_and(|(found, _)| found.is_empty()) {
            found = look_up(elf, Table::Full, object);
        }
        match found {
            Ok((found, notes)) => {
                self.notes.extend(notes);
                found
            }
            Err(error) => {
                self.notes.push(format!("the functions of one object are not known: {error}"));
                Vec::new()
            }
        }
    }

    /// Libraries that came with `dlopen` and brought an allocator.
    fn find_later(&mut self, definitions: &[Vec<ResolvedHook>], libc: Option<usize>) {
        let linker = self.linker.map(|linker| linker.object);
        for (object, found) in definitions.iter().enumerate() {
            let later = self.objects.get(object).is_some_and(|object| object.scope == Scope::Later);
            if later && Some(object) != libc && Some(object) != linker {
                self.add_extra(object, found, ExtraReason::LoadedLater);
            }
        }
    }

    /// A dynamic executable with an allocator that only its full symbol table knows.
    fn find_private(&mut self) {
        let Some(elf) = self.objects.first().map(|object| &object.elf) else { return };
        let exported = self.primary.iter().any(|found| found.object == 0);
        if exported || elf.is_static_executable() {
            return;
        }
        if let Ok((found, _)) = look_up(elf, Table::Full, 0) {
            self.add_extra(0, &found, ExtraReason::PrivateToExecutable);
        }
    }

    fn add_extra(&mut self, object: usize, found: &[ResolvedHook], reason: ExtraReason) {
        let is_allocator = |found: &&ResolvedHook| found.hook.hook().provider == Provider::Allocator;
        let hooks: Vec<ResolvedHook> = found.iter().filter(is_allocator).copied().collect();
        let has = |name: &str| hooks.iter().any(|found| found.hook.hook().name == name);
        if has("malloc") && has("free") {
            self.extra.push(ExtraAllocator { object, hooks, reason });
        }
    }

    /// The linker says itself where its function is, for when its symbols are stripped.
    fn linker_by_address(&self, view: &dyn View, list: &LinkMap) -> Option<ResolvedHook> {
        let at: AbsoluteAddress = list.breakpoint;
        let mapping = maps::find(view.mappings(), at)?;
        let same = |object: &LoadedObject| object.device == mapping.device && object.inode == mapping.inode;
        let object = self.objects.iter().position(same)?;
        let address = self.objects.get(object)?.elf.virtual_offset(mapping.file_offset(at)?)?;
        Some(ResolvedHook { hook: HookId::by_name(hooks::LINK_MAP_CHANGED)?, object, address, size: 0 })
    }

    fn object_names(&self) -> String {
        let name = |path: &PathBuf| path.display().to_string();
        let mut names: Vec<_> =
            self.objects.iter().take(MAX_NAMED).map(|object| name(&object.path)).collect();
        if self.objects.len() > MAX_NAMED {
            names.push("...".to_owned());
        }
        names.join(", ")
    }
}

/// Every function of the table that one symbol table defines, and what has to be said about the others.
fn look_up(elf: &Elf, table: Table, object: usize) -> Result<(Vec<ResolvedHook>, Vec<String>), ElfError> {
    let by_name = |id: &HookId| id.hook().provider != Provider::Python;
    let ids: Vec<HookId> = hooks::all().filter(by_name).collect();
    let names: Vec<&str> = ids.iter().map(|id| id.hook().name).collect();
    let symbols = elf.symbols(table, &names)?;
    let mut notes = Vec::new();
    let mut found = Vec::new();
    for (hook, symbol) in ids.into_iter().zip(symbols) {
        match symbol {
            Ok(Symbol { address, size }) => found.push(ResolvedHook { hook, object, address, size }),
            Err(reason @ (Absence::Indirect | Absence::NotCode)) => {
                notes.push(format!(
                    "{} of {} is not hooked: {reason}",
                    hook.hook().name,
                    elf.path().display()
                ));
            }
            Err(Absence::NoTable | Absence::NotDefined) => {}
        }
    }
    Ok((found, notes))
}
