//! Walks of Python frames: from the calling thread's state out to its outermost frame, one read for each frame and one for its
//! code object. Puts them behind the native frames of the record; which of them belongs to which native frame is for the
//! daemon to say. What the bytes mean is in `leaktrace_common::python`, where plain tests reach it.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_probe_read_user, bpf_probe_read_user_buf};
use leaktrace_common::{
    counter,
    python::{
        FRAME_WORDS, Layout, MAX_PYTHON_FRAMES, PythonFrame, Runtime, chain,
        code::{Code, Extent},
        end,
        frame::Frame,
        walk::{RECORD_WORDS, SEARCH_PAUSE, SEARCH_STEPS, WALK_STEPS},
        window::{WINDOW_BYTES, WINDOW_WORDS},
    },
    record::{Target, ThreadState},
    walk::MAX_FRAMES,
};

use super::mix;
use crate::{arch, maps::PYTHON, sync};

/// Told apart from every native frame in the hash: no address has this bit and others of the lowest.
const PYTHON_FOLLOWS: u64 = 1 << 62 | 1;

/// What `bpf_loop` hands from step to step. The walk itself lies in the thread's scratch.
#[repr(C)]
struct Context {
    state: *mut ThreadState,
    runtime: *const Runtime,
}

/// Ends a loop.
const STOP: i64 = 1;
/// Goes on with the next step.
const GO_ON: i64 = 0;

/// The process's interpreter, if it has one that is known.
#[inline(always)]
pub fn runtime_of(target: &Target) -> Option<&'static Runtime> {
    if target.python_slot == 0 {
        return None;
    }
    // SAFETY: a map value, which outlives the program; written before a target leads to it.
    PYTHON.get_ptr(target.python_slot).map(|runtime| unsafe { &*runtime })
}

/// Walks the calling thread's Python frames into `state`, whose native frames have been walked, and mixes them into the
/// name of the stack.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn walk(state: *mut ThreadState, target: &Target) {
    // SAFETY: the caller's promise; the callback has the type that the helper expects.
    unsafe {
        (*state).stack.python_count = 0;
        (*state).stack.python_end = end::NO_INTERPRETER;
        let Some(runtime) = runtime_of(target) else { return };
        let walk = &raw mut (*state).python;
        (*walk).base = u64::from((*state).stack.frame_count);
        (*walk).count = 0;
        (*walk).run = 0;
        (*walk).hash = mix((*state).stack.stack_id, PYTHON_FOLLOWS);
        match innermost(state, runtime) {
            Ok(frame) => {
                (*walk).frame = frame;
                (*walk).reason = u64::from(end::TOO_DEEP);
                let callback = step as extern "C" fn(u64, *mut Context) -> i64;
                let mut context = Context { state, runtime };
                bpf_loop(WALK_STEPS, callback as *mut c_void, (&raw mut context).cast(), 0);
            }
            Err(reason) => (*walk).reason = u64::from(reason),
        }
        (*state).stack.python_count = (*walk).count as u32 & MAX_PYTHON_FRAMES as u32;
        (*state).stack.python_end = (*walk).reason as u32;
        (*state).stack.stack_id = mix((*walk).hash, (*walk).reason);
        if (*walk).reason != u64::from(end::COMPLETE) && (*walk).reason != u64::from(end::NO_THREAD) {
            sync::count(counter::PYTHON_STACKS_TRUNCATED);
        }
    }
}

/// A word of the process's memory.
#[inline(always)]
fn word(address: u64) -> Option<u64> {
    // SAFETY: a checked read of user memory.
    unsafe { bpf_probe_read_user(address as *const u64).ok() }
}

/// The word at an offset in a structure.
#[inline(always)]
fn member(structure: u64, offset: u32) -> Option<u64> {
    word(structure.wrapping_add(u64::from(offset)))
}

