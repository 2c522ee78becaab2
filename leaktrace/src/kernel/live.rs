//! Removing the blocks of processes that have gone from the live map, a bounded number at a time.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use aya::maps::{HashMap, MapData};
use leaktrace_common::record::{LiveBlock, LiveKey};

use super::KernelError;

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// Entries read per system call.
const BATCH: usize = 4096;

/// `union bpf_attr` of the batch commands (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Walks the live map in turns and removes what belongs to retired serials.
pub struct Sweeper {
    live: HashMap<MapData, LiveKey, LiveBlock>,
    fd: OwnedFd,
    keys: Vec<LiveKey>,
    values: Vec<LiveBlock>,
    cursor: Option<u32>,
}

impl Sweeper {
    pub(super) fn new(live: HashMap<MapData, LiveKey, LiveBlock>, fd: OwnedFd) -> Self {
        Self {
            live,
            fd,
            keys: vec![LiveKey::default(); BATCH],
            values: vec![LiveBlock::default(); BATCH],
            cursor: None,
        }
    }

    /// Looks at up to [`BATCH`] entries and removes those whose serial `is_retired`. Returns what it removed and
    /// whether this turn reached the end of the map.
    ///
    /// # Errors
    /// If the kernel refuses to read the map.
    pub fn turn(&mut self, is_retired: impl Fn(u32) -> bool) -> Result<(u64, bool), KernelError> {
        let (count, at_end) = self.read_batch().map_err(|error| KernelError::map("read", "LIVE", error))?;
        let mut removed = 0;
        for key in self.keys.iter().take(count) {
            if is_retired(key.serial) && self.live.remove(key).is_ok() {
                removed += 1;
            }
        }
        Ok((removed, at_end))
    }

    fn read_batch(&mut self) -> io::Result<(usize, bool)> {
        let mut next = 0u32;
        let previous = self.cursor;
        let mut attributes = BatchAttributes {
            in_batch: previous.as_ref().map_or(0, |cursor| std::ptr::from_ref(cursor) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: u32::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?,
            ..BatchAttributes::default()
        };
        // SAFETY: the attributes outlive the call and point to buffers of the sizes they name.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<BatchAttributes>(),
            )
        };
        if result == 0 {
            self.cursor = Some(next);
            return Ok((attributes.count as usize, false));
        }
        self.cursor = None;
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok((attributes.count as usize, true)),
            // One bucket holds more than a batch: cannot happen with 4,096, but must not stop the sweep for ever.
            error if error.raw_os_error() == Some(libc::ENOSPC) => Ok((0, true)),
            error => Err(error),
        }
    }
}
