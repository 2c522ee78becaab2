//! Memory of a live process, read from outside.

use super::Memory;
use crate::object::address::AbsoluteAddress;
use crate::process::MemoryReader;

impl Memory for MemoryReader {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.read_exact(AbsoluteAddress(address), buffer).is_ok()
    }

    fn halves(&self, addresses: &[u64], values: &mut Vec<u32>) -> bool {
        let mut bytes = vec![[0; 4]; addresses.len()];
        let read = self.read_scattered(addresses, &mut bytes).is_ok();
        values.clear();
        values.extend(bytes.into_iter().map(u32::from_le_bytes));
        read
    }
}
