//! Promise: a leaked float or tuple is booked on the line that leaks it, not on the line that asked for its block before:
//! the interpreter's free lists, by which blocks change hands unseen, are kept closed while tracing.

mod harness;

use harness::{
    Outcomes, Process, Tracer,
    interpreters::{self, Interpreter, State},
    output::Amount,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Floats and tuples that are leaked, of each kind.
const LEAKED: i64 = 2000;
/// Objects that the float list holds at most: what a collection let into it may lie there until somebody takes it, and is its
/// last line's until then.
const IDLE: i64 = 100;
/// Versions whose lists can be closed.
const CLOSABLE: std::ops::RangeInclusive<u32> = 10..=14;

/// What the program says.
#[derive(Debug, Deserialize)]
struct Answer {
    lines: BTreeMap<String, u32>,
    leaked: i64,
    float_bytes: i64,
    tuple_bytes: i64,
}

impl Answer {
    /// What each line holds, and should hold. What innocent lines made last may still be on its way.
    fn compare(&self, process: &Process, idle: i64) -> Outcomes<()> {
        let leaked = |bytes: i64| Amount { bytes: bytes * self.leaked, blocks: self.leaked };
        let floats = leaked(self.float_bytes);
        let tuples = leaked(self.tuple_bytes);
        let expected =
            [("leaked_floats", floats), ("leaked_tuples", tuples), ("innocent_floats", Amount::default())];
        let mut differences = Vec::new();
        for (name, expected) in expected {
            let line = self.lines.get(name).copied().ok_or("a line is missing")?;
            let found = process.live_in_line("free_lists.py", line);
            let is_idle = name.starts_with("innocent") && found.blocks <= idle;
            if found != expected && !is_idle {
                differences.push(format!("{name}, line {line}: {found:?}, expected {expected:?}"));
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
    }
}

/// Traces the program, and compares.
fn check(interpreter: &Interpreter, work: &str, options: &[&str]) -> Outcomes<()> {
    let mut target = interpreter.start("free_lists.py")?;
    let before: State = target.ask_json("state")?;
    let mut tracer = Tracer::of(target.pid()).args(options).start()?;
    tracer.await_tracing()?;
    let answer: Answer = target.ask_json(work)?;
    let outcome = tracer.interrupt_and_finish()?;
    let idle = if work.ends_with("collecting") { IDLE } else { 0 };
    let compared = answer.compare(outcome.final_report()?.only_process()?, idle);
    before.check_unchanged(&target.ask_json("state")?)?;
    compared
}

fn closable() -> Outcomes<Vec<Interpreter>> {
    let mut found = interpreters::found()?;
    found.retain(|interpreter| CLOSABLE.contains(&interpreter.minor));
    Ok(found)
}

fn check_all(work: &str) -> Outcomes<()> {
    let found = closable()?;
    interpreters::all_of(interpreters::each(&found, |one| check(one, work, &[]))).map(drop)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_leaked_floats_and_tuples_are_on_their_lines() -> Outcomes<()> {
    check_all(&format!("work {LEAKED}"))
}

/// A full collection opens the lists again.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rule_free_lists_closed() -> Outcomes<()> {
    check_all(&format!("work {LEAKED} collecting"))
}

/// The same comparison notices when the lists stay open.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rule_free_lists_closed_fails_when_switched_off() -> Outcomes<()> {
    let options = ["--switch-off", "free-lists-closed"];
    for interpreter in interpreters::one_of_each_version()?.iter().filter(|one| CLOSABLE.contains(&one.minor))
    {
        let outcome = check(interpreter, &format!("work {LEAKED}"), &options);
        let Err(differences) = outcome else { return Err(format!("{}: nothing differs", interpreter.name)) };
        println!("{}: {differences}", interpreter.name);
        assert!(differences.contains("leaked_floats"), "{}: {differences}", interpreter.name);
    }
    Ok(())
}
