//! Watches the OOM killer, and nothing else: an object of its own, so that the daemon can keep it loaded while nothing is traced.
//! The program runs when a victim is chosen and costs nothing before.
#![no_std]
#![no_main]

use core::ptr::read_volatile;

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::{map, raw_tracepoint},
    maps::RingBuf,
    programs::RawTracePointContext,
};
use leaktrace_common::oom::Victim;

/// 1: the tracepoint is given the task (kernel 6.9 and newer), and the offsets below are known; 0: only the thread's number.
#[unsafe(no_mangle)]
static GIVEN_TASK: u32 = 0;
/// Offset of `pid` in the kernel's `task_struct`.
#[unsafe(no_mangle)]
static TASK_PID_OFFSET: u32 = 0;
/// Offset of `tgid` there.
#[unsafe(no_mangle)]
static TASK_TGID_OFFSET: u32 = 0;
/// Offset of `comm` there.
#[unsafe(no_mangle)]
static TASK_COMM_OFFSET: u32 = 0;
/// Offset of `mm` there.
#[unsafe(no_mangle)]
static TASK_MM_OFFSET: u32 = 0;
/// Offset of `total_vm` in the kernel's `mm_struct`.
#[unsafe(no_mangle)]
static MM_TOTAL_VM_OFFSET: u32 = 0;
/// Offset of the first sum in `rss_stat` there; 0: not known.
#[unsafe(no_mangle)]
static MM_RSS_OFFSET: u32 = 0;
/// From one of these sums to the next.
#[unsafe(no_mangle)]
static RSS_STRIDE: u32 = 0;

/// Victims. BPF writes, the daemon drains at once; the OOM killer chooses a handful of them a second at worst.
#[map]
pub static VICTIMS: RingBuf = RingBuf::with_byte_size(64 << 10, 0);

#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn mark_victim(ctx: RawTracePointContext) -> i32 {
    // SAFETY: reads an initialised static.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let mut victim = Victim { at_ns, ..Victim::default() };
    let given: u64 = ctx.arg(0);
    if constant(&GIVEN_TASK) == 0 {
        victim.tid = given as u32;
    } else if describe(&mut victim, given).is_none() {
        return 0;
    }
    let _ = VICTIMS.output(&victim, 0);
    0
}

#[inline(always)]
fn describe(victim: &mut Victim, task: u64) -> Option<()> {
    victim.tid = read(task, constant(&TASK_PID_OFFSET))?;
    victim.tgid = read(task, constant(&TASK_TGID_OFFSET))?;
    victim.name = read(task, constant(&TASK_COMM_OFFSET)).unwrap_or_default();
    let mm: u64 = read(task, constant(&TASK_MM_OFFSET)).unwrap_or(0);
    if mm != 0 {
        victim.total = read(mm, constant(&MM_TOTAL_VM_OFFSET)).unwrap_or(0);
        amounts(victim, mm);
    }
    Some(())
}

#[inline(always)]
fn amounts(victim: &mut Victim, mm: u64) {
    let mut at = constant(&MM_RSS_OFFSET);
    if at == 0 {
        return;
    }
    for amount in &mut victim.resident {
        // Each is a sum that lags behind what CPUs have not added yet, and can be below zero.
        *amount = read::<i64>(mm, at).unwrap_or(0).max(0) as u64;
        at = at.wrapping_add(constant(&RSS_STRIDE));
    }
}

#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address; all types read here are plain numbers.
    unsafe { bpf_probe_read_kernel((base.wrapping_add(u64::from(offset))) as *const T) }.ok()
}

/// Volatile because the loader, not the compiler, sets it.
#[inline(always)]
fn constant(of: &'static u32) -> u32 {
    // SAFETY: reads an initialised static.
    unsafe { read_volatile(of) }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
