//! One stack out of two: the native frames of a thread and its Python frames, which the kernel side walks separately. A
//! frame of the interpreter's loop (`_PyEval_EvalFrameDefault`) in the native stack stands for one run of it: the Python
//! frames up to and including the one that the run began with. Pure.

use std::ops::Range;

use leaktrace_common::python::PythonFrame;

/// A frame of the merged stack, as an index into what it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// A native frame.
    Native(usize),
    /// A Python frame.
    Python(usize),
}

/// The two stacks, innermost frames first, and what tells the interpreter's frames from others.
#[derive(Clone, Copy, Debug)]
pub struct Stacks<'a> {
    /// Where each native frame's instruction stands: of a call, not behind it.
    pub native: &'a [u64],
    /// Whether the native walk has reached the outermost frame.
    pub native_complete: bool,
    /// Python frames. One without code that is an entry stands for a run that shows nothing.
    pub python: &'a [PythonFrame],
    /// Where the interpreter's loop lies.
    pub evaluator: &'a [Range<u64>],
    /// Where the interpreter's code lies, its loop too.
    pub code: &'a [Range<u64>],
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Merged>,
    /// Frames of the interpreter's loop for which no Python frame was left; they stay among the native ones.
    pub loops_without_python: usize,
    /// Python frames for which no frame of the loop was left; they lie outside of the last one that was.
    pub python_without_loop: usize,
}

/// Merges the two stacks of a thread.
pub fn merge(stacks: &Stacks<'_>) -> Stack {
    let mut merge = Merge { python: stacks.python, next: 0, stack: Stack::default() };
    let outermost = outermost_loop(stacks);
    for (at, address) in stacks.native.iter().enumerate() {
        if holds(stacks.evaluator, *address) {
            merge.run(at);
        } else {
            merge.stack.frames.push(Merged::Native(at));
        }
        if Some(at) == outermost {
            merge.rest();
        }
    }
    merge.rest();
    merge.stack
}

/// Behind which native frame no Python frame can belong. If the walk ended early there may be more of the loop further out.
/// Without any frame of the loop it is where the interpreter's innermost frames end: Python frames called those.
fn outermost_loop(stacks: &Stacks<'_>) -> Option<usize> {
    let is_loop = |address: &u64| holds(stacks.evaluator, *address);
    match stacks.native.iter().rposition(is_loop) {
        Some(last) => stacks.native_complete.then_some(last),
        None => {
            let first = stacks.native.iter().position(|address| holds(stacks.code, *address))?;
            let run = stacks.native.iter().skip(first).take_while(|address| holds(stacks.code, **address));
            Some(first + run.count() - 1)
        }
    }
}

fn holds(ranges: &[Range<u64>], address: u64) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

struct Merge<'a> {
    python: &'a [PythonFrame],
    /// Index of the Python frame that is next.
    next: usize,
    stack: Stack,
}

