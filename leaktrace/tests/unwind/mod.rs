//! Compares leaktrace's stacks with a debugger's, frame by frame: both look at the same thread at the same allocation.

pub mod compare;
pub mod debugger;
pub mod stacks;
pub mod table;

pub use debugger::Debugger;
pub use stacks::{Pair, Walked, pair_up};
pub use table::{Tally, print_table};
