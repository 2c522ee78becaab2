//! Judgement of programs that are made up: what it says of leaks and of innocents over a wide range of what may differ.

mod innocents;
mod leaks;
mod memory;
mod program;
mod properties;
mod without_tracking;
