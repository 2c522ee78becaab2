//! What the program that watches the OOM killer sends: one record for each victim that was chosen.

/// A victim. Amounts are pages, as the kernel counted them when it chose.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Victim {
    /// When, nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Its address space.
    pub total: u64,
    /// Resident file mappings, anonymous memory, what is swapped out, shared memory: in the kernel's order.
    pub resident: [u64; RESIDENT_KINDS],
    /// PID in the initial PID namespace; 0: the kernel only told the thread.
    pub tgid: u32,
    /// The thread that was marked.
    pub tid: u32,
    /// Short name; all zero: the kernel did not tell.
    pub name: [u8; 16],
}

/// How many kinds of memory the kernel counts for an address space (`NR_MM_COUNTERS`).
pub const RESIDENT_KINDS: usize = 4;
/// Index of file mappings.
pub const FILE: usize = 0;
/// Index of anonymous memory.
pub const ANONYMOUS: usize = 1;
/// Index of what is swapped out.
pub const SWAPPED: usize = 2;
/// Index of shared memory.
pub const SHARED: usize = 3;

const _: () = assert!(size_of::<Victim>() == 72);
