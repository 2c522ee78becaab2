//! The interpreter of a traced process: found when the process is entered, its allocators probed and redirected before the
//! gate opens, everything undone when tracing ends. Nothing here keeps a process from being traced natively.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use leaktrace_common::{
    hook::{HookCookie, domain, kind},
    python::{FreeList, MAX_FREE_LISTS, Runtime},
    record::{Target, target_flag},
    rule,
};

use super::tracer::Tracer;
use crate::{
    kernel::{AttachPoint, KernelError},
    object::{
        elf::Elf,
        symbols::{Symbol, Table as SymbolTable},
    },
    probe::{hooks, plan::Plan},
    process::{self, MemoryReader, MemoryWriter},
    python::{
        Inherited, Interpreter, Redirection, Refusal, SlotChange, Tables, Version,
        allocators::{Domain, Kind, Slot, State},
        arrays,
        census::Census,
        closing, free_lists,
        leftover::{self, Record, RecordFile, Records},
        pools,
    },
    report::{aside::say, model::PythonReport},
    target::{discover, image::Image},
};

/// Called once the interpreter is set up, before anything of the program runs (3.8 and later).
const SET_UP: &str = "Py_RunMain";
/// Minor versions whose free lists belong to the interpreter's state and are opened by full collections.
const ARRAYS_AND_LINKS: std::ops::RangeInclusive<u8> = 10..=13;
/// How often a program that has an interpreter which is not set up yet is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What belongs to the interpreter of one process image.
#[derive(Default)]
pub struct Python {
    /// Found, validated, not probed yet or probed; `None`: there is none, or none that is known.
    pub interpreter: Option<Interpreter>,
    /// What the kernel side knows of it.
    pub runtime: Box<Runtime>,
    /// It was there but not set up at the last look.
    pub not_yet: Option<Instant>,
    /// Pointers of its allocator table that lead elsewhere now.
    pub redirection: Option<Redirection>,
    /// Who serves its small blocks, in words.
    pub allocator: String,
    /// Allocations that the compiler has inlined are not seen.
    pub inlined_unseen: bool,
    /// Free lists that are kept closed.
    pub lists: Vec<FreeList>,
    /// What they are closed with.
    writer: Option<MemoryWriter>,
    /// Says which lists are closed, where nothing is redirected.
    record: Option<RecordFile>,
    /// What each pointer of the table is expected to hold.
    pointers: Vec<(u64, u64)>,
    /// How its own count of blocks is read.
    pub census: Option<Census>,
    /// Whether that count leaves out blocks above 512 bytes.
    pools_told_apart: bool,
    /// That count when tracing began.
    pub counted_at_attach: Option<u64>,
    /// What forked processes have of what was written.
    pub inherited: Option<Arc<Inherited>>,
}

impl Tracer {
    /// Undoes what killed tracers have left behind in whatever process.
    pub(super) fn clean_up_leftovers(&self) {
        if !self.plan.target_writes {
            return;
        }
        for sentence in Records::default().clean_up(&mut reopen) {
            say(&sentence);
        }
    }

    /// Looks for an image's interpreter and tells the kernel side of it.
    pub(super) fn find_python(&mut self, image: &mut Image) {
        image.python.not_yet = None;
        let found = match self.finder.find(image.pid, &image.mappings) {
            Ok(found) => found,
            Err(refusal) => {
                self.refused_python(image, &refusal);
                return;
            }
        };
        let Some(interpreter) = found else { return };
        let Some(slot) = self.kernel.python.take_slot() else {
            image.note("its Python frames are not walked: too many processes have an interpreter".to_owned());
            return;
        };
        *image.python.runtime = interpreter.kernel_side();
        self.kernel.python.set(slot, &image.python.runtime);
        image.python_slot = slot;
        image.python.interpreter = Some(interpreter);
    }

    fn refused_python(&mut self, image: &mut Image, refusal: &Refusal) {
        if refusal.is_not_yet() {
            image.python.not_yet = Some(Instant::now());
        } else {
            image.note(refusal.to_string());
        }
    }

