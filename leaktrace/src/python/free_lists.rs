//! Free lists: objects that CPython keeps when they die and hands out again without asking its allocator. A block that
//! changes hands so stays booked on the line that was given it first. Lists that are *linked* and have a counter can be closed
//! from outside, by making the counter larger than any cap: what dies is then really freed, and once the list has drained,
//! everything new is really allocated. Only counters are written, never pointers.
//!
//! Why that harms nothing, as the sources of each version say (floats `floatobject.c`, tuples `tupleobject.c`, 3.14 all in
//! `pycore_freelist.h`):
//! - *Putting back* compares the counter with the cap and frees the object if it is not below; nothing else happens.
//! - *Taking out* looks at the pointer only, then subtracts one. A drained list is recognised by its null pointer.
//! - *Clearing* (at every full collection) follows the pointers to their end. Up to 3.13 it then sets the counter to 0, which opens
//!   the list; in 3.14 it takes out one by one, so the list stays closed.
//! - `sys._debugmallocstats()` prints the counter times the object's size. Nothing else reads it; only assertions of debug
//!   builds (refused) do.
//! - At the end of an interpreter 3.13 and 3.14 set it to -1, "never again": such a list is left alone.
//!
//! Lists that are arrays (`list`, `dict`, up to 3.13 also others) use the counter as index and must never be touched.
//! Linked lists that are left open: frame objects up to 3.10 and contexts, which no program leaks by the thousand.
//!
//! What links the objects: a float's type pointer up to 3.13 (the object then has no type), a tuple's first item up to 3.13,
//! the first word (the reference count) from 3.14 on.

use std::ops::RangeInclusive;

use leaktrace_common::python::{CLOSED, FreeList};
use thiserror::Error;

use super::bounded::{Bounded, QUESTION};
use super::validate::{OBJECT_SIZE, OBJECT_TYPE};
use super::{Interpreter, Memory, free_lists_in_code, validate};

/// Longest list that is believed: the highest cap is 2,000.
pub(super) const MOST: u32 = 4096;

/// Counters that leaktrace has set, less what was taken out since, and more by what was being put back meanwhile. No
/// program gets there by itself.
pub(super) const SET_BY_US: RangeInclusive<u64> = (CLOSED - MOST) as u64..=(CLOSED + 16) as u64;

/// What a collected object has in front.
const COLLECTED: u32 = 16;

/// Where a tuple's first item lies.
const FIRST_ITEM: u32 = 24;

/// Lists of the main interpreter that must hold objects where the table is not that of the build.
const NEEDED: usize = 3;

/// Most words that a member may have moved between releases.
const MAX_SHIFT: i64 = 64;

/// How often a list is looked at while the process uses it.
const ATTEMPTS: u32 = 100;

/// Why free lists are left alone.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// The interpreters could not be read.
    #[error("the interpreters could not be read")]
    Unreadable,
    /// Up to 3.9 they are static variables, which code has to name.
    #[error("the code that makes floats and tuples does not show where their free lists are")]
    Unknown,
    /// What was found is no free list.
    #[error("what should be free lists does not look like them")]
    Implausible,
}

/// A free list and what its objects are, as far as that can be seen in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) list: FreeList,
    /// Address of their type, if they still bear it.
    pub(super) object_type: Option<u64>,
    /// Their `ob_size`.
    pub(super) length: Option<u64>,
}

/// What a look at a list showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// So many objects, as its counter says.
    Exact(u32),
    /// So many objects, and a counter that leaktrace has set.
    Closed(u32),
    /// The interpreter has given it up.
    Disabled,
    /// The counter is possible, but the list was changing.
    Changing,
    /// No free list.
    Broken,
}

/// Every linked free list with a counter, of every interpreter, floats of the main one first: a full collection that opens
/// lists shows there.
pub fn free_lists(interpreter: &Interpreter, memory: &dyn Memory) -> Result<Vec<FreeList>, Reason> {
    let memory = &Bounded::new(memory, QUESTION);
    let lists = &interpreter.offsets.free_lists;
    if lists.float_head == 0 && lists.uniform == 0 {
        return free_lists_in_code::find(interpreter, memory);
    }
    let mut all = validate::interpreters(memory, interpreter.runtime.0, &interpreter.offsets)
        .map_err(|_| Reason::Unreadable)?;
    all.sort_by_key(|address| *address != interpreter.main.0);
    let of = |shift: i64| -> Vec<Vec<Kind>> {
        let shifted = |address: &u64| kinds(interpreter, address.wrapping_add_signed(shift));
        all.iter().map(shifted).collect()
    };
    let found = if interpreter.exact { confirmed(memory, of(0))? } else { searched(memory, of)? };
    Ok(found.into_iter().flatten().map(|kind| kind.list).collect())
}

