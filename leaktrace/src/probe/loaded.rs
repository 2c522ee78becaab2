//! The objects of a process in the order in which the dynamic linker searches them.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use super::link_map::{self, LinkMap, LinkMapError};
use super::view::View;
use crate::object::address::AbsoluteAddress;
use crate::object::elf::{Elf, ElfError};
use crate::process::maps::{self, Mapping};

/// Entry of the auxiliary vector: where execution began.
const AT_ENTRY: u64 = 9;

/// Size of an entry of the dynamic section.
const DYNAMIC_ENTRY: u64 = 16;

/// Since when an object is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// From the start: its symbols are found by every object.
    Startup,
    /// Loaded later (`dlopen`): its symbols are found by those that asked for it.
    Later,
}

/// One object of a process.
#[derive(Debug)]
pub struct LoadedObject {
    /// As the target sees it.
    pub path: PathBuf,
    /// Openable from here: what probes are attached through.
    pub attach_path: PathBuf,
    /// What is added to its own addresses, where that is known.
    pub load_bias: Option<u64>,
    /// Device of the file, as the kernel's inode says.
    pub device: (u32, u32),
    /// Inode of the file.
    pub inode: u64,
    /// Since when it is there.
    pub scope: Scope,
    /// The file.
    pub elf: Elf,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In search order, the executable first.
    pub objects: Vec<LoadedObject>,
    /// The linker's list, where it could be read.
    pub link_map: Option<LinkMap>,
    /// What could not be found out, one sentence each.
    pub notes: Vec<String>,
}

impl Loaded {
    /// Finds every object. Fails only when the executable itself cannot be read.
    pub fn find(view: &dyn View) -> Result<Self, ElfError> {
        let executable = Elf::open(&view.executable())?;
        if executable.is_static_executable() && !is_linker(&executable)? {
            let mut loaded = Self::default();
            loaded.objects.push(executable_object(view, executable));
            return Ok(loaded);
        }
        match read_list(view, &executable)? {
            Ok(list) => Ok(Self::by_list(view, executable, list)),
            Err(reason) => Ok(Self::by_mappings(view, executable, reason)),
        }
    }

    fn by_list(view: &dyn View, executable: Elf, list: LinkMap) -> Self {
        let mut loaded = Self::default();
        loaded.objects.push(executable_object(view, executable));
        for entry in list.entries.iter().skip(1) {
            match maps::find(view.mappings(), entry.dynamic).filter(|mapping| mapping.is_file()) {
                Some(mapping) => loaded.add(view, mapping, Some(entry.bias)),
                None if is_vdso(view, entry.dynamic) => {}
                None => loaded.notes.push(format!(
                    "the file of the library loaded at {:#x} is not known; its functions are not looked at",
                    entry.bias
                )),
            }
        }
        mark_later(&mut loaded.objects);
        loaded.link_map = Some(list);
        loaded
    }

    /// Without the linker's list: the executable first, the C library last, for whatever defines `malloc` besides it
    /// is meant to come before it.
    fn by_mappings(view: &dyn View, executable: Elf, reason: LinkMapError) -> Self {
        let mut loaded = Self::default();
        loaded.notes.push(format!(
            "{reason}: libraries are taken in the order of their addresses, which need not be the search order"
        ));
        loaded.objects.push(executable_object(view, executable));
        let mut seen: HashSet<_> = loaded.objects.iter().map(LoadedObject::identity).collect();
        for mapping in view.mappings().iter().filter(|mapping| mapping.executable && mapping.is_file()) {
            if seen.insert((mapping.device, mapping.inode)) {
                loaded.add(view, mapping, None);
            }
        }
        loaded.objects.sort_by_key(LoadedObject::is_libc);
        loaded
    }

    fn add(&mut self, view: &dyn View, mapping: &Mapping, load_bias: Option<u64>) {
        let attach_path = view.openable(code_mapping(view, mapping));
        match Elf::open(&attach_path) {
            Ok(elf) => self.objects.push(object(mapping, attach_path, load_bias, elf)),
            Err(error) => {
                let path = mapping.path.as_deref().unwrap_or(Path::new("?"));
                self.notes.push(format!("{} is not looked at: {error}", path.display()));
            }
        }
    }
}

impl LoadedObject {
    /// What tells files apart.
    fn identity(&self) -> ((u32, u32), u64) {
        (self.device, self.inode)
    }

    /// Names under which others may ask for it.
    fn names(&self) -> Vec<String> {
        let file_name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let soname = self.elf.dynamic().ok().flatten().and_then(|dynamic| dynamic.soname);
        file_name.into_iter().chain(soname).chain([self.path.display().to_string()]).collect()
    }

    fn needed(&self) -> Vec<String> {
        self.elf.dynamic().ok().flatten().map(|dynamic| dynamic.needed).unwrap_or_default()
    }

    /// A C library: it starts programs.
    pub fn is_libc(&self) -> bool {
        use crate::object::symbols::Table;
        self.elf.symbol(Table::Dynamic, "__libc_start_main").is_ok_and(|symbol| symbol.is_ok())
    }
}

fn is_linker(executable: &Elf) -> Result<bool, ElfError> {
    use crate::object::symbols::Table;
    Ok(executable.symbol(Table::Dynamic, super::hooks::LINK_MAP_CHANGED)?.is_ok())
}

