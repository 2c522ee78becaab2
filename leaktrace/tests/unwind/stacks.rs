//! A stack as gdb sees it, a stack as leaktrace walked it, and which belong together.

use serde::{Deserialize, Deserializer, de::Error};

/// A frame as gdb sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct SeenFrame {
    /// Return address, or what was interrupted.
    #[serde(deserialize_with = "hexadecimal")]
    pub pc: u64,
    /// Function.
    pub name: String,
    /// A signal interrupted this very instruction.
    pub interrupted: bool,
}

/// A stop as gdb reports it.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    /// The thread.
    pub tid: u32,
    /// Stack pointer at the first instruction of the function it is in.
    #[serde(deserialize_with = "hexadecimal")]
    pub entry_sp: u64,
    /// That function.
    #[serde(rename = "in")]
    pub function: String,
    /// Why gdb finds no more frames.
    pub end: String,
    /// Its callers, innermost first.
    pub frames: Vec<SeenFrame>,
}

/// A stop as leaktrace reports it.
#[derive(Clone, Debug, Deserialize)]
pub struct Walked {
    /// The thread.
    pub stopped: u32,
    /// See [`Seen`].
    #[serde(deserialize_with = "hexadecimal")]
    pub entry_sp: u64,
    /// Why the walk ended.
    pub walk_end: String,
    /// Innermost first; bit 63 says that the address itself was interrupted.
    #[serde(deserialize_with = "hexadecimals")]
    pub frames: Vec<u64>,
}

fn parse<E: Error>(text: &str) -> Result<u64, E> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).map_err(E::custom)
}

fn hexadecimal<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse(&String::deserialize(from)?)
}

fn hexadecimals<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    Vec::<String>::deserialize(from)?.iter().map(|text| parse(text)).collect()
}

/// One stack, seen from both sides.
#[derive(Clone, Debug)]
pub struct Pair {
    /// By gdb.
    pub seen: Seen,
    /// By leaktrace.
    pub walked: Walked,
}

/// Brings together what was seen at the same stop: same thread, same stack pointer, in the same order. Also returns how
/// many of gdb's stops have no partner. A stop that leaktrace asked for may be missing in gdb, which stops threads by
/// the same signal: two that are pending are one.
pub fn pair_up(seen: Vec<Seen>, walked: Vec<Walked>) -> (Vec<Pair>, usize) {
    let mut left: Vec<Option<Walked>> = walked.into_iter().map(Some).collect();
    let mut pairs = Vec::new();
    let mut alone = 0;
    for seen in seen {
        let belongs = |walked: &Walked| walked.stopped == seen.tid && walked.entry_sp == seen.entry_sp;
        let Some(index) = left.iter().position(|walked| walked.as_ref().is_some_and(belongs)) else {
            alone += 1;
            continue;
        };
        if let Some(walked) = left[index].take() {
            pairs.push(Pair { seen, walked });
        }
        // What this thread did before is over.
        for earlier in &mut left[..index] {
            if earlier.as_ref().is_some_and(|walked| walked.stopped == pairs[pairs.len() - 1].seen.tid) {
                *earlier = None;
            }
        }
    }
    (pairs, alone)
}