/// The lists of a build whose table is known, checked.
fn confirmed(memory: &dyn Memory, lists: Vec<Vec<Kind>>) -> Result<Vec<Vec<Kind>>, Reason> {
    lists.iter().try_for_each(|lists| confirm(memory, lists, 0))?;
    Ok(lists)
}

/// The lists of a build whose table is that of another: releases of a series differ by a few words in front of them. There must
/// be exactly one place at which all of them hold still, are as long as they say, and are not all empty.
fn searched(memory: &dyn Memory, of: impl Fn(i64) -> Vec<Vec<Kind>>) -> Result<Vec<Vec<Kind>>, Reason> {
    let fits = |lists: &Vec<Vec<Kind>>| {
        let still = |kind: &Kind| matches!(settled(memory, kind), Look::Exact(_) | Look::Closed(_));
        let main = lists.first().is_some_and(|main| confirm(memory, main, NEEDED).is_ok());
        main && lists.iter().flatten().all(still)
    };
    let mut fitting = shifts().map(of).filter(fits);
    let found = fitting.next().ok_or(Reason::Implausible)?;
    if fitting.next().is_none() { Ok(found) } else { Err(Reason::Implausible) }
}

/// Distances at which members of a structure are looked for whose place another release's table gives, bytes: the nearest
/// first.
pub(super) fn shifts() -> impl Iterator<Item = i64> {
    (0..=MAX_SHIFT).flat_map(|words| [words * 8, words * -8]).skip(1)
}

/// Checks lists: none is broken, and at least `needed` hold objects and are as long as they say.
pub(super) fn confirm(memory: &dyn Memory, kinds: &[Kind], needed: usize) -> Result<(), Reason> {
    let mut filled = 0;
    for kind in kinds {
        match settled(memory, kind) {
            Look::Broken => return Err(Reason::Implausible),
            Look::Exact(1..) | Look::Closed(_) => filled += 1,
            Look::Exact(0) | Look::Disabled | Look::Changing => {}
        }
    }
    if filled >= needed { Ok(()) } else { Err(Reason::Implausible) }
}

/// Looks until the list holds still; what never does is at least a list whose counter is possible every time.
fn settled(memory: &dyn Memory, kind: &Kind) -> Look {
    let mut last = Look::Changing;
    for _ in 0..ATTEMPTS {
        last = look(memory, kind);
        if last != Look::Changing {
            break;
        }
    }
    last
}

/// One look at a list.
pub(super) fn look(memory: &dyn Memory, kind: &Kind) -> Look {
    let Some(before) = counter(memory, &kind.list) else { return Look::Broken };
    if before == u64::MAX {
        return Look::Disabled;
    }
    let closed = SET_BY_US.contains(&before);
    if !closed && before > MOST.into() {
        return Look::Broken;
    }
    let walked = walk(memory, kind);
    let same = counter(memory, &kind.list) == Some(before);
    match walked {
        Some(objects) if same && closed => Look::Closed(objects),
        Some(objects) if same && u64::from(objects) == before => Look::Exact(objects),
        _ => Look::Changing,
    }
}

/// How many objects are linked; `None` if one does not look like it.
fn walk(memory: &dyn Memory, kind: &Kind) -> Option<u32> {
    let mut object = memory.word(kind.list.head)?;
    let mut count = 0;
    while object != 0 {
        let of_type =
            kind.object_type.is_none_or(|of| memory.word(object.wrapping_add(OBJECT_TYPE)) == Some(of));
        let of_length =
            kind.length.is_none_or(|of| memory.word(object.wrapping_add(OBJECT_SIZE)) == Some(of));
        if count >= MOST || !object.is_multiple_of(8) || !of_type || !of_length {
            return None;
        }
        count += 1;
        object = memory.word(object.wrapping_add(kind.list.next.into()))?;
    }
    Some(count)
}

