//! What leaktrace's kernel side and its daemon must agree on: record layouts, map keys, counters and the
//! arithmetic that both do. `no_std`, integers and arrays only, padding explicit, sizes asserted below.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

pub mod counter;
pub mod epoch;
pub mod event;
pub mod hook;
pub mod oom;
pub mod python;
pub mod record;
pub mod rule;
pub mod unwind;
pub mod walk;
