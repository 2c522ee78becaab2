//! The malloc family: blocks with an address and a size.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_attach_cookie, bpf_loop, bpf_probe_read_user},
};
use aya_log_ebpf::debug;
use leaktrace_common::{
    counter,
    hook::{HookCookie, domain, kind},
    python::{ArrayList, MAX_ARRAY_ITEMS, MAX_ARRAY_LISTS, MAX_LINKED_HEADS, MAX_LINKED_LISTS},
    record::{LiveBlock, LiveKey, ThreadState, target_flag},
    rule,
};

use crate::{
    arch::{RETURN_POPS, Registers, register},
    config, freelist,
    log::may_log,
    maps::{LIVE, PYTHON_COUNTS},
    probe::Call,
    row, stop, sync, thread, walk,
};

const E2BIG: i32 = -7;
const EEXIST: i32 = -17;

/// Entry of an allocating function: remembers what was asked for, and who asked.
#[inline(always)]
pub fn enter<C: EbpfContext>(_ctx: &C, call: &Call) -> Option<()> {
    let Call { cookie, registers, .. } = call;
    let size = requested(call)?;
    let state = thread::outermost(call)?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        freelist::keep_closed(state, call);
        walk::walk(state, call);
        let row = row::row_of(state, call.tgid(), call.tid(), cookie.domain);
        (*state).row = row;
        (*state).hook = u32::from(call.cookie.hook);
        (*state).entry_sp = call.entry_sp;
        (*state).tail_calls = 0;
        (*state).size = size;
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

/// What [`given_back`] hands from block to block.
#[repr(C)]
struct Returns {
    items: u64,
    header: u64,
    level: u64,
    top: u64,
    serial: u32,
    slot: u32,
}

/// A block that was not seen before is somebody's (1), or one that was seen is nobody's (-1).
#[inline(always)]
pub fn count_handed_on(slot: u32, change: u64) {
    let Some(counts) = PYTHON_COUNTS.get_ptr_mut(slot) else { return };
    // SAFETY: a map value.
    unsafe { sync::add_u64(&raw mut (*counts).handed_on, change) };
}

/// Blocks that were put into an array list since one was last taken from it are nobody's any more.
#[inline(always)]
unsafe fn given_back(call: &Call, list: *const ArrayList, number: usize, top: u64) {
    let Some(counts) = PYTHON_COUNTS.get_ptr_mut(call.target.python_slot) else { return };
    // SAFETY: map values; the callback has the type that the helper expects.
    unsafe {
        let level = (&raw const (*counts).levels[number]).read_volatile();
        (&raw mut (*counts).levels[number]).write_volatile(top);
        let mut returns = Returns {
            items: (*list).items,
            header: u64::from((*list).header),
            level,
            top,
            serial: call.target.serial,
            slot: call.target.python_slot,
        };
        let callback = give_back as extern "C" fn(u64, *mut Returns) -> i64;
        bpf_loop(MAX_ARRAY_ITEMS, callback as *mut c_void, (&raw mut returns).cast(), 0);
    }
}

extern "C" fn give_back(index: u64, returns: *mut Returns) -> i64 {
    // SAFETY: `bpf_loop` hands over what `given_back` gave it; a checked read of user memory.
    unsafe {
        let at = (*returns).level.wrapping_add(index);
        if at >= (*returns).top {
            return 1;
        }
        let Ok(object) = bpf_probe_read_user((*returns).items.wrapping_add(at * 8) as *const u64) else {
            return 1;
        };
        let address = object.wrapping_sub((*returns).header);
        if thread::drop_live(&LiveKey { address, serial: (*returns).serial, pad: 0 }) {
            count_handed_on((*returns).slot, u64::MAX);
        }
    }
    0
}

/// A block is taken from a free list that is an array, if there is one in it: it is booked on who takes it. Whoever had it
/// before has given it back.
#[inline(always)]
pub fn reused<C: EbpfContext>(ctx: &C, call: &Call) -> Option<()> {
    let number = call.cookie.size_arg as usize & (MAX_ARRAY_LISTS - 1);
    let list: *const ArrayList = &raw const walk::python::runtime_of(&call.target)?.arrays[number];
    // SAFETY: map values; checked reads of user memory. The interpreter's lock keeps the list as it is.
    let address = unsafe {
        let count = bpf_probe_read_user((*list).counter as *const u32).ok()?;
        if count == 0 || count > MAX_ARRAY_ITEMS {
            return None;
        }
        given_back(call, list, number, u64::from(count - 1));
        let last = (*list).items.wrapping_add(u64::from(count - 1) * 8);
        bpf_probe_read_user(last as *const u64).ok()?.wrapping_sub(u64::from((*list).header))
    };
    // SAFETY: a map value.
    let bytes = unsafe { u64::from((*list).block_bytes) };
    handed_on(ctx, call, address, bytes)
}

/// A block is taken from a free list of linked objects, if there is one in it.
#[inline(always)]
pub fn reused_linked<C: EbpfContext>(ctx: &C, call: &Call) -> Option<()> {
    let object = register(ctx.as_ptr().cast(), call.cookie.ptr_arg);
    if object == 0 {
        return None;
    }
    let number = call.cookie.size_arg as usize & (MAX_LINKED_LISTS - 1);
    let lists = walk::python::runtime_of(&call.target)?.linked[number];
    let mut search = HeadSearch { heads: lists.heads, object, count: lists.count, found: u32::MAX };
    let callback = is_head as extern "C" fn(u64, *mut HeadSearch) -> i64;
    // SAFETY: the callback has the type that the helper expects, and its context outlives the call.
    unsafe { bpf_loop(MAX_LINKED_HEADS, callback as *mut c_void, (&raw mut search).cast(), 0) };
    if search.found == u32::MAX {
        // The register holds something else: the code was taken for what it is not.
        return None;
    }
    let bytes = u64::from(lists.block_bytes) + u64::from(search.found) * u64::from(lists.step_bytes);
    handed_on(ctx, call, object.wrapping_sub(u64::from(lists.header)), bytes)
}

/// Which list an object is the first of.
#[repr(C)]
struct HeadSearch {
    heads: u64,
    object: u64,
    count: u32,
    found: u32,
}

extern "C" fn is_head(index: u64, search: *mut HeadSearch) -> i64 {
    // SAFETY: `bpf_loop` hands over what `reused_linked` gave it; a checked read of user memory.
    unsafe {
        if index >= u64::from((*search).count) {
            return 1;
        }
        let head = (*search).heads.wrapping_add(index * 8);
        if bpf_probe_read_user(head as *const u64) == Ok((*search).object) {
            (*search).found = index as u32;
            return 1;
        }
    }
    0
}

/// Books a block on who is handed it; `bytes` if it was never seen. Whoever had it before has given it back.
#[inline(always)]
fn handed_on<C: EbpfContext>(ctx: &C, call: &Call, address: u64, bytes: u64) -> Option<()> {
    let state = thread::outermost(call)?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        (*state).size = bytes;
        if let Some(before) = thread::take_live(&call.live_key(address)) {
            (*state).size = before.size;
            row::subtract(&before);
        } else {
            count_handed_on(call.target.python_slot, 1);
        }
        walk::walk_from(state, call, walk::Start::Instruction);
        (*state).row = row::row_of(state, call.tgid(), call.tid(), call.cookie.domain);
        record(ctx, state, address, counter::REPLACED_BLOCKS);
    }
    sync::count(counter::REUSED_BLOCKS);
    Some(())
}

