//! Follows the chain of frame pointers: `[rbp]` is the caller's frame pointer, `[rbp + 8]` its return address. The
//! caller itself lies at the top of the stack and is taken first: a function's entry has not pushed anything yet.

use aya_ebpf::helpers::{bpf_probe_read_user, bpf_probe_read_user_buf};
use leaktrace_common::{
    record::ThreadState,
    rule,
    walk::{MAX_FRAMES, end},
};

use super::{Start, mix};
use crate::{
    arch::{ADDRESS_LIMIT, LOWEST_CODE},
    config,
};

/// Fills `state.frames`, sets count and end; returns the hash of what was found.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn walk(state: *mut ThreadState, start: &Start, seed: u64) -> u64 {
    let mut hash = mix(seed, 0x6c65_616b);
    let mut count = 0usize;
    let mut reason = end::TOO_DEEP;
    // SAFETY: reads of user memory are checked by the helper; `state` is the caller's promise.
    unsafe {
        if config::rule(rule::CALLER_FROM_STACK_TOP) {
            match bpf_probe_read_user(start.entry_sp as *const u64) {
                Ok(caller) => {
                    (*state).frames[0] = caller;
                    hash = mix(hash, caller);
                    count = 1;
                }
                Err(_) => reason = end::UNREADABLE,
            }
        }
        let mut frame = start.frame_pointer;
        let mut lowest = start.entry_sp;
        let mut record = [0u64; 2];
        while count < MAX_FRAMES {
            if frame == 0 {
                // The outermost frame: the ABI asks for a zero frame pointer at process and thread start.
                reason = end::COMPLETE;
                break;
            }
            if frame & 7 != 0 {
                reason = end::MISALIGNED;
                break;
            }
            if frame < lowest {
                reason = end::NOT_ASCENDING;
                break;
            }
            let bytes = core::slice::from_raw_parts_mut(record.as_mut_ptr().cast::<u8>(), 16);
            if bpf_probe_read_user_buf(frame as *const u8, bytes).is_err() {
                reason = end::UNREADABLE;
                break;
            }
            let caller = record[1];
            if caller == 0 {
                reason = end::COMPLETE;
                break;
            }
            if !(LOWEST_CODE..ADDRESS_LIMIT).contains(&caller) {
                reason = end::BAD_RETURN_ADDRESS;
                break;
            }
            let slot = &raw mut (*state).frames;
            if count >= MAX_FRAMES {
                break;
            }
            (*slot)[count] = caller;
            hash = mix(hash, caller);
            count += 1;
            lowest = frame + 16;
            frame = record[0];
        }
        (*state).stack.frame_count = count as u32;
        (*state).stack.walk_end = u32::from(reason);
    }
    mix(hash, u64::from(reason))
}
