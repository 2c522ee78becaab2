//! One process image: from the moment it is entered until exec or exit.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use leaktrace_common::record::MAX_SHARED_LINKS;

use crate::{
    daemon::{Batch, Placed, Python},
    kernel::Attachment,
    ledger::{IntervalMap, MappingLabel, SiteState},
    process::{ExitWatch, Identity, Mapping, RunState, maps, memory, status},
    target::{Container, code::CodeMappings},
};

/// A traced process image and what belongs to it.
pub struct Image {
    /// As the host sees it.
    pub pid: u32,
    /// Number of this image.
    pub serial: u32,
    /// Who it is.
    pub identity: Identity,
    /// The container it runs in.
    pub container: Option<Container>,
    /// Seconds that it lived before it was traced.
    pub late_s: Option<f64>,
    /// It was made by a fork of a target and has executed nothing since: what it frees may be its parent's.
    pub forked: bool,
    /// When it was entered.
    pub entered: Instant,
    /// How long it was traced, if it has ended.
    pub traced: Option<Duration>,
    /// Its end.
    pub watch: Option<ExitWatch>,
    /// Mappings at the last reading.
    pub mappings: Vec<Mapping>,
    /// Its code, by mapping generation.
    pub code: CodeMappings,
    /// When its mappings were last read for a stack whose addresses they do not hold.
    pub looked_in_vain: Option<Instant>,
    /// Code was mapped since allocators were last looked for.
    pub has_new_code: bool,
    /// Anonymous mappings made while traced.
    pub intervals: IntervalMap,
    /// Readings of the sites of mappings.
    pub mapping_sites: HashMap<(u64, MappingLabel), SiteState>,
    /// Numbers of the shared links whose hits count for it; 0: none.
    pub links: [u16; MAX_SHARED_LINKS],
    /// Probes on allocators.
    pub hooks: Attachment,
    /// Probe on the dynamic linker.
    pub linker: Attachment,
    /// What its probes are, for processes that it forks.
    pub points: Vec<Placed>,
    /// Its probes as they were placed, if it may change over to shared links.
    pub batches: Vec<Batch>,
    /// Files that probes lie in, by path, so that a later library is told from a known one.
    pub probed: HashSet<(std::path::PathBuf, u64)>,
    /// Address of the dynamic linker's `struct r_debug`.
    pub r_debug: u64,
    /// Start and end of the code of the object whose `free` is hooked first; 0 if unknown.
    pub allocator_text: (u64, u64),
    /// Where the kernel side finds its code mappings; 0 if it has none.
    pub code_slot: u32,
    /// Where the kernel side finds its interpreter; 0 if it has none.
    pub python_slot: u32,
    /// Its Python interpreter.
    pub python: Python,
    /// More than one allocator is hooked.
    pub layered: bool,
    /// Resident bytes when its gate opened.
    pub rss_at_attach: Option<u64>,
    /// Resident bytes at the last reading.
    pub rss: Option<u64>,
    /// Bytes of heap and anonymous mappings at the last reading.
    pub anonymous: Option<u64>,
    /// Its main thread has ended, and its probes with it.
    pub lost_main_thread: bool,
    /// How it ended, in words.
    pub ended: Option<String>,
    /// Survivors at the last report and their development.
    pub survivors: SiteState,
    /// Times in which its allocations were not seen, in words.
    pub blind: Vec<String>,
    /// Things to be said in every report.
    pub notes: Vec<String>,
}

impl Image {
    /// An image that has just been entered.
    pub fn new(serial: u32, identity: Identity) -> Self {
        Self {
            pid: identity.pid,
            serial,
            container: Container::of_process(identity.pid),
            late_s: None,
            forked: false,
            entered: Instant::now(),
            traced: None,
            watch: ExitWatch::open_same(identity.pid, identity.start_ticks).ok(),
            mappings: Vec::new(),
            code: CodeMappings::default(),
            has_new_code: false,
            looked_in_vain: None,
            intervals: IntervalMap::default(),
            mapping_sites: HashMap::new(),
            links: [0; MAX_SHARED_LINKS],
            hooks: Attachment::default(),
            linker: Attachment::default(),
            points: Vec::new(),
            batches: Vec::new(),
            probed: HashSet::new(),
            r_debug: 0,
            allocator_text: (0, 0),
            code_slot: 0,
            python_slot: 0,
            python: Python::default(),
            layered: false,
            rss_at_attach: None,
            rss: None,
            anonymous: None,
            lost_main_thread: false,
            ended: None,
            survivors: SiteState::default(),
            blind: Vec::new(),
            notes: Vec::new(),
            identity,
        }
    }

    /// Whether its probes are shared with other processes.
    pub fn shares_probes(&self) -> bool {
        self.links.first().is_some_and(|link| *link != 0)
    }

    /// Start and end of its interpreter's code; 0 if it has none.
    pub fn interpreter_text(&self) -> (u64, u64) {
        let code = self.python.interpreter.iter().flat_map(|interpreter| &interpreter.code);
        code.fold((0, 0), |(start, end), code| match end {
            0 => (code.start, code.end),
            _ => (code.start.min(start), code.end.max(end)),
        })
    }

    /// Has something said in every report, once.
    pub fn note(&mut self, sentence: String) {
        if !self.notes.contains(&sentence) {
            self.notes.push(sentence);
        }
    }

    /// How it ended. It is listed once more, then only counted.
    pub fn end(&mut self, how: &str) {
        self.ended = Some(how.to_owned());
        self.traced = Some(self.entered.elapsed());
    }

    /// Its code, by file: where it is the same as in another process, so is everything that was found in it.
    pub fn code_files(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(|mapping| mapping.executable && mapping.is_file())
    }

    /// Reads its memory figures again; keeps the last ones if it is gone.
    pub fn read_memory(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Ok(status) = status::read(self.pid) {
            self.rss = status.rss_bytes.or(self.rss);
        }
    }

    /// Its main thread has ended, others go on.
    pub fn is_without_main_thread(&self) -> bool {
        let zombie = |status: status::Status| status.state == RunState::Zombie && status.threads > 1;
        self.ended.is_none() && status::read(self.pid).is_ok_and(zombie)
    }

    /// Adds up its anonymous mappings; costs a reading of all mappings.
    pub fn read_mappings(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Ok(mappings) = maps::read(self.pid) {
            if mappings.is_empty() {
                return;
            }
            let mapped = memory::mapped(&mappings);
            self.anonymous = Some(mapped.heap_bytes.saturating_add(mapped.anonymous_bytes));
            self.mappings = mappings;
        }
    }

    /// Ranges that are mapped without a file now, for repairing the interval map after a loss.
    pub fn anonymous_ranges(&self) -> Vec<(u64, u64)> {
        self.mappings
            .iter()
            .filter(|mapping| !mapping.is_file())
            .map(|mapping| (mapping.start.0, mapping.end.0))
            .collect()
    }

    /// Whether it has ended although no event said so (the event may have been lost).
    pub fn has_ended_silently(&self) -> bool {
        self.ended.is_none() && self.watch.as_ref().is_some_and(ExitWatch::has_ended)
    }
}
