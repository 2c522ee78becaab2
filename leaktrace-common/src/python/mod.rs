//! CPython as the kernel side sees it: where things lie in its structures, how a Python frame travels in a stack, and
//! what a frame's structures say. The decoding is pure: it works on bytes that somebody else has read.

pub mod code;
pub mod frame;
#[cfg(test)]
mod samples;
pub mod walk;
pub mod window;

/// Most Python frames a stack keeps.
pub const MAX_PYTHON_FRAMES: usize = 127;

/// Words of a Python frame in a stack record.
pub const FRAME_WORDS: usize = 2;

/// Processes with an interpreter: elements of the map PYTHON. Element 0 stands for "no interpreter".
pub const MAX_RUNTIMES: u32 = 1024;

/// How a thread state leads to its innermost frame.
pub mod chain {
    /// `tstate->frame`, a frame object (up to 3.10).
    pub const FRAME_OBJECT: u32 = 1;
    /// `tstate->cframe->current_frame` (3.11 and 3.12).
    pub const CFRAME: u32 = 2;
    /// `tstate->current_frame` (3.13 and later).
    pub const CURRENT_FRAME: u32 = 3;
}

/// How a frame says that a new run of the interpreter's loop begins with it.
pub mod entry {
    /// Every frame has a run of its own (up to 3.10).
    pub const EVERY_FRAME: u32 = 1;
    /// A flag in the frame (3.11, `is_entry`).
    pub const FLAG: u32 = 2;
    /// A frame without code lies behind it, of `owner >= Layout::shim_owner` (3.12 and later).
    pub const SHIM: u32 = 3;
}

/// Offsets in CPython's structures and how to read them, as far as walks need them. Bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// One of [`chain`]; 0: no interpreter.
    pub chain: u32,
    /// One of [`entry`].
    pub entry: u32,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u32,
    /// `PyInterpreterState.threads.head`.
    pub interpreter_threads: u32,
    /// `PyThreadState.next`.
    pub thread_next: u32,
    /// `PyThreadState.thread_id`: what `pthread_self` returns, the thread's fsbase on x86-64.
    pub thread_id: u32,
    /// What [`Layout::chain`] names: `frame`, `cframe` or `current_frame`.
    pub thread_frame: u32,
    /// `_PyCFrame.current_frame` (3.11 and 3.12).
    pub cframe_frame: u32,
    /// How much of a frame is read; at most 128.
    pub frame_bytes: u32,
    /// `f_code` or `f_executable`.
    pub frame_code: u32,
    /// Bits of the code pointer that are no address (tags, 3.14).
    pub code_tag: u32,
    /// `f_back` or `previous`.
    pub frame_previous: u32,
    /// `f_lasti` (an `int`, up to 3.10), `prev_instr` or `instr_ptr`.
    pub frame_instruction: u32,
    /// What `f_lasti` is multiplied with to become bytes: 1, or 2 in 3.10. Unused from 3.11 on.
    pub instruction_scale: u32,
    /// `owner`, a byte (3.11 and later).
    pub frame_owner: u32,
    /// `is_entry`, a byte (3.11).
    pub frame_is_entry: u32,
    /// Value of `owner` for a frame that belongs to a generator: complete whatever its instruction.
    pub generator_owner: u32,
    /// From this value of `owner` on a frame has no code of its own (3.12 and later); `u32::MAX`: never.
    pub shim_owner: u32,
    /// `PyCodeObject.co_flags`, an `int`.
    pub code_flags: u32,
    /// `PyCodeObject.co_firstlineno`, an `int`.
    pub code_first_line: u32,
    /// `PyCodeObject.co_name`.
    pub code_name: u32,
    /// `PyCodeObject.co_filename`.
    pub code_file: u32,
    /// `PyCodeObject._co_firsttraceable`, an `int` (3.11 and later; else 0).
    pub code_first_traceable: u32,
    /// `PyCodeObject.co_code_adaptive`, where the instructions begin (3.11 and later; else 0).
    pub code_instructions: u32,
}

/// A free list that is kept closed: linked objects behind a pointer, and a counter that forbids more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeList {
    /// Address of the counter (`numfree`, `size`).
    pub counter: u64,
    /// Address of the pointer to the first object.
    pub head: u64,
    /// Bytes of the counter: 4 or 8.
    pub counter_bytes: u32,
    /// Where in an object the pointer to the next one lies.
    pub next: u32,
    /// What lies between the block and the object (the collector's header): 0 or 16.
    pub header: u32,
    /// Always 0.
    pub pad: u32,
}

