//! What the kernel side knows of interpreters, shared through memory, and what it counts for each.

use std::{
    mem::size_of,
    os::fd::{AsFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use leaktrace_common::python::{MAX_RUNTIMES, PythonCounts, Runtime};
use memmap2::MmapRaw;

use super::{KernelError, btf::KernelTypes, shared::map_fd, wait_for_running_programs};

/// PYTHON and PYTHON_COUNTS, mapped. A slot that was given back is reused only after
/// [`super::wait_for_running_programs`].
pub struct PythonMemory {
    runtimes: MmapRaw,
    counts: MmapRaw,
    slots: Slots,
    rules_off: u64,
}

impl PythonMemory {
    pub(super) fn map(
        rules_off: u64,
        fd: impl Fn(&'static str) -> Result<OwnedFd, KernelError>,
    ) -> Result<Self, KernelError> {
        let map = |name, element: usize| map_fd(fd(name)?.as_fd(), MAX_RUNTIMES as usize * element, name);
        Ok(Self {
            runtimes: map("PYTHON", size_of::<Runtime>())?,
            counts: map("PYTHON_COUNTS", size_of::<PythonCounts>())?,
            slots: Slots::default(),
            rules_off,
        })
    }

    /// A slot for a process's interpreter, with its counts at zero. `None` if [`MAX_RUNTIMES`] processes have one. When
    /// only slots are left that were given back, this waits until no program looks at them any more (some 10 ms).
    pub fn take_slot(&mut self) -> Option<u32> {
        let rules_off = self.rules_off;
        let slot = self.slots.take(|| wait_for_running_programs(rules_off))?;
        self.set(slot, &Runtime::default());
        self.clear_counts(slot);
        Some(slot)
    }

    /// Gives a slot back. No target may lead to it any more.
    pub fn release_slot(&mut self, slot: u32) {
        self.slots.release(slot);
    }

    /// Writes what is known of an interpreter. To be called before a target leads to the slot; later only to change
    /// `list_count` from 0, or what programs do not look at.
    pub fn set(&mut self, slot: u32, runtime: &Runtime) {
        if slot < MAX_RUNTIMES {
            let runtimes: *mut Runtime = self.runtimes.as_mut_ptr().cast();
            // SAFETY: inside the mapping and aligned, since maps are page-aligned.
            unsafe { ptr::write_volatile(runtimes.add(slot as usize), *runtime) };
        }
    }

    /// What was counted for a slot since it was taken.
    pub fn counts(&self, slot: u32) -> PythonCounts {
        let [unmatched, unmatched_large, unmatched_raw, dropped, lists_open, handed_on] =
            std::array::from_fn(|index| {
                self.count(slot, index).map_or(0, |count| count.load(Ordering::Relaxed))
            });
        PythonCounts {
            unmatched,
            unmatched_large,
            unmatched_raw,
            dropped,
            lists_open,
            handed_on,
            ..PythonCounts::default()
        }
    }

    fn clear_counts(&mut self, slot: u32) {
        for index in 0..COUNTS {
            if let Some(count) = self.count(slot, index) {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// One word of a slot's counts.
    fn count(&self, slot: u32, index: usize) -> Option<&AtomicU64> {
        if slot >= MAX_RUNTIMES || index >= COUNTS {
            return None;
        }
        let words: *mut u64 = self.counts.as_mut_ptr().cast();
        // SAFETY: inside the mapping and aligned; BPF changes it by atomic addition only.
        Some(unsafe { AtomicU64::from_ptr(words.add(slot as usize * COUNTS + index)) })
    }
}

/// Words of [`PythonCounts`].
const COUNTS: usize = size_of::<PythonCounts>() / size_of::<u64>();

/// Which slots are free. Slot 0 stands for "no interpreter".
struct Slots {
    free: Vec<u32>,
    leaving: Vec<u32>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: (1..MAX_RUNTIMES).rev().collect(), leaving: Vec::new() }
    }
}

impl Slots {
    fn take(&mut self, grace_period: impl FnOnce()) -> Option<u32> {
        if self.free.is_empty() && !self.leaving.is_empty() {
            grace_period();
            self.free.append(&mut self.leaving);
        }
        self.free.pop()
    }

    fn release(&mut self, slot: u32) {
        if (1..MAX_RUNTIMES).contains(&slot) {
            self.leaving.push(slot);
        }
    }
}

/// Offset in `task_struct` of the register that the C library tells threads by; 0 where the kernel's structures differ: then
/// no thread state is found.
#[cfg(target_arch = "x86_64")]
pub(super) fn thread_pointer_offset(types: &KernelTypes) -> u32 {
    let offset = || {
        Some(
            types.offset_of("task_struct", "thread").ok()?
                + types.offset_of("thread_struct", "fsbase").ok()?,
        )
    };
    offset().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_given_back_is_reused_only_after_a_grace_period() {
        let mut slots = Slots::default();
        let first = slots.take(|| panic!("nothing to wait for")).unwrap();
        slots.release(first);
        for _ in 2..MAX_RUNTIMES {
            assert_ne!(slots.take(|| panic!("fresh slots are left")), Some(first));
        }
        let mut waited = false;
        assert_eq!(slots.take(|| waited = true), Some(first));
        assert!(waited);
        assert_eq!(slots.take(|| {}), None);
    }

    #[test]
    fn slots_that_cannot_be_are_not_taken_back() {
        let mut slots = Slots { free: Vec::new(), leaving: Vec::new() };
        slots.release(0);
        slots.release(MAX_RUNTIMES);
        assert_eq!(slots.take(|| {}), None);
    }
}
