//! Every map: who fills it, who empties it, its cap. Sizes marked "at load" are set by the daemon.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, Queue, RingBuf},
};
use leaktrace_common::{
    counter, hook,
    python::{MAX_RUNTIMES, PythonCounts, Runtime},
    record::{Control, LiveBlock, LiveKey, Row, SiteKey, Target, ThreadState},
    unwind::{CACHE_ENTRIES, CacheEntry, CodeEntry, IndexedPage, MAX_RULES, RowLine, Rule},
};

/// tgid -> process image. Filled and emptied by the daemon; BPF only retires entries. 16,384 processes.
#[map]
pub static TARGETS: HashMap<u32, Target> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Outstanding blocks. Filled by allocations, emptied by frees, swept by the daemon after a process has gone.
/// Preallocated, so that an insert fails for one reason only: it is full. Size at load (`--max-live-blocks`).
#[map]
pub static LIVE: HashMap<LiveKey, LiveBlock> = HashMap::with_max_entries(1_000_000, 0);

/// Site -> index into ROWS. Filled by BPF, emptied by the daemon when it recycles a row. Size at load.
#[map]
pub static SITES: HashMap<SiteKey, u32> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);

/// Amounts per site. BPF adds atomically, the daemon reads it through mmap. Size at load, as SITES.
#[map]
pub static ROWS: Array<Row> = Array::with_max_entries(32_768, BPF_F_MMAPABLE);

/// Rows given back: pushed by the daemon (and by the loser of a race for a new site), popped by BPF.
#[map]
pub static FREE_ROWS: Queue<u32> = Queue::with_max_entries(32_768, 0);

/// Scratch per thread. Made at a thread's first call, removed when the thread exits. 65,536 threads.
#[map]
pub static THREADS: HashMap<u64, ThreadState> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// One zeroed element that new ones are copied from: too large for the BPF stack. Never written.
#[map]
pub static NEW_THREAD: Array<ThreadState> = Array::with_max_entries(1, 0);

/// Epochs and the row cursor. Written by the daemon through mmap; BPF only moves `rows_used`.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Where each process's list of code mappings begins in CODE, by `Target::code_slot`; 0: nowhere. Written by the daemon
/// through mmap, one store a time.
#[map]
pub static CODE_HEADS: Array<u64> = Array::with_max_entries(16_384, BPF_F_MMAPABLE);

/// Lists of code mappings. Written by the daemon through mmap before it points a head at them; BPF only notes in the
/// header that it has asked for a new list. Size at load.
#[map]
pub static CODE: Array<CodeEntry> = Array::with_max_entries(131_072, BPF_F_MMAPABLE);

/// Pages of unwind tables. Written by the daemon through mmap. Size at load.
#[map]
pub static UNWIND_PAGES: Array<IndexedPage> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// Rows of unwind tables, a cache line of them an element. Written by the daemon through mmap. Size at load.
#[map]
pub static UNWIND_ROWS: Array<RowLine> = Array::with_max_entries(524_288, BPF_F_MMAPABLE);

/// Distinct unwind rules of all tables. Written by the daemon through mmap, never changed once written.
#[map]
pub static UNWIND_RULES: Array<Rule> = Array::with_max_entries(MAX_RULES as u32, BPF_F_MMAPABLE);

/// What searches found, so that most frames need none. Written by BPF.
#[map]
pub static UNWIND_CACHE: Array<CacheEntry> = Array::with_max_entries(CACHE_ENTRIES, 0);

/// Interpreters, by `Target::python_slot`. Written by the daemon through mmap before a target leads to them; an element is
/// reused after a grace period.
#[map]
pub static PYTHON: Array<Runtime> = Array::with_max_entries(MAX_RUNTIMES, BPF_F_MMAPABLE);

/// What is counted for each of them. BPF adds, the daemon reads, and clears an element before its slot is given out.
#[map]
pub static PYTHON_COUNTS: Array<PythonCounts> = Array::with_max_entries(MAX_RUNTIMES, BPF_F_MMAPABLE);

/// Losses and other things worth counting. BPF adds, the daemon reads.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT as u32, 0);

/// Calls seen per hooked function. BPF adds if it was loaded to do so, the daemon reads.
#[map]
pub static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(hook::MAX_HOOKS as u32, 0);

/// Each distinct stack once. BPF writes, the daemon drains at once. Size at load.
#[map]
pub static STACKS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Mapping calls and the life of processes, in order. BPF writes, the daemon drains at once. Size at load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