impl Merge<'_> {
    /// The native frame `at` is a run of the loop.
    fn run(&mut self, at: usize) {
        let before = self.stack.frames.len();
        while let Some(frame) = self.take()
            && !frame.entry
        {}
        if self.stack.frames.len() == before {
            self.stack.frames.push(Merged::Native(at));
            self.stack.loops_without_python += 1;
        }
    }

    /// Every Python frame that is left.
    fn rest(&mut self) {
        let before = self.stack.frames.len();
        while self.take().is_some() {}
        self.stack.python_without_loop += self.stack.frames.len() - before;
    }

    fn take(&mut self) -> Option<PythonFrame> {
        let frame = *self.python.get(self.next)?;
        if frame.code != 0 {
            self.stack.frames.push(Merged::Python(self.next));
        }
        self.next += 1;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOOP: Range<u64> = 100..200;
    const CODE: Range<u64> = 50..300;

    /// Merges and writes the outcome as text: `n` and `P` with their indices.
    fn merged(native: &[u64], python: &[(u64, bool)], complete: bool) -> String {
        let python = frames(python);
        let stacks =
            Stacks { native, native_complete: complete, python: &python, evaluator: &[LOOP], code: &[CODE] };
        text(&merge(&stacks))
    }

    fn frames(python: &[(u64, bool)]) -> Vec<PythonFrame> {
        let frame = |&(code, entry)| PythonFrame { code, entry, ..PythonFrame::default() };
        python.iter().map(frame).collect()
    }

    fn text(stack: &Stack) -> String {
        let word = |frame: &Merged| match frame {
            Merged::Native(at) => format!("n{at}"),
            Merged::Python(at) => format!("P{at}"),
        };
        stack.frames.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_frame_of_the_loop_becomes_the_frames_of_its_run() {
        // malloc, list.append, loop, sorted in C, loop, main, libc
        let native = [1, 60, 150, 70, 199, 299, 2];
        let python = [(1, false), (2, true), (3, true)];
        assert_eq!(merged(&native, &python, true), "n0 n1 P0 P1 n3 P2 n5 n6");
    }

    #[test]
    fn every_frame_is_a_run_up_to_310() {
        let native = [1, 150, 60, 150, 61, 150, 2];
        let python = [(1, true), (2, true), (3, true)];
        assert_eq!(merged(&native, &python, true), "n0 P0 n2 P1 n4 P2 n6");
    }

    #[test]
    fn python_frames_beyond_a_truncated_native_stack_come_last() {
        let python = [(1, true), (2, true), (3, true)];
        assert_eq!(merged(&[1, 150, 60], &python, false), "n0 P0 n2 P1 P2");
        assert_eq!(merged(&[1], &python, false), "n0 P0 P1 P2");
        assert_eq!(merged(&[], &python, false), "P0 P1 P2");
    }

    #[test]
    fn python_frames_too_many_for_a_whole_native_stack_stay_inside_of_its_start() {
        assert_eq!(merged(&[1, 150, 60, 2], &[(1, true), (2, true)], true), "n0 P0 P1 n2 n3");
    }

    #[test]
    fn a_loop_without_python_frames_stays_native() {
        assert_eq!(merged(&[1, 150, 60, 150, 2], &[(1, true)], true), "n0 P0 n2 n3 n4");
        assert_eq!(merged(&[1, 150, 2], &[], true), "n0 n1 n2");
        // A run that shows nothing: the frame was incomplete, or had already been left.
        assert_eq!(merged(&[1, 150, 60, 150, 2], &[(0, true), (1, true)], true), "n0 n1 n2 P1 n4");
    }

    #[test]
    fn without_a_known_loop_python_called_the_interpreters_innermost_functions() {
        let stacks = |native| Stacks {
            native,
            native_complete: true,
            python: &[PythonFrame { code: 9, entry: true, instruction: 0, identity: 0 }; 2],
            evaluator: &[],
            code: &[CODE],
        };
        assert_eq!(text(&merge(&stacks(&[1, 60, 150, 2, 70, 3]))), "n0 n1 n2 P0 P1 n3 n4 n5");
        assert_eq!(text(&merge(&stacks(&[1, 2]))), "n0 n1 P0 P1");
    }

    proptest! {
        #[test]
        fn order_is_kept_and_nothing_is_lost_or_there_twice(
            native in prop::collection::vec(0_u64..350, 0..40),
            python in prop::collection::vec((0_u64..4, any::<bool>()), 0..40),
            native_complete: bool,
            has_loop: bool,
        ) {
            let python = frames(&python);
            let evaluator: &[Range<u64>] = if has_loop { &[LOOP] } else { &[] };
            let stacks =
                Stacks { native: &native, native_complete, python: &python, evaluator, code: &[CODE] };
            let stack = merge(&stacks);
            let of = |pick: fn(&Merged) -> Option<usize>| stack.frames.iter().filter_map(pick).collect::<Vec<_>>();
            let natives = of(|frame| if let Merged::Native(at) = frame { Some(*at) } else { None });
            let pythons = of(|frame| if let Merged::Python(at) = frame { Some(*at) } else { None });
            let shown: Vec<usize> = (0..python.len()).filter(|&at| python[at].code != 0).collect();
            prop_assert_eq!(pythons, shown);
            prop_assert!(natives.is_sorted_by(|a, b| a < b));
            // Only frames of the loop are replaced, and each that is not is counted.
            let kept = |at: &usize| natives.contains(at);
            prop_assert!((0..native.len()).all(|at| kept(&at) || holds(evaluator, native[at])));
            let loops = natives.iter().filter(|&&at| holds(evaluator, native[at])).count();
            prop_assert_eq!(loops, stack.loops_without_python);
        }
    }
}
