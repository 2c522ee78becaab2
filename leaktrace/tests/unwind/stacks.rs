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
    /// Another tracer's return probe hides the callers from gdb: nothing can be compared.
    pub hidden: bool,
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

/// Brings together what was seen at the same stop: same thread, same stack pointer, in the same order; those that hide
/// their callers are left out. Also returns how
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
        // What this thread did before is over.
        for earlier in &mut left[..index] {
            earlier.take_if(|walked| walked.stopped == seen.tid);
        }
        if let Some(walked) = left[index].take().filter(|_| !seen.hidden) {
            pairs.push(Pair { seen, walked });
        }
    }
    (pairs, alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tid: u32, entry_sp: u64, hidden: bool) -> Seen {
        let (function, end) = ("malloc".to_owned(), "outermost".to_owned());
        Seen { tid, entry_sp, hidden, function, end, frames: Vec::new() }
    }

    fn walked(stopped: u32, entry_sp: u64, frame: u64) -> Walked {
        Walked { stopped, entry_sp, walk_end: "complete".to_owned(), frames: vec![frame] }
    }

    #[test]
    fn stops_of_one_place_are_told_apart_by_their_order() {
        let seen = vec![seen(1, 8, true), seen(1, 8, false), seen(2, 8, false), seen(2, 16, false)];
        let walked = vec![walked(1, 8, 100), walked(2, 8, 101), walked(1, 8, 102), walked(2, 24, 103)];
        let (pairs, alone) = pair_up(seen, walked);
        let frames: Vec<u64> = pairs.iter().map(|pair| pair.walked.frames[0]).collect();
        assert_eq!((frames, alone), (vec![102, 101], 1));
    }

    #[test]
    fn a_stop_that_the_debugger_missed_is_passed_over() {
        let walked = vec![walked(1, 8, 100), walked(1, 16, 101), walked(1, 8, 102)];
        let (pairs, alone) = pair_up(vec![seen(1, 16, false), seen(1, 8, false)], walked);
        let frames: Vec<u64> = pairs.iter().map(|pair| pair.walked.frames[0]).collect();
        assert_eq!((frames, alone), (vec![101, 102], 0));
    }
}
