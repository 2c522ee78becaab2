//! Whatever the memory of a process says, nothing here panics, loops or reads without end. The memory is made up: every word
//! is zero, a small number, or leads to another one of a few places, so that lists run in circles and structures overlap.

use std::cell::Cell;
use std::collections::BTreeMap;

use leaktrace_common::python::CLOSED;
use proptest::prelude::*;

use super::bounded::QUESTION;
use super::debug_offsets::DebugOffsets;
use super::validate::{Suspect, Verdict};
use super::*;
use crate::process::maps;

/// Where things lie in the made-up memory.
const BASE: u64 = 0x7000_0000_0000;

#[derive(Clone, Debug)]
struct Forged {
    seed: u64,
    places: u64,
    /// Of 256 words, how many are zero, and how many a small number.
    zeros: u64,
    numbers: u64,
    reads: Cell<u64>,
}

impl Forged {
    fn new(seed: u64, places: u64, zeros: u64, numbers: u64) -> Self {
        Self { seed, places, zeros, numbers, reads: Cell::new(0) }
    }

    fn word_at(&self, address: u64) -> u64 {
        let mut mixed = (address ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 31;
        mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let (choice, rest) = (mixed % 256, mixed >> 8);
        match choice {
            _ if choice < self.zeros => 0,
            _ if choice < self.zeros + self.numbers => {
                [1, 2, 7, u64::from(CLOSED), u64::MAX, 40][rest as usize % 6]
            }
            _ => BASE + rest % self.places * 64,
        }
    }
}

impl Memory for Forged {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        for (index, byte) in buffer.iter_mut().enumerate() {
            let at = address.wrapping_add(index as u64);
            *byte = self.word_at(at & !7).to_le_bytes()[(at & 7) as usize];
        }
        true
    }
}

fn interpreter(offsets: Offsets, version: Version) -> Interpreter {
    let symbols =
        ["PyFloat_FromDouble", "PyTuple_New", "_Py_GetAllocatedBlocks", "PyTuple_Type", "PyList_Type"];
    let defined = |(index, name): (usize, &'static str)| {
        (name, Defined { address: BASE + 64 * index as u64, size: 300 })
    };
    Interpreter {
        version,
        path: PathBuf::new(),
        openable: PathBuf::new(),
        device: (0, 0),
        inode: 0,
        bias: 0,
        code: Vec::new(),
        evaluator: Vec::new(),
        runtime: AbsoluteAddress(BASE),
        main: AbsoluteAddress(BASE + 64),
        symbols: symbols.into_iter().enumerate().map(defined).collect::<BTreeMap<_, _>>(),
        exact: true,
        offsets,
    }
}

fn memories() -> impl Strategy<Value = Forged> {
    (any::<u64>(), 1_u64..200, 0_u64..128, 0_u64..100)
        .prop_map(|(seed, places, zeros, numbers)| Forged::new(seed, places, zeros, numbers))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn made_up_runtimes_are_examined_within_bounds(memory in memories()) {
        for table in offsets::all() {
            let bounded = bounded::Bounded::new(&memory, QUESTION);
            let suspect = Suspect {
                memory: &bounded,
                runtime: BASE,
                offsets: &table.offsets,
                code_type: BASE,
                string_type: BASE,
                strict: true,
            };
            if let Ok(Verdict::Valid(confirmed)) = suspect.examine() {
                prop_assert!(confirmed.interpreters.contains(&confirmed.main));
            }
        }
        prop_assert!(memory.reads.get() <= QUESTION * offsets::all().len() as u64);
    }

    #[test]
    fn made_up_lists_and_arenas_end(memory in memories()) {
        let mappings = maps::parse(b"700000000000-700000100000 rw-p 0 0:0 0 \n").expect("a line");
        for table in offsets::all() {
            let interpreter = interpreter(table.offsets, table.version);
            let before = memory.reads.get();
            let _ = free_lists(&interpreter, &memory);
            if let Ok(census) = Census::find(&interpreter, &memory, &mappings) {
                let _ = census.count(&memory);
            }
            let blocks = (0..100).map(|index| (BASE + index * 8, index));
            let found = Kinds::of(&interpreter, false).recycled(&memory, blocks);
            prop_assert!(found.holding <= found.examined);
            prop_assert!(memory.reads.get() - before <= 4 * QUESTION);
        }
    }

    #[test]
    fn made_up_descriptions_give_offsets_or_nothing(words in proptest::collection::vec(any::<u64>(), 96), small: bool) {
        let words: Vec<u64> = words.into_iter().map(|word| if small { word % 100_000 } else { word }).collect();
        let memory = Described(words);
        let said = DebugOffsets::read(&memory, 0).expect("the cookie is there");
        for table in offsets::all() {
            if let Some(offsets) = said.over(table.offsets, table.version) {
                prop_assert!(offsets.runtime_size < 64 << 20);
            }
        }
    }

    #[test]
    fn made_up_code_names_no_more_than_one_version(seed: u64, code in proptest::collection::vec(any::<u8>(), 1..400)) {
        let memory = Forged::new(seed, 10, 10, 10);
        prop_assert_eq!(version::of_code(&memory, BASE, code.len() as u64), None);
        prop_assert!(version::addresses(&code, BASE).count() <= code.len());
    }
}

/// Memory that begins with the cookie.
struct Described(Vec<u64>);

impl Memory for Described {
    fn fill(&self, address: u64, buffer: &mut [u8]) -> bool {
        let bytes: Vec<u8> = b"xdebugpy"
            .iter()
            .copied()
            .chain(self.0.iter().skip(1).flat_map(|word| word.to_le_bytes()))
            .collect();
        let found = bytes.get(address as usize..).and_then(|rest| rest.get(..buffer.len()));
        found.is_some_and(|found| {
            buffer.copy_from_slice(found);
            true
        })
    }
}
