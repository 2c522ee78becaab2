//! What a tracer has changed in a process, written down before the first write, so that the next start can undo what a killed
//! one left behind. A record is locked by the tracer that it belongs to for as long as that lives.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use leaktrace_common::python::FreeList;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::allocators::Tables;
use super::inherited::Inherited;
use super::redirect::{self, Write};
use crate::object::address::AbsoluteAddress;
use crate::process::{self, MemoryWriter, host::boot_id, is_same_process, status};

/// Where records lie: gone with the next boot, as are the processes.
const DIRECTORY: &str = "/run/leaktrace";
/// What the names of records end with.
const SUFFIX: &str = "written";
/// Most bytes of a record that are read.
const MAX_RECORD: u64 = 1 << 20;
/// Most records that are looked at.
const MAX_RECORDS: usize = 4096;
/// How far up a process's ancestors are looked at.
const MAX_ANCESTORS: usize = 16;

/// Why no record could be left.
#[derive(Debug, Error)]
pub enum LeftoverError {
    /// The directory or the file.
    #[error("no record of what is written to process {pid} can be left in {}: {source}; nothing is written", path.display())]
    Io {
        /// The process.
        pid: u32,
        /// The directory or the file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another tracer is at work.
    #[error("another leaktrace has written to process {pid} and still runs; nothing is written")]
    Busy {
        /// The process.
        pid: u32,
    },
}

/// A pointer that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSlot {
    /// Where it lies.
    pub address: u64,
    /// What it held.
    pub original: u64,
    /// What was written.
    pub alias: u64,
}

/// A free list that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedList {
    /// Address of the counter.
    pub counter: u64,
    /// Address of the pointer to the first object.
    pub head: u64,
    /// Bytes of the counter.
    pub counter_bytes: u32,
    /// Where in an object the pointer to the next one lies.
    pub next: u32,
    /// What lies between the block and the object.
    pub header: u32,
}

impl From<&FreeList> for RecordedList {
    fn from(list: &FreeList) -> Self {
        let FreeList { counter, head, counter_bytes, next, header, .. } = *list;
        Self { counter, head, counter_bytes, next, header }
    }
}

impl From<&RecordedList> for FreeList {
    fn from(list: &RecordedList) -> Self {
        let RecordedList { counter, head, counter_bytes, next, header } = *list;
        Self { counter, head, counter_bytes, next, header, pad: 0 }
    }
}

/// Everything that a tracer has changed in one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The process.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Which boot.
    pub boot: String,
    /// Pointers.
    pub slots: Vec<RecordedSlot>,
    /// Free lists.
    #[serde(default)]
    pub free_lists: Vec<RecordedList>,
}

impl Record {
    /// A record of pointers about to be changed in this boot's process.
    pub fn new(pid: u32, start_ticks: u64, slots: Vec<RecordedSlot>) -> Self {
        Self { pid, start_ticks, boot: boot_id(), slots, free_lists: Vec::new() }
    }

    /// Whether the process that it speaks of still is.
    fn is_current(&self) -> bool {
        self.boot == boot_id() && is_same_process(self.pid, self.start_ticks)
    }
}

fn file_name(pid: u32, start_ticks: u64) -> String {
    format!("{pid}-{start_ticks}.{SUFFIX}")
}

/// A record that is kept for as long as what it says holds.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    record: Record,
}

impl RecordFile {
    /// What it says.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Adds free lists, before they are closed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add_free_lists(&mut self, lists: &[FreeList]) -> Result<(), LeftoverError> {
        self.record.free_lists.extend(lists.iter().map(RecordedList::from));
        self.write()
    }

    /// Removes it: everything has been undone.
    pub fn remove(self) {
        // What cannot be removed is looked at, and found to be nothing, at the next start.
        let _ = fs::remove_file(&self.path);
    }

    fn write(&mut self) -> Result<(), LeftoverError> {
        let failed = |source| LeftoverError::Io { pid: self.record.pid, path: self.path.clone(), source };
        let bytes = serde_json::to_vec(&self.record).map_err(|error| failed(error.into()))?;
        // Whoever reads half of it sees no record, and the table still speaks for itself.
        self.file.set_len(0).map_err(failed)?;
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(0)).map_err(|error| failed(error.into()))?;
        self.file.write_all(&bytes).map_err(failed)
    }
}

/// Where records are left.
#[derive(Clone, Debug)]
pub struct Records {
    directory: PathBuf,
}

impl Default for Records {
    fn default() -> Self {
        Self::at(Path::new(DIRECTORY))
    }
}

