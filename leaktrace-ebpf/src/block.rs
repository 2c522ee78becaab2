//! The malloc family: blocks with an address and a size.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST, helpers::bpf_probe_read_user};
use aya_log_ebpf::debug;
use leaktrace_common::{
    counter,
    hook::{HookCookie, kind},
    record::{LiveBlock, LiveKey, ThreadState, target_flag},
    rule,
};

use crate::{
    arch::{RETURN_POPS, Registers},
    config,
    log::may_log,
    maps::LIVE,
    probe::Call,
    row, stop, sync, thread, walk,
};

const E2BIG: i32 = -7;
const EEXIST: i32 = -17;

/// Entry of an allocating function: remembers what was asked for, and who asked.
#[inline(always)]
pub fn enter<C: EbpfContext>(_ctx: &C, call: &Call) -> Option<()> {
    let Call { cookie, registers, .. } = call;
    let state = thread::outermost(call)?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        walk::walk(state, call);
        let row = row::row_of(state, call.tgid(), call.tid(), cookie.domain);
        (*state).row = row;
        (*state).hook = u32::from(call.cookie.hook);
        (*state).entry_sp = call.entry_sp;
        (*state).size = requested(cookie, registers);
        (*state).pointer = registers.argument(cookie.ptr_arg);
        (*state).old_valid = 0;
        if cookie.kind == kind::REALLOC && (*state).pointer != 0 {
            take_old(state, call);
        }
        if stop::wanted() {
            // No return is probed then: a debugger could not see past the kernel's trampoline.
            stop::perhaps(state, call.entry_sp);
            return Some(());
        }
        // Last: from here on the call is in flight.
        (*state).kind = u32::from(cookie.kind);
    }
    Some(())
}

/// Bytes asked for; a product that overflows saturates, and the allocator refuses it.
#[inline(always)]
fn requested(cookie: &HookCookie, registers: &Registers) -> u64 {
    let size = registers.argument(cookie.size_arg);
    if cookie.factor_arg == 0 {
        return size;
    }
    let factor = registers.argument(cookie.factor_arg);
    if size >= 1 << 32 || factor >= 1 << 32 {
        return if size == 0 || factor == 0 { 0 } else { u64::MAX };
    }
    size * factor
}

/// realloc may hand the old address to another thread before it returns: the old block leaves the live map now.
/// Its row keeps it until the return tells what became of it.
#[inline(always)]
unsafe fn take_old(state: *mut ThreadState, call: &Call) {
    if !config::rule(rule::REALLOC_IN_FLIGHT) {
        return;
    }
    // SAFETY: the running thread's own scratch.
    unsafe {
        let key = call.live_key((*state).pointer);
        match thread::take_live(&key) {
            Some(old) => {
                (*state).old = old;
                (*state).old_valid = 1;
            }
            None => sync::count(counter::UNMATCHED_FREES),
        }
    }
}

/// The block that the call in flight was given.
#[inline(always)]
unsafe fn pointed_at(state: *mut ThreadState) -> LiveKey {
    // SAFETY: the running thread's own scratch.
    unsafe { LiveKey { address: (*state).pointer, serial: (*state).serial, pad: 0 } }
}

/// Return of an allocating function.
#[inline(always)]
pub fn leave<C: EbpfContext>(ctx: &C, pid_tgid: u64, registers: &Registers) -> Option<()> {
    let state = crate::maps::THREADS.get_ptr_mut(&thread::key(pid_tgid))?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        let call_kind = (*state).kind as u8;
        if call_kind == kind::NONE {
            sync::count(counter::LOST_RETURN);
            return None;
        }
        if (*state).entry_sp.wrapping_add(RETURN_POPS) != registers.stack_pointer
            && config::rule(rule::NESTED_ONCE)
            && config::rule(rule::SCRATCH_PER_THREAD)
        {
            // The return of a nested call: the outer one reports the block.
            return None;
        }
        (*state).kind = u32::from(kind::NONE);
        match call_kind {
            kind::ALLOC => allocated(ctx, state, registers.result),
            kind::ALLOC_OUT => allocated_out(ctx, state, registers.result),
            kind::REALLOC => reallocated(ctx, state, registers.result),
            kind::FREE => freed_late(state),
            _ => {}
        }
    }
    Some(())
}

#[inline(always)]
unsafe fn allocated<C: EbpfContext>(ctx: &C, state: *mut ThreadState, address: u64) {
    if address == 0 {
        sync::count(counter::FAILED_ALLOCATIONS);
        return;
    }
    // SAFETY: the running thread's own scratch.
    unsafe { record(ctx, state, address) };
}

#[inline(always)]
unsafe fn allocated_out<C: EbpfContext>(ctx: &C, state: *mut ThreadState, result: u64) {
    if result as u32 != 0 {
        sync::count(counter::FAILED_ALLOCATIONS);
        return;
    }
    // SAFETY: a checked read of user memory.
    match unsafe { bpf_probe_read_user((*state).pointer as *const u64) } {
        // SAFETY: the running thread's own scratch.
        Ok(address) => unsafe { allocated(ctx, state, address) },
        Err(_) => sync::count(counter::READ_FAULTS),
    }
}

