//! Scratch that belongs to one thread. A per-CPU area would not do: a uprobe program can be preempted by another
//! task on the same CPU that runs the same program.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user},
};
use leaktrace_common::{
    counter,
    hook::kind,
    record::{LiveKey, ThreadState},
    rule,
};

use crate::{
    config,
    maps::{LIVE, NEW_THREAD, THREADS},
    probe::Call,
    row, sync,
};

/// THREADS key of the running thread.
#[inline(always)]
pub fn key(pid_tgid: u64) -> u64 {
    if config::rule(rule::SCRATCH_PER_THREAD) {
        pid_tgid
    } else {
        // SAFETY: a helper without arguments.
        u64::from(unsafe { aya_ebpf::helpers::bpf_get_smp_processor_id() }) + 1
    }
}

/// The thread's scratch, made at its first call. `None` is counted: the call is lost.
#[inline(always)]
fn state(pid_tgid: u64, serial: u32) -> Option<*mut ThreadState> {
    let key = key(pid_tgid);
    if let Some(state) = THREADS.get_ptr_mut(&key) {
        // SAFETY: only the running thread uses its entry.
        unsafe {
            if (*state).serial != serial {
                forget(state, serial);
            }
        }
        return Some(state);
    }
    let fresh = NEW_THREAD.get(0)?;
    if THREADS.insert(&key, fresh, u64::from(BPF_NOEXIST)).is_err() {
        sync::count(counter::LOST_THREAD_STATE);
        return None;
    }
    sync::count(counter::THREADS_MADE);
    let state = THREADS.get_ptr_mut(&key)?;
    // SAFETY: as above.
    unsafe { forget(state, serial) };
    Some(state)
}

/// The scratch of a thread whose call is nobody else's: `None` for a call made by an allocator call in flight.
#[inline(always)]
pub fn outermost(call: &Call) -> Option<*mut ThreadState> {
    let state = state(call.pid_tgid, call.target.serial)?;
    // SAFETY: the running thread's own scratch.
    if unsafe { is_nested(state, call.entry_sp, call.cookie.hook) } {
        sync::count(counter::NESTED_CALLS);
        // SAFETY: as above.
        unsafe {
            if call.entry_sp == (*state).entry_sp && may_return(call.cookie.kind) {
                (*state).tail_calls += 1;
            }
        }
        return None;
    }
    Some(state)
}

/// A shared link has fired in a thread of a process that goes over to such: from here on only they count in it. The kernel
/// visits the youngest link first (`consumer_add` in kernel/events/uprobes.c), which is the shared one, so a thread
/// changes sides between two hits and never within one: a hit whose shared link came too early is counted by the old one,
/// which follows. `false` if the thread has no scratch, which is counted.
#[inline(always)]
pub fn moves(pid_tgid: u64, serial: u32) -> bool {
    let Some(state) = state(pid_tgid, serial) else { return false };
    // SAFETY: the running thread's own scratch.
    unsafe { (*state).moved = 1 };
    true
}

/// Whether [`moves`] was called in this thread.
#[inline(always)]
pub fn has_moved(pid_tgid: u64, serial: u32) -> bool {
    let Some(state) = THREADS.get_ptr_mut(&key(pid_tgid)) else { return false };
    // SAFETY: the running thread's own scratch.
    unsafe { (*state).serial == serial && (*state).moved != 0 }
}

/// Whether the return of a function of this kind is probed.
#[inline(always)]
fn may_return(kind: u8) -> bool {
    kind != kind::FREE
}

/// Drops what an earlier process image left behind.
#[inline(always)]
unsafe fn forget(state: *mut ThreadState, serial: u32) {
    // SAFETY: the caller owns the entry.
    unsafe {
        (*state).serial = serial;
        (*state).kind = u32::from(kind::NONE);
        (*state).old_valid = 0;
        (*state).last_freed = 0;
        (*state).free_sp = 0;
        (*state).last_unmatched = 0;
        (*state).moved = 0;
        (*state).python.thread_id = 0;
        (*state).python.thread_state = 0;
        (*state).python.search_in = 0;
    }
}

/// Whether an allocator call of this thread is in flight, so that the one at `entry_sp` is part of it. A call that was
/// left by longjmp will never return: it is dropped, and does not hide later ones.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
unsafe fn is_nested(state: *mut ThreadState, entry_sp: u64, hook: u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*state).kind == u32::from(kind::NONE) {
            return false;
        }
        if config::rule(rule::STALE_CALLS_DROPPED) && !is_in_flight(state, entry_sp, hook) {
            abandon(state);
            return false;
        }
        config::rule(rule::NESTED_ONCE)
    }
}

