//! The judgement over one pair of stacks.

use super::stacks::{Seen, Walked};

/// Set by leaktrace where an address was interrupted (`leaktrace_common::unwind::FRAME_EXACT`).
const EXACT: u64 = 1 << 63;
/// Most frames that leaktrace keeps (`leaktrace_common::walk::MAX_FRAMES`).
const MOST_FRAMES: usize = 127;
/// How leaktrace calls a walk that reached the outermost frame, and one that had no more room.
const COMPLETE: &str = "complete";
const TOO_DEEP: &str = "deeper than 127 frames";
/// Where programs and their threads begin; what lies outside of these belongs to the C library.
const BEGINNINGS: [&str; 4] = ["main", "start_thread", "thread_start", "start"];

/// What comparing a pair has shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The same frames up to the outermost one.
    Equal,
    /// The same frames, as many as leaktrace keeps.
    EqualAsFarAsKept,
    /// The same frames up to `main`; the code that calls it has no unwind information, and gdb guesses.
    EqualToMain,
    /// A difference, and its class.
    Differs(String),
}

impl Verdict {
    /// Whether the stacks are equal to the end.
    pub fn is_equal(&self) -> bool {
        !matches!(self, Self::Differs(_))
    }
}

/// Compares frame by frame.
pub fn compare(seen: &Seen, walked: &Walked) -> Verdict {
    let common = common_frames(seen, walked);
    let reason = walked.walk_end.as_str();
    let (all_of_seen, all_of_walked) = (common == seen.frames.len(), common == walked.frames.len());
    let class = match (all_of_seen, all_of_walked) {
        (true, true) if reason == COMPLETE => return Verdict::Equal,
        (_, true) if reason == TOO_DEEP && common == MOST_FRAMES => return Verdict::EqualAsFarAsKept,
        (_, true) if reaches_beginning(seen, common) && is_silence(reason) => return Verdict::EqualToMain,
        (true, true) => format!("the same frames, yet leaktrace takes them for truncated: {reason}"),
        (false, true) if reason == COMPLETE && gdb_guesses(seen, common) => {
            "gdb goes on by guessing, in code that it does not know".to_owned()
        }
        (false, true) => format!("leaktrace ended early: {reason}"),
        (true, false) => format!("gdb ended early: {}", seen.end),
        (false, false) => class_of_difference(seen.frames[common].pc, walked.frames[common]),
    };
    Verdict::Differs(class)
}

/// The object says nothing about the code: no walk by rules can go on.
fn is_silence(reason: &str) -> bool {
    reason == "no unwind information for this code"
}

fn reaches_beginning(seen: &Seen, common: usize) -> bool {
    seen.frames[..common].iter().any(|frame| BEGINNINGS.contains(&frame.name.as_str()))
}

/// Where it knows neither the function nor the next one. Stripped programs have such frames too, but not at their ends.
fn gdb_guesses(seen: &Seen, common: usize) -> bool {
    let around = seen.frames.get(common.saturating_sub(1)..=common);
    around.is_some_and(|frames| frames.iter().all(|frame| frame.name == "?"))
}

fn class_of_difference(seen: u64, walked: u64) -> String {
    let what =
        if seen == walked & !EXACT { "whether a frame was interrupted differs" } else { "a frame differs" };
    what.to_owned()
}

/// How many frames, from the innermost on, are the same.
pub fn common_frames(seen: &Seen, walked: &Walked) -> usize {
    let same = seen.frames.iter().zip(&walked.frames).take_while(|(seen, walked)| {
        let expected = if seen.interrupted { seen.pc | EXACT } else { seen.pc };
        expected == **walked
    });
    same.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::stacks::SeenFrame;

    fn seen(frames: &[(u64, &str)]) -> Seen {
        let frame = |(pc, name): &(u64, &str)| SeenFrame {
            pc: *pc & !EXACT,
            name: (*name).to_owned(),
            interrupted: pc & EXACT != 0,
        };
        Seen {
            tid: 1,
            entry_sp: 8,
            hidden: false,
            function: "malloc".into(),
            end: "outermost".into(),
            frames: frames.iter().map(frame).collect(),
        }
    }

    fn walked(frames: &[u64], walk_end: &str) -> Walked {
        Walked { stopped: 1, entry_sp: 8, walk_end: walk_end.into(), frames: frames.to_vec() }
    }

    fn class(seen: &Seen, walked: &Walked) -> String {
        match compare(seen, walked) {
            Verdict::Differs(class) => class,
            equal => panic!("{equal:?}"),
        }
    }

    #[test]
    fn equal_means_every_frame_and_the_end() {
        let gdb = seen(&[(16, "a"), (EXACT | 32, "b"), (48, "main")]);
        assert_eq!(compare(&gdb, &walked(&[16, EXACT | 32, 48], COMPLETE)), Verdict::Equal);
        assert!(class(&gdb, &walked(&[16, 32, 48], COMPLETE)).contains("interrupted"));
        assert!(class(&gdb, &walked(&[16, EXACT | 33, 48], COMPLETE)).contains("a frame differs"));
        assert!(class(&gdb, &walked(&[16, EXACT | 32], COMPLETE)).contains("leaktrace ended early"));
        assert!(class(&gdb, &walked(&[16, EXACT | 32, 48, 64], COMPLETE)).contains("gdb ended early"));
    }

    #[test]
    fn a_stack_may_end_behind_main_only_for_want_of_information() {
        let gdb = seen(&[(16, "main"), (32, "libc_start_main_stage2"), (48, "guess")]);
        let silent = "no unwind information for this code";
        assert_eq!(compare(&gdb, &walked(&[16, 32], silent)), Verdict::EqualToMain);
        assert!(class(&gdb, &walked(&[16, 32], "stack memory unreadable")).contains("unreadable"));
        let gdb = seen(&[(16, "not_main"), (32, "b")]);
        assert!(class(&gdb, &walked(&[16], silent)).contains("leaktrace ended early"));
    }

    #[test]
    fn where_gdb_guesses_is_a_class_of_its_own() {
        let gdb = seen(&[(16, "f"), (32, "?"), (48, "?")]);
        assert!(class(&gdb, &walked(&[16, 32], COMPLETE)).contains("guessing"));
        assert!(class(&gdb, &walked(&[16], COMPLETE)).contains("leaktrace ended early"));
        assert!(class(&gdb, &walked(&[16, 32], "stack memory unreadable")).contains("leaktrace ended early"));
    }

    #[test]
    fn a_cut_stack_must_be_full() {
        let frames: Vec<(u64, &str)> = (1..=130).map(|pc| (pc * 16, "f")).collect();
        let kept: Vec<u64> = (1..=127).map(|pc| pc * 16).collect();
        assert_eq!(compare(&seen(&frames), &walked(&kept, TOO_DEEP)), Verdict::EqualAsFarAsKept);
        assert!(class(&seen(&frames), &walked(&kept[..100], TOO_DEEP)).contains("ended early"));
    }
}
