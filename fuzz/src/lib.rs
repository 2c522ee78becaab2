//! The parsers of leaktrace that read what others wrote. Their files are included one by one, so that fuzzing them needs
//! neither the eBPF toolchain nor the rest of the daemon.

#![allow(dead_code, reason = "not all of a file is fuzzed")]

#[path = "../../leaktrace/src/object/mod.rs"]
pub mod object;
pub mod unwind;

/// From the memory of a process to names and lines of its Python code.
#[path = "../../leaktrace/src/python"]
pub mod python {
    pub mod code;
    pub mod lines;
    mod memory;
    mod objects;
    mod offsets;
    pub mod soundness;
    mod strings;

    pub use memory::Memory;
    pub use offsets::Offsets;

    /// As the daemon has it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Version {
        /// 3.
        pub major: u8,
        /// 8 to 14.
        pub minor: u8,
        /// Patch level.
        pub micro: u8,
    }

    impl Version {
        /// Major and minor.
        pub fn series(self) -> (u8, u8) {
            (self.major, self.minor)
        }
    }
}
