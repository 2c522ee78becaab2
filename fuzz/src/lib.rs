//! The parsers of leaktrace that read what others wrote. Their files are included one by one, so that fuzzing them needs
//! neither the eBPF toolchain nor the rest of the daemon.

#![allow(dead_code, reason = "not all of a file is fuzzed")]

#[path = "../../leaktrace/src/object/mod.rs"]
pub mod object;
pub mod unwind;
