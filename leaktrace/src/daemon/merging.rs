//! Puts the Python frames of a stack where they belong among its native ones.

use leaktrace_common::{
    python::{self, PythonFrame},
    unwind::FRAME_EXACT,
    walk,
};

use super::tracer::Tracer;
use crate::{
    kernel::StackRecord,
    object::address::AbsoluteAddress,
    python::{
        Interpreter,
        merge::{Merged, Stack, Stacks, merge},
    },
    symbolize::FrameId,
};

/// Frames of one kind for which there was no partner, summed over all stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmerged {
    /// Native frames of the interpreter's loop without Python frames.
    pub loops_without_python: u64,
    /// Python frames without a native frame of the loop.
    pub python_without_loop: u64,
    /// Walks of Python frames that ended early.
    pub python_truncated: u64,
}

impl Tracer {
    /// Normalises the Python frames of a record: before anything else is done with it, since code that runs once is gone soon.
    pub(super) fn python_frames(&mut self, record: &StackRecord) -> Vec<FrameId> {
        let Some(image) = self.images.get(&record.header.serial) else { return Vec::new() };
        let Some(interpreter) = &image.python.interpreter else { return Vec::new() };
        // What stands for a run without frames is no code.
        let intern = |frame: &PythonFrame| match frame.code {
            0 => FrameId::OVERFLOW,
            _ => self.frames.intern_python(image.pid, image.serial, interpreter, frame),
        };
        record.python.iter().map(intern).collect()
    }

    /// The whole stack of a record, innermost first, from its native frames and its Python frames.
    pub(super) fn with_python(
        &mut self,
        record: &StackRecord,
        native: Vec<FrameId>,
        python: &[FrameId],
    ) -> Vec<FrameId> {
        let header = &record.header;
        if python.is_empty() {
            return native;
        }
        let Some(image) = self.images.get(&header.serial) else { return native };
        let Some(interpreter) = &image.python.interpreter else { return native };
        if !self.frames.knows_interpreter(header.serial) {
            let mappings = image.code.of(header.generation);
            self.frames.learn_interpreter(image.pid, image.serial, &mappings, interpreter);
        }
        let stack = merged(record, interpreter);
        self.unmerged.loops_without_python += stack.loops_without_python as u64;
        self.unmerged.python_without_loop += stack.python_without_loop as u64;
        self.unmerged.python_truncated += u64::from(header.python_end != python::end::COMPLETE);
        let frame = |frame: Merged| match frame {
            Merged::Native(at) => native.get(at).copied(),
            Merged::Python(at) => python.get(at).copied(),
        };
        stack.frames.into_iter().filter_map(frame).collect()
    }
}

fn merged(record: &StackRecord, interpreter: &Interpreter) -> Stack {
    // A return address may lie behind the last instruction of its function.
    let call = |frame: &AbsoluteAddress| match frame.0 & FRAME_EXACT {
        0 => frame.0.saturating_sub(1),
        _ => frame.0 & !FRAME_EXACT,
    };
    let native: Vec<u64> = record.frames.iter().map(call).collect();
    merge(&Stacks {
        native: &native,
        native_complete: record.header.walk_end == u32::from(walk::end::COMPLETE),
        python: &record.python,
        evaluator: &interpreter.evaluator,
        code: &interpreter.code,
    })
}
