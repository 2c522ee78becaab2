//! Keys and values of the maps. Who fills and who empties each map is said in `leaktrace-ebpf/src/maps.rs`.

use crate::{
    epoch::CELLS,
    event::StackHeader,
    python::walk::{PythonWalk, RECORD_WORDS},
    walk::Walk,
};

/// TARGETS value, keyed by tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Number of this process image, never given twice.
    pub serial: u32,
    /// One of [`gate`].
    pub gate: u32,
    /// Bits of [`target_flag`].
    pub flags: u32,
    /// Goes up when executable mappings go away; part of every stack's identity.
    pub generation: u32,
    /// Address of the dynamic linker's `struct r_debug` in the process, 0 if it has none.
    pub r_debug: u64,
    /// Where the code of the allocator begins; 0 if unknown.
    pub allocator_start: u64,
    /// Where it ends.
    pub allocator_end: u64,
    /// Index into CODE_HEADS: where the list of its code mappings is found; 0 if it has none.
    pub code_slot: u32,
    /// Index into PYTHON: its interpreter; 0 if it has none.
    pub python_slot: u32,
    /// Where the code of its interpreter begins; 0 if it has none, or its allocators are not probed.
    pub interpreter_start: u64,
    /// Where it ends.
    pub interpreter_end: u64,
    /// Numbers of the shared links whose hits count for it ([`crate::hook::HookCookie::link`]); 0: none.
    pub links: [u16; MAX_SHARED_LINKS],
}

/// How many shared links one process can take part in: one for each set of probes in a file (dynamic linker, C library,
/// other allocators; three in a Python interpreter).
pub const MAX_SHARED_LINKS: usize = 8;

impl Target {
    /// Whether a hit of a probe counts for this process. Each probe of a link that is shared fires in every process that
    /// maps the file, and two such links can lie on one file (overlay file systems show the same file under many names).
    #[inline(always)]
    pub fn accepts(&self, link: u16) -> bool {
        if link == 0 {
            return self.flags & target_flag::SHARED_LINKS == 0;
        }
        let mut found = false;
        let mut index = 0;
        while index < MAX_SHARED_LINKS {
            found |= self.links[index] == link;
            index += 1;
        }
        found
    }
}

/// States of [`Target::gate`].
pub mod gate {
    /// Probes are being placed or taken away: nothing is counted.
    pub const CLOSED: u32 = 0;
    /// Everything is counted.
    pub const OPEN: u32 = 1;
    /// Closed until this process executes its program, open from the first instruction of that (static commands).
    pub const OPEN_AFTER_EXEC: u32 = 3;
    /// The process image is gone (exec or exit); only the daemon removes the entry.
    pub const RETIRED: u32 = 2;
}

/// Bits of [`Target::flags`].
pub mod target_flag {
    /// More than one allocator is hooked, so one block may be freed through two layers.
    pub const LAYERED: u32 = 1;
    /// Stop (SIGSTOP) whenever the dynamic linker tells of a change, until the daemon takes this flag back; only
    /// for commands we started.
    pub const STOP_AT_LINK_MAP: u32 = 2;
    /// Set STOP_AT_LINK_MAP at the next exec.
    pub const STOP_AFTER_EXEC: u32 = 8;
    /// Objects were removed since the generation last changed.
    pub const OBJECTS_GONE: u32 = 4;
    /// Its probes are those of shared links ([`super::Target::links`]).
    pub const SHARED_LINKS: u32 = 16;
    /// Made by a fork of a target: what it frees of its parent's blocks is not counted as unmatched.
    pub const FORKED: u32 = 32;
    /// It runs in its parent's memory (vfork) until it executes a program or exits: what it allocates is the parent's.
    pub const SHARES_MEMORY: u32 = 64;
    /// It goes over from links of its own to shared ones: until the former are gone both fire at each hit.
    pub const CHANGING_LINKS: u32 = 128;
}

/// LIVE key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LiveKey {
    /// The block's address in the process.
    pub address: u64,
    /// The process image.
    pub serial: u32,
    /// Always 0.
    pub pad: u32,
}

/// LIVE value: one outstanding block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// Bytes the caller asked for.
    pub size: u64,
    /// How many allocations this block stands for (1 unless sampled).
    pub weight: u32,
    /// Index into ROWS.
    pub row: u32,
    /// Birth epoch.
    pub epoch: u32,
    /// Always 0.
    pub pad: u32,
}

/// SITES key; the value is an index into ROWS.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SiteKey {
    /// Hash over serial, generation and frames.
    pub stack_id: u64,
    /// The process image.
    pub serial: u32,
    /// One of [`crate::hook::domain`].
    pub domain: u32,
}

/// Live bytes and blocks of one age class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Sum of sizes x weights.
    pub bytes: i64,
    /// Sum of weights.
    pub blocks: i64,
}