    /// Places the probes on an interpreter's allocators and redirects its table.
    pub(super) fn place_python(&mut self, image: &mut Image) {
        let Some(interpreter) = image.python.interpreter.clone() else { return };
        let memory = MemoryReader::new(image.pid);
        image.python.census = Census::find(&interpreter, &memory, &image.mappings).ok();
        let tables = match self.tables(image, &interpreter, &memory) {
            Ok(tables) => tables,
            Err(reason) => {
                image.note(format!("Python's allocators are not probed: {reason}"));
                return;
            }
        };
        image.python.allocator = allocator(&tables);
        let outcome = match self.plan.light {
            true => self.place_light(image, &tables, interpreter.version),
            false => self.place_exact(image, &tables),
        };
        if let Err(reason) = outcome {
            image.note(format!("Python's allocators are not probed: {reason}"));
        }
        image.python.remember(&tables);
        let counted = image.python.count(image.pid);
        image.python.pools_told_apart = counted.is_none_or(|(_, told_apart)| told_apart);
        image.python.counted_at_attach = counted.map(|(blocks, _)| blocks);
        image.python.remember_inherited();
    }

    fn tables(
        &self,
        image: &Image,
        interpreter: &Interpreter,
        memory: &MemoryReader,
    ) -> Result<Tables, String> {
        let read = || {
            Tables::read(image.pid, interpreter, memory, &image.mappings).map_err(|reason| reason.to_string())
        };
        let tables = read()?;
        // A forked process has what was written to its parent, and keeps it.
        if !self.plan.target_writes || image.forked || tables.redirected().next().is_none() {
            return Ok(tables);
        }
        let undone = leftover::undo_unrecorded(image.pid, image.identity.start_ticks, &tables);
        match undone.map_err(|error| error.to_string())? {
            Some(sentence) => {
                say(&sentence);
                read()
            }
            None => Ok(tables),
        }
    }

    fn place_exact(&mut self, image: &mut Image, tables: &Tables) -> Result<(), String> {
        let planned = crate::python::plan(tables, &self.costs, self.plan.target_writes);
        planned.plan.notes.iter().cloned().for_each(|sentence| image.note(sentence));
        let unseen = planned.plan.probes.iter().all(|probe| probe.cookie.domain != domain::PY);
        // The C library's own blocks are seen there.
        let by_libc = tables.table(Domain::Object).state == State::Default(Kind::Malloc);
        image.python.inlined_unseen = unseen && !by_libc;
        if planned.plan.probes.is_empty() {
            return Ok(());
        }
        // Ahead of the probes: with them in place and the table as it was, some frees would be seen and others not.
        if !planned.redirect.is_empty() {
            redirect(image, &planned.redirect)?;
        }
        self.attach_planned(image, &planned.plan).map_err(|error| error.to_string())?;
        self.watch_arrays(image, tables).map_err(|error| error.to_string())?;
        if self.plan.target_writes && self.plan.rules_off & rule::FREE_LISTS_CLOSED == 0 {
            self.close_lists(image, tables);
        }
        Ok(())
    }

    /// Pools that are taken into use, and nothing written.
    fn place_light(&mut self, image: &mut Image, tables: &Tables, version: Version) -> Result<(), String> {
        let planned = pools::plan(tables, version, &self.costs);
        planned.plan.notes.iter().cloned().for_each(|sentence| image.note(sentence));
        self.attach_planned(image, &planned.plan).map_err(|error| error.to_string())
    }

    /// Closes the free lists that can be closed, and has the kernel side watch over them.
    fn close_lists(&mut self, image: &mut Image, tables: &Tables) {
        let outcome = image.python.close(image.pid, image.identity.start_ticks);
        match outcome {
            Ok(()) => {
                if let Err(error) = self.watch_linked(image, tables) {
                    image.note(format!(
                        "Python's free lists are not watched while collections open them: {error}"
                    ));
                }
                image.python.tell_lists();
                self.kernel.python.set(image.python_slot, &image.python.runtime);
                if !image.forked {
                    say(format_args!(
                        "process {}: {} of Python's free lists closed (opened again at the end)",
                        image.pid,
                        image.python.lists.len()
                    ));
                }
            }
            Err(reason) => image.note(format!("Python's free lists stay open: {reason}")),
        }
    }

