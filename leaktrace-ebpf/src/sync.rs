//! Atomic addition. `AtomicU64::fetch_add` does not exist on `bpfel-unknown-none`, the intrinsics do.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_loop};

use leaktrace_common::{counter, rule};

use crate::{config, maps};

/// `*pointer += value`, atomically; returns the old value. The ordering is stronger than needed: for a relaxed
/// addition LLVM 22 emits the instruction that does not fetch and takes `value` for the result.
///
/// # Safety
/// `pointer` must point into a map value.
#[inline(always)]
pub unsafe fn fetch_add_u32(pointer: *mut u32, value: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(pointer, value) }
}

/// Takes one of `*budget` if any is left.
///
/// # Safety
/// `budget` must point into a map value.
#[inline(always)]
pub unsafe fn take_one(budget: *mut i32) -> bool {
    // SAFETY: the caller's promise. What was taken in vain is put back, so that the budget never drifts.
    unsafe {
        if budget.read_volatile() <= 0 {
            return false;
        }
        let before = atomic_xadd::<i32, i32, { AtomicOrdering::SeqCst }>(budget, -1);
        if before > 0 {
            return true;
        }
        atomic_xadd::<i32, i32, { AtomicOrdering::SeqCst }>(budget, 1);
        false
    }
}

/// `*pointer += value`, atomically; `value` may stand for a negative number.
///
/// # Safety
/// `pointer` must point into a map value.
#[inline(always)]
pub unsafe fn add_u64(pointer: *mut u64, value: u64) {
    if !config::rule(rule::ATOMIC_COUNTERS) {
        // SAFETY: the caller's promise. Torn by design: this is the fault that the test must notice.
        unsafe {
            let old = pointer.read_volatile();
            linger(BRIEFLY);
            pointer.write_volatile(old.wrapping_add(value));
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(pointer, value) };
}

/// Signed form of [`add_u64`].
///
/// # Safety
/// As [`add_u64`].
#[inline(always)]
pub unsafe fn add_i64(pointer: *mut i64, value: i64) {
    // SAFETY: the caller's promise; two's complement addition is the same operation.
    unsafe { add_u64(pointer.cast(), value as u64) };
}

/// Adds to a counter. Counters are per CPU, yet the addition is atomic: a program can be preempted by another
/// task on the same CPU that runs the same program, between load and store.
#[inline(always)]
pub fn count_by(index: usize, amount: u64) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(index as u32) {
        // SAFETY: points into a map value.
        unsafe { add_u64(counter, amount) };
    }
}

/// Adds 1 to a counter.
#[inline(always)]
pub fn count(index: usize) {
    debug_assert!(index < counter::COUNT);
    count_by(index, 1);
}

/// How long [`linger`] lasts: some 10 microseconds, enough for another CPU to get in between two instructions.
pub const BRIEFLY: u32 = 400;
/// Some 100 microseconds: a thread that does this in a loop is nearly always at it.
pub const LONG: u32 = 4_000;

/// Wastes time. Only reachable with a rule switched off: it opens the window of a race wide enough for a test to fall
/// into it surely.
#[inline(always)]
pub fn linger(turns: u32) {
    let callback = turn as extern "C" fn(u64, *mut c_void) -> i64;
    // SAFETY: the callback has the type that the helper expects and does not use its context.
    unsafe { bpf_loop(turns, callback as *mut c_void, core::ptr::null_mut(), 0) };
}

extern "C" fn turn(_index: u64, _context: *mut c_void) -> i64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() };
    0
}
