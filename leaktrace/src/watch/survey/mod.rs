//! Stage 0: the memory of everybody who is watched, at every tick. One pass over `/proc` reads two files of each process; all else
//! is remembered from look to look ([`known`]).

mod known;
pub mod memory_cgroup;
mod own_cgroup;
mod reader;
mod sums;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use known::{Identifier, Known};
use memory_cgroup::MemoryCgroups;
use own_cgroup::{Charged, own_cgroups};
use reader::Reader;
use sums::{Member, Sum, sums};

use super::scope::{ScopeConfig, ScopeError, Scopes};
use crate::{
    process::{
        self, RunState,
        cgroup::{Mounts, Place},
        host::boot_id,
        identity,
        status::{Memory, Stat},
    },
    watched::{MemoryReading, Subject},
};

/// Most subjects that are reported; of more, the largest are.
const MAX_SUBJECTS: usize = 16_384;
/// Most processes that are read at a look.
const MAX_PROCESSES: usize = 65_536;
/// Processes that have ended and are still known by their PID, for whoever hears of their end later.
const MAX_DEPARTED: usize = 1024;
/// Subjects without a process whose CPU time is remembered: a container that is started again goes on where it was.
const MAX_PAUSED: usize = 4096;
/// A process that is younger is identified at every look.
const YOUNG_S: f64 = 10.0;
/// Others are at one look in so many.
const IDENTIFY_EVERY: u64 = 16;
/// Mounts of cgroups are looked up again at one look in so many.
const MOUNTS_EVERY: u64 = 64;

/// Looks at the memory of everybody in scope.
#[derive(Debug)]
pub struct Survey {
    scopes: Scopes,
    watcher: u32,
    boot: String,
    boot_unix_s: f64,
    mounts: Mounts,
    reader: Reader,
    looks: u64,
    known: HashMap<u32, Known>,
    /// CPU time of processes that have ended, clock ticks, by subject.
    ended_cpu: HashMap<Arc<str>, u64>,
    paused: VecDeque<Arc<str>>,
    leaders: HashMap<Arc<str>, (u32, u64)>,
    departed: VecDeque<(u32, Arc<str>)>,
    own_cgroups: HashMap<Arc<str>, Arc<Place>>,
    /// Whether somebody came, left or moved since these were found.
    is_stale: bool,
    left_out: u64,
    processes: u64,
    took: Duration,
}

/// A process and the memory it has now.
type Read = (u32, Memory);

impl Survey {
    /// Reads the scopes; nothing is looked at yet.
    ///
    /// # Errors
    /// If a scope cannot be used.
    pub fn new(scopes: &[ScopeConfig]) -> Result<Self, ScopeError> {
        Ok(Self {
            scopes: Scopes::new(scopes)?,
            watcher: std::process::id(),
            boot: boot_id(),
            boot_unix_s: identity::boot_unix_s().unwrap_or(0) as f64,
            mounts: Mounts::own(),
            reader: Reader::new(),
            looks: 0,
            known: HashMap::new(),
            ended_cpu: HashMap::new(),
            paused: VecDeque::new(),
            leaders: HashMap::new(),
            departed: VecDeque::new(),
            own_cgroups: HashMap::new(),
            is_stale: true,
            left_out: 0,
            processes: 0,
            took: Duration::ZERO,
        })
    }

    /// Watches other scopes from now on. What is known of subjects that stay is kept.
    ///
    /// # Errors
    /// If a scope cannot be used; then nothing changes.
    pub fn set_scopes(&mut self, scopes: &[ScopeConfig]) -> Result<(), ScopeError> {
        self.scopes = Scopes::new(scopes)?;
        self.known.values_mut().for_each(|known| known.identified = 0);
        Ok(())
    }

    /// Whose descendants are left out, and who is itself; this process unless told otherwise.
    #[must_use]
    pub fn except(self, watcher: u32) -> Self {
        Self { watcher, ..self }
    }

    /// Reads everybody's memory. `now` is seconds since the Unix epoch. The largest subjects come first.
    pub fn look(&mut self, now: f64) -> Vec<(Subject, MemoryReading)> {
        let began = Instant::now();
        self.looks += 1;
        if self.looks.is_multiple_of(MOUNTS_EVERY) {
            self.mounts = Mounts::own();
        }
        self.scopes.find_namespaces();
        let mut pids = process::all();
        let too_many = pids.len().saturating_sub(MAX_PROCESSES);
        pids.truncate(MAX_PROCESSES);
        let read: Vec<Read> = pids.into_iter().filter_map(|pid| self.read(pid, now)).collect();
        self.forget_the_ended();
        self.find_own_cgroups();
        let subjects = self.subjects(&read, now);
        self.processes = read.len() as u64;
        self.left_out += too_many as u64;
        self.took = began.elapsed();
        subjects
    }

    /// Subjects (and processes beyond 65,536) that the last look left out because there are too many.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Processes that were read at the last look.
    pub fn processes(&self) -> u64 {
        self.processes
    }

