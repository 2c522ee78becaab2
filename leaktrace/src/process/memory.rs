//! A target's memory: bounded reads of its contents, and how much of it there is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::maps::Mapping;
use super::{ProcessError, directory, is_same_process};
use crate::object::address::AbsoluteAddress;

/// Most bytes that one read asks for.
pub const MAX_READ: usize = 16 << 20;

/// Most pieces of one system call (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// Reads memory of one process. It goes by PID: whoever must not read a successor's memory checks
/// [`super::is_same_process`] afterwards.
#[derive(Clone, Copy, Debug)]
pub struct MemoryReader {
    pid: u32,
}

impl MemoryReader {
    /// A reader for that process; nothing is opened yet.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Fills `buffer` from `address` on as far as memory is readable and returns how many bytes that were; at most
    /// [`MAX_READ`].
    pub fn read(&self, address: AbsoluteAddress, buffer: &mut [u8]) -> Result<usize, ProcessError> {
        let length = buffer.len().min(MAX_READ);
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let result = match read_vm(self.pid, address, buffer) {
            // Refused by a filter or a security module, or not built into the kernel: the file may still work.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                read_mem(self.pid, address, buffer)
            }
            other => other,
        };
        result.map_err(|error| self.failed(address, error))
    }

    /// Fills all of `buffer`, or fails.
    pub fn read_exact(&self, address: AbsoluteAddress, buffer: &mut [u8]) -> Result<(), ProcessError> {
        let unmapped = |address: u64| ProcessError::Unmapped { pid: self.pid, address };
        let mut done = 0;
        while done < buffer.len() {
            let at = address.checked_add(done as u64).ok_or(unmapped(address.0))?;
            let count = self.read(at, buffer.get_mut(done..).unwrap_or_default())?;
            if count == 0 {
                return Err(unmapped(at.0));
            }
            done += count;
        }
        Ok(())
    }

    /// Reads as many bytes at each address as the element at the same place in `pieces` has, many in one system call.
    pub fn read_scattered<const N: usize>(
        &self,
        addresses: &[u64],
        pieces: &mut [[u8; N]],
    ) -> Result<(), ProcessError> {
        for (addresses, pieces) in addresses.chunks(MAX_PIECES).zip(pieces.chunks_mut(MAX_PIECES)) {
            let wanted = addresses.len().min(pieces.len());
            match read_pieces(self.pid, addresses, pieces) {
                Ok(bytes) if bytes == wanted * N => {}
                // What stopped it, or the other way to read memory, is found one by one.
                _ => self.read_each(addresses, pieces)?,
            }
        }
        Ok(())
    }

    fn read_each<const N: usize>(
        &self,
        addresses: &[u64],
        pieces: &mut [[u8; N]],
    ) -> Result<(), ProcessError> {
        let each = addresses.iter().zip(pieces);
        each.into_iter().try_for_each(|(address, piece)| self.read_exact(AbsoluteAddress(*address), piece))
    }

    /// Reads a 64-bit word in this machine's byte order.
    pub fn read_u64(&self, address: AbsoluteAddress) -> Result<u64, ProcessError> {
        let mut bytes = [0; 8];
        self.read_exact(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Reads the bytes before the first zero, at most `cap` of them (and never more than [`MAX_READ`]).
    pub fn read_c_string(&self, address: AbsoluteAddress, cap: usize) -> Result<Vec<u8>, ProcessError> {
        let mut bytes = vec![0; cap.min(MAX_READ)];
        let count = self.read(address, &mut bytes)?;
        bytes.truncate(count);
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn failed(&self, address: AbsoluteAddress, error: io::Error) -> ProcessError {
        match error.raw_os_error() {
            Some(libc::EFAULT | libc::EIO) => ProcessError::Unmapped { pid: self.pid, address: address.0 },
            _ => ProcessError::from_io(self.pid, "memory", error),
        }
    }
}

/// Writes memory of one process image. What is written goes to the image that was opened, whatever becomes of its PID.
#[derive(Debug)]
pub struct MemoryWriter {
    pid: u32,
    start_ticks: u64,
    memory: File,
}

impl MemoryWriter {
    /// Opens the memory of the process that started at `start_ticks`.
    pub fn open(pid: u32, start_ticks: u64) -> Result<Self, ProcessError> {
        let failed = |error| ProcessError::from_io(pid, "memory, for writing,", error);
        let file = File::options().read(true).write(true).open(directory(pid).join("mem"));
        let writer = Self { pid, start_ticks, memory: file.map_err(failed)? };
        writer.check().map(|()| writer)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was started, in clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Reads a 64-bit word of the image.
    pub fn read_u64(&self, address: AbsoluteAddress) -> Result<u64, ProcessError> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, address.0).map_err(|error| self.failed(address, error))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Writes all of `bytes` while the process is the one that was opened.
    pub fn write(&self, address: AbsoluteAddress, bytes: &[u8]) -> Result<(), ProcessError> {
        self.check()?;
        self.memory.write_all_at(bytes, address.0).map_err(|error| self.failed(address, error))
    }

    fn check(&self) -> Result<(), ProcessError> {
        match is_same_process(self.pid, self.start_ticks) {
            true => Ok(()),
            false => Err(ProcessError::Gone { pid: self.pid }),
        }
    }

    /// An image that was replaced or has ended has no bytes any more.
    fn failed(&self, address: AbsoluteAddress, error: io::Error) -> ProcessError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => ProcessError::Gone { pid: self.pid },
            _ if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EIO)) => {
                ProcessError::Unmapped { pid: self.pid, address: address.0 }
            }
            _ => ProcessError::from_io(self.pid, "memory", error),
        }
    }
}