/// A list's counter; [`u64::MAX`] for any negative one.
pub(super) fn counter(memory: &dyn Memory, list: &FreeList) -> Option<u64> {
    let value = match list.counter_bytes {
        4 => i64::from(memory.half(list.counter)?.cast_signed()),
        _ => memory.word(list.counter)?.cast_signed(),
    };
    Some(u64::try_from(value).unwrap_or(u64::MAX))
}

fn kinds(interpreter: &Interpreter, address: u64) -> Vec<Kind> {
    if interpreter.offsets.free_lists.uniform != 0 {
        return uniform(interpreter, address);
    }
    let lists = &interpreter.offsets.free_lists;
    let at = |offset: u32| address.wrapping_add(offset.into());
    let mut kinds = vec![floats(at(lists.float_head), at(lists.float_count))];
    for index in 0..lists.tuple_lists {
        let length = index.saturating_add(lists.tuple_first);
        // The empty tuple is no free one, though it lies in the first element of 3.10.
        if length > 0 {
            kinds.push(tuples(interpreter, at(lists.tuple_heads), at(lists.tuple_counts), index, length));
        }
    }
    kinds
}

/// Floats up to 3.13: linked by what was their type.
pub(super) fn floats(head: u64, counter: u64) -> Kind {
    let list = FreeList { counter, head, counter_bytes: 4, next: OBJECT_TYPE as u32, header: 0, pad: 0 };
    Kind { list, object_type: None, length: None }
}

/// Tuples of one length up to 3.13: linked by what was their first item.
pub(super) fn tuples(interpreter: &Interpreter, heads: u64, counters: u64, index: u32, length: u32) -> Kind {
    let head = heads.wrapping_add(u64::from(index) * 8);
    let counter = counters.wrapping_add(u64::from(index) * 4);
    let list = FreeList { counter, head, counter_bytes: 4, next: FIRST_ITEM, header: COLLECTED, pad: 0 };
    Kind { list, object_type: interpreter.address("PyTuple_Type"), length: Some(length.into()) }
}

/// Lists of 3.14, in their order: how many of a kind, what lies in front of the object, and the type if it is exported.
const UNIFORM: [(u32, u32, &str); 20] = [
    (1, 0, "PyFloat_Type"),
    (1, 0, "PyLong_Type"),
    (20, COLLECTED, "PyTuple_Type"),
    (1, COLLECTED, "PyList_Type"),
    (1, COLLECTED, "PyListIter_Type"),
    (1, COLLECTED, "PyTupleIter_Type"),
    (1, COLLECTED, "PyDict_Type"),
    // A dict's keys: no objects.
    (1, 0, ""),
    (1, COLLECTED, "PySlice_Type"),
    (1, 0, "PyRange_Type"),
    (1, 0, "PyRangeIter_Type"),
    (1, COLLECTED, "PyContext_Type"),
    // What asynchronous generators yield, and their awaitables.
    (1, COLLECTED, ""),
    (1, COLLECTED, "_PyAsyncGenASend_Type"),
    // Iterators of futures: of a module.
    (1, COLLECTED, ""),
    // The collector's own stacks, and writers of strings: no objects.
    (1, 0, ""),
    (1, 0, ""),
    // Functions and methods in C: two types may lie in the first.
    (1, COLLECTED, ""),
    (1, COLLECTED, ""),
    (1, COLLECTED, "PyMethod_Type"),
];

/// Which of the lists above are the tuples'.
const UNIFORM_TUPLES: &str = "PyTuple_Type";

fn uniform(interpreter: &Interpreter, address: u64) -> Vec<Kind> {
    let lists = &interpreter.offsets.free_lists;
    let each =
        UNIFORM.iter().flat_map(|(count, header, name)| (0..*count).map(move |nth| (nth, *header, *name)));
    let places = (0..lists.uniform_lists).map(|index| u64::from(lists.uniform) + u64::from(index) * 16);
    let kind = |(place, (nth, header, name)): (u64, (u32, u32, &str))| {
        let head = address.wrapping_add(place);
        let list =
            FreeList { counter: head.wrapping_add(8), head, counter_bytes: 8, next: 0, header, pad: 0 };
        let length = (name == UNIFORM_TUPLES).then(|| u64::from(nth) + 1);
        Kind { list, object_type: interpreter.address(name), length }
    };
    places.zip(each).map(kind).collect()
}