    /// How long the last look took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// PIDs of a subject's processes at the last look.
    pub fn members(&self, key: &str) -> Vec<u32> {
        let is_part = |known: &Known| known.part.as_ref().is_some_and(|part| &*part.key == key);
        let mut pids: Vec<u32> =
            self.known.iter().filter(|(_, known)| is_part(known)).map(|(pid, _)| *pid).collect();
        pids.sort_unstable();
        pids
    }

    /// The subject that a process is part of, or was until lately: victims of the OOM killer are gone when they are asked for.
    pub fn subject_of(&self, pid: u32) -> Option<&str> {
        let part = self.known.get(&pid).and_then(|known| known.part.as_ref());
        let departed = || self.departed.iter().rev().find(|(departed, _)| *departed == pid);
        part.map(|part| &*part.key).or_else(|| departed().map(|(_, key)| &**key))
    }

    /// The memory cgroup that is a subject's own.
    pub fn memory_cgroup(&self, key: &str) -> Option<&Place> {
        self.own_cgroups.get(key).map(AsRef::as_ref)
    }

    /// Reads one process; `None`: it is gone, or not watched.
    fn read(&mut self, pid: u32, now: f64) -> Option<Read> {
        let (stat, name) = self.reader.stat(pid)?;
        let renamed = self.known.get(&pid).is_none_or(|known| known.name != name).then(|| name.to_vec());
        self.meet(pid, &stat, renamed)?;
        if self.is_due(pid, &stat, now) {
            self.identify(pid);
        }
        self.known.get(&pid)?.part.as_ref()?;
        let memory = self.reader.memory(pid);
        if memory.is_none() {
            self.miss(pid);
        }
        Some((pid, memory?))
    }

    /// Takes a process that ended while it was looked at for one that was not seen.
    fn miss(&mut self, pid: u32) {
        if let Some(known) = self.known.get_mut(&pid) {
            known.seen = 0;
        }
    }

    /// Notes that a process is there; `None`: it has ended, or has no user space.
    fn meet(&mut self, pid: u32, stat: &Stat, renamed: Option<Vec<u8>>) -> Option<()> {
        let has_ended = stat.state == RunState::Zombie || is_ending(stat);
        if self.known.get(&pid).is_none_or(|known| known.start_ticks != stat.start_ticks) {
            // Nothing of it is worth knowing that was not known before.
            if has_ended {
                return None;
            }
            self.enter(pid, stat);
        }
        let looks = self.looks;
        let known = self.known.get_mut(&pid)?;
        known.cpu_ticks = stat.cpu_ticks;
        // It has told for the last time what it has used.
        if has_ended {
            return None;
        }
        known.seen = looks;
        if let Some(name) = renamed {
            known.name = name;
            known.identified = 0;
        }
        (!known.kernel_thread).then_some(())
    }

    /// Begins to know a process, in the place of an ended one if the PID was given again.
    fn enter(&mut self, pid: u32, stat: &Stat) {
        let other = self.known.remove(&pid);
        if let Some(other) = &other {
            self.depart(pid, other);
        }
        let known = Known {
            start_ticks: stat.start_ticks,
            kernel_thread: stat.kernel_thread,
            name: other.map(|other| other.name).unwrap_or_default(),
            ..Known::default()
        };
        self.known.insert(pid, known);
    }

    fn is_due(&self, pid: u32, stat: &Stat, now: f64) -> bool {
        let identified = self.known.get(&pid).map_or(0, |known| known.identified);
        let age = now - self.boot_unix_s - identity::seconds(stat.start_ticks);
        identified == 0
            || (identified < self.looks && age < YOUNG_S)
            || (self.looks + u64::from(pid)).is_multiple_of(IDENTIFY_EVERY)
    }

    fn identify(&mut self, pid: u32) {
        let Some(mut known) = self.known.remove(&pid) else { return };
        let identifier = Identifier { scopes: &self.scopes, watcher: self.watcher, boot: &self.boot };
        let is_new = known.memory_place.is_none() && known.part.is_none();
        known.own = known.own || (is_new && identifier.is_own(pid));
        let (place, part) = (known.memory_place.clone(), known.part.clone());
        if identifier.identify(pid, &mut known).is_none() {
            known.seen = 0;
        }
        known.identified = self.looks;
        let key = |part: &Option<known::Part>| part.as_ref().map(|part| part.key.clone());
        if key(&part) != key(&known.part) || place != known.memory_place {
            self.is_stale = true;
        }
        if let Some(left) = key(&part).filter(|left| Some(left) != key(&known.part).as_ref()) {
            // What it has used so far stays where it was used.
            self.keep_cpu(left.clone(), known.cpu());
            known.cpu_before = known.cpu_ticks;
            // One that was just about to end has left its cgroups.
            self.remember(pid, left);
        }
        self.known.insert(pid, known);
    }

