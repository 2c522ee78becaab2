//! Keeps CPython's free lists closed. The daemon closes them once (`leaktrace_common::python::CLOSED`); a full garbage
//! collection empties them and opens them again. Every allocation therefore looks at the counter of the first list. If it
//! has been reset, every list is closed again: here, where the kernel permits it (four bytes for each list, written by a thread that
//! holds the interpreter's lock), else by the daemon, which is told. What lies in a list that has been closed is dropped from
//! the live map, since it will be handed out unseen.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_loop, bpf_probe_read_user, bpf_probe_write_user};
use leaktrace_common::{
    counter, event,
    hook::domain,
    python::{CLOSED, FreeList, MAX_FREE_LISTS, Runtime, closer},
    record::{LiveKey, ThreadState},
    rule,
};

use crate::{block, config, lifecycle, maps::PYTHON_COUNTS, probe::Call, sync, thread, walk};

/// Most steps of one closing: one for each object and one for each list. The longest list there is has 2,000 objects.
const STEPS: u32 = 8192;

/// What `bpf_loop` hands from step to step.
#[repr(C)]
struct Context {
    state: *mut ThreadState,
    runtime: *const Runtime,
    slot: u32,
}

/// Has the free lists closed if a collection has opened them.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn keep_closed(state: *mut ThreadState, call: &Call) {
    if config::free_list_closer() == closer::NOBODY
        || call.cookie.domain != domain::PY
        || !config::rule(rule::FREE_LISTS_CLOSED)
    {
        return;
    }
    let Some(runtime) = walk::python::runtime_of(&call.target) else { return };
    if runtime.list_count == 0 {
        return;
    }
    let open = is_open(&runtime.lists[0]);
    let go_through = match config::free_list_closer() {
        closer::KERNEL => open,
        _ => closed_by_daemon(call, open),
    };
    if go_through {
        // SAFETY: the caller's promise.
        unsafe { go_through_lists(state, runtime, call.target.python_slot) };
    }
}

/// The daemon is told again when so many ns have passed. Its write can be lost: the interpreter counts without locks.
const TELL_AGAIN: u64 = 10_000_000;

/// Tells the daemon that the lists are open. Whether it has closed them since.
#[inline(always)]
fn closed_by_daemon(call: &Call, open: bool) -> bool {
    let Some(counts) = PYTHON_COUNTS.get_ptr_mut(call.target.python_slot) else { return false };
    // SAFETY: a map value; the interpreter's lock keeps two threads from being here at once.
    unsafe {
        let told = (&raw const (*counts).lists_open).read_volatile();
        if !open {
            if told != 0 {
                (&raw mut (*counts).lists_open).write_volatile(0);
            }
            return told != 0;
        }
        let now = bpf_ktime_get_ns();
        if now.wrapping_sub(told) >= TELL_AGAIN
            && lifecycle::send(event::kind::FREE_LISTS_OPEN, call.target.serial, call.pid_tgid, 0)
        {
            (&raw mut (*counts).lists_open).write_volatile(now);
        }
    }
    false
}

/// Goes through all lists, from the last to the first: as long as the first is open, the next allocation goes on with what is
/// left.
#[inline(always)]
unsafe fn go_through_lists(state: *mut ThreadState, runtime: &'static Runtime, slot: u32) {
    // SAFETY: the caller of `keep_closed` promises that `state` is the running thread's own; the callback has the type
    // that the helper expects.
    unsafe {
        let work = &raw mut (*state).python;
        (*work).list = u64::from(runtime.list_count);
        (*work).object = 0;
        (*work).open = 0;
        let callback = step as extern "C" fn(u64, *mut Context) -> i64;
        let mut context = Context { state, runtime, slot };
        bpf_loop(STEPS, callback as *mut c_void, (&raw mut context).cast(), 0);
    }
}

/// Whether a list takes objects. A counter that cannot be read, or is negative (the interpreter ends), is left alone.
#[inline(always)]
fn is_open(list: &FreeList) -> bool {
    // SAFETY: a checked read of user memory.
    unsafe { bpf_probe_read_user(list.counter as *const u32) }.is_ok_and(|counter| counter < CLOSED / 2)
}

/// One step: drops one object, or (after the last) closes its list and goes to the one before it.
extern "C" fn step(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `bpf_loop` hands over what `keep_closed` gave it; checked reads of user memory.
    unsafe {
        let state = (*context).state;
        let work = &raw mut (*state).python;
        let object = (*work).object;
        let list = &(*(*context).runtime).lists[(*work).list as usize & (MAX_FREE_LISTS - 1)];
        if object != 0 {
            drop_object(state, object.wrapping_sub(u64::from(list.header)), (*context).slot);
            (*work).object =
                bpf_probe_read_user(object.wrapping_add(u64::from(list.next)) as *const u64).unwrap_or(0);
            return 0;
        }
        if (*work).open != 0 && config::free_list_closer() == closer::KERNEL {
            close(list);
        }
        if (*work).list == 0 {
            return 1;
        }
        (*work).list -= 1;
        let list = &(*(*context).runtime).lists[(*work).list as usize & (MAX_FREE_LISTS - 1)];
        (*work).open = u64::from(is_open(list));
        // What the daemon has closed holds what came in before.
        if (*work).open != 0 || config::free_list_closer() == closer::DAEMON {
            (*work).object = bpf_probe_read_user(list.head as *const u64).unwrap_or(0);
        }
        0
    }
}

/// The low four bytes are enough whatever the counter's size: an open list's counter is small and not negative.
#[inline(always)]
fn close(list: &FreeList) {
    let closed = CLOSED;
    // SAFETY: a checked write of user memory, which the daemon was permitted and asked to have made.
    let written = unsafe { bpf_probe_write_user(list.counter as *mut u32, &raw const closed) };
    sync::count(match written {
        Ok(()) => counter::FREE_LISTS_CLOSED_AGAIN,
        Err(_) => counter::FREE_LIST_WRITE_FAILED,
    });
}

/// A block that lies in a free list: whoever gets it next does not ask the allocator.
#[inline(always)]
unsafe fn drop_object(state: *mut ThreadState, address: u64, slot: u32) {
    // SAFETY: the running thread's own scratch.
    let serial = unsafe { (*state).serial };
    if !thread::drop_live(&LiveKey { address, serial, pad: 0 }) {
        return;
    }
    sync::count(counter::FREE_LIST_BLOCKS);
    block::count_handed_on(slot, u64::MAX);
    if let Some(counts) = PYTHON_COUNTS.get_ptr_mut(slot) {
        // SAFETY: a map value.
        unsafe { sync::add_u64(&raw mut (*counts).dropped, 1) };
    }
}