/// A reallocation has returned. NULL means that the old block is still there, unless it was asked for 0 bytes.
#[inline(always)]
unsafe fn reallocated<C: EbpfContext>(ctx: &C, state: *mut ThreadState, address: u64) {
    // SAFETY: the running thread's own scratch.
    unsafe {
        if !config::rule(rule::REALLOC_IN_FLIGHT) {
            reallocated_late(ctx, state, address);
            return;
        }
        let had_old = (*state).old_valid != 0;
        (*state).old_valid = 0;
        let old = (*state).old;
        if address != 0 {
            if had_old {
                row::subtract(&old);
            }
            record(ctx, state, address);
            return;
        }
        let freed = (*state).size == 0 && (*state).pointer != 0;
        if freed && config::rule(rule::REALLOC_ZERO_FREES) {
            if had_old {
                row::subtract(&old);
            }
            return;
        }
        if !freed {
            sync::count(counter::REALLOC_FAILED);
        }
        if had_old {
            restore(state, &old);
        }
    }
}

/// Puts the block of a failed reallocation back. Its address was never free, so nobody can have taken it.
#[inline(always)]
unsafe fn restore(state: *mut ThreadState, old: &LiveBlock) {
    if !config::rule(rule::REALLOC_FAILURE_RESTORES) {
        row::subtract(old);
        return;
    }
    // SAFETY: the running thread's own scratch.
    let key = unsafe { pointed_at(state) };
    if LIVE.insert(&key, old, u64::from(BPF_NOEXIST)).is_err() {
        sync::count(counter::REALLOC_RESTORE_FAILED);
        row::subtract(old);
    }
}

/// What happens with the rule "a block being reallocated leaves the live map at entry" switched off.
#[inline(always)]
unsafe fn reallocated_late<C: EbpfContext>(ctx: &C, state: *mut ThreadState, address: u64) {
    // SAFETY: the running thread's own scratch.
    unsafe {
        if address == 0 && (*state).size != 0 {
            return;
        }
        if (*state).pointer != 0 {
            thread::drop_live(&pointed_at(state));
        }
        if address != 0 {
            record(ctx, state, address);
        }
    }
}

/// Adds to the row, then enters the live map; undone when the map refuses.
#[inline(always)]
unsafe fn record<C: EbpfContext>(ctx: &C, state: *mut ThreadState, address: u64) {
    // SAFETY: the running thread's own scratch.
    let (serial, size, row) = unsafe { ((*state).serial, (*state).size, row::still_row_of(state)) };
    let key = LiveKey { address, serial, pad: 0 };
    let mut block = LiveBlock { size, weight: 1, row, epoch: 0, pad: 0 };
    if !config::rule(rule::ROW_BEFORE_LIVE) {
        let _ = LIVE.insert(&key, &block, 0);
        sync::linger(sync::BRIEFLY);
        let _ = row::add(row, size);
        return;
    }
    let Some(epoch) = row::add(row, size) else { return };
    block.epoch = epoch;
    let mut outcome = LIVE.insert(&key, &block, u64::from(BPF_NOEXIST));
    if outcome == Err(EEXIST) {
        // The allocator handed out an address that is still live here: its free was missed.
        sync::count(counter::REPLACED_BLOCKS);
        thread::drop_live(&key);
        outcome = LIVE.insert(&key, &block, u64::from(BPF_NOEXIST));
    }
    if let Err(error) = outcome {
        refused(ctx, &block, error);
    }
}

#[inline(always)]
fn refused<C: EbpfContext>(ctx: &C, block: &LiveBlock, error: i32) {
    if config::rule(rule::FULL_MAP_COUNTED) {
        row::undo_add(block);
        if error == E2BIG {
            sync::count(counter::LOST_LIVE_FULL);
            sync::count_by(counter::LOST_LIVE_FULL_BYTES, block.size);
        } else {
            sync::count(counter::LOST_LIVE_ERROR);
        }
    }
    if may_log() {
        debug!(ctx, "live map refused a block of {} bytes: error {}", block.size, error);
    }
}

/// Entry of `free`: the block leaves the live map before the allocator can hand its address out again.
#[inline(always)]
pub fn free(call: &Call) -> Option<()> {
    let address = call.registers.argument(call.cookie.ptr_arg);
    if address == 0 {
        return None;
    }
    let state = thread::outermost(call)?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        if !config::rule(rule::FREE_AT_ENTRY) {
            (*state).pointer = address;
            (*state).entry_sp = call.entry_sp;
            (*state).kind = u32::from(kind::FREE);
            return Some(());
        }
        let known = thread::drop_live(&call.live_key(address));
        if !known && is_inner_free(state, call, address) {
            sync::count(counter::INNER_FREES);
            (*state).last_freed = 0;
            return None;
        }
        if !known {
            sync::count(counter::UNMATCHED_FREES);
        }
        (*state).last_freed = address;
        thread::free_begins(state, call.entry_sp);
    }
    Some(())
}

/// Whether the free of an unknown block is the lower layer's half of one that was recorded: of an address just freed,
/// or (for layers that shift blocks) made by the upper layer's `free` while that is running.
#[inline(always)]
unsafe fn is_inner_free(state: *mut ThreadState, call: &Call, address: u64) -> bool {
    if call.target.flags & target_flag::LAYERED == 0 || !config::rule(rule::INNER_FREE_IGNORED) {
        return false;
    }
    // SAFETY: the running thread's own scratch.
    unsafe { (*state).last_freed == address || thread::is_inside_free(state, call.entry_sp, &call.target) }
}

/// What happens with the rule "a free is recorded at entry" switched off.
#[inline(always)]
unsafe fn freed_late(state: *mut ThreadState) {
    // SAFETY: the running thread's own scratch.
    let key = unsafe { pointed_at(state) };
    thread::drop_live(&key);
}
