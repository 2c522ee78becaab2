//! Anonymous mappings as an interval map. Programs unmap parts of what they mapped, map over it, move it; a mapping
//! counts as one block for as long as any part of it is left.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

/// Size of a page: what the kernel rounds lengths up to.
const PAGE: u64 = 4096;
/// Intervals kept per process; the kernel's own limit of mappings (`vm.max_map_count`) is lower.
const MAX_PIECES: usize = 1 << 20;

/// What kind of mapping it is, where that matters to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MappingLabel {
    /// Ordinary memory.
    Plain,
    /// Mapped without any access: address space, not memory.
    Reserved,
    /// A thread's stack.
    ThreadStack,
}

impl MappingLabel {
    const PROT_NONE: u64 = 0;
    const MAP_STACK: u64 = 0x2_0000;

    /// From the arguments of `mmap`. Stacks are asked for first: the C library maps them without access and opens
    /// all but the guard page later.
    pub fn of(prot: u64, flags: u64) -> Self {
        if flags & Self::MAP_STACK != 0 {
            Self::ThreadStack
        } else if prot == Self::PROT_NONE {
            Self::Reserved
        } else {
            Self::Plain
        }
    }

    /// For people; `None` for ordinary memory.
    pub fn text(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Reserved => Some("reserved, no access"),
            Self::ThreadStack => Some("thread stack"),
        }
    }
}

/// A part of a mapping that is still mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Address behind its last byte.
    pub end: u64,
    /// Which call of mmap made it; pieces of one mapping share it.
    pub mapping: u64,
    /// Stack of that call.
    pub stack_id: u64,
    /// When it was made, since tracing began.
    pub born: Duration,
    /// What kind.
    pub label: MappingLabel,
}

/// The anonymous mappings of one process image.
#[derive(Clone, Debug, Default)]
pub struct IntervalMap {
    pieces: BTreeMap<u64, Piece>,
    next_mapping: u64,
    /// What a thread's munmap or mremap took out and may have to be put back.
    in_flight: HashMap<u32, Vec<(u64, Piece)>>,
    /// Mappings that found the table full.
    pub refused: u64,
}

impl IntervalMap {
    /// A mapping was made. Whatever lay there before is gone.
    pub fn map(&mut self, address: u64, length: u64, stack_id: u64, born: Duration, label: MappingLabel) {
        let Some(end) = end_of(address, length) else { return };
        self.take(address, end);
        if self.pieces.len() >= MAX_PIECES {
            self.refused += 1;
            return;
        }
        self.next_mapping += 1;
        self.pieces.insert(address, Piece { end, mapping: self.next_mapping, stack_id, born, label });
    }

    /// A thread is about to unmap a range.
    pub fn unmap(&mut self, tid: u32, address: u64, length: u64) {
        let Some(end) = end_of(address, length) else { return };
        let taken = self.take(address, end);
        // One call is in flight per thread: what the last one took is settled.
        if taken.is_empty() {
            self.in_flight.remove(&tid);
        } else {
            self.in_flight.insert(tid, taken);
        }
    }

    /// The unmapping failed: nothing was unmapped.
    pub fn unmap_failed(&mut self, tid: u32) {
        for (address, piece) in self.in_flight.remove(&tid).unwrap_or_default() {
            self.pieces.insert(address, piece);
        }
    }

    /// A thread's mremap has ended: at `address`, or failed if that is 0. Only ranges that were known move.
    pub fn remapped(&mut self, tid: u32, address: u64, length: u64, stack_id: u64, born: Duration) {
        if address == 0 {
            self.unmap_failed(tid);
            return;
        }
        let taken = self.in_flight.remove(&tid).unwrap_or_default();
        if let Some((_, piece)) = taken.first() {
            self.map(address, length, stack_id, born, piece.label);
        }
    }

    /// A thread is gone: nothing of its calls is in flight any more.
    pub fn settle(&mut self) {
        self.in_flight.clear();
    }

    /// Drops everything that does not lie in one of `ranges` (start, end; ascending): used after events were lost.
    pub fn intersect(&mut self, ranges: &[(u64, u64)]) {
        let mut kept = BTreeMap::new();
        for (start, piece) in std::mem::take(&mut self.pieces) {
            for (from, to) in ranges.iter().filter(|(from, to)| *from < piece.end && start < *to) {
                kept.insert(start.max(*from), Piece { end: piece.end.min(*to), ..piece });
            }
        }
        self.pieces = kept;
    }

