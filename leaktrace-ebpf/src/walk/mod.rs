//! Stack walks. A walker fills `frames` of the thread's scratch, innermost first, and says why it ended; identity
//! and transport of the stack are the same for every walker.

mod frame_pointer;

use leaktrace_common::{counter, record::ThreadState, rule, walk::end};

use crate::{arch::Registers, config, sync};

/// Where a walk begins: the function's entry, before it has changed anything the caller owns.
pub struct Start {
    /// Stack pointer at the function's first instruction; the return address lies there.
    pub entry_sp: u64,
    /// Frame pointer, still the caller's.
    pub frame_pointer: u64,
}

/// Walks the calling thread's user stack into `state` and names it.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value.
#[inline(always)]
pub unsafe fn walk(
    state: *mut ThreadState,
    registers: &Registers,
    entry_sp: u64,
    serial: u32,
    generation: u32,
) {
    let start = Start { entry_sp, frame_pointer: registers.frame_pointer };
    // SAFETY: the caller's promise.
    unsafe {
        let seed = (u64::from(generation) << 32) | u64::from(serial);
        let stack_id = frame_pointer::walk(state, &start, seed);
        (*state).stack.stack_id = stack_id;
        (*state).stack.serial = serial;
        (*state).stack.generation = generation;
        if !config::rule(rule::CALLER_FROM_STACK_TOP) {
            return;
        }
        if (*state).stack.walk_end != u32::from(end::COMPLETE) {
            sync::count(counter::STACKS_TRUNCATED);
        }
    }
}

/// One step of the stack hash.
#[inline(always)]
pub fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
