//! Which code was mapped where, and when. Within one *generation* no address changes its meaning: objects may come, and
//! objects may go, but nothing new lies where something else has been. So a generation's readings add up, and a stack
//! is resolved against the mappings of its own generation, however late it arrives.

use std::{borrow::Cow, collections::VecDeque};

use crate::{
    object::address::AbsoluteAddress,
    process::{Mapping, maps},
};

/// Generations kept. Stacks arrive within milliseconds.
const MAX_GENERATIONS: usize = 16;

/// The executable mappings of one process image.
#[derive(Debug, Default)]
pub struct CodeMappings {
    generations: VecDeque<(u32, Vec<Mapping>)>,
}

impl CodeMappings {
    /// Takes in a reading of all mappings that was made while `generation` was in force. Returns whether it brought
    /// anything that was not known.
    pub fn observe(&mut self, generation: u32, mappings: &[Mapping]) -> bool {
        let code = mappings.iter().filter(|mapping| mapping.executable);
        match self.generations.iter_mut().find(|(known, _)| *known == generation) {
            // Every one is to be added, whatever the ones before it brought.
            Some((_, known)) => code.filter(|mapping| add(known, mapping)).count() > 0,
            None => {
                let at = self.generations.partition_point(|(known, _)| *known < generation);
                self.generations.insert(at, (generation, code.cloned().collect()));
                if self.generations.len() > MAX_GENERATIONS {
                    self.generations.pop_front();
                }
                true
            }
        }
    }

    /// The mappings of a generation, sorted. Of one that was over before it could be read, those that were there before
    /// it and after it.
    pub fn of(&self, generation: u32) -> Cow<'_, [Mapping]> {
        let at = self.generations.partition_point(|(known, _)| *known < generation);
        match self.generations.get(at) {
            Some((known, mappings)) if *known == generation => Cow::Borrowed(mappings),
            Some((_, after)) => {
                let before = at.checked_sub(1).and_then(|before| self.generations.get(before));
                let lasting = |mapping: &&Mapping| {
                    before.is_some_and(|(_, mappings)| mappings.iter().any(|known| is_same(known, mapping)))
                };
                after.iter().filter(lasting).cloned().collect()
            }
            None => Cow::Borrowed(&[]),
        }
    }

    /// Whether each address lies in a mapping of that generation.
    pub fn knows(&self, generation: u32, mut addresses: impl Iterator<Item = AbsoluteAddress>) -> bool {
        let of = self.generations.iter().find(|(known, _)| *known == generation);
        of.is_some_and(|(_, mappings)| addresses.all(|address| maps::find(mappings, address).is_some()))
    }

    /// The latest generation read, and its mappings.
    pub fn latest(&self) -> Option<(u32, &[Mapping])> {
        self.generations.back().map(|(generation, mappings)| (*generation, mappings.as_slice()))
    }
}

/// Adds a mapping to a sorted list; what it overlaps goes. Returns whether the list has changed.
fn add(known: &mut Vec<Mapping>, mapping: &Mapping) -> bool {
    if known.iter().any(|one| is_same(one, mapping)) {
        return false;
    }
    known.retain(|one| one.end <= mapping.start || mapping.end <= one.start);
    let at = known.partition_point(|one| one.start < mapping.start);
    known.insert(at, mapping.clone());
    true
}

/// Same place, same contents.
fn is_same(one: &Mapping, other: &Mapping) -> bool {
    one.start == other.start
        && one.end == other.end
        && one.offset == other.offset
        && (one.device, one.inode) == (other.device, other.inode)
        && one.path == other.path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(lines: &[&str]) -> Vec<Mapping> {
        maps::parse(lines.join("\n").as_bytes()).expect("mappings")
    }

    fn names(mappings: &[Mapping]) -> Vec<String> {
        mappings.iter().filter_map(|mapping| Some(mapping.path.as_ref()?.display().to_string())).collect()
    }

    const PROGRAM: &str = "1000-2000 r-xp 00000000 08:01 1 /program";
    const A: &str = "5000-8000 r-xp 00000000 08:01 2 /a.so";
    const B: &str = "6000-7000 r-xp 00000000 08:01 3 /b.so";
    const DATA: &str = "9000-a000 rw-p 00000000 08:01 2 /a.so";

    #[test]
    fn what_was_unloaded_still_belongs_to_its_generation() {
        let mut code = CodeMappings::default();
        assert!(code.observe(0, &reading(&[PROGRAM, A, DATA])));
        assert!(!code.observe(0, &reading(&[PROGRAM])));
        assert_eq!(names(&code.of(0)), ["/program", "/a.so"]);
        assert!(code.knows(0, [AbsoluteAddress(0x1500), AbsoluteAddress(0x7fff)].into_iter()));
        assert!(!code.knows(0, [AbsoluteAddress(0x9500)].into_iter()));
        assert!(!code.knows(1, [AbsoluteAddress(0x1500)].into_iter()));
    }

    #[test]
    fn a_late_stack_is_resolved_against_its_own_generation() {
        let mut code = CodeMappings::default();
        code.observe(0, &reading(&[PROGRAM, A]));
        code.observe(1, &reading(&[PROGRAM, B]));
        assert_eq!(names(&code.of(0)), ["/program", "/a.so"]);
        assert_eq!(names(&code.of(1)), ["/program", "/b.so"]);
        assert_eq!(code.latest().map(|(generation, _)| generation), Some(1));
    }

    #[test]
    fn a_generation_that_nobody_read_has_what_outlasted_it() {
        let mut code = CodeMappings::default();
        code.observe(0, &reading(&[PROGRAM, A]));
        code.observe(2, &reading(&[PROGRAM, B]));
        assert_eq!(names(&code.of(1)), ["/program"]);
        assert!(code.of(3).is_empty());
    }

    #[test]
    fn code_mapped_over_other_code_replaces_it() {
        let mut code = CodeMappings::default();
        code.observe(0, &reading(&[PROGRAM, A]));
        assert!(code.observe(0, &reading(&[PROGRAM, B])));
        assert_eq!(names(&code.of(0)), ["/program", "/b.so"]);
    }

    #[test]
    fn old_generations_are_dropped() {
        let mut code = CodeMappings::default();
        for generation in 0..100 {
            code.observe(generation, &reading(&[PROGRAM]));
        }
        assert!(code.generations.len() <= MAX_GENERATIONS);
        assert!(code.of(3).is_empty());
    }
}