/// The calling thread's innermost frame; 0 if it runs no Python code.
///
/// # Errors
/// One of [`end`].
#[inline(always)]
unsafe fn innermost(state: *mut ThreadState, runtime: &'static Runtime) -> Result<u64, u32> {
    let layout = &runtime.layout;
    if layout.chain == 0 {
        return Err(end::NO_INTERPRETER);
    }
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    let thread = unsafe { thread_state(state, runtime) }.ok_or(end::NO_THREAD)?;
    let found = member(thread, layout.thread_frame).ok_or(end::UNREADABLE)?;
    if layout.chain != chain::CFRAME || found == 0 {
        return Ok(found);
    }
    member(found, layout.cframe_frame).ok_or(end::UNREADABLE)
}

/// The calling thread's state: that of who holds the interpreter's lock, if that is this thread; else the one found last, if it
/// still is this thread's (a thread allocates without the lock too); else it is searched.
#[inline(always)]
unsafe fn thread_state(state: *mut ThreadState, runtime: &'static Runtime) -> Option<u64> {
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    unsafe {
        let walk = &raw mut (*state).python;
        if (*walk).thread_id == 0 {
            (*walk).thread_id = arch::thread_pointer()?;
        }
        let id = (*walk).thread_id;
        if id == 0 {
            return None;
        }
        let holder = word(runtime.holder).unwrap_or(0);
        if holder != 0 && member(holder, runtime.layout.thread_id) == Some(id) {
            (*walk).thread_state = holder;
            return Some(holder);
        }
        let last = (*walk).thread_state;
        if last != 0 && member(last, runtime.layout.thread_id) == Some(id) {
            return Some(last);
        }
        search(state, runtime)
    }
}

/// Searches the interpreters' threads. One that is none of theirs does so only now and then.
#[inline(always)]
unsafe fn search(state: *mut ThreadState, runtime: &'static Runtime) -> Option<u64> {
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own; the callback has the type that
    // the helper expects.
    unsafe {
        let walk = &raw mut (*state).python;
        (*walk).thread_state = 0;
        if (*walk).search_in != 0 {
            (*walk).search_in -= 1;
            return None;
        }
        sync::count(counter::PYTHON_THREAD_SEARCHES);
        (*walk).interpreter = word(runtime.interpreters).unwrap_or(0);
        (*walk).candidate = 0;
        let callback = search_step as extern "C" fn(u64, *mut Context) -> i64;
        let mut context = Context { state, runtime };
        bpf_loop(SEARCH_STEPS, callback as *mut c_void, (&raw mut context).cast(), 0);
        let found = (*walk).thread_state;
        if found == 0 {
            (*walk).search_in = SEARCH_PAUSE;
            return None;
        }
        Some(found)
    }
}

/// One step of a search: looks at one thread state, or goes to the next interpreter.
extern "C" fn search_step(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `bpf_loop` hands over what `search` gave it.
    unsafe {
        let walk = &raw mut (*(*context).state).python;
        let layout: &Layout = &(*(*context).runtime).layout;
        let candidate = (*walk).candidate;
        if candidate != 0 {
            if member(candidate, layout.thread_id) == Some((*walk).thread_id) {
                (*walk).thread_state = candidate;
                return STOP;
            }
            (*walk).candidate = member(candidate, layout.thread_next).unwrap_or(0);
            return GO_ON;
        }
        let interpreter = (*walk).interpreter;
        if interpreter == 0 {
            return STOP;
        }
        (*walk).candidate = member(interpreter, layout.interpreter_threads).unwrap_or(0);
        (*walk).interpreter = member(interpreter, layout.interpreter_next).unwrap_or(0);
        GO_ON
    }
}

/// One step of a walk: looks at one frame.
extern "C" fn step(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `bpf_loop` hands over what `walk` gave it.
    unsafe {
        let state = (*context).state;
        match look_at_frame(state, &*(*context).runtime) {
            Ok(()) => GO_ON,
            Err(reason) => {
                (*state).python.reason = u64::from(reason);
                STOP
            }
        }
    }
}

