//! What every entry probe does first: is this thread's process traced, and what is it calling?

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_attach_cookie, bpf_get_current_pid_tgid},
};
use leaktrace_common::{
    hook::HookCookie,
    record::{LiveKey, Target, gate, target_flag},
    rule,
};

use crate::{arch::Registers, config, maps, sync, thread};

/// One call of a hooked function by a traced process.
pub struct Call {
    /// The process image.
    pub target: Target,
    /// The hooked function.
    pub cookie: HookCookie,
    /// tgid and tid as the kernel packs them.
    pub pid_tgid: u64,
    /// Registers at the probe.
    pub registers: Registers,
    /// Stack pointer at the function's first instruction.
    pub entry_sp: u64,
}

impl Call {
    /// `None` unless the process is a target whose gate is open.
    #[inline(always)]
    pub fn observe<C: EbpfContext>(ctx: &C) -> Option<Self> {
        let call = Self::observe_any(ctx)?;
        (call.target.gate == gate::OPEN).then_some(())?;
        if (config::count_hits() != 0 || config::count_only() != 0)
            && let Some(hits) = maps::HITS.get_ptr_mut(u32::from(call.cookie.hook))
        {
            // SAFETY: points into a map value.
            unsafe { sync::add_u64(hits, 1) };
        }
        if config::count_only() != 0 {
            return None;
        }
        Some(call)
    }

    /// As [`Self::observe`], whatever the gate says.
    #[inline(always)]
    pub fn observe_any<C: EbpfContext>(ctx: &C) -> Option<Self> {
        let pid_tgid = bpf_get_current_pid_tgid();
        let tgid = (pid_tgid >> 32) as u32;
        if tgid == config::own_tgid() {
            return None;
        }
        // SAFETY: copied at once.
        let target = unsafe { *maps::TARGETS.get(&tgid)? };
        // SAFETY: a helper that takes the program's own context.
        let cookie = HookCookie::unpack(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
        if config::rule(rule::ONE_LINK_COUNTS) && !counts(&target, cookie.link, pid_tgid) {
            return None;
        }
        let registers = Registers::read(ctx.as_ptr().cast());
        let entry_sp = registers.stack_pointer.wrapping_add(u64::from(cookie.pushed_words) * 8);
        Some(Self { target, cookie, pid_tgid, registers, entry_sp })
    }

    /// PID in the initial PID namespace.
    #[inline(always)]
    pub fn tgid(&self) -> u32 {
        (self.pid_tgid >> 32) as u32
    }

    /// Thread ID in the initial PID namespace.
    #[inline(always)]
    pub fn tid(&self) -> u32 {
        self.pid_tgid as u32
    }

    /// LIVE key of a block of this process image.
    #[inline(always)]
    pub fn live_key(&self, address: u64) -> LiveKey {
        LiveKey { address, serial: self.target.serial, pad: 0 }
    }
}

/// Whether the hit of a link is the one that counts. Several can lie on an instruction, and all of them fire.
#[inline(always)]
fn counts(target: &Target, link: u16, pid_tgid: u64) -> bool {
    if !config::rule(rule::CHANGE_BETWEEN_HITS) {
        let counts = target.accepts(link);
        if !counts {
            sync::linger(sync::LONG);
        }
        return counts;
    }
    if target.flags & target_flag::CHANGING_LINKS == 0 {
        return target.accepts(link);
    }
    if link == 0 {
        return !thread::has_moved(pid_tgid, target.serial);
    }
    target.accepts(link) && thread::moves(pid_tgid, target.serial)
}
