//! Keeps the kernel side's lists of code mappings up to date: for each process image a list, for each object in it an
//! unwind table, made ahead of need. What is written here is read by walks at once; what nothing leads to any more is
//! reused after every walk that might still see it has ended.

mod tables;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use leaktrace_common::unwind::{ADDRESS_LIMIT, CodeEntry, code_kind};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    cli::Failure,
    kernel::{CODE_SLOTS, CodeMemory, wait_for_running_programs},
    process::{Mapping, vdso},
    symbolize::FrameStore,
    target::image::Image,
    unwind::{Cache, Pool, Span, StoreStatistics, TableId, WorkshopStatistics},
};

use tables::{Object, Tables, Unwinding};

/// How long a process that asked in vain is not listened to.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is in force for a process image.
struct Published {
    slot: u32,
    list: Span,
    header: CodeEntry,
    tables: Vec<TableId>,
    pending: HashSet<Object>,
    asked: Option<Instant>,
}

/// Room that becomes free once no walk can see it.
#[derive(Default)]
struct Leaving {
    lists: Vec<Span>,
    slots: Vec<u32>,
}

impl Leaving {
    fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.slots.is_empty()
    }
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnwindMode {
    /// By unwind tables, by frame pointers where code has none.
    #[default]
    Tables,
    /// By frame pointers alone.
    FramePointers,
}

/// Numbers for the report.
pub struct CodeStatistics {
    /// Tables in the kernel side's memory.
    pub store: StoreStatistics,
    /// Their making.
    pub workshop: WorkshopStatistics,
    /// Objects whose unwind information could not be read: a sentence each.
    pub failures: Vec<String>,
    /// Lists that found no room.
    pub lists_refused: u64,
}

/// See the module.
pub struct CodeKeeper {
    mode: UnwindMode,
    rules_off: u64,
    tables: Tables,
    lists: Pool,
    slots: Vec<u32>,
    lists_made: u64,
    lists_refused: u64,
    published: HashMap<u32, Published>,
    leaving: Leaving,
    waiting: Option<(JoinHandle<()>, Leaving)>,
}