/// ROWS value: one allocation site of one process image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// See [`SiteKey`].
    pub stack_id: u64,
    /// See [`SiteKey`].
    pub serial: u32,
    /// See [`SiteKey`].
    pub domain: u32,
    /// One of [`row_state`]; written last.
    pub state: u32,
    /// 1 once the daemon has been sent the frames.
    pub sent: u32,
    /// Bytes ever allocated here.
    pub total_bytes: u64,
    /// Blocks ever allocated here.
    pub total_blocks: u64,
    /// Live blocks that lie in the pools of CPython's small-object allocator: of the mem and object domains, and of 1
    /// to [`crate::python::MAX_SMALL_BLOCK`] bytes.
    pub small_blocks: i64,
    /// What is live, by age class.
    pub cells: [Cell; CELLS],
}

/// States of [`Row::state`].
pub mod row_state {
    /// Free, or being filled in.
    pub const UNUSED: u32 = 0;
    /// In use.
    pub const USED: u32 = 1;
}

/// The row that takes what no other row can: allocations are never lost for want of a row.
pub const OVERFLOW_ROW: u32 = 0;

/// Words of stack that a walk reads at a time. A power of two.
pub const STACK_WINDOW: usize = 64;

/// THREADS value, keyed by `tgid << 32 | tid`: scratch that belongs to one thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ThreadState {
    /// Process image the rest belongs to.
    pub serial: u32,
    /// Kind of the call in flight ([`crate::hook::kind`]), 0 if none.
    pub kind: u32,
    /// Stack pointer at the function's first instruction: tells the return of this call from that of another.
    pub entry_sp: u64,
    /// Size asked for (mapping calls: length).
    pub size: u64,
    /// realloc: the old block; posix_memalign: where the result goes; mremap: old address.
    pub pointer: u64,
    /// mmap: `prot << 32 | flags`; mremap: old length.
    pub extra: u64,
    /// The block taken out of LIVE by a realloc in flight.
    pub old: LiveBlock,
    /// 1 if `old` holds a block.
    pub old_valid: u32,
    /// Row of this call's stack.
    pub row: u32,
    /// Domain of the call ([`crate::hook::domain`]).
    pub domain: u32,
    /// Which function the call in flight is of ([`crate::hook::HookCookie::hook`]).
    pub hook: u32,
    /// 1 once a shared link has fired while the process went over to such ([`target_flag::CHANGING_LINKS`]).
    pub moved: u32,
    /// Whose return ended the last call ([`crate::hook::HookCookie::link`]): other links on the function see it too.
    pub done_link: u32,
    /// How many functions this call has jumped to whose returns are probed too: they all return at once.
    pub tail_calls: u64,
    /// Address freed last by an outermost free (layered targets only).
    pub last_freed: u64,
    /// 1 if that was a block of CPython's mem and object domains that was never seen.
    pub last_unmatched: u64,
    /// Stack pointer at the entry of the last free: `free` has no return probe.
    pub free_sp: u64,
    /// What lay there: the return address. While it still does, and the stack is deeper, that free may be running.
    pub free_caller: u64,
    /// The walk under way.
    pub walk: Walk,
    /// Stack memory that the walk has read ahead: one large read costs what a few small ones cost.
    pub window: [u64; STACK_WINDOW],
    /// The walk of Python frames under way, and what it found of the thread.
    pub python: PythonWalk,
    /// Describes `frames`; the two are sent as one record and must stay adjacent.
    pub stack: StackHeader,
    /// Return addresses, innermost first; Python frames behind them.
    pub frames: [u64; RECORD_WORDS],
}

/// The one element of CONTROL: written by the daemon, read by every probe. BPF changes the three cursors only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// Which of `tables` is in force.
    pub active: u32,
    /// Rows handed out so far, beginning at 1 (0 is the overflow row).
    pub rows_used: u32,
    /// How many kernel-side log lines may still be written; the daemon refills it every second.
    pub log_budget: i64,
    /// Serials handed out so far. Both sides take the next one by atomic addition.
    pub serials: u32,
    /// How many forked processes may still be traced from their first allocation on; the daemon refills it. Those beyond it
    /// wait until they have lived for a while.
    pub newborns: i32,
    /// The table in force and the one being prepared.
    pub tables: [crate::epoch::ClassTable; 2],
}

const _: () = {
    assert!(size_of::<Target>() == 80);
    assert!(size_of::<LiveKey>() == 16);
    assert!(size_of::<LiveBlock>() == 24);
    assert!(size_of::<SiteKey>() == 16);
    assert!(size_of::<Row>() == 48 + CELLS * 16);
    assert!(
        size_of::<ThreadState>()
            == 168 + size_of::<Walk>() + size_of::<PythonWalk>() + (STACK_WINDOW + RECORD_WORDS) * 8
    );
};

#[cfg(feature = "user")]
mod pod {
    use super::*;
    // SAFETY: repr(C), integers only, no padding that is not a field.
    unsafe impl aya::Pod for Target {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LiveKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LiveBlock {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SiteKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Row {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ThreadState {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Control {}
}
