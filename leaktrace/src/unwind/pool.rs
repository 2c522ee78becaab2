//! Ranges of a fixed memory: given out best fit, taken back in any order, joined with their free neighbours.

use std::collections::{BTreeMap, BTreeSet};

/// A range that has been given out. It cannot be copied, so it cannot be given back twice.
#[derive(Debug, PartialEq, Eq)]
pub struct Span {
    first: u32,
    length: u32,
}

impl Span {
    /// Its first element.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// How many elements it has.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// The first element behind it.
    fn end(&self) -> u32 {
        self.first + self.length
    }

    /// Whether the two have an element in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// What is free of `capacity` elements.
#[derive(Debug)]
pub struct Pool {
    capacity: u32,
    used: u32,
    /// Length of each hole by its first element. No two touch.
    holes: BTreeMap<u32, u32>,
    /// The same holes as (length, first element).
    by_length: BTreeSet<(u32, u32)>,
}

impl Pool {
    /// A pool of which everything is free.
    pub fn new(capacity: u32) -> Self {
        let mut pool = Self { capacity, used: 0, holes: BTreeMap::new(), by_length: BTreeSet::new() };
        pool.add_hole(0, capacity);
        pool
    }

    /// Elements in all.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Elements given out.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// The longest range that could be given out now.
    pub fn longest(&self) -> u32 {
        self.by_length.last().map_or(0, |(length, _)| *length)
    }

    /// Gives out the beginning of the smallest hole that suffices; `None` if none does. An empty range always can be had.
    pub fn take(&mut self, length: u32) -> Option<Span> {
        if length == 0 {
            return Some(Span { first: 0, length: 0 });
        }
        let (hole, first) = *self.by_length.range((length, 0)..).next()?;
        self.remove_hole(first, hole);
        self.add_hole(first + length, hole - length);
        self.used += length;
        Some(Span { first, length })
    }

    /// Takes back a range that this pool gave out.
    #[expect(clippy::needless_pass_by_value, reason = "whoever gives a range back has it no longer")]
    pub fn give_back(&mut self, span: Span) {
        if span.length == 0 {
            return;
        }
        self.used -= span.length;
        self.join(span.first, span.length);
    }

    /// A copy in which these ranges are free too: what would be, if they were given back.
    pub fn with_free<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> Self {
        let mut pool = Self {
            capacity: self.capacity,
            used: self.used,
            holes: self.holes.clone(),
            by_length: self.by_length.clone(),
        };
        for span in spans {
            pool.give_back(Span { first: span.first, length: span.length });
        }
        pool
    }

    /// Makes a range free, as one with the holes on both sides of it.
    fn join(&mut self, first: u32, length: u32) {
        let (mut start, mut end) = (first, first + length);
        if let Some((&before, &hole)) = self.holes.range(..start).next_back()
            && before + hole == start
        {
            self.remove_hole(before, hole);
            start = before;
        }
        if let Some(&behind) = self.holes.get(&end) {
            self.remove_hole(end, behind);
            end += behind;
        }
        self.add_hole(start, end - start);
    }

    fn add_hole(&mut self, first: u32, length: u32) {
        if length != 0 {
            self.holes.insert(first, length);
            self.by_length.insert((length, first));
        }
    }

    fn remove_hole(&mut self, first: u32, length: u32) {
        self.holes.remove(&first);
        self.by_length.remove(&(length, first));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: u32 = 96;

    /// One flag for each element: the slowest allocator there is.
    struct Model(Vec<bool>);

    impl Model {
        fn longest(&self) -> u32 {
            let runs = self.0.split(|used| *used).map(<[bool]>::len);
            u32::try_from(runs.max().unwrap_or(0)).expect("small")
        }

        fn mark(&mut self, span: &Span, used: bool) {
            for element in &mut self.0[span.first as usize..span.end() as usize] {
                assert_ne!(*element, used, "{span:?}");
                *element = used;
            }
        }
    }

    proptest! {
        /// Every range given out was free, a refusal means that no hole is long enough, and the holes are the model's.
        #[test]
        fn it_agrees_with_one_flag_for_each_element(steps in prop::collection::vec((any::<bool>(), 0u32..40), 1..200)) {
            let (mut pool, mut model) = (Pool::new(CAPACITY), Model(vec![false; CAPACITY as usize]));
            let mut taken = Vec::new();
            for (take, number) in steps {
                if take {
                    let longest = model.longest();
                    match pool.take(number) {
                        Some(span) => {
                            prop_assert_eq!(span.length(), number);
                            model.mark(&span, true);
                            taken.push(span);
                        }
                        None => prop_assert!(number > longest),
                    }
                } else if !taken.is_empty() {
                    let span = taken.swap_remove(number as usize % taken.len());
                    model.mark(&span, false);
                    pool.give_back(span);
                }
                prop_assert_eq!(pool.longest(), model.longest());
                prop_assert_eq!(pool.used() as usize, model.0.iter().filter(|used| **used).count());
            }
            for span in taken {
                pool.give_back(span);
            }
            prop_assert_eq!(pool.holes, BTreeMap::from([(0, CAPACITY)]));
        }
    }

    #[test]
    fn the_smallest_hole_that_suffices_is_used() {
        let mut pool = Pool::new(100);
        let large = pool.take(40).expect("room");
        let _between = pool.take(10).expect("room");
        let small = pool.take(20).expect("room");
        let _last = pool.take(30).expect("room");
        pool.give_back(large);
        pool.give_back(small);
        assert_eq!(pool.take(15).map(|span| span.first()), Some(50));
        assert_eq!(pool.take(25).map(|span| span.first()), Some(0));
    }

    #[test]
    fn a_copy_with_ranges_free_leaves_the_pool_as_it_is() {
        let mut pool = Pool::new(10);
        let spans = [pool.take(5).expect("room"), pool.take(5).expect("room")];
        assert_eq!(pool.with_free(spans.iter()).longest(), 10);
        assert_eq!(pool.longest(), 0);
    }
}