impl CodeKeeper {
    /// Nothing is published yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(
        mode: UnwindMode,
        rules_off: u64,
        cache: Option<Cache>,
        memory: &mut CodeMemory,
    ) -> Result<Self, Failure> {
        let mut lists = Pool::new(memory.capacity().entries);
        // Element 0 stays empty: a head of 0 leads to nothing.
        let _ = lists.take(1);
        Ok(Self {
            mode,
            rules_off,
            tables: Tables::new(rules_off, cache, memory)?,
            lists,
            // Slot 0 stays empty too.
            slots: (1..CODE_SLOTS).rev().collect(),
            lists_made: 0,
            lists_refused: 0,
            published: HashMap::new(),
            leaving: Leaving::default(),
            waiting: None,
        })
    }

    /// Puts what is known of an image's code into force, and has tables made of what has none yet.
    pub fn publish(&mut self, memory: &mut CodeMemory, frames: &mut FrameStore, image: &mut Image) {
        let Some((generation, mappings)) = image.code.latest() else { return };
        let mut pending = HashSet::new();
        let mut tables = Vec::new();
        let mut entries = vec![CodeEntry::default()];
        let whole = [whole_address_space()];
        match self.mode {
            UnwindMode::FramePointers => entries.extend(whole),
            UnwindMode::Tables => {
                // The kernel's own pages (vsyscall) lie above.
                for mapping in mappings.iter().filter(|mapping| mapping.start.0 < ADDRESS_LIMIT) {
                    entries.push(self.entry(frames, image, mapping, &mut tables, &mut pending));
                }
            }
        }
        if image.code_slot == 0 {
            image.code_slot = self.slots.pop().unwrap_or(0);
        }
        let length = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let list = (image.code_slot != 0).then(|| self.lists.take(length)).flatten();
        let Some(list) = list else {
            self.lists_refused += 1;
            self.tables.release(tables);
            return;
        };
        self.lists_made += 1;
        let header = CodeEntry {
            start: self.lists_made,
            end: u64::from(generation),
            kind: code_kind::HEADER,
            count: length - 1,
            ..CodeEntry::default()
        };
        entries[0] = header;
        memory.write_entries(list.first(), &entries);
        memory.set_head(image.code_slot, list.first());
        let published = Published { slot: image.code_slot, list, header, tables, pending, asked: None };
        if let Some(old) = self.published.insert(image.serial, published) {
            self.leaving.lists.push(old.list);
            self.tables.release(old.tables);
        }
    }

    /// Waits until every table of an image has been made, at most `patience`. Returns whether all have.
    pub fn settle(
        &mut self,
        memory: &mut CodeMemory,
        frames: &mut FrameStore,
        image: &mut Image,
        patience: Duration,
    ) -> bool {
        let deadline = Instant::now() + patience;
        if self.published.get(&image.serial).is_none_or(|published| published.pending.is_empty()) {
            return true;
        }
        while self.is_waiting(image.serial) {
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.tables.await_finished(memory, left) {
                break;
            }
        }
        self.publish(memory, frames, image);
        !self.is_waiting(image.serial)
    }

    /// Whether tables of an image are still being made.
    fn is_waiting(&self, serial: u32) -> bool {
        let published = self.published.get(&serial);
        published
            .is_some_and(|published| published.pending.iter().any(|object| self.tables.is_pending(*object)))
    }

    /// Takes in what has been made. Returns the images whose lists are to be published again.
    pub fn take_finished(&mut self, memory: &mut CodeMemory) -> Vec<u32> {
        self.tables.take_finished(memory);
        let done = |object: &Object| !self.tables.is_pending(*object);
        let ready = self.published.iter().filter(|(_, published)| published.pending.iter().any(done));
        ready.map(|(serial, _)| *serial).collect()
    }

    /// Returns when [`Self::take_finished`] has something.
    pub async fn ready(&self) {
        self.tables.ready().await;
    }

    /// An image has gone.
    pub fn forget(&mut self, memory: &mut CodeMemory, serial: u32) {
        let Some(published) = self.published.remove(&serial) else { return };
        memory.set_head(published.slot, 0);
        self.leaving.lists.push(published.list);
        self.leaving.slots.push(published.slot);
        self.tables.release(published.tables);
        self.tables.retry_refused();
    }

    /// A walk met code that the list in force does not have, and a new reading brought nothing new. The list's own note
    /// keeps it from asking again; [`Self::keep_house`] takes the note away after a while.
    pub fn asked_in_vain(&mut self, serial: u32) {
        if let Some(published) = self.published.get_mut(&serial) {
            published.asked.get_or_insert_with(Instant::now);
        }
    }

    /// Frees what no walk can see any more, and listens again to who asked in vain.
    pub fn keep_house(&mut self, memory: &mut CodeMemory) {
        for published in self.published.values_mut() {
            if published.asked.is_some_and(|asked| asked.elapsed() > ASK_AGAIN) {
                published.asked = None;
                memory.write_entries(published.list.first(), &[published.header]);
            }
        }
        if self.waiting.as_ref().is_some_and(|(wait, _)| wait.is_finished())
            && let Some((_, left)) = self.waiting.take()
        {
            left.lists.into_iter().for_each(|list| self.lists.give_back(list));
            self.slots.extend(left.slots);
        }
        if self.waiting.is_none() && !self.leaving.is_empty() {
            let rules_off = self.rules_off;
            let wait = spawn_blocking(move || wait_for_running_programs(rules_off));
            self.waiting = Some((wait, std::mem::take(&mut self.leaving)));
        }
    }

    /// See [`CodeStatistics`].
    pub fn statistics(&self) -> CodeStatistics {
        let (store, workshop, failures) = self.tables.statistics();
        CodeStatistics { store, workshop, failures, lists_refused: self.lists_refused }
    }

    /// One mapping as the kernel side is to know it.
    fn entry(
        &mut self,
        frames: &mut FrameStore,
        image: &Image,
        mapping: &Mapping,
        tables: &mut Vec<TableId>,
        pending: &mut HashSet<Object>,
    ) -> CodeEntry {
        let plain =
            |kind| CodeEntry { start: mapping.start.0, end: mapping.end.0, kind, ..CodeEntry::default() };
        let object = match mapping.label.as_deref() {
            _ if mapping.is_file() => match frames.object(image.pid, image.serial, mapping) {
                Some(object) => Object::File(object),
                None => return plain(code_kind::UNREADABLE),
            },
            Some(vdso::LABEL) => Object::Vdso,
            Some("[uprobes]" | "[uprobes-trampoline]") => return plain(code_kind::TRAMPOLINE),
            _ => return plain(code_kind::FRAME_POINTER),
        };
        let bias = match object {
            Object::File(object) => frames.load_bias(object, mapping),
            Object::Vdso => Some(mapping.start.0),
        };
        match self.tables.unwinding(frames, object) {
            Unwinding::Pending => {
                pending.insert(object);
                plain(code_kind::PENDING)
            }
            Unwinding::FramePointer => plain(code_kind::FRAME_POINTER),
            Unwinding::Unreadable => plain(code_kind::UNREADABLE),
            Unwinding::NoRoom => plain(code_kind::NO_ROOM),
            Unwinding::Table(table) => match (self.tables.acquire(table), bias) {
                (Some(place), Some(bias)) => {
                    tables.push(table);
                    CodeEntry {
                        bias: bias.wrapping_add(place.base.0),
                        first_page: place.first_page,
                        page_count: place.page_count,
                        ..plain(code_kind::TABLE)
                    }
                }
                (Some(_), None) => {
                    self.tables.release([table]);
                    plain(code_kind::UNREADABLE)
                }
                // `unwinding` has looked that it is there.
                (None, _) => plain(code_kind::NO_ROOM),
            },
        }
    }
}

/// For walks by frame pointers alone.
fn whole_address_space() -> CodeEntry {
    CodeEntry { start: 0, end: ADDRESS_LIMIT, kind: code_kind::FRAME_POINTER, ..CodeEntry::default() }
}
