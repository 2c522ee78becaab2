//! The two maps that leaktrace shares with its kernel side through memory: ROWS and CONTROL.

use std::{
    mem::{offset_of, size_of},
    os::fd::AsFd,
    ptr,
    sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering},
};

use leaktrace_common::{
    epoch::{CELLS, ClassTable},
    record::{Control, Row, row_state},
};
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::AsRawFd;

use super::KernelError;

/// ROWS, mapped. BPF adds to it atomically at any time; reading costs no system call.
pub struct RowTable {
    memory: MmapRaw,
    capacity: u32,
}

impl RowTable {
    pub(super) fn map(fd: impl AsFd, capacity: u32) -> Result<Self, KernelError> {
        let memory = map_fd(fd, capacity as usize * size_of::<Row>(), "ROWS")?;
        Ok(Self { memory, capacity })
    }

    /// How many rows there are, the overflow row included.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// A copy of row `index`, or `None` past the end. Fields are read one by one while BPF may be adding: each is
    /// whole, together they may be a few events apart.
    pub fn read(&self, index: u32) -> Option<Row> {
        // SAFETY: inside the mapping; any bytes are a valid Row.
        (index < self.capacity).then(|| unsafe { ptr::read_volatile(self.row(index)) })
    }

    /// Moves one cell of a row into another. `from` must not be in force any more, so that nobody adds to it; the
    /// addition to `to` is atomic because BPF adds there as well.
    pub fn fold_cell(&self, index: u32, from: usize, to: usize) {
        if index >= self.capacity || from >= CELLS || to >= CELLS || from == to {
            return;
        }
        let cells = size_of::<leaktrace_common::record::Cell>();
        let base = self.row(index).cast::<u8>();
        for field in [0, size_of::<i64>()] {
            // SAFETY: inside the row; aligned, as Row is.
            unsafe {
                let source = base.add(offset_of!(Row, cells) + from * cells + field).cast::<i64>();
                let value = ptr::read_volatile(source);
                if value != 0 {
                    ptr::write_volatile(source, 0);
                    let target = base.add(offset_of!(Row, cells) + to * cells + field).cast::<i64>();
                    AtomicI64::from_ptr(target).fetch_add(value, Ordering::Relaxed);
                }
            }
        }
    }

    /// Takes a row's identity away (or gives it back), so that calls in flight look it up again.
    pub fn set_stack_id(&self, index: u32, stack_id: u64) {
        if index < self.capacity {
            // SAFETY: inside the mapping and aligned.
            unsafe { ptr::write_volatile(&raw mut (*self.row(index)).stack_id, stack_id) };
        }
    }

    /// Empties a row that nobody refers to any more.
    pub fn clear(&self, index: u32) {
        if index < self.capacity {
            // SAFETY: inside the mapping; all zero is a valid, unused Row.
            unsafe { ptr::write_bytes(self.row(index).cast::<u8>(), 0, size_of::<Row>()) };
            debug_assert_eq!(row_state::UNUSED, 0);
        }
    }

    fn row(&self, index: u32) -> *mut Row {
        // SAFETY: callers check `index` against the capacity that the mapping was made for.
        unsafe { self.memory.as_mut_ptr().cast::<Row>().add(index as usize) }
    }
}

/// CONTROL, mapped: epochs and limits. The daemon is the only writer, but for the cursors.
pub struct ControlPage {
    memory: MmapRaw,
}

impl ControlPage {
    pub(super) fn map(fd: impl AsFd) -> Result<Self, KernelError> {
        let memory = map_fd(fd, size_of::<Control>(), "CONTROL")?;
        let page = Self { memory };
        // SAFETY: inside the mapping; no program is attached yet.
        unsafe {
            ptr::write_volatile(&raw mut (*page.control()).tables, [ClassTable::new(), ClassTable::new()]);
            ptr::write_volatile(&raw mut (*page.control()).rows_used, 1);
        }
        Ok(page)
    }

    /// Puts a class table into force: writes the one not in use, then flips. Programs that are running go on with
    /// the old one; [`super::wait_for_running_programs`] waits for them.
    pub fn publish(&self, table: &ClassTable) {
        let control = self.control();
        // SAFETY: inside the mapping; the inactive table has no readers, since the caller waited after the last flip.
        unsafe {
            let active = AtomicU32::from_ptr(&raw mut (*control).active);
            let next = (active.load(Ordering::Relaxed) & 1) ^ 1;
            ptr::write_volatile(&raw mut (*control).tables[next as usize], *table);
            active.store(next, Ordering::Release);
        }
    }

    /// How many rows have been handed out so far, the overflow row included.
    pub fn rows_used(&self) -> u32 {
        // SAFETY: inside the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.control()).rows_used).load(Ordering::Relaxed) }
    }

    /// The next serial of a process image, never given twice. Beginning at 1.
    pub fn next_serial(&self) -> u32 {
        // SAFETY: inside the mapping; both sides add atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.control()).serials).fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// How many forked processes may from now on be traced from their first allocation.
    pub fn set_newborns(&self, count: i32) {
        // SAFETY: inside the mapping. BPF may be taking one: it then has taken one of these.
        unsafe { AtomicI32::from_ptr(&raw mut (*self.control()).newborns).store(count, Ordering::Relaxed) };
    }

    /// Refills the budget of kernel-side log lines.
    pub fn set_log_budget(&self, lines: i64) {
        // SAFETY: inside the mapping.
        unsafe { AtomicI64::from_ptr(&raw mut (*self.control()).log_budget).store(lines, Ordering::Relaxed) };
    }

    fn control(&self) -> *mut Control {
        self.memory.as_mut_ptr().cast()
    }
}

pub(super) fn map_fd(fd: impl AsFd, bytes: usize, map: &'static str) -> Result<MmapRaw, KernelError> {
    MmapOptions::new()
        .len(bytes)
        .map_raw(fd.as_fd().as_raw_fd())
        .map_err(|error| KernelError::map("map", map, error))
}