/// Keeps the frame that the walk has got to, if it is one to be kept, and goes to the next one further out.
///
/// # Errors
/// One of [`end`]: the walk is over.
#[inline(always)]
unsafe fn look_at_frame(state: *mut ThreadState, runtime: &'static Runtime) -> Result<(), u32> {
    let layout = &runtime.layout;
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    unsafe {
        let address = (*state).python.frame;
        if address == 0 {
            return Err(end::COMPLETE);
        }
        read(state, address, layout.frame_bytes)?;
        let frame = Frame::decode(layout, &(*state).python.window);
        (*state).python.frame = frame.previous;
        if frame.is_shim(layout) {
            return begin_run(state);
        }
        if !frame.is_plausible() {
            return Err(end::IMPLAUSIBLE);
        }
        let extent = Extent::of(layout);
        read(state, frame.code.wrapping_add(u64::from(extent.start)), extent.bytes)?;
        let code = Code::decode(layout, &(*state).python.window);
        if frame.is_incomplete(layout, &code) {
            return if frame.begins_run { begin_run(state) } else { Ok(()) };
        }
        let instruction = frame.position(layout).ok_or(end::IMPLAUSIBLE)?;
        keep(
            state,
            PythonFrame { code: frame.code, entry: frame.begins_run, instruction, identity: code.identity },
        )
    }
}

/// Reads a piece of the process's memory into the window.
#[inline(always)]
unsafe fn read(state: *mut ThreadState, address: u64, bytes: u32) -> Result<(), u32> {
    let bytes = if bytes > WINDOW_BYTES { WINDOW_BYTES } else { bytes };
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own; the length is within the window.
    unsafe {
        let window = (&raw mut (*state).python.window).cast::<u8>();
        let window = core::slice::from_raw_parts_mut(window, bytes as usize);
        bpf_probe_read_user_buf(address as *const u8, window).map_err(|_| end::UNREADABLE)
    }
}

/// A run of the interpreter's loop begins with the frame kept last; if none of its frames was kept, something has to stand
/// for it, because the native stack has that run.
#[inline(always)]
unsafe fn begin_run(state: *mut ThreadState) -> Result<(), u32> {
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    unsafe {
        if (*state).python.run == 0 {
            return keep(state, PythonFrame::EMPTY_RUN);
        }
        let last = slot((*state).python.base, (*state).python.count.wrapping_sub(1));
        (*(&raw mut (*state).frames))[last] |= PythonFrame::ENTRY_BIT;
        (*state).python.hash = mix((*state).python.hash, PythonFrame::ENTRY_BIT);
        (*state).python.run = 0;
    }
    Ok(())
}

/// Notes a frame.
#[inline(always)]
unsafe fn keep(state: *mut ThreadState, frame: PythonFrame) -> Result<(), u32> {
    // SAFETY: the caller of `walk` promises that `state` is the running thread's own.
    unsafe {
        let count = (*state).python.count;
        if count >= MAX_PYTHON_FRAMES as u64 {
            return Err(end::TOO_DEEP);
        }
        let words = frame.to_words();
        let first = slot((*state).python.base, count);
        let frames = &raw mut (*state).frames;
        (*frames)[first] = words[0];
        (*frames)[(first + 1) & (RECORD_WORDS - 1)] = words[1];
        (*state).python.hash = mix(mix((*state).python.hash, words[0]), words[1]);
        (*state).python.count = count + 1;
        (*state).python.run = if frame.entry { 0 } else { (*state).python.run + 1 };
    }
    Ok(())
}

/// Where in the record's words Python frame number `count` lies.
#[inline(always)]
fn slot(base: u64, count: u64) -> usize {
    (base as usize).wrapping_add((count as usize).wrapping_mul(FRAME_WORDS)) & (RECORD_WORDS - 1)
}

const _: () = {
    assert!(size_of::<[u64; WINDOW_WORDS]>() == WINDOW_BYTES as usize);
    assert!(MAX_FRAMES < RECORD_WORDS);
};
