//! Waiting until every BPF program that is running now has ended.

use std::time::Duration;

use leaktrace_common::rule;

/// What is waited where the kernel offers nothing better. Programs run for microseconds; only a thread that was
/// preempted inside one, and is not scheduled again for that long, could still be running.
const FALLBACK_WAIT: Duration = Duration::from_secs(1);

/// Blocks until programs that were running when it was called have ended. uprobe programs run inside an RCU
/// read-side section, and `membarrier(GLOBAL)` waits for an RCU grace period; it takes some 10 ms. Kernels booted
/// with `nohz_full` refuse it: there a fixed time is waited.
pub fn wait_for_running_programs(rules_off: u64) {
    if rules_off & rule::GRACE_PERIOD != 0 {
        return;
    }
    // MEMBARRIER_CMD_GLOBAL; the constant is in no safe wrapper.
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(FALLBACK_WAIT);
    }
}
