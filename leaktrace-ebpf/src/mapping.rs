//! mmap, munmap, mremap: sent one by one, because real programs unmap parts of what they mapped and only an
//! interval map, which the daemon keeps, can follow that.

use leaktrace_common::{
    counter,
    event::{Event, kind as event_kind},
    hook::{domain, kind},
    record::ThreadState,
    rule,
};

use crate::{
    arch::{RETURN_POPS, Registers},
    config,
    maps::EVENTS,
    probe::Call,
    row, sync, thread, walk,
};

const PROT_EXEC: u64 = 4;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_STACK: u64 = 0x2_0000;
/// The kernel answers with an error number in the last page of the address space.
const LAST_ERROR: u64 = u64::MAX - 4095;

/// Programs that map code without the dynamic linker: once code has gone, code that comes may lie at its addresses.
#[inline(always)]
fn watch_code(call: &Call) {
    let [address, length, prot, flags, ..] = call.registers.arguments;
    let unmaps = match call.cookie.kind {
        kind::MUNMAP => true,
        kind::MMAP => flags & MAP_FIXED != 0,
        _ => false,
    };
    if unmaps {
        walk::code_goes(call, address, length);
    }
    if call.cookie.kind == kind::MMAP && prot & PROT_EXEC != 0 {
        walk::code_comes(call);
    }
}

/// Entry. Inside an allocator call nothing is recorded: the allocator's own mappings are its blocks' memory.
#[inline(always)]
pub fn enter(call: &Call) -> Option<()> {
    let registers = &call.registers;
    watch_code(call);
    let state = thread::outermost(call)?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        let (prot, flags) = (registers.arguments[2], registers.arguments[3]);
        // Stacks are never the allocator's, whoever maps them.
        if call.cookie.kind == kind::MMAP
            && flags & MAP_STACK == 0
            && thread::is_inside_free(
                state,
                call.entry_sp,
                call.target.allocator_start,
                call.target.allocator_end,
            )
        {
            sync::count(counter::NESTED_CALLS);
            return None;
        }
        if call.cookie.kind == kind::MMAP && flags & (MAP_ANONYMOUS | MAP_FIXED) == 0 {
            return None;
        }
        (*state).row = 0;
        if call.cookie.kind != kind::MUNMAP {
            walk::walk(state, call);
            (*state).row = row::row_of(state, call.tgid(), call.tid(), domain::MMAP);
        }
        (*state).hook = u32::from(call.cookie.hook);
        (*state).entry_sp = call.entry_sp;
        (*state).old_valid = 0;
        (*state).pointer = registers.arguments[0];
        (*state).size = registers.arguments[1];
        (*state).extra = match call.cookie.kind {
            kind::MREMAP => registers.arguments[2],
            _ => (prot << 32) | (flags & 0xffff_ffff),
        };
        (*state).kind = u32::from(call.cookie.kind);
        let announced = match call.cookie.kind {
            kind::MUNMAP if config::rule(rule::UNMAP_AT_ENTRY) => event_kind::UNMAPPING,
            kind::MREMAP => event_kind::REMAPPING,
            _ => return Some(()),
        };
        send(call.pid_tgid, state, announced, (*state).pointer, (*state).size);
    }
    Some(())
}

/// Return.
#[inline(always)]
pub fn leave(pid_tgid: u64, registers: &Registers) -> Option<()> {
    let state = crate::maps::THREADS.get_ptr_mut(&thread::key(pid_tgid))?;
    // SAFETY: the running thread's own scratch.
    unsafe {
        let call_kind = (*state).kind as u8;
        if !(kind::MMAP..=kind::MREMAP).contains(&call_kind)
            || (*state).entry_sp.wrapping_add(RETURN_POPS) != registers.stack_pointer
        {
            return None;
        }
        (*state).kind = u32::from(kind::NONE);
        let failed = registers.result >= LAST_ERROR;
        match call_kind {
            kind::MMAP if !failed => mapped(pid_tgid, state, registers.result),
            kind::MUNMAP => unmapped(pid_tgid, state, failed),
            kind::MREMAP => remapped(pid_tgid, state, if failed { 0 } else { registers.result }),
            _ => {}
        }
    }
    Some(())
}

#[inline(always)]
unsafe fn mapped(pid_tgid: u64, state: *mut ThreadState, address: u64) {
    // SAFETY: the running thread's own scratch.
    unsafe {
        let length = (*state).size;
        if (*state).extra & MAP_ANONYMOUS == 0 {
            // A file mapped over a range: whatever was there is gone.
            send(pid_tgid, state, event_kind::UNMAPPING, address, length);
            return;
        }
        row::add_total(row::still_row_of(state), length);
        send(pid_tgid, state, event_kind::MAPPED, address, length);
    }
}

#[inline(always)]
unsafe fn unmapped(pid_tgid: u64, state: *mut ThreadState, failed: bool) {
    // SAFETY: the running thread's own scratch.
    unsafe {
        if !config::rule(rule::UNMAP_AT_ENTRY) {
            sync::linger(sync::BRIEFLY);
            if !failed {
                send(pid_tgid, state, event_kind::UNMAPPING, (*state).pointer, (*state).size);
            }
        } else if failed {
            send(pid_tgid, state, event_kind::UNMAP_FAILED, (*state).pointer, (*state).size);
        }
    }
}

#[inline(always)]
unsafe fn remapped(pid_tgid: u64, state: *mut ThreadState, address: u64) {
    // SAFETY: the running thread's own scratch.
    unsafe {
        let length = (*state).extra;
        if address != 0 {
            row::add_total(row::still_row_of(state), length);
        }
        send(pid_tgid, state, event_kind::REMAPPED, address, length);
    }
}

#[inline(always)]
unsafe fn send(pid_tgid: u64, state: *mut ThreadState, kind: u32, address: u64, length: u64) {
    // SAFETY: the running thread's own scratch.
    let event = unsafe {
        let epoch = row::class_table().map_or(0, |table| (&raw const (*table).current_epoch).read_volatile());
        Event {
            kind,
            serial: (*state).serial,
            tgid: (pid_tgid >> 32) as u32,
            tid: pid_tgid as u32,
            address,
            length,
            extra: (*state).extra,
            stack_id: (*state).stack.stack_id,
            row: (*state).row,
            epoch,
        }
    };
    if EVENTS.output(&event, 0).is_err() {
        sync::count(counter::EVENT_SEND_FAILED);
    }
}
