//! Closing free lists and opening them again, see [`super::free_lists`]. Both are bounded, checked by reading back, and may
//! be repeated at any time: whoever closes again only changes what is open.

use leaktrace_common::python::{CLOSED, FreeList};

use super::Memory;
use super::bounded::{Bounded, QUESTION};
use super::free_lists::{Kind, Look, MOST, SET_BY_US, counter, look};
use crate::object::address::AbsoluteAddress;
use crate::process::{MemoryWriter, ProcessError};

/// How often a write is repeated that the process, in the middle of changing the counter, undoes.
const ATTEMPTS: u32 = 50;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Lists that are as wanted now.
    pub done: usize,
    /// Of these, lists whose counter was written.
    pub written: usize,
    /// Lists that were left alone, because they do not look like free lists any more, or never held still.
    pub left: usize,
}

/// Closes every list that is open.
pub fn close(
    lists: &[FreeList],
    memory: &dyn Memory,
    writer: &MemoryWriter,
) -> Result<Outcome, ProcessError> {
    each(lists, |list| close_one(list, memory, writer))
}

/// Opens every list that is closed: its counter becomes what is still linked.
pub fn open(lists: &[FreeList], memory: &dyn Memory, writer: &MemoryWriter) -> Result<Outcome, ProcessError> {
    let memory = &Bounded::new(memory, QUESTION);
    each(lists, |list| open_one(list, memory, writer))
}

/// How many of the lists are closed now.
pub fn closed(lists: &[FreeList], memory: &dyn Memory) -> usize {
    lists.iter().filter(|list| is_closed(list, memory)).count()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Already,
    Written,
    Left,
}

fn each(
    lists: &[FreeList],
    mut one: impl FnMut(&FreeList) -> Result<Done, ProcessError>,
) -> Result<Outcome, ProcessError> {
    let mut outcome = Outcome::default();
    for list in lists {
        match one(list)? {
            Done::Already => outcome.done += 1,
            Done::Written => {
                outcome.done += 1;
                outcome.written += 1;
            }
            Done::Left => outcome.left += 1,
        }
    }
    Ok(outcome)
}

fn close_one(list: &FreeList, memory: &dyn Memory, writer: &MemoryWriter) -> Result<Done, ProcessError> {
    for attempt in 0..ATTEMPTS {
        match glance(list, memory) {
            // A write may be undone by a subtraction that had begun before it: it counts when it is still there at the
            // next look.
            Look::Closed(_) if attempt == 0 => return Ok(Done::Already),
            Look::Closed(_) => return Ok(Done::Written),
            Look::Disabled => return Ok(Done::Already),
            Look::Broken => return Ok(Done::Left),
            Look::Exact(_) | Look::Changing => write(list, writer, CLOSED)?,
        }
        std::thread::yield_now();
    }
    Ok(Done::Left)
}

fn open_one(list: &FreeList, memory: &dyn Memory, writer: &MemoryWriter) -> Result<Done, ProcessError> {
    for attempt in 0..ATTEMPTS {
        match look(memory, &bare(list)) {
            Look::Closed(objects) => write(list, writer, objects)?,
            // Objects are being taken out of a list that did not drain: look again.
            Look::Changing if is_closed(list, memory) => {}
            Look::Exact(_) | Look::Changing | Look::Disabled if attempt == 0 => return Ok(Done::Already),
            Look::Exact(_) | Look::Changing | Look::Disabled => return Ok(Done::Written),
            Look::Broken => return Ok(Done::Left),
        }
        std::thread::yield_now();
    }
    Ok(Done::Left)
}

fn is_closed(list: &FreeList, memory: &dyn Memory) -> bool {
    matches!(glance(list, memory), Look::Closed(_))
}

/// What the counter alone says.
fn glance(list: &FreeList, memory: &dyn Memory) -> Look {
    match counter(memory, list) {
        None => Look::Broken,
        Some(u64::MAX) => Look::Disabled,
        Some(value) if value <= MOST.into() => Look::Changing,
        Some(value) if SET_BY_US.contains(&value) => Look::Closed(0),
        Some(_) => Look::Broken,
    }
}

fn bare(list: &FreeList) -> Kind {
    Kind { list: *list, object_type: None, length: None }
}

/// Writes the counter, and nothing else.
fn write(list: &FreeList, writer: &MemoryWriter, value: u32) -> Result<(), ProcessError> {
    let at = AbsoluteAddress(list.counter);
    match list.counter_bytes {
        4 => writer.write(at, &value.to_ne_bytes()),
        _ => writer.write(at, &u64::from(value).to_ne_bytes()),
    }
}
