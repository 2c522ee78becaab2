//! What the decoders read from: the memory of a process, or what stands for it in a test.

/// Memory of a process, or what stands for it in a test.
pub trait Memory {
    /// Fills all of `buffer`; false if it cannot.
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool;

    /// A word.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.fill(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Four bytes at each address; false if one of them cannot be read.
    fn halves(&self, addresses: &[u64], values: &mut Vec<u32>) -> bool {
        values.clear();
        values.extend(addresses.iter().map_while(|address| self.half(*address)));
        values.len() == addresses.len()
    }

    /// Four bytes.
    fn half(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.fill(address, &mut bytes).then(|| u32::from_le_bytes(bytes))
    }
}
