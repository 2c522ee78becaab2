//! Load-time constants. They live in read-only data: the verifier knows their values and drops dead branches.

use core::ptr::read_volatile;

/// Rules switched off (see `leaktrace_common::rule`); 0 outside of tests.
#[unsafe(no_mangle)]
static RULES_OFF: u64 = 0;
/// 1: write log lines, within the budget in CONTROL.
#[unsafe(no_mangle)]
static LOG_ENABLED: u32 = 0;
/// Offset of `signal` in the kernel's `task_struct`.
#[unsafe(no_mangle)]
static TASK_SIGNAL_OFFSET: u32 = 0;
/// Offset of `exit_code` in the kernel's `task_struct`.
#[unsafe(no_mangle)]
static TASK_EXIT_CODE_OFFSET: u32 = 0;
/// Offset of `live` (threads not yet exiting) in the kernel's `signal_struct`.
#[unsafe(no_mangle)]
static SIGNAL_LIVE_OFFSET: u32 = 0;
/// Offset of `mm` in the kernel's `task_struct`; 0: the three below are not known.
#[unsafe(no_mangle)]
static TASK_MM_OFFSET: u32 = 0;
/// Offset of `uprobes_state.xol_area` in the kernel's `mm_struct`.
#[unsafe(no_mangle)]
static MM_XOL_AREA_OFFSET: u32 = 0;
/// Offset of `vaddr` in the kernel's `xol_area`.
#[unsafe(no_mangle)]
static XOL_AREA_ADDRESS_OFFSET: u32 = 0;
/// Offset in the kernel's `task_struct` of the register that tells a thread from others (fsbase); 0: not known.
#[unsafe(no_mangle)]
static TASK_THREAD_POINTER_OFFSET: u32 = 0;
/// Who closes CPython's free lists again, one of `leaktrace_common::python::closer`. Only where that is the kernel side is
/// there a program that writes to a process's memory, which kernels in lockdown refuse and others warn of.
#[unsafe(no_mangle)]
static FREE_LIST_CLOSER: u32 = 0;
/// 1: probes do nothing but count.
#[unsafe(no_mangle)]
static COUNT_ONLY: u32 = 0;
/// 1: count the calls of each hooked function in HITS.
#[unsafe(no_mangle)]
static COUNT_HITS: u32 = 0;
/// Threads are stopped (SIGSTOP) at one allocation in so many; 0: never, as always outside of tests.
#[unsafe(no_mangle)]
static STOP_ONE_IN: u32 = 0;
/// Offset of `pid` in the kernel's `task_struct`.
#[unsafe(no_mangle)]
static TASK_PID_OFFSET: u32 = 0;
/// Offset of `tgid` in the kernel's `task_struct`.
#[unsafe(no_mangle)]
static TASK_TGID_OFFSET: u32 = 0;
/// 1: processes that targets make are targets too.
#[unsafe(no_mangle)]
static FOLLOW_FORKS: u32 = 0;
/// 1: the daemon is told of every new process of the host, and of every program that is executed.
#[unsafe(no_mangle)]
static WATCH_HOST: u32 = 0;
/// tgid of the daemon: never traced.
#[unsafe(no_mangle)]
static OWN_TGID: u32 = 0;

macro_rules! getter {
    ($name:ident, $constant:ident, $type:ty) => {
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: reads an initialised static; volatile because the loader, not the compiler, sets it.
            unsafe { read_volatile(&raw const $constant) }
        }
    };
}

getter!(log_enabled, LOG_ENABLED, u32);
getter!(task_signal_offset, TASK_SIGNAL_OFFSET, u32);
getter!(task_exit_code_offset, TASK_EXIT_CODE_OFFSET, u32);
getter!(signal_live_offset, SIGNAL_LIVE_OFFSET, u32);
getter!(task_mm_offset, TASK_MM_OFFSET, u32);
getter!(mm_xol_area_offset, MM_XOL_AREA_OFFSET, u32);
getter!(xol_area_address_offset, XOL_AREA_ADDRESS_OFFSET, u32);
getter!(task_thread_pointer_offset, TASK_THREAD_POINTER_OFFSET, u32);
getter!(free_list_closer, FREE_LIST_CLOSER, u32);
getter!(count_only, COUNT_ONLY, u32);
getter!(count_hits, COUNT_HITS, u32);
getter!(stop_one_in, STOP_ONE_IN, u32);
getter!(task_pid_offset, TASK_PID_OFFSET, u32);
getter!(task_tgid_offset, TASK_TGID_OFFSET, u32);
getter!(follow_forks, FOLLOW_FORKS, u32);
getter!(watch_host, WATCH_HOST, u32);
getter!(own_tgid, OWN_TGID, u32);
getter!(rules_off, RULES_OFF, u64);

/// Whether a rule is in force. Always true in production.
#[inline(always)]
pub fn rule(bit: u64) -> bool {
    rules_off() & bit == 0
}
