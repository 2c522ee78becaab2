//! Redirecting pointers of an allocator table to another entry of the same function, and back. Nothing else of the target
//! is ever written here. What is left behind by our death is harmless: both entries run the same code.

use std::time::Duration;

use thiserror::Error;

use super::alias::{self, Change};
use super::allocators::{Domain, Role};
use super::inherited::Inherited;
use super::leftover::{LeftoverError, Record, RecordFile, RecordedSlot, Records};
use crate::object::address::AbsoluteAddress;
use crate::process::stop::{StopError, Stopped};
use crate::process::{MemoryWriter, ProcessError};

/// How long the threads of a target may take to stand still: on a busy machine one of them has to get its turn first.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often it is tried; they run on in between.
const TRIES: usize = 10;

/// A pointer to be redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange {
    /// Of which table.
    pub domain: Domain,
    /// Which slot.
    pub role: Role,
    /// Where the pointer lies.
    pub address: AbsoluteAddress,
    /// The function, as the interpreter has set it.
    pub original: AbsoluteAddress,
    /// Its other entry.
    pub alias: AbsoluteAddress,
}

impl SlotChange {
    /// How much of the pointer changes.
    pub fn change(&self) -> Change {
        alias::change(self.original, self.alias)
    }
}

impl std::fmt::Display for SlotChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { domain, role, address, original, alias } = self;
        let how = match self.change() {
            Change::LowestByte => "1 byte",
            Change::Several => "2 bytes, while all threads are stopped",
        };
        write!(f, "{domain} {role} at {address:#x}: {original:#x} -> {alias:#x} ({how})")
    }
}

/// Why pointers were not redirected.
#[derive(Debug, Error)]
pub enum RedirectError {
    /// The process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its threads could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// No record of what would be written could be left.
    #[error(transparent)]
    Record(#[from] LeftoverError),
    /// Somebody has changed the table.
    #[error(
        "the allocator table of process {pid} has changed: {address:#x} holds {found:#x}, not {expected:#x}"
    )]
    Changed {
        /// The process.
        pid: u32,
        /// Which pointer.
        address: AbsoluteAddress,
        /// What it holds.
        found: u64,
        /// What it was expected to hold.
        expected: u64,
    },
}

/// Redirected pointers of one process. Undone when dropped.
#[derive(Debug)]
pub struct Redirection {
    writer: MemoryWriter,
    changes: Vec<SlotChange>,
    record: Option<RecordFile>,
    records: Records,
}

impl Redirection {
    /// Leaves a record, then redirects every pointer: those of `free` first. Either all or none.
    ///
    /// # Errors
    /// The process is gone, its table is not what it was, its threads do not stop, or no record can be left.
    pub fn apply(
        pid: u32,
        start_ticks: u64,
        changes: &[SlotChange],
        records: &Records,
    ) -> Result<Self, RedirectError> {
        let writer = MemoryWriter::open(pid, start_ticks)?;
        let mut changes = changes.to_vec();
        changes.sort_by_key(|change| change.role != Role::Free);
        for change in &changes {
            expect(&writer, change.address, &[change.original.0, change.alias.0])?;
        }
        let mut redirection = Self { writer, changes, record: None, records: records.clone() };
        redirection.record = redirection.leave_record()?;
        redirection.switch_on()?;
        Ok(redirection)
    }

