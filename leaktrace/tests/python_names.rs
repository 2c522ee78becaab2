//! Promise: a Python frame is named as Python itself names it, by qualified name, file and line of the very instruction,
//! whatever the file is called; and code that is gone has no name rather than another's.

mod harness;

use std::{collections::BTreeMap, fs, ops::Range, process::Command};

use harness::{Outcomes, Target, interpreters};
use leaktrace::{
    object::elf::Elf,
    process::{MemoryReader, maps},
    python::{self, Interpreter, Memory, code, evaluator},
    report::model::FrameKind,
    symbolize::{FrameId, FrameStore},
};
use leaktrace_common::python::{PythonFrame, identity};
use serde::Deserialize;

/// Short-lived code objects.
const SHORT_LIVED: usize = 500;
/// Number of the process image in a store.
const SERIAL: u32 = 1;

/// A frame, as the program itself sees it.
#[derive(Clone, Debug, Deserialize)]
struct Frame {
    code: u64,
    name: String,
    file: String,
    instruction: u32,
    line: u32,
}

/// A code object, and the lines of its instructions from two bytes before the first one on.
#[derive(Debug, Deserialize)]
struct Code {
    code: u64,
    name: String,
    file: String,
    lines: Vec<i64>,
}

/// A program that is looked at from outside.
struct Watched {
    target: Target,
    memory: MemoryReader,
    interpreter: Interpreter,
}

impl Watched {
    fn start(of: &interpreters::Interpreter) -> Outcomes<Self> {
        let target = of.start("names.py")?;
        let memory = MemoryReader::new(target.pid());
        let mappings = maps::read(target.pid()).map_err(|e| e.to_string())?;
        let interpreter = python::find(target.pid(), &mappings).map_err(|e| e.to_string())?;
        Ok(Self { target, memory, interpreter: interpreter.ok_or("no interpreter found")? })
    }

    /// A frame as the kernel side would send it.
    fn frame(&self, code: u64, instruction: u32) -> Outcomes<PythonFrame> {
        let layout = &self.interpreter.offsets.layout;
        let half = |at: u32| self.memory.half(code + u64::from(at)).ok_or("code object unreadable");
        let word = |at: u32| self.memory.word(code + u64::from(at)).ok_or("code object unreadable");
        let identity = identity(
            half(layout.code_first_line)?,
            half(layout.code_flags)?,
            word(layout.code_name)?,
            word(layout.code_file)?,
        );
        Ok(PythonFrame { code, entry: false, instruction, identity })
    }

    fn read(&self, frame: &PythonFrame) -> Result<code::Code, code::Gone> {
        code::read(&self.memory, &self.interpreter.offsets, frame)
    }

    fn intern(&self, store: &mut FrameStore, frame: &PythonFrame) -> FrameId {
        store.intern_python(self.target.pid(), SERIAL, &self.interpreter, frame)
    }
}

/// What a store shows of a frame.
fn shown(store: &mut FrameStore, id: FrameId) -> Outcomes<(String, String, Option<u32>)> {
    let frames = store.resolve(id);
    let [frame] = frames.as_slice() else { return Err(format!("{} frames for one", frames.len())) };
    match (frame.kind, &frame.function, &frame.file) {
        (FrameKind::Python, Some(function), Some(file)) => Ok((function.clone(), file.clone(), frame.line)),
        _ => Err(format!("not named: {frame:?}")),
    }
}

/// Frames of every kind, resolved after the program has ended.
fn check_frames(of: &interpreters::Interpreter) -> Outcomes<usize> {
    let mut watched = Watched::start(of)?;
    let expected: Vec<Frame> = watched.target.ask_json("collect")?;
    let mut store = FrameStore::default();
    let mut ids = Vec::new();
    for frame in &expected {
        let seen = watched.frame(frame.code, frame.instruction)?;
        ids.push(watched.intern(&mut store, &seen));
    }
    drop(watched);
    store.forget_process(SERIAL);
    for (frame, id) in expected.iter().zip(ids) {
        let found = shown(&mut store, id)?;
        let wanted = (frame.name.clone(), frame.file.clone(), Some(frame.line));
        if found != wanted {
            return Err(format!("{found:?} instead of {wanted:?}"));
        }
    }
    Ok(expected.len())
}

/// Every instruction of every function of some libraries. Returns how many functions and instructions.
fn check_lines(of: &interpreters::Interpreter) -> Outcomes<(usize, usize)> {
    let mut watched = Watched::start(of)?;
    let expected: Vec<Code> = watched.target.ask_json("lines")?;
    for code in &expected {
        let found = watched.read(&watched.frame(code.code, 0)?).map_err(code::Gone::describe)?;
        if (&found.name, &found.file) != (&code.name, &code.file) {
            return Err(format!("{} in {} instead of {code:?}", found.name, found.file));
        }
        for (instruction, line) in (-2_i32..).step_by(2).zip(&code.lines) {
            let line = u32::try_from(*line).ok();
            let got = found.lines.line(instruction.cast_unsigned());
            if got != line {
                let place = format!("{} in {}", code.name, code.file);
                return Err(format!("{got:?} instead of {line:?} at instruction {instruction} of {place}"));
            }
        }
    }
    Ok((expected.len(), expected.iter().map(|code| code.lines.len()).sum()))
}

