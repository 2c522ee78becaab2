//! Reads the stack a piece at a time: one large read costs what a few small ones cost, and frames lie close together.

use aya_ebpf::helpers::bpf_probe_read_user_buf;
use leaktrace_common::{
    record::{STACK_WINDOW, ThreadState},
    unwind::Reader,
};

/// No address of a process: nothing lies in the window yet.
pub const NOTHING_READ: u64 = u64::MAX;

/// How far below the word asked for a window begins, bytes: registers are saved just below the return address, which is
/// asked for first.
const SLACK: u64 = 56;

/// The last word of the window, bytes from its beginning.
const LAST: u64 = (STACK_WINDOW as u64 - 1) * 8;

/// The window of one thread; it lies in the thread's scratch.
pub struct Window {
    state: *mut ThreadState,
}

impl Window {
    /// # Safety
    /// `state` must point to the calling thread's own THREADS value.
    #[inline(always)]
    pub unsafe fn new(state: *mut ThreadState) -> Self {
        Self { state }
    }

    /// The word at an address; moves the window there if need be.
    #[inline(always)]
    pub fn word_at(&mut self, address: u64) -> Option<u64> {
        // SAFETY: the scratch is the running thread's own (see `new`); reads of user memory are checked by the helper.
        unsafe {
            let window = &raw mut (*self.state).window;
            let mut offset = address.wrapping_sub((*self.state).walk.window_base);
            if offset > LAST || offset & 7 != 0 {
                let base = address.wrapping_sub(SLACK);
                let bytes = core::slice::from_raw_parts_mut(window.cast::<u8>(), STACK_WINDOW * 8);
                if bpf_probe_read_user_buf(base as *const u8, bytes).is_ok() {
                    (*self.state).walk.window_base = base;
                    offset = SLACK;
                } else {
                    // The window would reach past the end of the stack.
                    let bytes = core::slice::from_raw_parts_mut(window.cast::<u8>(), 8);
                    (*self.state).walk.window_base = NOTHING_READ;
                    bpf_probe_read_user_buf(address as *const u8, bytes).ok()?;
                    offset = 0;
                }
            }
            Some((*window)[(offset >> 3) as usize & (STACK_WINDOW - 1)])
        }
    }
}

impl Reader for Window {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        self.word_at(address)
    }
}
