//! exec, exit and changes of the list of loaded objects.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_probe_read_user, bpf_send_signal},
    programs::RawTracePointContext,
};
use leaktrace_common::{
    counter,
    event::{Event, kind},
    record::{Target, gate, target_flag},
    rule,
};

use crate::{
    config,
    maps::{EVENTS, TARGETS},
    probe::Call,
    sync, thread,
};

/// On x86-64 and aarch64 alike.
pub const SIGSTOP: u32 = 19;
/// Offset of `r_state` in `struct r_debug` (link.h: version, map, brk, state).
const R_STATE_OFFSET: u64 = 24;
/// `r_state` while objects are being added.
const RT_ADD: u32 = 1;
/// `r_state` while objects are being removed.
const RT_DELETE: u32 = 2;

/// A process replaced its image. Every thread but this one is already gone.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) -> Option<()> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    let target = TARGETS.get_ptr_mut(&tgid)?;
    // A thread that execs takes over the ID of the thread group's leader; its scratch has the old one.
    let old_tid: u64 = ctx.arg(1);
    thread::remove((pid_tgid & !0xffff_ffff) | (old_tid & 0xffff_ffff));
    thread::remove(pid_tgid);
    // SAFETY: a map value; the process has one thread left, and it runs this program.
    unsafe {
        if (*target).gate == gate::OPEN_AFTER_EXEC {
            if (*target).flags & target_flag::STOP_AFTER_EXEC != 0 {
                // A command that we started, linked statically: the daemon looks at its mappings and lets it go on.
                bpf_send_signal(SIGSTOP);
            }
            (*target).gate = gate::OPEN;
            return Some(());
        }
        if (*target).flags & target_flag::STOP_AFTER_EXEC != 0 {
            (*target).flags |= target_flag::STOP_AT_LINK_MAP;
        }
    }
    retire(target, kind::EXEC, pid_tgid, 0);
    Some(())
}

/// A thread exits; with the last one the process is gone.
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) -> Option<()> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    let target = TARGETS.get_ptr_mut(&tgid)?;
    thread::remove(pid_tgid);
    let task: u64 = ctx.arg(0);
    // SAFETY: checked reads of kernel memory at offsets from the kernel's own type information.
    unsafe {
        let signal: u64 =
            bpf_probe_read_kernel((task + u64::from(config::task_signal_offset())) as *const u64).ok()?;
        let live: u32 =
            bpf_probe_read_kernel((signal + u64::from(config::signal_live_offset())) as *const u32).ok()?;
        if live != 0 {
            return None;
        }
        let code: u32 =
            bpf_probe_read_kernel((task + u64::from(config::task_exit_code_offset())) as *const u32)
                .unwrap_or(0);
        retire(target, kind::EXIT, pid_tgid, u64::from(code));
    }
    Some(())
}

/// Retires the serial: from here on nothing is booked on it, even if the PID is given to another process at once.
#[inline(always)]
fn retire(target: *mut Target, kind: u32, pid_tgid: u64, extra: u64) {
    // SAFETY: a map value that only the daemon removes.
    let serial = unsafe {
        (*target).gate = gate::RETIRED;
        (*target).serial
    };
    send(kind, serial, pid_tgid, extra);
}

/// The dynamic linker is about to change, or has changed, the list of objects (`_dl_debug_state`).
#[inline(always)]
pub fn link_map<C: EbpfContext>(ctx: &C) -> Option<()> {
    let call = Call::observe_any(ctx)?;
    let target = TARGETS.get_ptr_mut(&call.tgid())?;
    // SAFETY: a map value; the dynamic linker's own lock keeps two threads from being here at once.
    unsafe {
        let stop = (*target).flags & target_flag::STOP_AT_LINK_MAP != 0;
        if stop {
            // Only ever a command that we started: see `target::command`.
            bpf_send_signal(SIGSTOP);
        }
        match bpf_probe_read_user((call.target.r_debug + R_STATE_OFFSET) as *const u32).unwrap_or(0) {
            RT_DELETE => (*target).flags |= target_flag::OBJECTS_GONE,
            // Addresses of objects that have gone may mean something else from here on.
            RT_ADD
                if (*target).flags & target_flag::OBJECTS_GONE != 0
                    && config::rule(rule::MAPPING_GENERATION) =>
            {
                (*target).flags &= !target_flag::OBJECTS_GONE;
                (*target).generation += 1;
            }
            _ => {}
        }
        send(kind::LINK_MAP, (*target).serial, call.pid_tgid, u64::from(stop));
    }
    Some(())
}

/// Tells the daemon something about a process. `false`: there was no room, which is counted.
#[inline(always)]
pub fn send(kind: u32, serial: u32, pid_tgid: u64, extra: u64) -> bool {
    let event = Event {
        kind,
        serial,
        tgid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        extra,
        ..Event::default()
    };
    let sent = EVENTS.output(&event, 0).is_ok();
    if !sent {
        sync::count(counter::EVENT_SEND_FAILED);
    }
    sent
}
