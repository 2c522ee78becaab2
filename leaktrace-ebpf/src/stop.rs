//! Stops a thread at one allocation in N, so that a debugger can look at the very stack that was walked
//! (`--stop-one-in`, for tests). A breakpoint would not do: the kernel swallows one on an instruction that is probed.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_send_signal_thread};
use leaktrace_common::{counter, event::STOPPED, record::ThreadState};

use crate::{config, lifecycle::SIGSTOP, maps::STACKS, row, sync};

/// Whether threads are stopped at all.
#[inline(always)]
pub fn wanted() -> bool {
    config::stop_one_in() != 0
}

/// Stops the running thread if it is its turn, and sends its stack once more: marked, and with the stack pointer in the
/// place of the stack's identity. Threads of one process may stop at the same time; the stack pointer tells them and
/// their stops apart.
///
/// # Safety
/// `state` must point to the calling thread's own THREADS value, walked just now.
#[inline(always)]
pub unsafe fn perhaps(state: *mut ThreadState, entry_sp: u64) {
    // SAFETY: helpers that act on the running thread; the scratch is its own.
    unsafe {
        let one_in = config::stop_one_in();
        // Asked once more, of the very value that is divided by: division by zero would be a panic, of which the kernel
        // side has none.
        if one_in == 0 || bpf_get_prandom_u32() % one_in != 0 || bpf_send_signal_thread(SIGSTOP) != 0 {
            return;
        }
        let (stack_id, walk_end) = ((*state).stack.stack_id, (*state).stack.walk_end);
        (*state).stack.stack_id = entry_sp;
        (*state).stack.walk_end = walk_end | STOPPED;
        if STACKS.output(row::record_of(state), 0).is_err() {
            sync::count(counter::STACK_SEND_FAILED);
        }
        (*state).stack.stack_id = stack_id;
        (*state).stack.walk_end = walk_end;
    }
}
