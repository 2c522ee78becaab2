//! A bound on the work that a process can cause by what its memory says: after so many reads nothing is readable any more.

use std::cell::Cell;

use super::Memory;

/// Reads that one question may cost: about half a second.
pub const QUESTION: u64 = 1 << 20;

/// Values that count as one read when they are asked for together.
const TOGETHER: u64 = 64;

/// Memory that can be read only so often.
pub struct Bounded<'a> {
    memory: &'a dyn Memory,
    left: Cell<u64>,
}

impl<'a> Bounded<'a> {
    /// The same memory for that many reads.
    pub fn new(memory: &'a dyn Memory, reads: u64) -> Self {
        Self { memory, left: Cell::new(reads) }
    }

    fn take(&self, reads: u64) -> bool {
        let left = self.left.get().checked_sub(reads);
        self.left.set(left.unwrap_or(0));
        left.is_some()
    }
}

impl Memory for Bounded<'_> {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.take(1) && self.memory.fill(address, buffer)
    }

    fn halves(&self, addresses: &[u64], values: &mut Vec<u32>) -> bool {
        self.take(addresses.len() as u64 / TOGETHER + 1) && self.memory.halves(addresses, values)
    }
}