fn read_vm(pid: u32, address: AbsoluteAddress, buffer: &mut [u8]) -> io::Result<usize> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address.0 as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: `local` describes exactly `buffer`, which outlives the call; `remote` is only looked up in the other
    // process's address space, by the kernel.
    let count = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// How many bytes could be read, from the first piece on.
fn read_pieces<const N: usize>(pid: u32, addresses: &[u64], pieces: &mut [[u8; N]]) -> io::Result<usize> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let count = addresses.len().min(pieces.len()).min(MAX_PIECES);
    let local = libc::iovec { iov_base: pieces.as_mut_ptr().cast(), iov_len: count * N };
    let remote = |address: &u64| libc::iovec { iov_base: *address as *mut libc::c_void, iov_len: N };
    let remote: Vec<_> = addresses.iter().take(count).map(remote).collect();
    // SAFETY: `local` describes the first `count` elements of `pieces`, which outlive the call; `remote` has `count`
    // elements, whose addresses are only looked up in the other process's address space, by the kernel.
    let read = unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

fn read_mem(pid: u32, address: AbsoluteAddress, buffer: &mut [u8]) -> io::Result<usize> {
    File::open(directory(pid).join("mem"))?.read_at(buffer, address.0)
}

/// How much memory of the kind that allocators hand out is mapped, in bytes of address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappedMemory {
    /// The `[heap]`: grown by `brk`.
    pub heap_bytes: u64,
    /// Writable anonymous mappings other than the heap; reservations without access do not count.
    pub anonymous_bytes: u64,
}

/// Adds up a process's mappings.
pub fn mapped(mappings: &[Mapping]) -> MappedMemory {
    let writable = mappings.iter().filter(|mapping| mapping.is_anonymous() && mapping.writable);
    writable.fold(MappedMemory::default(), |mut sum, mapping| {
        let slot = match mapping.label.as_deref() {
            Some("[heap]") => &mut sum.heap_bytes,
            _ => &mut sum.anonymous_bytes,
        };
        *slot = slot.saturating_add(mapping.len());
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps;

    fn own(bytes: &[u8]) -> AbsoluteAddress {
        AbsoluteAddress(bytes.as_ptr() as u64)
    }

    #[test]
    fn both_ways_to_read_memory_agree() {
        let secret = *b"twelve bytes\0and more";
        let (mut one, mut other) = ([0; 12], [0; 12]);
        let pid = std::process::id();
        assert_eq!(read_vm(pid, own(&secret), &mut one).expect("process_vm_readv"), 12);
        assert_eq!(read_mem(pid, own(&secret), &mut other).expect("/proc/self/mem"), 12);
        assert_eq!(&one, b"twelve bytes");
        assert_eq!(one, other);
    }

    #[test]
    fn scattered_pieces_are_read_in_order_and_one_hole_fails_all() {
        let numbers: Vec<u32> = (0..3000).collect();
        let mut addresses: Vec<u64> = numbers.iter().rev().map(own_address).collect();
        let mut pieces = vec![[0; 4]; addresses.len()];
        let reader = MemoryReader::new(std::process::id());
        reader.read_scattered(&addresses, &mut pieces).expect("own memory");
        assert!(pieces.iter().rev().map(|piece| u32::from_ne_bytes(*piece)).eq(numbers.iter().copied()));
        addresses[2000] = 16;
        let error = reader.read_scattered(&addresses, &mut pieces).expect_err("not mapped");
        assert!(matches!(error, ProcessError::Unmapped { address: 16, .. }), "{error}");
    }

    fn own_address(number: &u32) -> u64 {
        std::ptr::from_ref(number) as u64
    }

    #[test]
    fn a_string_ends_at_its_zero_byte_or_at_the_cap() {
        let text = *b"twelve bytes\0and more";
        let reader = MemoryReader::new(std::process::id());
        assert_eq!(reader.read_c_string(own(&text), 20).expect("own memory"), b"twelve bytes");
        assert_eq!(reader.read_c_string(own(&text), 4).expect("own memory"), b"twel");
    }

    #[test]
    fn unmapped_memory_and_a_dead_process_are_values() {
        let reader = MemoryReader::new(std::process::id());
        for address in [0, 1, 0xffff_8000_0000_0000, u64::MAX] {
            let error = reader.read_u64(AbsoluteAddress(address)).expect_err("not mapped");
            assert!(matches!(error, ProcessError::Unmapped { .. }), "{error}");
        }
        let error = MemoryReader::new(4_194_305).read_u64(AbsoluteAddress(4096)).expect_err("no such PID");
        assert!(error.is_gone(), "{error}");
    }

    #[test]
    fn heap_and_anonymous_memory_are_added_up_without_reservations() {
        let text = b"1000-3000 rw-p 0 0:0 0 [heap]\n4000-5000 rw-p 0 0:0 0 \n6000-9000 ---p 0 0:0 0 \n\
a000-b000 rw-p 0 fe:1 5 /lib/x\nc000-d000 rw-p 0 0:0 0 [stack]\n";
        let sum = mapped(&maps::parse(text).expect("sample"));
        assert_eq!(sum, MappedMemory { heap_bytes: 0x2000, anonymous_bytes: 0x1000 });
    }
}