    fn leave_record(&self) -> Result<Option<RecordFile>, LeftoverError> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        let slots = self.changes.iter().map(|change| RecordedSlot {
            address: change.address.0,
            original: change.original.0,
            alias: change.alias.0,
        });
        let record = Record::new(self.writer.pid(), self.writer.start_ticks(), slots.collect());
        self.records.leave(&record).map(Some)
    }

    /// The record that was left of it.
    pub fn record(&mut self) -> Option<&mut RecordFile> {
        self.record.as_mut()
    }

    /// What the record says.
    pub fn recorded(&self) -> Option<&Record> {
        self.record.as_ref().map(RecordFile::record)
    }

    /// What is redirected.
    pub fn changes(&self) -> &[SlotChange] {
        &self.changes
    }

    /// Redirects again after [`Self::switch_off`].
    ///
    /// # Errors
    /// As for [`Self::apply`]; nothing stays redirected then.
    pub fn switch_on(&mut self) -> Result<(), RedirectError> {
        let forth = self.changes.iter().map(|change| Write {
            at: change.address,
            from: change.original,
            to: change.alias,
        });
        let done = write_all(&self.writer, &forth.collect::<Vec<_>>());
        if done.is_err() {
            // The reason why it failed is the one to tell.
            let _ = self.switch_off();
        }
        done
    }

    /// Points everything back that still holds what was written; what somebody else has changed since stays. The record
    /// stays too.
    ///
    /// # Errors
    /// The process cannot be written or stopped. One that is gone is no error.
    pub fn switch_off(&mut self) -> Result<(), RedirectError> {
        let back = self.changes.iter().map(|change| Write {
            at: change.address,
            from: change.alias,
            to: change.original,
        });
        write_back(&self.writer, &back.collect::<Vec<_>>())
    }

    /// Undoes everything and removes the record.
    ///
    /// # Errors
    /// As for [`Self::switch_off`]; the record stays then, for the next start.
    pub fn undo(mut self) -> Result<(), RedirectError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), RedirectError> {
        self.switch_off()?;
        self.changes.clear();
        if let Some(record) = self.record.take() {
            Inherited::of(record.record()).undo_below(self.writer.pid(), &self.records);
            record.remove();
        }
        Ok(())
    }
}

impl Drop for Redirection {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!("the allocator table of process {} stays redirected: {error}", self.writer.pid());
        }
    }
}

/// One pointer to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) at: AbsoluteAddress,
    pub(super) from: AbsoluteAddress,
    pub(super) to: AbsoluteAddress,
}

impl Write {
    fn change(&self) -> Change {
        alias::change(self.from, self.to)
    }

    fn write(&self, writer: &MemoryWriter) -> Result<(), RedirectError> {
        if expect(writer, self.at, &[self.from.0, self.to.0])? == self.to.0 {
            return Ok(());
        }
        let bytes = self.to.0.to_ne_bytes();
        let length = if self.change() == Change::LowestByte { 1 } else { bytes.len() };
        writer.write(self.at, bytes.get(..length).unwrap_or_default())?;
        expect(writer, self.at, &[self.to.0]).map(drop)
    }
}

/// Points back whatever still holds what was written. A process that is gone needs nothing.
pub(super) fn write_back(writer: &MemoryWriter, back: &[Write]) -> Result<(), RedirectError> {
    let ours = |write: &&Write| writer.read_u64(write.at).is_ok_and(|word| word == write.from.0);
    let back: Vec<Write> = back.iter().filter(ours).copied().collect();
    match write_all(writer, &back) {
        Err(RedirectError::Process(error)) if error.is_gone() => Ok(()),
        Err(RedirectError::Stop(StopError::Gone { .. })) => Ok(()),
        other => other,
    }
}

/// What needs one byte at once; the rest together, while nothing of the process runs. What is there already (a forked process
/// has it from its parent) needs nothing.
fn write_all(writer: &MemoryWriter, writes: &[Write]) -> Result<(), RedirectError> {
    let missing = |write: &&Write| !writer.read_u64(write.at).is_ok_and(|word| word == write.to.0);
    let (several, single): (Vec<&Write>, Vec<&Write>) =
        writes.iter().filter(missing).partition(|write| write.change() == Change::Several);
    single.iter().try_for_each(|write| write.write(writer))?;
    if several.is_empty() {
        return Ok(());
    }
    let stopped = stop(writer.pid())?;
    let done = several.iter().try_for_each(|write| write.write(writer));
    drop(stopped);
    done
}

fn stop(pid: u32) -> Result<Stopped, StopError> {
    for _ in 1..TRIES {
        match Stopped::all(pid, PATIENCE) {
            Err(StopError::TooSlow { .. }) => {}
            other => return other,
        }
    }
    Stopped::all(pid, PATIENCE)
}

/// The word at an address, which must be one of `wanted`.
fn expect(writer: &MemoryWriter, address: AbsoluteAddress, wanted: &[u64]) -> Result<u64, RedirectError> {
    let found = writer.read_u64(address)?;
    if wanted.contains(&found) {
        return Ok(found);
    }
    let expected = wanted.first().copied().unwrap_or_default();
    Err(RedirectError::Changed { pid: writer.pid(), address, found, expected })
}
