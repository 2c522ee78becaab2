//! Rows: finding the one of a site, making it, adding to it.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use leaktrace_common::{
    counter,
    epoch::{CELLS, ClassTable},
    event::StackHeader,
    hook::domain,
    python::{FRAME_WORDS, MAX_PYTHON_FRAMES, MAX_SMALL_BLOCK},
    record::{Control, LiveBlock, OVERFLOW_ROW, Row, SiteKey, ThreadState, row_state},
    rule,
    walk::MAX_FRAMES,
};

use crate::{
    config,
    maps::{CONTROL, FREE_ROWS, ROWS, SITES, STACKS},
    sync,
};

/// The class table in force. Both tables are complete at all times; the daemon flips `active`.
#[inline(always)]
pub fn class_table() -> Option<*const ClassTable> {
    let control: *const Control = CONTROL.get_ptr(0)?;
    // SAFETY: a map value; `active` is masked to the two tables there are.
    unsafe {
        let active = (&raw const (*control).active).read_volatile() as usize & 1;
        Some(&raw const (*control).tables[active])
    }
}

/// The row of the stack in `state`, made if need be. Falls back to the overflow row: an allocation is never lost
/// for want of a row.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn row_of(state: *mut ThreadState, tgid: u32, tid: u32, domain: u8) -> u32 {
    // SAFETY: the caller's promise.
    let key = unsafe {
        (*state).stack.tgid = tgid;
        (*state).stack.tid = tid;
        (*state).domain = u32::from(domain);
        SiteKey {
            stack_id: (*state).stack.stack_id,
            serial: (*state).stack.serial,
            domain: u32::from(domain),
        }
    };
    // SAFETY: the value is copied at once; a site's row index never changes while the entry exists.
    let index = match unsafe { SITES.get(&key) } {
        Some(index) => *index,
        None => make_row(&key),
    };
    if index != OVERFLOW_ROW {
        // SAFETY: the caller's promise.
        unsafe { send_stack_once(state, index) };
    }
    index
}

/// The row that `state` remembers from the call's entry, if it is still this stack's. The daemon may have recycled
/// it meanwhile: a call can be in flight for as long as its thread is not scheduled.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn still_row_of(state: *mut ThreadState) -> u32 {
    // SAFETY: the caller's promise; the row is a map value.
    unsafe {
        let index = (*state).row;
        if index == OVERFLOW_ROW {
            return index;
        }
        if let Some(row) = ROWS.get_ptr(index) {
            if (&raw const (*row).stack_id).read_volatile() == (*state).stack.stack_id
                && (&raw const (*row).serial).read_volatile() == (*state).serial
            {
                return index;
            }
        }
        row_of(state, (*state).stack.tgid, (*state).stack.tid, (*state).domain as u8)
    }
}

/// Takes a row and publishes it. Of two CPUs that race for the same site one gives its row back.
#[inline(always)]
fn make_row(key: &SiteKey) -> u32 {
    let Some(index) = take_row() else {
        sync::count(counter::ROWS_FULL);
        return OVERFLOW_ROW;
    };
    let Some(row) = ROWS.get_ptr_mut(index) else {
        return OVERFLOW_ROW;
    };
    // SAFETY: nobody else has this row: it is in no map yet. The daemon looks at it only once `state` is set.
    unsafe {
        (*row).stack_id = key.stack_id;
        (*row).serial = key.serial;
        (*row).domain = key.domain;
        (&raw mut (*row).state).write_volatile(row_state::USED);
    }
    if SITES.insert(key, &index, u64::from(BPF_NOEXIST)).is_ok() {
        return index;
    }
    give_back(row, index);
    // SAFETY: as in `row_of`.
    match unsafe { SITES.get(key) } {
        Some(winner) => *winner,
        None => {
            sync::count(counter::ROWS_FULL);
            OVERFLOW_ROW
        }
    }
}

#[inline(always)]
fn give_back(row: *mut Row, index: u32) {
    // SAFETY: the row was never published, so it is still ours alone.
    unsafe { (&raw mut (*row).state).write_volatile(row_state::UNUSED) };
    // A row that does not fit back is lost until the end of the run; FREE_ROWS has room for every row there is.
    let _ = FREE_ROWS.push(&index, u64::from(BPF_ANY));
}

/// A row nobody uses: one given back, else the next fresh one.
#[inline(always)]
fn take_row() -> Option<u32> {
    if let Ok(Some(index)) = FREE_ROWS.pop() {
        return Some(index);
    }
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: a map value. The cursor starts at 1 and may run past the end by one per failed attempt; it is
    // stopped long before it wraps because a full table is asked for first.
    unsafe {
        let used = &raw mut (*control).rows_used;
        let next = used.read_volatile();
        ROWS.get_ptr(next)?;
        let index = sync::fetch_add_u32(used, 1);
        ROWS.get_ptr(index)?;
        Some(index)
    }
}