/// Whether the call that `state` remembers can still return. While it can, its return address is the kernel's
/// trampoline, put there for the return probe; a frame that was left has been written over, or lies below the stack.
/// Where the trampoline's place is not known, the stack pointer has to do: a call at the same place in another
/// function was reached by a tail call (reallocarray jumps to realloc), in the same function it was made anew.
#[inline(always)]
unsafe fn is_in_flight(state: *mut ThreadState, entry_sp: u64, hook: u8) -> bool {
    // SAFETY: the caller's promise; checked reads of user memory.
    unsafe {
        if entry_sp > (*state).entry_sp {
            return false;
        }
        match trampoline() {
            Some(trampoline) => bpf_probe_read_user((*state).entry_sp as *const u64) == Ok(trampoline),
            None => entry_sp < (*state).entry_sp || (*state).hook != u32::from(hook),
        }
    }
}

/// Where functions with a return probe return to in this process: the first slot of the kernel's own mapping
/// (`[uprobes]`; `get_trampoline_vaddr` in kernel/events/uprobes.c).
#[inline(always)]
fn trampoline() -> Option<u64> {
    if config::task_mm_offset() == 0 {
        return None;
    }
    let read = |address: u64, offset: u32| {
        // SAFETY: a checked read of kernel memory.
        unsafe { bpf_probe_read_kernel((address + u64::from(offset)) as *const u64).ok() }
    };
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let mm = read(task, config::task_mm_offset())?;
    let area = read(mm, config::mm_xol_area_offset())?;
    read(area, config::xol_area_address_offset())
}

/// Notes that a `free` begins. A return probe on every free would cost half as much again as the free itself.
///
/// # Safety
/// As [`is_nested`].
#[inline(always)]
pub unsafe fn free_begins(state: *mut ThreadState, entry_sp: u64) {
    // SAFETY: the caller's promise; a checked read of user memory.
    unsafe {
        (*state).free_sp = entry_sp;
        (*state).free_caller = bpf_probe_read_user(entry_sp as *const u64).unwrap_or(0);
    }
}

/// Whether the call at `entry_sp` is made by a `free` that is still running: the stack is deeper, the return address
/// of that free is still in its place, and the caller is the allocator's own code, from `start` to `end`. Each of these
/// alone may be true of something else.
///
/// # Safety
/// As [`is_nested`].
#[inline(always)]
pub unsafe fn is_inside_free(state: *mut ThreadState, entry_sp: u64, start: u64, end: u64) -> bool {
    // SAFETY: the caller's promise; checked reads of user memory.
    unsafe {
        if (*state).free_sp == 0 || entry_sp >= (*state).free_sp || !config::rule(rule::NESTED_ONCE) {
            return false;
        }
        let caller = bpf_probe_read_user(entry_sp as *const u64).unwrap_or(0);
        if caller.wrapping_sub(start) >= end.wrapping_sub(start) {
            return false;
        }
        bpf_probe_read_user((*state).free_sp as *const u64).unwrap_or(0) == (*state).free_caller
    }
}

/// Ends a call that will never return. A block that was being reallocated is dropped with it.
///
/// # Safety
/// As [`is_nested`].
#[inline(always)]
unsafe fn abandon(state: *mut ThreadState) {
    // SAFETY: the caller's promise.
    unsafe {
        (*state).kind = u32::from(kind::NONE);
        sync::count(counter::ABANDONED_CALLS);
        if (*state).old_valid != 0 {
            (*state).old_valid = 0;
            let old = (*state).old;
            row::subtract(&old);
        }
    }
}

/// Removes the scratch of a thread that has exited or changed its identity.
#[inline(always)]
pub fn remove(pid_tgid: u64) {
    if !config::rule(rule::THREAD_EXIT_CLEANS) {
        return;
    }
    if let Some(state) = THREADS.get_ptr_mut(&pid_tgid) {
        // SAFETY: the thread is gone or is the one that runs this program.
        unsafe {
            if (*state).kind != u32::from(kind::NONE) {
                abandon(state);
            }
        }
        if THREADS.remove(&pid_tgid).is_ok() {
            sync::count(counter::THREADS_REMOVED);
        }
    }
}

/// Drops a live block that is gone, if it was known and this call is the one that removed it.
#[inline(always)]
pub fn drop_live(key: &LiveKey) -> bool {
    match take_live(key) {
        Some(block) => {
            row::subtract(&block);
            true
        }
        None => false,
    }
}

/// Removes a live block and hands it over, if this call is the one that removed it.
#[inline(always)]
pub fn take_live(key: &LiveKey) -> Option<leaktrace_common::record::LiveBlock> {
    // SAFETY: copied before the entry is removed; a second concurrent free of the same block fails to remove.
    let block = unsafe { *LIVE.get(key)? };
    if !config::rule(rule::ONLY_REMOVER_SUBTRACTS) {
        sync::linger(sync::BRIEFLY);
        let _ = LIVE.remove(key);
        return Some(block);
    }
    LIVE.remove(key).ok().map(|()| block)
}