/// A free list that is an array of pointers: the last one is handed out next. It cannot be closed, because its counter is an
/// index; what it hands out is watched instead.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrayList {
    /// Address of the counter, an `int`.
    pub counter: u64,
    /// Address of the first pointer.
    pub items: u64,
    /// Bytes of a block, for those that were never seen.
    pub block_bytes: u32,
    /// What lies between the block and the object: 0 or 16.
    pub header: u32,
}

/// Neighbouring free lists of linked objects, one for each size. They are kept closed; what they hand out while a collection has
/// opened them is watched as well.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkedLists {
    /// Address of the first list's pointer to its first object.
    pub heads: u64,
    /// How many lists there are.
    pub count: u32,
    /// What lies between the block and the object: 0 or 16.
    pub header: u32,
    /// Bytes of a block of the first list.
    pub block_bytes: u32,
    /// How much larger the blocks of the next list are.
    pub step_bytes: u32,
}

/// Most groups of linked lists in one process. A power of two.
pub const MAX_LINKED_LISTS: usize = 2;

/// Most lists of one group.
pub const MAX_LINKED_HEADS: u32 = 32;

/// Most of them in one process. A power of two.
pub const MAX_ARRAY_LISTS: usize = 4;

/// Most pointers in one; 80 in every version that has them.
pub const MAX_ARRAY_ITEMS: u32 = 255;

/// Most free lists of one process.
pub const MAX_FREE_LISTS: usize = 64;

/// What a closed list's counter is set to: more than any cap, and far from overflowing an `int`.
pub const CLOSED: u32 = 0x4000_0000;

/// What the kernel side knows of one process's interpreter: an element of PYTHON, by `Target::python_slot`. Written by
/// the daemon before the target leads to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Address of the word that points to the thread state of who holds the GIL, or held it last.
    pub holder: u64,
    /// Address of the word that points to the first interpreter.
    pub interpreters: u64,
    /// Where things lie.
    pub layout: Layout,
    /// Bytes of a pool of the small-object allocator (4 KiB up to 3.9, 16 KiB later).
    pub pool_bytes: u32,
    /// How many of `lists` are in use. The first is looked at at every allocation: a full collection opens all.
    pub list_count: u32,
    /// Free lists that are kept closed.
    pub lists: [FreeList; MAX_FREE_LISTS],
    /// Free lists whose reuse is watched.
    pub arrays: [ArrayList; MAX_ARRAY_LISTS],
    /// The same for lists that are kept closed.
    pub linked: [LinkedLists; MAX_LINKED_LISTS],
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            holder: 0,
            interpreters: 0,
            layout: Layout::default(),
            pool_bytes: 0,
            list_count: 0,
            lists: [FreeList::default(); MAX_FREE_LISTS],
            arrays: [ArrayList::default(); MAX_ARRAY_LISTS],
            linked: [LinkedLists::default(); MAX_LINKED_LISTS],
        }
    }
}

/// Live blocks of at most so many bytes come from the small-object allocator's pools (0 bytes do not).
pub const MAX_SMALL_BLOCK: u64 = 512;

/// PYTHON_COUNTS value: what the kernel side counts for one process with an interpreter, by `Target::python_slot`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PythonCounts {
    /// Blocks of the mem and object domains freed or reallocated that were never seen.
    pub unmatched: u64,
    /// Those of them that were freed on to the C library: more than [`MAX_SMALL_BLOCK`] bytes, or 0.
    pub unmatched_large: u64,
    /// The same of the raw domain.
    pub unmatched_raw: u64,
    /// Blocks of free lists that were dropped from the live map when their list was closed again. They come back
    /// unseen, and count as unmatched when they are freed.
    pub dropped: u64,
    /// When the daemon was told that the free lists are open (ns, `CLOCK_MONOTONIC`); 0: they are closed.
    pub lists_open: u64,
    /// Blocks that were handed on from free lists without having been seen before, less those seen that were put into one
    /// (wrapping): by so many the blocks that are somebody's outnumber those that the interpreter counts.
    pub handed_on: u64,
    /// How many blocks each array list held when one was last taken from it ([`Runtime::arrays`]): what lies above has been
    /// put there since. Not a count; only the kernel side's own.
    pub levels: [u64; MAX_ARRAY_LISTS],
}