/// Sends the frames unless the daemon has them. The mark is set only after the send succeeded.
#[inline(always)]
unsafe fn send_stack_once(state: *mut ThreadState, index: u32) {
    let Some(row) = ROWS.get_ptr_mut(index) else { return };
    // SAFETY: map values; two CPUs may both send, which the daemon tolerates.
    unsafe {
        if (&raw const (*row).sent).read_volatile() != 0 {
            return;
        }
        let careless = !config::rule(rule::SEEN_AFTER_SEND);
        if careless {
            (&raw mut (*row).sent).write_volatile(1);
        }
        if STACKS.output(record_of(state), 0).is_err() {
            sync::count(counter::STACK_SEND_FAILED);
            return;
        }
        (&raw mut (*row).sent).write_volatile(1);
        sync::count(counter::STACKS_SENT);
    }
}

/// The stack in `state` as it is sent.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn record_of(state: *const ThreadState) -> &'static [u8] {
    // SAFETY: the caller's promise; header and frames are adjacent, and the counts are held within what there is.
    unsafe {
        let native = (*state).stack.frame_count as usize & MAX_FRAMES;
        let python = (*state).stack.python_count as usize & MAX_PYTHON_FRAMES;
        let bytes = size_of::<StackHeader>() + (native + python * FRAME_WORDS) * 8;
        core::slice::from_raw_parts((&raw const (*state).stack).cast::<u8>(), bytes)
    }
}

/// Whether a block lies in the pools of CPython's small-object allocator.
#[inline(always)]
unsafe fn is_small(row: *const Row, size: u64) -> bool {
    // SAFETY: a map value.
    let domain = unsafe { (*row).domain };
    domain == u32::from(domain::PY) && size.wrapping_sub(1) < MAX_SMALL_BLOCK
}

/// Adds a new block to its row; returns its birth epoch.
#[inline(always)]
pub fn add(index: u32, size: u64) -> Option<u32> {
    let table = class_table()?;
    let row = ROWS.get_ptr_mut(index)?;
    // SAFETY: map values.
    unsafe {
        let epoch = (&raw const (*table).current_epoch).read_volatile();
        sync::add_u64(&raw mut (*row).total_bytes, size);
        sync::add_u64(&raw mut (*row).total_blocks, 1);
        let cell = (*table).cell_of(epoch) & (CELLS - 1);
        sync::add_i64(&raw mut (*row).cells[cell].bytes, size as i64);
        sync::add_i64(&raw mut (*row).cells[cell].blocks, 1);
        if is_small(row, size) {
            sync::add_i64(&raw mut (*row).small_blocks, 1);
        }
        Some(epoch)
    }
}

/// Takes back what [`add`] did, totals included: the block could not be recorded.
#[inline(always)]
pub fn undo_add(block: &LiveBlock) {
    let Some(row) = ROWS.get_ptr_mut(block.row) else { return };
    // SAFETY: a map value.
    unsafe {
        sync::add_u64(&raw mut (*row).total_bytes, block.size.wrapping_neg());
        sync::add_u64(&raw mut (*row).total_blocks, 1u64.wrapping_neg());
    }
    subtract(block);
}

/// Counts a call without a live block (mapping calls: the daemon keeps the intervals).
#[inline(always)]
pub fn add_total(index: u32, size: u64) {
    let Some(row) = ROWS.get_ptr_mut(index) else { return };
    // SAFETY: a map value.
    unsafe {
        sync::add_u64(&raw mut (*row).total_bytes, size);
        sync::add_u64(&raw mut (*row).total_blocks, 1);
    }
}

/// Subtracts a block that left the live map from the cell that now stands for its birth epoch.
#[inline(always)]
pub fn subtract(block: &LiveBlock) {
    let Some(table) = class_table() else { return };
    let Some(row) = ROWS.get_ptr_mut(block.row) else { return };
    // SAFETY: map values.
    unsafe {
        let cell = (*table).cell_of(block.epoch) & (CELLS - 1);
        if !config::rule(rule::GRACE_PERIOD) {
            sync::linger(sync::LONG);
        }
        sync::add_i64(&raw mut (*row).cells[cell].bytes, -(block.size as i64));
        sync::add_i64(&raw mut (*row).cells[cell].blocks, -1);
        if is_small(row, block.size) {
            sync::add_i64(&raw mut (*row).small_blocks, -1);
        }
    }
}