impl Records {
    /// In a directory of one's own, which is made if need be.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Writes a record and locks it.
    ///
    /// # Errors
    /// It cannot be written, or another tracer holds one for the same process.
    pub fn leave(&self, record: &Record) -> Result<RecordFile, LeftoverError> {
        let pid = record.pid;
        let path = self.directory.join(file_name(pid, record.start_ticks));
        self.prepare().map_err(|source| LeftoverError::Io { pid, path: self.directory.clone(), source })?;
        let failed = |source| LeftoverError::Io { pid, path: path.clone(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&path).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| LeftoverError::Busy { pid })?;
        let mut left = RecordFile { path, file, record: record.clone() };
        left.write().map(|()| left)
    }

    /// Whether a living tracer, ourselves included, holds a record of that process.
    pub fn is_held(&self, pid: u32, start_ticks: u64) -> bool {
        let file = File::open(self.directory.join(file_name(pid, start_ticks)));
        file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Whether a process was forked from one that a living tracer holds, which will look after it.
    fn is_below_held(&self, pid: u32) -> bool {
        let mut next = pid;
        for _ in 0..MAX_ANCESTORS {
            let Ok(stat) = status::read_stat(next) else { return false };
            if next != pid && self.is_held(next, stat.start_ticks) {
                return true;
            }
            next = stat.parent;
        }
        false
    }

    /// The directory, for nobody else to write.
    fn prepare(&self) -> io::Result<()> {
        match DirBuilder::new().recursive(true).mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(&self.directory)?;
        let ours =
            found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
        if ours { Ok(()) } else { Err(io::Error::other("it is not a directory of ours alone")) }
    }

    /// Records that no living tracer holds, each locked by us now.
    fn abandoned(&self) -> Vec<RecordFile> {
        if self.prepare().is_err() {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        let paths = entries.flatten().take(MAX_RECORDS).map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == SUFFIX))
            .filter_map(open_abandoned)
            .collect()
    }

    /// Undoes what killed tracers have left behind; one sentence for each process that was changed. `reopen` undoes closed
    /// free lists and says how many it has opened.
    pub fn clean_up(&self, reopen: &mut dyn FnMut(&MemoryWriter, &[FreeList]) -> usize) -> Vec<String> {
        let (mut sentences, mut inherited) = (Vec::new(), Vec::new());
        for left in self.abandoned() {
            let of_copies = Inherited::of(&left.record);
            if left.record.boot == boot_id() && !inherited.contains(&of_copies) {
                inherited.push(of_copies);
            }
            if !left.record.is_current() {
                left.remove();
                continue;
            }
            match undo(&left.record, reopen) {
                Ok(sentence) => {
                    sentences.extend(sentence);
                    left.remove();
                }
                Err(error) => sentences.push(format!(
                    "what a killed leaktrace has changed in process {} could not be undone and stays (it is harmless): {error}",
                    left.record.pid
                )),
            }
        }
        sentences.extend(self.undo_in_copies(&inherited));
        sentences
    }

    /// Processes that were forked from recorded ones after the tracer was killed, or a moment before. Those may have ended since:
    /// so every process of the host is looked at.
    fn undo_in_copies(&self, inherited: &[Inherited]) -> Option<String> {
        if inherited.is_empty() {
            return None;
        }
        let left = process::all().into_iter().filter(|pid| !self.is_below_held(*pid));
        let undone = left.filter(|pid| Inherited::undo_one_of(inherited, *pid, self)).count();
        (undone > 0).then(|| {
            format!("{undone} processes forked from such as a killed leaktrace had changed: undid what they had inherited")
        })
    }

    /// What [`Self::clean_up`] would look at, for a command that only looks; one sentence each.
    pub fn look(&self) -> Vec<String> {
        let abandoned = self.abandoned().into_iter().filter(|left| left.record.is_current());
        let sentence = |left: RecordFile| {
            format!(
                "process {}: a killed leaktrace has left {} allocator pointers and {} free lists changed (harmless); the next trace undoes it",
                left.record.pid,
                left.record.slots.len(),
                left.record.free_lists.len()
            )
        };
        abandoned.map(sentence).collect()
    }
}

fn open_abandoned(path: PathBuf) -> Option<RecordFile> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let file = options.open(&path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    // Its tracer may have removed it between our opening and locking it.
    let current = fs::symlink_metadata(&path).ok()?.ino() == file.metadata().ok()?.ino();
    let mut bytes = Vec::new();
    (&file).take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
    if !current {
        return None;
    }
    match serde_json::from_slice(&bytes) {
        Ok(record) => Some(RecordFile { path, file, record }),
        Err(_) => {
            // Half written: nothing had been changed yet.
            let _ = fs::remove_file(&path);
            None
        }
    }
}