    /// What closed lists hand on after all, while a collection has opened them.
    fn watch_linked(&mut self, image: &mut Image, tables: &Tables) -> Result<(), KernelError> {
        let (Some(interpreter), Some(text)) = (image.python.interpreter.as_ref(), tables.text()) else {
            return Ok(());
        };
        if !ARRAYS_AND_LINKS.contains(&interpreter.version.minor) {
            return Ok(());
        }
        let (lists, points) = arrays::watch_linked(interpreter, text, &image.python.lists);
        for (place, list) in image.python.runtime.linked.iter_mut().zip(&lists) {
            *place = *list;
        }
        self.kernel.python.set(image.python_slot, &image.python.runtime);
        self.attach_new(image, points)
    }

    /// A collection has opened an image's free lists.
    pub(super) fn close_lists_again(&mut self, serial: u32) {
        if let Some(image) = self.images.get_mut(&serial) {
            image.python.close_again(image.pid);
        }
    }

    /// Blocks that are handed on from free lists which are arrays are booked on who takes them.
    fn watch_arrays(&mut self, image: &mut Image, tables: &Tables) -> Result<(), KernelError> {
        let (Some(interpreter), Some(text)) = (image.python.interpreter.as_ref(), tables.text()) else {
            return Ok(());
        };
        let watched = arrays::watch(interpreter, text);
        for (place, list) in image.python.runtime.arrays.iter_mut().zip(&watched.lists) {
            *place = *list;
        }
        self.kernel.python.set(image.python_slot, &image.python.runtime);
        self.attach_new(image, watched.points)?;
        watched.notes.into_iter().for_each(|sentence| image.note(sentence));
        Ok(())
    }

    /// The kernel side knows of a second layer before that layer's probes are there.
    fn tell_layers(&mut self, image: &Image) -> Result<(), KernelError> {
        let Some(entry) = self.kernel.target(image.pid).filter(|entry| entry.serial == image.serial) else {
            return Ok(());
        };
        let (interpreter_start, interpreter_end) = image.interpreter_text();
        let flags = entry.flags | if image.layered { target_flag::LAYERED } else { 0 };
        let entry =
            Target { flags, interpreter_start, interpreter_end, python_slot: image.python_slot, ..entry };
        self.kernel.set_target(image.pid, &entry)
    }

    /// Places the probes of a plan. What gives memory back is probed first: the gate may be open already.
    fn attach_planned(&mut self, image: &mut Image, plan: &Plan) -> Result<(), KernelError> {
        image.layered |= plan.layered;
        self.tell_layers(image)?;
        let (_, points) = discover::attach_points(plan);
        let (frees, others) =
            points.into_iter().partition::<Vec<_>, _>(|point| point.cookie.kind == kind::FREE);
        self.attach_first_and_then(image, frees, others)
    }

    /// Watches for the moment at which an interpreter is set up.
    pub(super) fn await_python(&mut self, image: &mut Image) {
        if image.python.not_yet.is_none() {
            return;
        }
        for point in set_up_points(image) {
            if let Err(error) = self.attach_set_up(image, point) {
                tracing::debug!("{SET_UP} of process {} is not probed: {error}", image.pid);
            }
        }
    }

    /// Looks again for an interpreter that was not set up; `at_once` whatever was found a moment ago.
    pub(super) fn look_for_python(&mut self, serial: u32, at_once: bool) {
        let due = |image: &Image| image.python.not_yet.is_some_and(|at| at_once || at.elapsed() > LOOK_AGAIN);
        if !self.images.get(&serial).is_some_and(due) {
            return;
        }
        let Some(mut image) = self.images.remove(&serial) else { return };
        image.read_mappings();
        self.find_python(&mut image);
        if image.python.interpreter.is_some() {
            if let Err(error) = self.tell_layers(&image) {
                image.note(format!("its Python frames are not walked: {error}"));
            }
            self.place_python(&mut image);
            if self.own_child != Some(image.pid) {
                let since = self.now().as_secs_f64();
                image.blind.push(format!(
                    "Python's small blocks until {since:.1} s, when its interpreter had been set up"
                ));
            }
        }
        self.images.insert(serial, image);
    }

