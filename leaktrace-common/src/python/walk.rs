//! A walk of Python frames under way, as it lies in the thread's scratch.

use super::{FRAME_WORDS, MAX_PYTHON_FRAMES, window::Window};
use crate::walk::MAX_FRAMES;

/// Words for the frames of a stack record, native ones and then Python ones. A power of two.
pub const RECORD_WORDS: usize = 512;

/// After a search that found no thread state the thread makes so many more calls before it searches again.
pub const SEARCH_PAUSE: u64 = 256;

/// Most thread states and interpreters that a search looks at.
pub const SEARCH_STEPS: u32 = 512;

/// Most steps of a walk: a frame that is kept can be followed by ones that are not (incomplete, without code).
pub const WALK_STEPS: u32 = 3 * MAX_PYTHON_FRAMES as u32;

/// State of the walks of one thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PythonWalk {
    /// What the thread is known by (`pthread_self`); 0: not read yet.
    pub thread_id: u64,
    /// Thread state that was found last; 0: none.
    pub thread_state: u64,
    /// How many calls of this thread are still not worth a search.
    pub search_in: u64,
    /// Interpreter whose threads are searched next.
    pub interpreter: u64,
    /// Thread state that is looked at next.
    pub candidate: u64,
    /// Frame that is looked at next.
    pub frame: u64,
    /// Index in the record's words where the Python frames begin.
    pub base: u64,
    /// How many frames are kept.
    pub count: u64,
    /// How many of them since the last one with `entry`.
    pub run: u64,
    /// Hash over what was found so far.
    pub hash: u64,
    /// One of [`super::end`].
    pub reason: u64,
    /// The frame or the code object under the eye.
    pub window: Window,
    /// Index of the free list that is being closed.
    pub list: u64,
    /// Its next object; 0: none is left.
    pub object: u64,
    /// 1 if that list was found open.
    pub open: u64,
}

const _: () = {
    assert!(RECORD_WORDS.is_power_of_two());
    assert!(MAX_FRAMES + MAX_PYTHON_FRAMES * FRAME_WORDS <= RECORD_WORDS);
};
