//! What forked processes have inherited of what was written to the process that they were forked from: redirected pointers and
//! closed free lists. It does no harm there, but it is undone with the rest. Those that are traced themselves have a record of their
//! own and are left to whoever holds it.

use leaktrace_common::python::FreeList;

use super::closing;
use super::leftover::{Record, Records};
use super::redirect::{self, RedirectError, Write};
use crate::object::address::AbsoluteAddress;
use crate::process::{MemoryReader, MemoryWriter, status};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    back: Vec<Write>,
    lists: Vec<FreeList>,
}

impl Inherited {
    /// What a forked process has of what was recorded of its parent.
    pub fn of(record: &Record) -> Self {
        let back = record.slots.iter().map(|slot| Write {
            at: AbsoluteAddress(slot.address),
            from: AbsoluteAddress(slot.alias),
            to: AbsoluteAddress(slot.original),
        });
        Self { back: back.collect(), lists: record.free_lists.iter().map(FreeList::from).collect() }
    }

    /// Undoes it in every process below one that has it. How many had it.
    pub fn undo_below(&self, pid: u32, records: &Records) -> usize {
        // Without a pointer nothing shows whether a process is still a copy of its parent.
        if self.back.is_empty() {
            return 0;
        }
        status::descendants(pid).into_iter().filter(|child| self.undo_in(*child, records)).count()
    }

    /// Undoes it in one process, if that is still a copy of its parent and nobody traces it. Whether it was.
    pub fn undo_in(&self, pid: u32, records: &Records) -> bool {
        Self::undo_one_of(std::slice::from_ref(self), pid, records)
    }

    /// The same where it is not known whose copy a process is.
    pub fn undo_one_of(candidates: &[Self], pid: u32, records: &Records) -> bool {
        let undone = Self::try_one_of(candidates, pid, records);
        undone.unwrap_or_else(|error| {
            tracing::debug!("what process {pid} has inherited stays: {error}");
            false
        })
    }

    fn try_one_of(candidates: &[Self], pid: u32, records: &Records) -> Result<bool, RedirectError> {
        let writer = MemoryWriter::open(pid, status::read_stat(pid)?.start_ticks)?;
        let inherited = candidates.iter().find(|inherited| inherited.is_all_in(&writer));
        let Some(inherited) = inherited.filter(|_| !records.is_held(pid, writer.start_ticks())) else {
            return Ok(false);
        };
        redirect::write_back(&writer, &inherited.back)?;
        closing::open(&inherited.lists, &MemoryReader::new(pid), &writer)?;
        Ok(true)
    }

    /// Every pointer holds what was written, or it is another program.
    fn is_all_in(&self, writer: &MemoryWriter) -> bool {
        let holds = |write: &Write| writer.read_u64(write.at).is_ok_and(|word| word == write.from.0);
        !self.back.is_empty() && self.back.iter().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::leftover::RecordedSlot;

    fn recorded(word: &u64) -> Record {
        let pid = std::process::id();
        let ticks = status::read_stat(pid).expect("own stat").start_ticks;
        let address = std::ptr::from_ref(word) as u64;
        Record::new(pid, ticks, vec![RecordedSlot { address, original: 0x1000, alias: 0x1008 }])
    }

    #[test]
    fn a_copy_is_undone_once_and_what_is_recorded_is_left_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::at(&directory.path().join("records"));
        let word = Box::new(0x1008_u64);
        let (record, pid) = (recorded(&word), std::process::id());
        let inherited = Inherited::of(&record);
        let held = records.leave(&record).expect("left");
        assert!(!inherited.undo_in(pid, &records));
        held.remove();
        assert!(inherited.undo_in(pid, &records));
        // SAFETY: our own word, just written from outside.
        assert_eq!(unsafe { std::ptr::read_volatile(&raw const *word) }, 0x1000);
        assert!(!inherited.undo_in(pid, &records));
    }

    #[test]
    fn without_a_pointer_nothing_is_known_to_be_a_copy() {
        let word = Box::new(0u64);
        let inherited = Inherited::of(&Record { slots: Vec::new(), ..recorded(&word) });
        assert!(!inherited.undo_in(std::process::id(), &Records::default()));
    }
}
