//! One counter per cause of loss or of expected absence. The kernel side adds, the daemon reads; both index the
//! same array by the constants here.

macro_rules! counters {
    ($($name:ident = $text:literal : $doc:literal,)*) => {
        counters!(@consts 0; $($name : $doc,)*);
        /// Stable names for JSON and the verbose report, by index.
        pub const NAMES: [&str; COUNT] = [$($text),*];
    };
    (@consts $n:expr; $name:ident : $doc:literal, $($rest:tt)*) => {
        #[doc = $doc]
        pub const $name: usize = $n;
        counters!(@consts $n + 1; $($rest)*);
    };
    (@consts $n:expr;) => {
        /// How many counters there are.
        pub const COUNT: usize = $n;
    };
}

counters! {
    UNMATCHED_FREES = "unmatched_frees" : "Frees of blocks never seen: born before tracing, or lost.",
    INHERITED_FREES = "inherited_frees" : "Frees by a forked process of blocks that its parent had allocated before.",
    TARGETS_FULL = "targets_full" : "Processes that were made by a target and found no room in the table of processes.",
    NEWBORNS_HELD = "newborns_held" : "Forked processes that were not traced from their first allocation on, because too many were made at once.",
    LOST_LIVE_FULL = "lost_live_full" : "Allocations not recorded because the live map was full.",
    LOST_LIVE_FULL_BYTES = "lost_live_full_bytes" : "Their bytes.",
    LOST_LIVE_ERROR = "lost_live_error" : "Allocations the live map refused for another reason.",
    LOST_THREAD_STATE = "lost_thread_state" : "Calls lost because no per-thread scratch could be had.",
    THREADS_MADE = "threads_made" : "Threads that got scratch.",
    THREADS_REMOVED = "threads_removed" : "Threads whose scratch was removed when they exited or changed their identity.",
    LOST_RETURN = "lost_return" : "Returns without a recorded entry (the entry came before the gate opened, or was lost).",
    ABANDONED_CALLS = "abandoned_calls" : "Calls that never returned (longjmp, thread death).",
    REPLACED_BLOCKS = "replaced_blocks" : "Live addresses handed out again: their free was missed.",
    ROWS_FULL = "rows_full" : "Allocations booked on the overflow row because every row is taken.",
    STACKS_SENT = "stacks_sent" : "Distinct stacks sent to the daemon.",
    STACK_SEND_FAILED = "stack_send_failed" : "Stacks that did not fit into the ring buffer (sent again later).",
    STACKS_TRUNCATED = "stacks_truncated" : "Walks that ended before the outermost frame.",
    EVENT_SEND_FAILED = "event_send_failed" : "Mapping or lifecycle events that did not fit into the ring buffer.",
    NESTED_CALLS = "nested_calls" : "Allocator calls made by an allocator call: part of the outer one.",
    REALLOC_FAILED = "realloc_failed" : "Reallocations that failed and left the old block in place.",
    REALLOC_RESTORE_FAILED = "realloc_restore_failed" : "Old blocks of failed reallocations that found the live map full.",
    FAILED_ALLOCATIONS = "failed_allocations" : "Allocator calls that returned no memory.",
    REUSED_BLOCKS = "reused_blocks" : "Blocks that CPython handed on from a free list, booked on who took them.",
    READ_FAULTS = "read_faults" : "Reads of target memory that failed (result pointers).",
    INNER_FREES = "inner_frees" : "Second, inner frees of an address just freed.",
    CALIBRATION_HITS = "calibration_hits" : "Hits of the programs that measure what a probe costs.",
    PYTHON_UNMATCHED_FREES = "python_unmatched_frees" : "The same of CPython's allocators: frees of blocks never seen.",
    PYTHON_STACKS_TRUNCATED = "python_stacks_truncated" : "Walks of Python frames that ended before the outermost one.",
    PYTHON_THREAD_SEARCHES = "python_thread_searches" : "Searches of an interpreter's threads for the calling one.",
    POOLS_AGAIN = "pools_again" : "Pools of CPython's small-object allocator that were taken into use again (light detail).",
    FREE_LISTS_CLOSED_AGAIN = "free_lists_closed_again" : "Free lists of CPython that a full collection had opened and that were closed again.",
    FREE_LIST_BLOCKS = "free_list_blocks" : "Live blocks dropped because they lay in such a list.",
    FREE_LIST_WRITE_FAILED = "free_list_write_failed" : "Free lists whose counter could not be written.",
    SWEPT_BLOCKS = "swept_blocks" : "Blocks of processes that have gone, removed by the daemon.",
}
