//! What the kernel side sends through its ring buffers. STACKS carries each distinct stack once; EVENTS carries
//! mapping calls and the life of processes, in the order in which they took effect.

use crate::{
    python::{FRAME_WORDS, MAX_PYTHON_FRAMES},
    walk::MAX_FRAMES,
};

/// First bytes of a record in STACKS; `frame_count` return addresses follow, then `python_count` Python frames.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackHeader {
    /// See [`crate::record::SiteKey`].
    pub stack_id: u64,
    /// Process image.
    pub serial: u32,
    /// PID in the initial PID namespace.
    pub tgid: u32,
    /// Mapping generation at the time of the walk.
    pub generation: u32,
    /// One of [`crate::walk::end`].
    pub walk_end: u32,
    /// How many frames follow.
    pub frame_count: u32,
    /// Thread that was walked.
    pub tid: u32,
    /// How many Python frames follow the native ones, each [`crate::python::FRAME_WORDS`] words.
    pub python_count: u32,
    /// One of [`crate::python::end`].
    pub python_end: u32,
}

/// Set in [`StackHeader::walk_end`] of a record that tells where a thread was stopped for a test (`--stop-one-in`). Its
/// [`StackHeader::stack_id`] is the stack pointer at the allocating function's entry.
pub const STOPPED: u32 = 1 << 31;

/// Bytes of the largest stack record.
pub const MAX_STACK_RECORD: usize =
    size_of::<StackHeader>() + (MAX_FRAMES + MAX_PYTHON_FRAMES * FRAME_WORDS) * 8;

/// Kinds of [`Event`].
pub mod kind {
    /// A mapping was made: `address`, `length`, `extra` = prot << 32 | flags.
    pub const MAPPED: u32 = 1;
    /// A range is about to be unmapped: `address`, `length`.
    pub const UNMAPPING: u32 = 2;
    /// The unmapping announced by this thread failed: the range is still there.
    pub const UNMAP_FAILED: u32 = 3;
    /// A range is about to be moved or resized: `address`, `length` (old), `extra` (new length).
    pub const REMAPPING: u32 = 4;
    /// The move announced by this thread ended: `address` (new, or 0 if it failed), `length` (new).
    pub const REMAPPED: u32 = 5;
    /// The process replaced its image; its serial is retired.
    pub const EXEC: u32 = 6;
    /// The last thread of the process is gone; its serial is retired. `extra`: the kernel's exit code.
    pub const EXIT: u32 = 7;
    /// The dynamic linker's list of objects changed. `extra` is 1 if the process was sent SIGSTOP here.
    pub const LINK_MAP: u32 = 8;
    /// A walk met code that the list of code mappings does not have, or the list is out of date.
    pub const UNKNOWN_CODE: u32 = 9;
    /// A full collection has opened the free lists of the process's interpreter. They are to be closed, the first one last;
    /// sent again every 10 ms until that is done: the interpreter may write its counter at the very same moment.
    pub const FREE_LISTS_OPEN: u32 = 10;
    /// A target has made a process: `serial` and `tgid` are the new one's, `address` is the parent's serial, `length`
    /// when (nanoseconds of the monotonic clock), `extra` bits of
    /// [`super::fork`].
    pub const FORK: u32 = 11;
    /// A process that is no target was made (`extra` 0) or has executed a program (`extra` 1), while the whole host is watched.
    pub const NEWCOMER: u32 = 12;
}

/// Bits of a FORK event's `extra`.
pub mod fork {
    /// Its gate is open: it is traced from its first allocation on.
    pub const OPEN: u64 = 1;
    /// It runs in its parent's memory.
    pub const SHARES_MEMORY: u64 = 2;
}

/// A record in EVENTS.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// One of [`kind`].
    pub kind: u32,
    /// Process image.
    pub serial: u32,
    /// PID in the initial PID namespace.
    pub tgid: u32,
    /// Thread in the initial PID namespace.
    pub tid: u32,
    /// See [`kind`].
    pub address: u64,
    /// See [`kind`].
    pub length: u64,
    /// See [`kind`].
    pub extra: u64,
    /// Stack of the call, for mapping events.
    pub stack_id: u64,
    /// Row of the stack (its totals only count calls), for mapping events.
    pub row: u32,
    /// Birth epoch, for mapping events.
    pub epoch: u32,
}

const _: () = {
    assert!(size_of::<StackHeader>() == 40);
    assert!(size_of::<Event>() == 56);
};
