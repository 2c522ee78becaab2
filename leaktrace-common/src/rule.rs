//! The rules of the kernel side that can be switched off, one bit each, to prove that a test notices. The word is
//! a load-time constant: while it is zero the verifier removes every branch that asks for it.

macro_rules! rules {
    ($($bit:literal $name:ident = $text:literal : $doc:literal,)*) => {
        $(#[doc = $doc] pub const $name: u64 = 1 << $bit;)*
        /// Name and bit of every rule.
        pub const ALL: &[(&str, u64)] = &[$(($text, $name)),*];
    };
}

rules! {
    0 SCRATCH_PER_THREAD = "scratch-per-thread" : "Scratch belongs to a thread, not to a CPU.",
    1 NESTED_ONCE = "nested-once" : "An allocator call inside another records nothing.",
    2 CALLER_FROM_STACK_TOP = "caller-from-stack-top" : "The caller is taken from the top of the stack first.",
    3 INNER_FREE_IGNORED = "inner-free-ignored" : "The inner free of an address just freed is no unmatched free.",
    4 REALLOC_IN_FLIGHT = "realloc-in-flight" : "A block being reallocated leaves the live map at entry.",
    5 FREE_AT_ENTRY = "free-at-entry" : "A free is recorded before the allocator can hand the address out again.",
    6 ROW_BEFORE_LIVE = "row-before-live" : "An allocation adds to its row before it enters the live map.",
    7 ONLY_REMOVER_SUBTRACTS = "only-remover-subtracts" : "Only who removed the live entry subtracts from the row.",
    8 FULL_MAP_COUNTED = "full-map-counted" : "An allocation that the live map refuses is undone and counted.",
    9 GATE = "gate" : "Nothing is counted until every probe is in place.",
    10 SERIAL = "serial" : "A process is known by its serial, not by its PID.",
    11 THREAD_EXIT_CLEANS = "thread-exit-cleans" : "Per-thread scratch goes with its thread.",
    12 GRACE_PERIOD = "grace-period" : "Cells are moved only after every program that saw the old table has ended.",
    13 SEEN_AFTER_SEND = "seen-after-send" : "A stack counts as sent only after the send succeeded.",
    14 ATOMIC_COUNTERS = "atomic-counters" : "Counters and rows change by atomic addition only.",
    15 UNMAP_AT_ENTRY = "unmap-at-entry" : "An unmapping is recorded before the kernel can hand the range out again.",
    16 STALE_CALLS_DROPPED = "stale-calls-dropped" : "A call that was left by longjmp does not hide later ones.",
    17 REALLOC_FAILURE_RESTORES = "realloc-failure-restores" : "A failed reallocation keeps the old block.",
    18 REALLOC_ZERO_FREES = "realloc-zero-frees" : "realloc(p, 0) that returns NULL is a free.",
    19 MAPPING_GENERATION = "mapping-generation" : "A stack is only walked by mappings that are those of its time.",
    21 FORKS_INHERIT_NOTHING = "forks-inherit-nothing" : "A forked process is another image: it has its own serial, and none of its parent's blocks.",
    22 ONE_LINK_COUNTS = "one-link-counts" : "Where several links lie on one instruction, a process counts the hits of one.",
    23 VFORK_IS_THE_PARENT = "vfork-is-the-parent" : "What a process does in its parent's memory is booked on the parent.",
    24 CHANGE_BETWEEN_HITS = "change-between-hits" : "A thread goes over to shared links between two hits, never within one.",
    20 FREE_LISTS_CLOSED = "free-lists-closed" : "Free lists of CPython that a full collection has opened are closed again.",
}