/// Who closes free lists again after a full collection.
pub mod closer {
    /// Nobody.
    pub const NOBODY: u32 = 0;
    /// The kernel side, by the very thread that finds them open: nothing is missed.
    pub const KERNEL: u32 = 1;
    /// The daemon, told by [`crate::event::kind::FREE_LISTS_OPEN`]: what changes hands until then is missed.
    pub const DAEMON: u32 = 2;
}

/// [`PythonFrame::instruction`] of a frame that has not begun: its line is the code's first.
pub const NOT_BEGUN: u32 = u32::MAX;

/// A Python frame as a stack record carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PythonFrame {
    /// Address of the code object; 0: no frame to be shown, see [`Self::EMPTY_RUN`].
    pub code: u64,
    /// A run of the interpreter's loop began with this frame: the next one further out belongs to another.
    pub entry: bool,
    /// Where in the code the call in progress stands, bytes from the first instruction, or [`NOT_BEGUN`].
    pub instruction: u32,
    /// [`identity`] of the code object as it was read then.
    pub identity: u32,
}

/// Marks the frame that a run of the interpreter's loop began with.
const ENTRY: u64 = 1 << 63;

impl PythonFrame {
    /// Stands for a run of the interpreter's loop none of whose frames is complete: nothing to be shown, but the native
    /// stack has that run.
    pub const EMPTY_RUN: Self = Self { code: 0, entry: true, instruction: 0, identity: 0 };

    /// The bit of the first word that says `entry`.
    pub const ENTRY_BIT: u64 = ENTRY;

    /// As it lies in a record.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; FRAME_WORDS] {
        let entry = if self.entry { ENTRY } else { 0 };
        [self.code | entry, (self.identity as u64) << 32 | self.instruction as u64]
    }

    /// The reverse of [`Self::to_words`].
    #[inline(always)]
    pub const fn from_words(words: [u64; FRAME_WORDS]) -> Self {
        Self {
            code: words[0] & !ENTRY,
            entry: words[0] & ENTRY != 0,
            instruction: words[1] as u32,
            identity: (words[1] >> 32) as u32,
        }
    }
}

/// What tells a code object from another one that lies at the same address later: its first line, its flags, and where
/// its name and file name lie.
#[inline(always)]
pub const fn identity(first_line: u32, flags: u32, name: u64, file: u64) -> u32 {
    let mut mixed = (first_line as u64) << 32 | flags as u64;
    mixed = (mixed ^ name).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed = (mixed ^ file).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// How a walk of Python frames ended.
pub mod end {
    /// Reached the outermost frame, or the thread runs no Python code.
    pub const COMPLETE: u32 = 0;
    /// The process has no interpreter that is known.
    pub const NO_INTERPRETER: u32 = 1;
    /// The thread is none of the interpreter's.
    pub const NO_THREAD: u32 = 2;
    /// A frame or a code object could not be read.
    pub const UNREADABLE: u32 = 3;
    /// More than [`super::MAX_PYTHON_FRAMES`] frames.
    pub const TOO_DEEP: u32 = 4;
    /// A frame does not look like one: it was being changed, or is none.
    pub const IMPLAUSIBLE: u32 = 5;
    /// Text for people, by code.
    pub const NAMES: [&str; 6] = [
        "complete",
        "no known interpreter",
        "no Python thread",
        "Python frame unreadable",
        "deeper than 127 Python frames",
        "Python frame implausible",
    ];
}

const _: () = {
    assert!(size_of::<FreeList>() == 32);
    assert!(size_of::<PythonCounts>() == 48 + 8 * MAX_ARRAY_LISTS);
    assert!(size_of::<Layout>() == 96);
    assert!(
        size_of::<Runtime>()
            == 16 + 96 + 8 + 32 * MAX_FREE_LISTS + 24 * MAX_ARRAY_LISTS + 24 * MAX_LINKED_LISTS
    );
};

#[cfg(feature = "user")]
// SAFETY: repr(C), integers only, no padding that is not a field.
unsafe impl aya::Pod for Runtime {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for PythonCounts {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_record() {
        let frame = PythonFrame { code: 0x7fff_1234_5678, entry: true, instruction: 77, identity: u32::MAX };
        assert_eq!(PythonFrame::from_words(frame.to_words()), frame);
        let inner = PythonFrame { entry: false, ..frame };
        assert_eq!(PythonFrame::from_words(inner.to_words()), inner);
    }
}