    /// What is mapped: start address and piece, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.pieces.iter().map(|(start, piece)| (*start, piece))
    }

    /// Sums per (stack, label): bytes, distinct mappings, and the same of those at least `min_age` old.
    pub fn sums(&self, now: Duration, min_age: Duration) -> HashMap<(u64, MappingLabel), MappingSums> {
        let mut sums: HashMap<(u64, MappingLabel), MappingSums> = HashMap::new();
        let mut seen = HashSet::new();
        for (start, piece) in self.iter() {
            let sum = sums.entry((piece.stack_id, piece.label)).or_default();
            let block = u64::from(seen.insert(piece.mapping));
            let age = now.saturating_sub(piece.born);
            sum.ages.push((age, piece.end - start, block));
            if age >= min_age {
                sum.survivor_bytes += piece.end - start;
                sum.survivor_blocks += block;
            }
        }
        sums
    }

    /// Cuts a range out and returns what was there.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, Piece)> {
        let before = self.pieces.range(..start).next_back().filter(|(_, piece)| piece.end > start);
        let first = before.map_or(start, |(address, _)| *address);
        let touched: Vec<(u64, Piece)> =
            self.pieces.range(first..end).map(|(at, piece)| (*at, *piece)).collect();
        let mut taken = Vec::with_capacity(touched.len());
        for (at, piece) in touched {
            self.pieces.remove(&at);
            if at < start {
                self.pieces.insert(at, Piece { end: start, ..piece });
            }
            if piece.end > end {
                self.pieces.insert(end, piece);
            }
            taken.push((at.max(start), Piece { end: piece.end.min(end), ..piece }));
        }
        taken
    }
}

/// What one site holds in mappings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MappingSums {
    /// Of mappings old enough.
    pub survivor_bytes: u64,
    /// Distinct mappings old enough.
    pub survivor_blocks: u64,
    /// Age, bytes and blocks (0 for a further piece of the same mapping) of each piece.
    pub ages: Vec<(Duration, u64, u64)>,
}

impl MappingSums {
    /// Everything, whatever its age: bytes, mappings.
    pub fn live(&self) -> (u64, u64) {
        self.ages.iter().fold((0, 0), |(bytes, blocks), (_, more, block)| (bytes + more, blocks + block))
    }
}

/// The end of a range, lengths rounded up to pages as the kernel does.
fn end_of(address: u64, length: u64) -> Option<u64> {
    let end = address.checked_add(length.checked_next_multiple_of(PAGE)?)?;
    (length > 0).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(map: &IntervalMap) -> (u64, u64) {
        let sums = map.sums(Duration::ZERO, Duration::ZERO);
        sums.values().fold((0, 0), |(bytes, blocks), sum| {
            let (more, count) = sum.live();
            (bytes + more, blocks + count)
        })
    }

    fn mapped() -> IntervalMap {
        let mut map = IntervalMap::default();
        map.map(0x10000, 0x8000, 1, Duration::ZERO, MappingLabel::Plain);
        map
    }

    #[test]
    fn head_tail_and_middle_can_be_unmapped() {
        let mut map = mapped();
        map.unmap(1, 0x10000, 0x1000);
        map.unmap(1, 0x17000, 0x1000);
        map.unmap(1, 0x13000, 0x2000);
        assert_eq!(total(&map), (0x4000, 1));
        map.unmap(1, 0, 0x100000);
        assert_eq!(total(&map), (0, 0));
    }

    #[test]
    fn a_failed_unmapping_puts_everything_back() {
        let mut map = mapped();
        map.unmap(1, 0x11000, 0x1000);
        map.unmap_failed(1);
        assert_eq!(total(&map), (0x8000, 1));
    }

    #[test]
    fn mapping_over_replaces() {
        let mut map = mapped();
        map.map(0x12000, 0x1000, 2, Duration::ZERO, MappingLabel::Plain);
        assert_eq!(total(&map), (0x8000, 2));
    }

    #[test]
    fn a_moved_range_handed_to_another_thread_stays_with_it() {
        let mut map = mapped();
        map.unmap(1, 0x10000, 0x8000);
        map.map(0x10000, 0x8000, 9, Duration::ZERO, MappingLabel::Plain);
        map.remapped(1, 0x40000, 0x10000, 3, Duration::ZERO);
        assert_eq!(total(&map), (0x18000, 2));
    }

    #[test]
    fn a_failed_move_stays() {
        let mut map = mapped();
        map.unmap(1, 0x10000, 0x8000);
        map.remapped(1, 0, 0x10000, 3, Duration::ZERO);
        assert_eq!(total(&map), (0x8000, 1));
    }

    #[test]
    fn moving_an_unknown_range_makes_nothing_up() {
        let mut map = mapped();
        map.unmap(1, 0x90000, 0x1000);
        map.remapped(1, 0xa0000, 0x2000, 3, Duration::ZERO);
        assert_eq!(total(&map), (0x8000, 1));
    }

    #[test]
    fn after_a_loss_only_what_is_really_mapped_stays() {
        let mut map = mapped();
        map.intersect(&[(0x0, 0x11000), (0x16000, 0x20000)]);
        assert_eq!(total(&map), (0x3000, 1));
    }

    #[test]
    fn impossible_ranges_are_ignored() {
        let mut map = mapped();
        map.map(u64::MAX - 5, u64::MAX, 2, Duration::ZERO, MappingLabel::Plain);
        map.unmap(1, 0, 0);
        assert_eq!(total(&map), (0x8000, 1));
    }
}
