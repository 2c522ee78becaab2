//! Follows the chain of frame pointers: `[rbp]` is the caller's frame pointer, `[rbp + 8]` its return address. The
//! caller itself lies at the top of the stack and is taken first: a function's entry has not pushed anything yet.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_probe_read_user_buf};
use leaktrace_common::{
    record::{STACK_WINDOW, ThreadState},
    rule,
    walk::{MAX_FRAMES, end},
};

use super::{Start, mix};
use crate::{
    arch::{ADDRESS_LIMIT, LOWEST_CODE},
    config,
};

/// A walk under way. Lives on the BPF stack and is handed from step to step by `bpf_loop`, whose body the verifier
/// looks at once: an unrolled or bounded loop of [`MAX_FRAMES`] steps costs it seconds.
#[repr(C)]
struct Walk {
    state: *mut ThreadState,
    /// Address of the next frame record.
    frame: u64,
    /// Frame records lie above this.
    lowest: u64,
    /// Address that the window was read from.
    base: u64,
    hash: u64,
    count: u64,
    reason: u64,
}

/// Fills `state.frames`, sets count and end; returns the hash of what was found.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn walk(state: *mut ThreadState, start: &Start, seed: u64) -> u64 {
    let mut walk = Walk {
        state,
        frame: start.frame_pointer,
        lowest: start.entry_sp,
        base: NOTHING_READ,
        hash: mix(seed, 0x6c65_616b),
        count: 0,
        reason: u64::from(end::TOO_DEEP),
    };
    // SAFETY: `state` is the caller's promise; the callback has the type that the helper expects.
    unsafe {
        if config::rule(rule::CALLER_FROM_STACK_TOP) {
            let Some([caller, _]) = record_at(state, &mut walk.base, start.entry_sp) else {
                return unreadable(state, walk.hash);
            };
            (*state).frames[0] = caller;
            walk.hash = mix(walk.hash, caller);
            walk.count = 1;
        }
        let callback = step as extern "C" fn(u64, *mut Walk) -> i64;
        bpf_loop(MAX_FRAMES as u32, callback as *mut c_void, (&raw mut walk).cast(), 0);
        (*state).stack.frame_count = walk.count as u32 & MAX_FRAMES as u32;
        (*state).stack.walk_end = walk.reason as u32;
    }
    mix(walk.hash, walk.reason)
}

/// A stack of which not even the caller can be read.
#[cold]
unsafe fn unreadable(state: *mut ThreadState, hash: u64) -> u64 {
    // SAFETY: the running thread's own scratch.
    unsafe {
        (*state).stack.frame_count = 0;
        (*state).stack.walk_end = u32::from(end::UNREADABLE);
    }
    mix(hash, u64::from(end::UNREADABLE))
}

/// Ends the walk.
const STOP: i64 = 1;
/// Goes on with the next frame.
const GO_ON: i64 = 0;

/// One frame.
extern "C" fn step(index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `bpf_loop` hands over what `walk` gave it.
    unsafe {
        let frame = (*walk).frame;
        let reason = if frame == 0 {
            // The outermost frame: the ABI asks for a zero frame pointer at process and thread start.
            end::COMPLETE
        } else if frame & 7 != 0 {
            end::MISALIGNED
        } else if frame < (*walk).lowest {
            end::NOT_ASCENDING
        } else {
            let mut base = (*walk).base;
            let Some([next, caller]) = record_at((*walk).state, &mut base, frame) else {
                (*walk).reason = u64::from(end::UNREADABLE);
                return STOP;
            };
            (*walk).base = base;
            if caller == 0 {
                end::COMPLETE
            } else if !(LOWEST_CODE..ADDRESS_LIMIT).contains(&caller) {
                end::BAD_RETURN_ADDRESS
            } else {
                return keep(walk, index, next, caller);
            }
        };
        (*walk).reason = u64::from(reason);
    }
    STOP
}

/// Notes a frame and goes on to the next, unless there is no room for it.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn keep(walk: *mut Walk, index: u64, next: u64, caller: u64) -> i64 {
    // The slot follows from the loop's own index, not from a count of ours: the verifier knows the bounds of the
    // former anew at every step and would have to follow the latter through all of them.
    let slot = index as usize + usize::from(config::rule(rule::CALLER_FROM_STACK_TOP));
    if slot >= MAX_FRAMES {
        return STOP;
    }
    // SAFETY: the caller's promise; the slot is checked.
    unsafe {
        let frames = &raw mut (*(*walk).state).frames;
        (*frames)[slot] = caller;
        (*walk).hash = mix((*walk).hash, caller);
        (*walk).count = slot as u64 + 1;
        (*walk).lowest = (*walk).frame + 16;
        (*walk).frame = next;
    }
    GO_ON
}

/// No address of a process: nothing lies in the window yet.
const NOTHING_READ: u64 = u64::MAX;

/// Two words of stack at `address`, from the window, which is moved there if need be. Frames lie close together: most
/// walks get by with one or two reads.
#[inline(always)]
unsafe fn record_at(state: *mut ThreadState, base: &mut u64, address: u64) -> Option<[u64; 2]> {
    const LAST: u64 = (STACK_WINDOW as u64 - 2) * 8;
    // SAFETY: the scratch is the running thread's own; reads of user memory are checked by the helper.
    unsafe {
        let window = &raw mut (*state).window;
        let mut offset = address.wrapping_sub(*base);
        if offset > LAST || offset & 7 != 0 {
            let bytes = core::slice::from_raw_parts_mut(window.cast::<u8>(), STACK_WINDOW * 8);
            if bpf_probe_read_user_buf(address as *const u8, bytes).is_ok() {
                *base = address;
            } else {
                // The window would reach past the end of the stack.
                let bytes = core::slice::from_raw_parts_mut(window.cast::<u8>(), 16);
                bpf_probe_read_user_buf(address as *const u8, bytes).ok()?;
                *base = NOTHING_READ;
            }
            offset = 0;
        }
        let index = (offset >> 3) as usize;
        Some([(*window)[index & (STACK_WINDOW - 1)], (*window)[(index + 1) & (STACK_WINDOW - 1)]])
    }
}