    /// A command of ours whose interpreter has been set up is not stopped any more.
    pub(super) fn stop_no_more(&mut self, pid: u32) {
        let waits =
            |image: &Image| image.pid == pid && image.ended.is_none() && image.python.not_yet.is_some();
        if self.replaced.contains_key(&pid) || self.images.values().any(waits) {
            return;
        }
        if let Some(mut entry) = self.kernel.target(pid)
            && entry.flags & target_flag::STOP_AT_LINK_MAP != 0
        {
            entry.flags &= !target_flag::STOP_AT_LINK_MAP;
            if let Err(error) = self.kernel.set_target(pid, &entry) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Somebody may have put hooks into an allocator table, or taken them out: then other functions are called.
    pub(super) fn watch_python(&mut self, serial: u32) {
        let Some(image) = self.images.get_mut(&serial).filter(|image| image.ended.is_none()) else { return };
        image.python.close_again(image.pid);
        if image.python.has_changed(image.pid)
            && let Some(mut image) = self.images.remove(&serial)
        {
            self.table_changed(&mut image);
            self.images.insert(serial, image);
        }
    }

    /// What a report says of an image's interpreter.
    pub(super) fn python_report(&self, serial: u32) -> Option<PythonReport> {
        let image = self.images.get(&serial)?;
        let interpreter = image.python.interpreter.as_ref()?;
        let counts = self.kernel.python.counts(image.python_slot);
        let counted = if image.ended.is_some() { None } else { image.python.count(image.pid) };
        // Where the interpreter does not tell blocks in pools from others, all are compared.
        let (tracked_blocks, freed_from_before) = match image.python.pools_told_apart {
            true => {
                (self.ledger.small_blocks(serial), counts.unmatched.saturating_sub(counts.unmatched_large))
            }
            false => (self.ledger.live_blocks(serial, u32::from(domain::PY)), counts.unmatched),
        };
        Some(PythonReport {
            version: interpreter.version.to_string(),
            allocator: image.python.allocator.clone(),
            redirected: image.python.redirection.is_some(),
            inlined_unseen: image.python.inlined_unseen,
            free_lists_closed: !image.python.lists.is_empty(),
            tracked_blocks,
            freed_from_before,
            // What lies in a free list is nobody's, whatever the interpreter counts.
            counted_blocks: counted
                .map(|(blocks, _)| blocks.saturating_add_signed(counts.handed_on.cast_signed())),
            counted_at_attach: image.python.counted_at_attach,
        })
    }

    fn table_changed(&mut self, image: &mut Image) {
        let before = std::mem::take(&mut image.python.allocator);
        image.python.release();
        self.place_python(image);
        let now = self.now().as_secs();
        let sentence = format!(
            "Python's allocator table changed within the interval before {now} s (it was {before}, it is {}): what was allocated meanwhile may not have been seen",
            image.python.allocator
        );
        say(format_args!("process {}: {sentence}", image.pid));
        image.note(sentence);
    }
}

/// What a forked process has of its parent's interpreter.
pub(super) struct Legacy {
    python: Python,
    changes: Vec<SlotChange>,
    lists: Vec<FreeList>,
}

impl Tracer {
    /// Takes over what a forked process has of its parent's interpreter: found there and validated there. `None`: the process
    /// has changed it since, so that it has to be looked at for itself.
    pub(super) fn inherit_python(&mut self, image: &mut Image, legacy: Legacy) -> Option<()> {
        let Legacy { python, changes, lists } = legacy;
        if python.interpreter.is_none() {
            return Some(());
        }
        if python.has_changed(image.pid) {
            return None;
        }
        image.python_slot = self.kernel.python.take_slot()?;
        image.python = python;
        self.kernel.python.set(image.python_slot, &image.python.runtime);
        if !changes.is_empty() {
            redirect(image, &changes).ok()?;
        }
        if !lists.is_empty() {
            image.python.keep_closed(image.pid, image.identity.start_ticks, lists).ok()?;
        }
        image.python.counted_at_attach = image.python.count(image.pid).map(|(blocks, _)| blocks);
        image.python.remember_inherited();
        Some(())
    }
}

impl Python {
    /// Notes what the table holds now, to notice when somebody changes it.
    fn remember(&mut self, tables: &Tables) {
        let redirected = self.redirection.as_ref().map(Redirection::changes).unwrap_or_default();
        let holds = |slot: &Slot| {
            let change = redirected.iter().find(|change| change.address == slot.address);
            (slot.address.0, change.map_or(slot.pointer, |change| change.alias).0)
        };
        self.pointers = tables.tables.iter().flat_map(|table| &table.slots).map(holds).collect();
    }

    /// What a process has of it that was forked just now; nothing of that is on record yet. `None`: it is not set up.
    pub(super) fn legacy(&self, parent: u32, child: u32) -> Option<Legacy> {
        if self.not_yet.is_some() {
            return None;
        }
        let interpreter = self.interpreter.clone().map(|interpreter| Interpreter {
            openable: process::reroot(&interpreter.openable, parent, child),
            ..interpreter
        });
        let python = Self {
            interpreter,
            runtime: self.runtime.clone(),
            allocator: self.allocator.clone(),
            inlined_unseen: self.inlined_unseen,
            pointers: self.pointers.clone(),
            census: self.census.clone(),
            pools_told_apart: self.pools_told_apart,
            ..Self::default()
        };
        let changes = self.redirection.as_ref().map(|redirection| redirection.changes().to_vec());
        Some(Legacy { python, changes: changes.unwrap_or_default(), lists: self.lists.clone() })
    }

    /// Keeps what processes that are forked from this one have of what was written to it.
    fn remember_inherited(&mut self) {
        let recorded = self.redirection.as_ref().and_then(Redirection::recorded);
        self.inherited = recorded.map(|record| Arc::new(Inherited::of(record)));
    }

    fn has_changed(&self, pid: u32) -> bool {
        let memory = MemoryReader::new(pid);
        let read = |address| memory.read_u64(crate::object::address::AbsoluteAddress(address));
        self.pointers.iter().any(|(address, expected)| read(*address).is_ok_and(|found| found != *expected))
    }

    /// What the interpreter itself counts, and whether that is blocks in pools only: 3.8 does not tell them apart.
    fn count(&self, pid: u32) -> Option<(u64, bool)> {
        let counted = self.census.as_ref()?.count(&MemoryReader::new(pid))?;
        Some((counted.blocks.saturating_sub(counted.large.unwrap_or(0)), counted.large.is_some()))
    }

    /// Closes every free list that is linked; what could not be closed is closed later.
    fn close(&mut self, pid: u32, start_ticks: u64) -> Result<(), String> {
        let Some(interpreter) = &self.interpreter else { return Ok(()) };
        let memory = MemoryReader::new(pid);
        let mut lists = free_lists(interpreter, &memory).map_err(|reason| reason.to_string())?;
        lists.truncate(MAX_FREE_LISTS);
        self.keep_closed(pid, start_ticks, lists)
    }

    /// Closes lists that are known, and leaves a record of that first.
    fn keep_closed(&mut self, pid: u32, start_ticks: u64, lists: Vec<FreeList>) -> Result<(), String> {
        let recorded = match self.redirection.as_mut().and_then(Redirection::record) {
            Some(record) => record.add_free_lists(&lists),
            None => {
                Records::default().leave(&Record::new(pid, start_ticks, Vec::new())).and_then(|mut record| {
                    record.add_free_lists(&lists)?;
                    self.record = Some(record);
                    Ok(())
                })
            }
        };
        recorded.map_err(|error| error.to_string())?;
        self.writer = Some(MemoryWriter::open(pid, start_ticks).map_err(|error| error.to_string())?);
        self.lists = lists;
        self.close_again(pid);
        Ok(())
    }

    /// Closes what is open. The first list is the last: while it is open, the kernel side knows that others may be.
    fn close_again(&mut self, pid: u32) {
        let Some(writer) = &self.writer else { return };
        let lists: Vec<FreeList> = self.lists.iter().rev().copied().collect();
        if let Err(error) = closing::close(&lists, &MemoryReader::new(pid), writer) {
            tracing::debug!("free lists of process {pid} stay open: {error}");
        }
    }

    /// What the kernel side is to know of the lists.
    fn tell_lists(&mut self) {
        for (place, list) in self.runtime.lists.iter_mut().zip(&self.lists) {
            *place = *list;
        }
        self.runtime.list_count = u32::try_from(self.lists.len()).unwrap_or(0);
    }

    fn open_lists(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let memory = MemoryReader::new(writer.pid());
        match closing::open(&std::mem::take(&mut self.lists), &memory, &writer) {
            Ok(_) => {
                if let Some(record) = self.record.take() {
                    record.remove();
                }
            }
            Err(error) if error.is_gone() => {}
            Err(error) => say(format_args!("free lists of process {} stay closed: {error}", writer.pid())),
        }
    }

    /// Undoes what was written.
    pub(super) fn release(&mut self) {
        self.open_lists();
        if let Some(redirection) = self.redirection.take()
            && let Err(error) = redirection.undo()
        {
            say(&error);
        }
        self.pointers.clear();
        self.inherited = None;
    }
}

/// Redirects an allocator table.
fn redirect(image: &mut Image, changes: &[SlotChange]) -> Result<(), String> {
    let begun = Instant::now();
    let redirection = Redirection::apply(image.pid, image.identity.start_ticks, changes, &Records::default())
        .map_err(|error| error.to_string())?;
    if image.forked {
        image.python.redirection = Some(redirection);
        return Ok(());
    }
    say(format_args!(
        "process {}: {} pointers of Python's allocator table redirected in {:.1} ms (undone at the end; --no-target-writes forbids it)",
        image.pid,
        redirection.changes().len(),
        begun.elapsed().as_secs_f64() * 1e3
    ));
    image.python.redirection = Some(redirection);
    Ok(())
}

/// Opens free lists that a killed tracer has left closed.
fn reopen(writer: &MemoryWriter, lists: &[FreeList]) -> usize {
    closing::open(lists, &MemoryReader::new(writer.pid()), writer).map_or(0, |outcome| outcome.written)
}

/// The function that is called once an interpreter is set up, in each object of a process that has one.
fn set_up_points(image: &Image) -> Vec<AttachPoint> {
    let hook = hooks::HookId::by_name(hooks::LINK_MAP_CHANGED).map_or(0, hooks::HookId::index);
    let cookie = HookCookie { kind: kind::LINK_MAP, hook, ..HookCookie::default() };
    let code = image.mappings.iter().filter(|mapping| mapping.executable && mapping.is_file());
    code.filter_map(|mapping| {
        let path = process::maps::openable_path(image.pid, mapping);
        let elf = Elf::open(&path).ok()?;
        let Symbol { address, .. } = elf.symbol(SymbolTable::Dynamic, SET_UP).ok()?.ok()?;
        let offset = elf.file_offset(address)?;
        Some(AttachPoint { path, offset, cookie, needs_return: false })
    })
    .collect()
}

/// Who serves small blocks, in words.
fn allocator(tables: &Tables) -> String {
    match &tables.table(Domain::Object).state {
        State::Default(Kind::Small) => "pymalloc".to_owned(),
        State::Default(Kind::Malloc) => "malloc".to_owned(),
        State::Default(Kind::Other) => "an allocator of the interpreter's own".to_owned(),
        State::Hooked(by) => format!("hooked by {by}"),
    }
}
