//! What the search for allocators needs to see of a process. A trait, so that the search runs in tests without one.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::object::address::AbsoluteAddress;
use crate::process::{MemoryReader, ProcessError, directory, maps, maps::Mapping};

/// The kernel's auxiliary vector has some twenty entries of 16 bytes.
const MAX_AUXV: u64 = 4096;

/// A process, as far as the search for allocators looks at it.
pub trait View {
    /// Fills all of `buffer` from the process's memory; false if it cannot.
    fn read(&self, address: AbsoluteAddress, buffer: &mut [u8]) -> bool;
    /// Its mappings, sorted by address.
    fn mappings(&self) -> &[Mapping];
    /// An entry of the auxiliary vector.
    fn auxiliary(&self, kind: u64) -> Option<u64>;
    /// The executable, openable from here.
    fn executable(&self) -> PathBuf;
    /// The file behind a mapping, openable from here.
    fn openable(&self, mapping: &Mapping) -> PathBuf;

    /// A word of its memory.
    fn read_word(&self, address: AbsoluteAddress) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

/// A running process.
#[derive(Debug)]
pub struct LiveView {
    pid: u32,
    memory: MemoryReader,
    mappings: Vec<Mapping>,
    auxiliary: Vec<u8>,
}

impl LiveView {
    /// Takes the mappings as they are now.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let path = directory(pid).join("auxv");
        let failed = |error| ProcessError::from_io(pid, "/proc/PID/auxv", error);
        let mut auxiliary = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_AUXV).read_to_end(&mut auxiliary).map_err(failed)?;
        Ok(Self { pid, memory: MemoryReader::new(pid), mappings: maps::read(pid)?, auxiliary })
    }
}

impl View for LiveView {
    fn read(&self, address: AbsoluteAddress, buffer: &mut [u8]) -> bool {
        self.memory.read_exact(address, buffer).is_ok()
    }

    fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    fn auxiliary(&self, kind: u64) -> Option<u64> {
        find_auxiliary(&self.auxiliary, kind)
    }

    fn executable(&self) -> PathBuf {
        directory(self.pid).join("exe")
    }

    fn openable(&self, mapping: &Mapping) -> PathBuf {
        maps::openable_path(self.pid, mapping)
    }
}

/// Finds an entry in the bytes of `/proc/PID/auxv` of a 64-bit process.
pub fn find_auxiliary(bytes: &[u8], kind: u64) -> Option<u64> {
    let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    bytes
        .chunks_exact(16)
        .filter_map(|entry| entry.split_at_checked(8))
        .find(|(found, _)| word(found) == Some(kind))
        .and_then(|(_, value)| word(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_auxiliary_entry_is_found_and_a_cut_one_is_not() {
        let bytes: Vec<u8> = [6_u64, 4096, 9, 0x1234].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(find_auxiliary(&bytes, 9), Some(0x1234));
        assert_eq!(find_auxiliary(&bytes[..31], 9), None);
    }
}