/// Code that is gone, where other code of the same shape has been made since. Returns how many frames kept their names,
/// and why the others have none.
fn check_gone(of: &interpreters::Interpreter) -> Outcomes<BTreeMap<&'static str, usize>> {
    let mut watched = Watched::start(of)?;
    let before: Vec<Frame> = watched.target.ask_json(&format!("short_lived {SHORT_LIVED}"))?;
    let mut frames = Vec::new();
    for frame in &before {
        let seen = watched.frame(frame.code, frame.instruction)?;
        let name = watched.read(&seen).map_err(code::Gone::describe)?.name;
        if name != frame.name {
            return Err(format!("{name} instead of {}", frame.name));
        }
        frames.push(seen);
    }
    let _: usize = watched.target.ask_json("replace")?;
    let mut outcomes = BTreeMap::new();
    for (frame, seen) in before.iter().zip(&frames) {
        let outcome = match watched.read(seen) {
            Ok(code) if (&code.name, &code.file) == (&frame.name, &frame.file) => "still there",
            Ok(code) => return Err(format!("{} in {} instead of {frame:?}", code.name, code.file)),
            Err(gone) => gone.describe(),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    Ok(outcomes)
}

/// Bytes of a part of the loop that matters: shorter ones only trap.
const PART: u64 = 16;

/// Where the loop lies, and where it lies for who has no symbols but the exported ones.
fn check_loop(of: &interpreters::Interpreter) -> Outcomes<Vec<Range<u64>>> {
    let watched = Watched::start(of)?;
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let copy = directory.path().join("stripped");
    fs::copy(&watched.interpreter.openable, &copy).map_err(|e| e.to_string())?;
    let status = Command::new("strip").arg("--strip-all").arg(&copy).status().map_err(|e| e.to_string())?;
    let elf = Elf::open(&copy).map_err(|e| e.to_string())?;
    let found = evaluator::find(&elf, watched.interpreter.bias).map_err(|e| e.to_string())?;
    let matters = |parts: &[Range<u64>]| -> Vec<Range<u64>> {
        parts.iter().filter(|part| part.end - part.start >= PART).cloned().collect()
    };
    let (found, known) = (matters(&found), matters(&watched.interpreter.evaluator));
    let inside = |part: &Range<u64>| {
        watched.interpreter.code.iter().any(|code| code.start <= part.start && part.end <= code.end)
    };
    match status.success() && found == known && !found.is_empty() && found.iter().all(inside) {
        true => Ok(found),
        false => Err(format!("{found:x?} without symbols, {known:x?} with them")),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_the_interpreters_loop_is_found_without_symbols() -> Outcomes<()> {
    let found = interpreters::found()?;
    for (interpreter, parts) in interpreters::all_of(interpreters::each(&found, check_loop))? {
        let sizes: Vec<u64> = parts.iter().map(|part| part.end - part.start).collect();
        println!("{}: parts of {sizes:?} bytes", interpreter.name);
        // Whoever optimises by profile puts what is rare elsewhere.
        let is_plain = interpreter.origin == interpreters::Origin::Pyenv;
        assert!(is_plain || parts.len() > 1, "{}: {parts:x?}", interpreter.name);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_frames_are_named_as_python_names_them() -> Outcomes<()> {
    let found = interpreters::found()?;
    for (interpreter, frames) in interpreters::all_of(interpreters::each(&found, check_frames))? {
        println!("{}: {frames} frames", interpreter.name);
        assert!(frames > 50, "{}: only {frames} frames", interpreter.name);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_lines_are_those_of_every_instruction() -> Outcomes<()> {
    let found = interpreters::found()?;
    for (interpreter, (functions, instructions)) in
        interpreters::all_of(interpreters::each(&found, check_lines))?
    {
        println!("{}: {functions} functions, {instructions} instructions", interpreter.name);
        assert!(functions > 500 && instructions > 10_000, "{}: {functions}", interpreter.name);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_code_that_is_gone_has_no_name() -> Outcomes<()> {
    let found = interpreters::found()?;
    for (interpreter, outcomes) in interpreters::all_of(interpreters::each(&found, check_gone))? {
        println!("{}: {outcomes:?}", interpreter.name);
        assert_eq!(outcomes.get("still there"), None, "{}", interpreter.name);
    }
    Ok(())
}