/// How large the block will be. `None` for a pool of an interpreter whose pools have no known size.
#[inline(always)]
fn requested(call: &Call) -> Option<u64> {
    if call.cookie.kind != kind::POOL {
        return Some(asked_for(&call.cookie, &call.registers));
    }
    let bytes = walk::python::runtime_of(&call.target)?.pool_bytes;
    (bytes != 0).then_some(u64::from(bytes))
}

/// Bytes asked for; a product that overflows saturates, and the allocator refuses it.
#[inline(always)]
fn asked_for(cookie: &HookCookie, registers: &Registers) -> u64 {
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
            None => count_unmatched(call),
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
    // SAFETY: a helper that takes the program's own context.
    let link = u32::from(HookCookie::unpack(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) }).link);
    // SAFETY: the running thread's own scratch.
    unsafe {
        let call_kind = (*state).kind as u8;
        if call_kind == kind::NONE {
            returned_before(state, registers.stack_pointer, link);
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
        // Whichever link it was: the one that saw the entry may be gone.
        (*state).done_link = link;
        match call_kind {
            kind::ALLOC => allocated(ctx, state, registers.result, counter::REPLACED_BLOCKS),
            // What is returned is the pool's first block; pools lie at multiples of their size.
            kind::POOL => {
                let pool = registers.result & (*state).size.wrapping_neg();
                allocated(ctx, state, pool, counter::POOLS_AGAIN);
            }
            kind::ALLOC_OUT => allocated_out(ctx, state, registers.result),
            kind::REALLOC => reallocated(ctx, state, registers.result),
            kind::FREE => freed_late(state),
            _ => {}
        }
    }
    Some(())
}

