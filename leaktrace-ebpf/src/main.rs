//! The kernel side of leaktrace. This file holds the programs only; each is one call into the module that knows.
//! Every uprobe program exists twice: for multi links, where the kernel has them, and for perf links.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic additions exist on this target as intrinsics only")]

mod arch;
mod block;
mod config;
mod freelist;
mod lifecycle;
mod log;
mod mapping;
mod maps;
mod probe;
mod row;
mod stop;
mod sync;
mod thread;
mod walk;

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{raw_tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};

use leaktrace_common::hook::kind;

use crate::{arch::Registers, probe::Call};

macro_rules! entry_program {
    ($single:ident, $multi:ident, $body:path) => {
        #[uprobe]
        pub fn $single(ctx: ProbeContext) -> u32 {
            let _ = $body(&ctx);
            0
        }
        #[uprobe(multi)]
        pub fn $multi(ctx: ProbeContext) -> u32 {
            let _ = $body(&ctx);
            0
        }
    };
}

macro_rules! return_program {
    ($single:ident, $multi:ident, $body:path) => {
        #[uretprobe]
        pub fn $single(ctx: RetProbeContext) -> u32 {
            let _ = $body(&ctx);
            0
        }
        #[uretprobe(multi)]
        pub fn $multi(ctx: RetProbeContext) -> u32 {
            let _ = $body(&ctx);
            0
        }
    };
}

#[inline(always)]
fn block_enter(ctx: &ProbeContext) -> Option<()> {
    block::enter(ctx, &Call::observe(ctx)?)
}

#[inline(always)]
fn block_free(ctx: &ProbeContext) -> Option<()> {
    block::free(&Call::observe(ctx)?)
}

#[inline(always)]
fn block_reuse(ctx: &ProbeContext) -> Option<()> {
    let call = Call::observe(ctx)?;
    if call.cookie.kind == kind::REUSE_LINKED {
        return block::reused_linked(ctx, &call);
    }
    block::reused(ctx, &call)
}

#[inline(always)]
fn block_leave(ctx: &RetProbeContext) -> Option<()> {
    block::leave(ctx, bpf_get_current_pid_tgid(), &Registers::read(ctx.as_ptr().cast()))
}

#[inline(always)]
fn mapping_enter(ctx: &ProbeContext) -> Option<()> {
    mapping::enter(&Call::observe(ctx)?)
}

#[inline(always)]
fn mapping_leave(ctx: &RetProbeContext) -> Option<()> {
    mapping::leave(bpf_get_current_pid_tgid(), &Registers::read(ctx.as_ptr().cast()))
}

#[inline(always)]
fn calibration_hit(_ctx: &ProbeContext) -> Option<()> {
    sync::count(leaktrace_common::counter::CALIBRATION_HITS);
    Some(())
}

#[inline(always)]
fn calibration_return_hit(_ctx: &RetProbeContext) -> Option<()> {
    sync::count(leaktrace_common::counter::CALIBRATION_HITS);
    Some(())
}

entry_program!(block_entry, block_entry_multi, block_enter);
entry_program!(block_freed, block_freed_multi, block_free);
entry_program!(block_reused, block_reused_multi, block_reuse);
return_program!(block_return, block_return_multi, block_leave);
entry_program!(mapping_entry, mapping_entry_multi, mapping_enter);
return_program!(mapping_return, mapping_return_multi, mapping_leave);
entry_program!(link_map_changed, link_map_changed_multi, lifecycle::link_map);
entry_program!(calibration, calibration_multi, calibration_hit);
return_program!(calibration_return, calibration_return_multi, calibration_return_hit);

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    let _ = lifecycle::fork(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    let _ = lifecycle::exec(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    let _ = lifecycle::exit(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