/// Undoes one record; a sentence if something had to be.
fn undo(
    record: &Record,
    reopen: &mut dyn FnMut(&MemoryWriter, &[FreeList]) -> usize,
) -> Result<Option<String>, redirect::RedirectError> {
    let writer = MemoryWriter::open(record.pid, record.start_ticks)?;
    let back = record.slots.iter().map(|slot| Write {
        at: AbsoluteAddress(slot.address),
        from: AbsoluteAddress(slot.alias),
        to: AbsoluteAddress(slot.original),
    });
    let back: Vec<Write> = back.collect();
    let slots =
        back.iter().filter(|write| writer.read_u64(write.at).is_ok_and(|word| word == write.from.0)).count();
    redirect::write_back(&writer, &back)?;
    let lists: Vec<FreeList> = record.free_lists.iter().map(FreeList::from).collect();
    let lists = if lists.is_empty() { 0 } else { reopen(&writer, &lists) };
    Ok((slots + lists > 0).then(|| sentence(record.pid, slots, lists)))
}

fn sentence(pid: u32, slots: usize, lists: usize) -> String {
    format!(
        "process {pid}: undid what a killed leaktrace had left behind ({slots} allocator pointers, {lists} free lists)"
    )
}

/// Points redirected slots back of which no record speaks: a table is recognised by itself. A sentence if there were any.
///
/// # Errors
/// The process is gone or cannot be written.
pub fn undo_unrecorded(
    pid: u32,
    start_ticks: u64,
    tables: &Tables,
) -> Result<Option<String>, redirect::RedirectError> {
    let back =
        tables.redirected().map(|slot| Write { at: slot.address, from: slot.pointer, to: slot.function });
    let back: Vec<Write> = back.collect();
    if back.is_empty() {
        return Ok(None);
    }
    redirect::write_back(&MemoryWriter::open(pid, start_ticks)?, &back)?;
    Ok(Some(sentence(pid, back.len(), 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_record(slots: Vec<RecordedSlot>) -> Record {
        let pid = std::process::id();
        Record::new(pid, status::read_stat(pid).expect("own stat").start_ticks, slots)
    }

    fn none(_: &MemoryWriter, lists: &[FreeList]) -> usize {
        lists.len()
    }

    #[test]
    fn a_living_tracers_record_is_left_alone_and_a_dead_ones_is_undone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::at(&directory.path().join("records"));
        let word = Box::new(0x1008_u64);
        let address = &raw const *word as u64;
        let left =
            records.leave(&own_record(vec![RecordedSlot { address, original: 0x1000, alias: 0x1008 }]));
        let left = left.expect("left");
        let own = own_record(Vec::new());
        assert!(records.is_held(own.pid, own.start_ticks) && !records.is_held(own.pid, own.start_ticks + 1));
        assert!(records.clean_up(&mut none).is_empty());
        drop(left);
        assert_eq!(records.look().len(), 1);
        // Ourselves: the change is of one byte, so nobody is stopped.
        assert_eq!(records.clean_up(&mut none).len(), 1);
        // SAFETY: our own word, just written from outside.
        assert_eq!(unsafe { std::ptr::read_volatile(&raw const *word) }, 0x1000);
        assert!(records.clean_up(&mut none).is_empty());
    }

    #[test]
    fn what_somebody_else_has_written_since_stays() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::at(directory.path());
        let word = Box::new(0x2000_u64);
        let address = &raw const *word as u64;
        drop(records.leave(&own_record(vec![RecordedSlot { address, original: 0x1000, alias: 0x1008 }])));
        assert!(records.clean_up(&mut none).is_empty());
        // SAFETY: our own word.
        assert_eq!(unsafe { std::ptr::read_volatile(&raw const *word) }, 0x2000);
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
    }

    #[test]
    fn records_of_other_processes_and_boots_and_half_a_record_are_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::at(directory.path());
        let mut other = own_record(Vec::new());
        other.start_ticks += 1;
        drop(records.leave(&other));
        let mut before = own_record(Vec::new());
        before.boot = "another".to_owned();
        drop(records.leave(&before));
        fs::write(directory.path().join(format!("1-2.{SUFFIX}")), b"{\"pid\":").expect("written");
        assert!(records.clean_up(&mut none).is_empty());
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 0);
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("mode");
        let error = Records::at(directory.path()).leave(&own_record(Vec::new())).expect_err("refused");
        assert!(matches!(error, LeftoverError::Io { .. }), "{error}");
    }

    #[test]
    fn a_second_tracer_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::at(directory.path());
        let _first = records.leave(&own_record(Vec::new())).expect("first");
        assert!(matches!(records.leave(&own_record(Vec::new())), Err(LeftoverError::Busy { .. })));
    }
}
