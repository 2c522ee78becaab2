//! fork, exec, exit and changes of the list of loaded objects.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_ANY,
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user,
        bpf_send_signal,
    },
    programs::RawTracePointContext,
};
use leaktrace_common::{
    counter,
    event::{Event, fork, kind},
    record::{Target, gate, target_flag},
    rule,
};

use crate::{
    config,
    maps::{CONTROL, EVENTS, TARGETS},
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

/// A process or a thread was made; it has not run yet.
#[inline(always)]
pub fn fork(ctx: &RawTracePointContext) -> Option<()> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let parent = (pid_tgid >> 32) as u32;
    if parent == config::own_tgid() {
        return None;
    }
    let target = TARGETS.get_ptr(&parent);
    if target.is_none() && config::watch_host() == 0 || target.is_some() && config::follow_forks() == 0 {
        return None;
    }
    let (parent_task, task): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let tgid = task_word(task, config::task_tgid_offset())?;
    if tgid != task_word(task, config::task_pid_offset())? {
        return None;
    }
    let Some(target) = target else {
        send(kind::NEWCOMER, 0, u64::from(tgid) << 32, 0);
        return Some(());
    };
    // SAFETY: copied at once.
    let parent = unsafe { *target };
    let shares = shares_memory(parent_task, task) && config::rule(rule::VFORK_IS_THE_PARENT);
    let child = if shares {
        Target { flags: parent.flags | target_flag::SHARES_MEMORY, ..parent }
    } else {
        newborn(&parent)?
    };
    if TARGETS.insert(&tgid, &child, u64::from(BPF_ANY)).is_err() {
        sync::count(counter::TARGETS_FULL);
        return None;
    }
    let open = if child.gate == gate::OPEN { fork::OPEN } else { 0 };
    let event = Event {
        kind: kind::FORK,
        serial: child.serial,
        tgid,
        tid: tgid,
        address: u64::from(parent.serial),
        // SAFETY: a helper without arguments.
        length: unsafe { bpf_ktime_get_ns() },
        extra: open | if shares { fork::SHARES_MEMORY } else { 0 },
        ..Event::default()
    };
    deliver(&event);
    Some(())
}

/// The entry of a process that was forked from a target. Where its probes are there already its gate opens at once.
#[inline(always)]
fn newborn(parent: &Target) -> Option<Target> {
    let control = CONTROL.get_ptr_mut(0)?;
    let inherited = target_flag::LAYERED | target_flag::OBJECTS_GONE | target_flag::SHARED_LINKS;
    // SAFETY: a map value.
    unsafe {
        let mut gate = gate::CLOSED;
        if parent.gate == gate::OPEN && parent.flags & target_flag::SHARED_LINKS != 0 {
            if sync::take_one(&raw mut (*control).newborns) {
                gate = gate::OPEN;
            } else {
                sync::count(counter::NEWBORNS_HELD);
            }
        }
        let serial = match config::rule(rule::FORKS_INHERIT_NOTHING) {
            true => next_serial()?,
            false => parent.serial,
        };
        let flags = parent.flags & inherited | target_flag::FORKED;
        Some(Target { serial, gate, flags, ..*parent })
    }
}

/// A serial that was never given.
#[inline(always)]
fn next_serial() -> Option<u32> {
    let control = CONTROL.get_ptr_mut(0)?;
    // SAFETY: a map value.
    Some(unsafe { sync::fetch_add_u32(&raw mut (*control).serials, 1) } + 1)
}

/// Whether a new process runs in its parent's memory until it executes a program.
#[inline(always)]
fn shares_memory(parent: u64, child: u64) -> bool {
    if config::task_mm_offset() == 0 {
        return false;
    }
    let mm = |task: u64| {
        // SAFETY: a checked read of kernel memory.
        unsafe { bpf_probe_read_kernel((task + u64::from(config::task_mm_offset())) as *const u64) }
    };
    matches!((mm(parent), mm(child)), (Ok(one), Ok(other)) if one == other)
}

#[inline(always)]
fn task_word(task: u64, offset: u32) -> Option<u32> {
    // SAFETY: a checked read of kernel memory at an offset from the kernel's own type information.
    unsafe { bpf_probe_read_kernel((task + u64::from(offset)) as *const u32).ok() }
}

/// A process replaced its image. Every thread but this one is already gone.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) -> Option<()> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    let Some(target) = TARGETS.get_ptr_mut(&tgid) else {
        if config::watch_host() != 0 && tgid != config::own_tgid() {
            send(kind::NEWCOMER, 0, pid_tgid, 1);
        }
        return None;
    };
    // A thread that execs takes over the ID of the thread group's leader; its scratch has the old one.
    let old_tid: u64 = ctx.arg(1);
    thread::remove((pid_tgid & !0xffff_ffff) | (old_tid & 0xffff_ffff));
    thread::remove(pid_tgid);
    // SAFETY: a map value; the process has one thread left, and it runs this program.
    unsafe {
        if (*target).flags & target_flag::SHARES_MEMORY != 0 {
            // From here on it has its own memory. Its parent's image goes on.
            (*target).flags = 0;
            (*target).serial = next_serial()?;
            retire(target, kind::EXEC, pid_tgid, 0);
            return Some(());
        }
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
        if (*target).flags & target_flag::SHARES_MEMORY != 0 {
            // Its parent's image goes on.
            (*target).serial = next_serial()?;
        }
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
    deliver(&event)
}

#[inline(always)]
fn deliver(event: &Event) -> bool {
    let sent = EVENTS.output(event, 0).is_ok();
    if !sent {
        sync::count(counter::EVENT_SEND_FAILED);
    }
    sent
}