    fn forget_the_ended(&mut self) {
        let looks = self.looks;
        let ended: Vec<(u32, Known)> = self.known.extract_if(|_, known| known.seen != looks).collect();
        ended.iter().for_each(|(pid, known)| self.depart(*pid, known));
    }

    /// Takes leave of a process that has ended.
    fn depart(&mut self, pid: u32, known: &Known) {
        self.is_stale = true;
        let Some(part) = &known.part else { return };
        self.keep_cpu(part.key.clone(), known.cpu());
        self.remember(pid, part.key.clone());
    }

    fn remember(&mut self, pid: u32, key: Arc<str>) {
        if self.departed.len() >= MAX_DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back((pid, key));
    }

    fn keep_cpu(&mut self, key: Arc<str>, ticks: u64) {
        let sum = self.ended_cpu.entry(key).or_default();
        *sum = sum.saturating_add(ticks);
    }

    fn find_own_cgroups(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        let charged = self.known.values().filter_map(|known| {
            let part = known.part.as_ref();
            Some(Charged {
                place: known.memory_place.as_ref()?,
                key: part.map(|part| &part.key),
                subject_place: part.and_then(|part| part.place.as_ref()),
            })
        });
        self.own_cgroups = own_cgroups(charged);
    }

    /// Adds up what was read.
    fn subjects(&mut self, read: &[Read], now: f64) -> Vec<(Subject, MemoryReading)> {
        let members = read.iter().filter_map(|(pid, memory)| {
            let known = self.known.get(pid)?;
            let part = known.part.as_ref()?;
            let (start_ticks, cpu_ticks) = (known.start_ticks, known.cpu());
            Some(Member { pid: *pid, start_ticks, part, memory: *memory, cpu_ticks })
        });
        let mut sums: Vec<Sum<'_>> = sums(members, &self.leaders).into_values().collect();
        sums.sort_unstable_by_key(|sum| (std::cmp::Reverse(sum.private_bytes()), sum.leader.pid));
        self.left_out = sums.len().saturating_sub(MAX_SUBJECTS) as u64;
        sums.truncate(MAX_SUBJECTS);
        let mut cgroups = MemoryCgroups::new(&self.mounts);
        let subjects = sums.iter().map(|sum| (self.subject(sum), self.reading(sum, now, &mut cgroups)));
        let subjects = subjects.collect();
        let leader = |sum: &Sum<'_>| (sum.leader.pid, sum.leader.start_ticks);
        self.leaders = sums.iter().map(|sum| (sum.leader.part.key.clone(), leader(sum))).collect();
        self.forget_paused();
        subjects
    }

    fn subject(&self, sum: &Sum<'_>) -> Subject {
        let part = sum.leader.part;
        let own = self.own_cgroups.get(&part.key);
        let charged = || self.known.get(&sum.leader.pid)?.memory_place.as_ref();
        Subject {
            key: part.key.to_string(),
            kind: part.kind,
            name: part.title.clone(),
            pid: sum.leader.pid,
            start_ticks: sum.leader.start_ticks,
            started_unix_s: self.boot_unix_s + identity::seconds(sum.oldest_ticks),
            command: part.command.clone(),
            container: part.container.clone(),
            cgroup: own.or_else(charged).map(|place| place.path.to_string_lossy().into_owned()),
            scope: self.scopes.name(part.scope).to_owned(),
        }
    }

    fn reading(&self, sum: &Sum<'_>, now: f64, cgroups: &mut MemoryCgroups<'_>) -> MemoryReading {
        let key = &sum.leader.part.key;
        let ended = self.ended_cpu.get(key).copied().unwrap_or(0);
        let own = self.own_cgroups.get(key);
        MemoryReading {
            cpu_s: identity::seconds(sum.cpu_ticks.saturating_add(ended)),
            cgroup: own.and_then(|place| cgroups.read(place)),
            ..sum.reading(now)
        }
    }

    /// Bounds what is remembered of subjects that have no process: those that were left longest ago go first.
    fn forget_paused(&mut self) {
        let leaders = &self.leaders;
        self.paused.retain(|key| !leaders.contains_key(key));
        // A process that has ended never comes back.
        self.ended_cpu.retain(|key, _| leaders.contains_key(key) || !key.starts_with("process:"));
        let waiting: std::collections::HashSet<&Arc<str>> = self.paused.iter().collect();
        let new = self.ended_cpu.keys().filter(|key| !leaders.contains_key(*key) && !waiting.contains(key));
        let new: Vec<Arc<str>> = new.cloned().collect();
        self.paused.extend(new);
        while self.paused.len() > MAX_PAUSED {
            if let Some(key) = self.paused.pop_front() {
                self.ended_cpu.remove(&key);
            }
        }
    }
}

/// Whether the whole process ends, as far as its first thread tells: that one may end long before the others.
fn is_ending(stat: &Stat) -> bool {
    stat.ending && stat.threads <= 1
}