/// The executable's own place: where it is mapped if that can be told, else as the kernel names it.
fn executable_object(view: &dyn View, elf: Elf) -> LoadedObject {
    let entry = view.auxiliary(AT_ENTRY);
    let load_bias = entry.map(|entry| entry.wrapping_sub(elf.entry().0));
    let mapping = entry.and_then(|entry| maps::find(view.mappings(), AbsoluteAddress(entry)));
    match mapping.filter(|mapping| mapping.is_file()) {
        Some(mapping) => object(mapping, view.openable(mapping), load_bias, elf),
        None => LoadedObject {
            path: view.executable(),
            attach_path: view.executable(),
            load_bias,
            device: (0, 0),
            inode: 0,
            scope: Scope::Startup,
            elf,
        },
    }
}

fn object(mapping: &Mapping, attach_path: PathBuf, load_bias: Option<u64>, elf: Elf) -> LoadedObject {
    LoadedObject {
        path: mapping.path.clone().unwrap_or_else(|| attach_path.clone()),
        attach_path,
        load_bias,
        device: mapping.device,
        inode: mapping.inode,
        scope: Scope::Startup,
        elf,
    }
}

fn read_list(view: &dyn View, executable: &Elf) -> Result<Result<LinkMap, LinkMapError>, ElfError> {
    let dynamic = executable.dynamic()?;
    let debug = dynamic.and_then(|dynamic| dynamic.debug_entry).and_then(|position| {
        let bias = view.auxiliary(AT_ENTRY)?.wrapping_sub(executable.entry().0);
        let start = executable.dynamic_address()?.0.wrapping_add(bias);
        AbsoluteAddress(start).checked_add(position as u64 * DYNAMIC_ENTRY)
    });
    Ok(debug.ok_or(LinkMapError::NoEntry).and_then(|debug| link_map::read(view, debug)))
}

fn is_vdso(view: &dyn View, address: AbsoluteAddress) -> bool {
    maps::find(view.mappings(), address).is_some_and(|mapping| mapping.label.as_deref() == Some("[vdso]"))
}

/// The mapping of the same file that holds code, if there is one: the most likely to stay.
fn code_mapping<'a>(view: &'a dyn View, mapping: &'a Mapping) -> &'a Mapping {
    let same = |other: &&Mapping| other.device == mapping.device && other.inode == mapping.inode;
    view.mappings().iter().filter(|other| other.executable).find(same).unwrap_or(mapping)
}

/// The list holds what was there at the start, then what came later. Everything up to the last object that the
/// executable needs, directly or not, was there at the start: so were preloaded libraries and what they need. So was
/// the C library, which musl's linker provides under names (`libc.so`) that neither its file nor its soname need bear.
fn mark_later(objects: &mut [LoadedObject]) {
    let names: Vec<_> = objects.iter().map(LoadedObject::names).collect();
    let needed: Vec<_> = objects.iter().map(LoadedObject::needed).collect();
    let libc = objects.iter().position(LoadedObject::is_libc);
    let last = last_at_start(&names, &needed, libc.unwrap_or(0));
    for object in objects.iter_mut().skip(last + 1) {
        object.scope = Scope::Later;
    }
}

/// `known`: an object that certainly was there, the executable at least.
fn last_at_start(names: &[Vec<String>], needed: &[Vec<String>], known: usize) -> usize {
    let mut by_name = BTreeMap::new();
    for (index, name) in
        names.iter().enumerate().flat_map(|(index, names)| names.iter().map(move |n| (index, n)))
    {
        by_name.entry(name.as_str()).or_insert(index);
    }
    let mut last = known;
    let mut queued = known + 1;
    let mut queue: VecDeque<usize> = (0..queued).collect();
    while let Some(index) = queue.pop_front() {
        let found = needed.get(index).into_iter().flatten().filter_map(|name| by_name.get(name.as_str()));
        last = found.copied().fold(last, usize::max);
        // Whatever lies before an object of the start belongs to the start, and so does what it needs.
        queue.extend(queued..=last);
        queued = queued.max(last + 1);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(objects: &[(&str, &[&str])]) -> usize {
        last_with(objects, 0)
    }

    fn last_with(objects: &[(&str, &[&str])], known: usize) -> usize {
        let names: Vec<_> = objects.iter().map(|(name, _)| vec![(*name).to_owned()]).collect();
        let needed: Vec<Vec<_>> =
            objects.iter().map(|(_, needed)| needed.iter().map(|n| (*n).to_owned()).collect()).collect();
        last_at_start(&names, &needed, known)
    }

    #[test]
    fn a_c_library_under_another_name_was_there_from_the_start() {
        let objects: &[(&str, &[&str])] = &[
            ("app", &["libc.so"]),
            ("preload", &["libx"]),
            ("ld-musl", &[]),
            ("libx", &[]),
            ("plugin", &[]),
        ];
        assert_eq!(last(objects), 0);
        assert_eq!(last_with(objects, 2), 3);
    }

    #[test]
    fn libraries_behind_the_last_needed_one_came_later() {
        let objects: &[(&str, &[&str])] = &[
            ("app", &["libc"]),
            ("libc", &["ld"]),
            ("ld", &[]),
            ("plugin", &["libc", "extra"]),
            ("extra", &[]),
        ];
        assert_eq!(last(objects), 2);
    }

    #[test]
    fn what_a_preloaded_library_needs_was_there_from_the_start() {
        let objects: &[(&str, &[&str])] = &[
            ("app", &["libc"]),
            ("preload", &["libstd"]),
            ("libc", &[]),
            ("libstd", &["libm"]),
            ("libm", &["libc"]),
            ("plugin", &["libm"]),
        ];
        assert_eq!(last(objects), 4);
    }

    #[test]
    fn an_executable_alone_is_its_own_start() {
        assert_eq!(last(&[("app", &["missing"])]), 0);
        assert_eq!(last(&[]), 0);
    }
}