/// A return without a call in flight: of a function that the last call jumped to, or one whose entry nobody saw.
#[inline(always)]
unsafe fn returned_before(state: *mut ThreadState, stack_pointer: u64, link: u32) {
    // SAFETY: the running thread's own scratch.
    unsafe {
        let same_return = (*state).entry_sp.wrapping_add(RETURN_POPS) == stack_pointer;
        if same_return && (*state).done_link != link && config::rule(rule::ONE_LINK_COUNTS) {
            // Seen by another link already.
            return;
        }
        if same_return && (*state).tail_calls != 0 {
            (*state).tail_calls -= 1;
        } else {
            sync::count(counter::LOST_RETURN);
        }
    }
}

#[inline(always)]
unsafe fn allocated<C: EbpfContext>(ctx: &C, state: *mut ThreadState, address: u64, replaced: usize) {
    if address == 0 {
        sync::count(counter::FAILED_ALLOCATIONS);
        return;
    }
    // SAFETY: the running thread's own scratch.
    unsafe { record(ctx, state, address, replaced) };
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
        Ok(address) => unsafe { allocated(ctx, state, address, counter::REPLACED_BLOCKS) },
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
            record(ctx, state, address, counter::REPLACED_BLOCKS);
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
            record(ctx, state, address, counter::REPLACED_BLOCKS);
        }
    }
}

/// Adds to the row, then enters the live map; undone when the map refuses. A block that is live at that address still is
/// dropped and counted under `replaced`.
#[inline(always)]
unsafe fn record<C: EbpfContext>(ctx: &C, state: *mut ThreadState, address: u64, replaced: usize) {
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
        // The allocator handed out an address that is still live here: its free was missed, or (pools) is never seen.
        sync::count(replaced);
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
            inner_free(state, call);
            return None;
        }
        if !known {
            count_unmatched(call);
        }
        (*state).last_freed = address;
        (*state).last_unmatched = u64::from(!known && call.cookie.domain == domain::PY);
        thread::free_begins(state, call.entry_sp);
    }
    Some(())
}

/// Whether the free of an unknown block is the lower layer's half of one that was recorded: of an address just freed,
/// or (for layers that shift blocks) made by the upper layer's `free` while that is running. CPython's mem and object domains
/// are the uppermost layer.
#[inline(always)]
unsafe fn is_inner_free(state: *mut ThreadState, call: &Call, address: u64) -> bool {
    if call.target.flags & target_flag::LAYERED == 0
        || call.cookie.domain == domain::PY
        || !config::rule(rule::INNER_FREE_IGNORED)
    {
        return false;
    }
    // SAFETY: the running thread's own scratch.
    unsafe {
        (*state).last_freed == address
            || thread::is_inside_free(
                state,
                call.entry_sp,
                call.target.allocator_start,
                call.target.allocator_end,
            )
            || thread::is_inside_free(
                state,
                call.entry_sp,
                call.target.interpreter_start,
                call.target.interpreter_end,
            )
    }
}

/// The lower layer's half of a free. CPython's raw domain is a layer in the middle: one more may follow.
#[inline(always)]
unsafe fn inner_free(state: *mut ThreadState, call: &Call) {
    sync::count(counter::INNER_FREES);
    if call.cookie.domain == domain::PY_RAW {
        return;
    }
    // SAFETY: the running thread's own scratch.
    unsafe {
        (*state).last_freed = 0;
        if (*state).last_unmatched != 0
            && call.cookie.domain == domain::MALLOC
            && let Some(counts) = PYTHON_COUNTS.get_ptr_mut(call.target.python_slot)
        {
            sync::add_u64(&raw mut (*counts).unmatched_large, 1);
        }
        (*state).last_unmatched = 0;
    }
}

/// A block was given back that was never seen. Those of CPython's allocators are counted for each process: most were there
/// before tracing, and what the interpreter counts itself can be compared with what was.
#[inline(always)]
fn count_unmatched(call: &Call) {
    let python = matches!(call.cookie.domain, domain::PY | domain::PY_RAW);
    sync::count(match (call.target.flags & target_flag::FORKED != 0, python) {
        (true, _) => counter::INHERITED_FREES,
        (false, true) => counter::PYTHON_UNMATCHED_FREES,
        (false, false) => counter::UNMATCHED_FREES,
    });
    if !python {
        return;
    }
    let Some(counts) = PYTHON_COUNTS.get_ptr_mut(call.target.python_slot) else { return };
    // SAFETY: a map value.
    unsafe {
        if call.cookie.domain == domain::PY {
            sync::add_u64(&raw mut (*counts).unmatched, 1);
        } else {
            sync::add_u64(&raw mut (*counts).unmatched_raw, 1);
        }
    }
}

/// What happens with the rule "a free is recorded at entry" switched off.
#[inline(always)]
unsafe fn freed_late(state: *mut ThreadState) {
    // SAFETY: the running thread's own scratch.
    let key = unsafe { pointed_at(state) };
    thread::drop_live(&key);
}
