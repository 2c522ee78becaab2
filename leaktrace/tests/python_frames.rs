//! Promise: the Python stack of an allocation is the one that Python itself shows at that place, in function, file and line
//! of every frame, through every way that Python has of calling.

mod harness;

use harness::{
    Outcomes, Process, Tracer,
    interpreter_table::{self, Cells, VERSION, share},
    interpreters::{self, Interpreter},
    output::Site,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Stacks that are compared of each interpreter.
const SAMPLES: usize = 1200;
/// Frames that a stack keeps.
const DEEPEST: usize = 127;
/// Distinct stacks that the program makes, at most: recording each of its samples takes some sixty allocations.
const MAX_SITES: &str = "200000";
/// Only the last report is compared; one in between, of thousands of deep stacks, would keep the tracer from taking in new ones.
const INTERVAL: &str = "1h";
/// Stands for what has no name.
const NAMELESS: &str = "?";
/// Differences that are shown in full.
const SHOWN: usize = 10;

/// What the program says.
#[derive(Debug, Deserialize)]
struct Answer {
    samples: Vec<Sample>,
    /// Made in code that was gone a moment later.
    vanishing: Vec<Sample>,
    deep: Sample,
}

/// A block of a size that no other has, and the stack in which it was made, innermost first.
#[derive(Debug, Deserialize)]
struct Sample {
    bytes: i64,
    stack: Vec<Frame>,
}

/// Function, file, line.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Frame(String, String, u32);

/// What came of one interpreter.
#[derive(Debug, Default)]
struct Tally {
    version: String,
    equal: usize,
    differences: Vec<String>,
}

/// The sites by size, of those that hold one block whose innermost Python frame is where samples are made.
fn sites_by_size<'a>(process: &'a Process, innermost: &Frame) -> BTreeMap<i64, &'a Site> {
    let made_here = |site: &&Site| site.live.blocks == 1 && python_stack(site).first() == Some(innermost);
    process.sites.iter().filter(made_here).map(|site| (site.live.bytes, site)).collect()
}

/// A stack as reported, without native frames.
fn python_stack(site: &Site) -> Vec<Frame> {
    let text = |name: &Option<String>| name.clone().unwrap_or_else(|| NAMELESS.to_owned());
    let frames = site.python_frames();
    frames.map(|frame| Frame(text(&frame.function), text(&frame.file), frame.line.unwrap_or(0))).collect()
}

impl Tally {
    fn of(version: String, answer: &Answer, process: &Process) -> Outcomes<Self> {
        let mut tally = Self { version, ..Self::default() };
        let innermost = answer.samples.first().and_then(|sample| sample.stack.first()).ok_or("no samples")?;
        let sites = sites_by_size(process, innermost);
        for sample in &answer.samples {
            let site = sites.get(&sample.bytes).copied();
            match site.map(|site| difference(&sample.stack, site)) {
                Some(None) => tally.equal += 1,
                Some(Some(difference)) => tally.differences.push(format!("{} B: {difference}", sample.bytes)),
                None => {
                    tally.differences.push(format!("{} B: no such site: {:?}", sample.bytes, sample.stack));
                }
            }
        }
        Ok(tally)
    }
}

/// How a stack differs, if it does.
fn difference(expected: &[Frame], site: &Site) -> Option<String> {
    let found = python_stack(site);
    if found == expected {
        return None;
    }
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    let why = site.truncated.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    Some(format!(
        "{} frames of {}, differ at {at}: {:?} instead of {:?}{why}; below {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at),
        at.checked_sub(1).and_then(|below| expected.get(below))
    ))
}

/// What vanished before it could be read may have no name, or the line of other code with the same names that has taken its
/// place, but never another function or file. Says how many stacks are equal all the same.
fn check_vanishing(answer: &Answer, process: &Process) -> Outcomes<usize> {
    let innermost = answer.vanishing.first().and_then(|sample| sample.stack.first()).ok_or("no samples")?;
    let sites = sites_by_size(process, innermost);
    let (mut equal, mut wrong) = (0, Vec::new());
    for sample in &answer.vanishing {
        // Stacks without names may look alike, and are one site then.
        let Some(site) = sites.get(&sample.bytes) else { continue };
        let found = python_stack(site);
        let named = |(found, expected): (&Frame, &Frame)| {
            found.0 == NAMELESS || (&found.0, &found.1) == (&expected.0, &expected.1)
        };
        if found == sample.stack {
            equal += 1;
        } else if found.len() != sample.stack.len() || !found.iter().zip(&sample.stack).all(named) {
            wrong.extend(difference(&sample.stack, site));
        }
    }
    if wrong.is_empty() { Ok(equal) } else { Err(format!("vanishing code: {}", wrong.join("\n"))) }
}

/// A stack that is deeper than what is kept of one: its inner frames are right, and the reason is named.
fn check_deep(deep: &Sample, process: &Process) -> Outcomes<()> {
    let innermost = deep.stack.first().ok_or("an empty stack")?;
    let sites = sites_by_size(process, innermost);
    let site = sites.get(&deep.bytes).ok_or("the deep stack has no site")?;
    if python_stack(site) != deep.stack[..DEEPEST] {
        return Err(format!("deep: {:?}", difference(&deep.stack[..DEEPEST], site)));
    }
    match &site.truncated {
        Some(why) if why.contains("Python frames") => Ok(()),
        other => Err(format!(
            "{} frames are missing, and the reason given is {other:?}",
            deep.stack.len() - DEEPEST
        )),
    }
}

fn compare(interpreter: &Interpreter) -> Outcomes<Tally> {
    let mut target = interpreter.start("frames.py")?;
    let identity = interpreter.identity(&mut target)?;
    let mut tracer =
        Tracer::of(target.pid()).args(&["--max-sites", MAX_SITES, "--interval", INTERVAL]).start()?;
    tracer.await_tracing()?;
    let answer: Answer = target.ask_json(&format!("work {SAMPLES}"))?;
    let outcome = tracer.interrupt_and_finish()?;
    let process = outcome.final_report()?.only_process()?;
    check_deep(&answer.deep, process)?;
    let equal = check_vanishing(&answer, process)?;
    let all = answer.vanishing.len();
    println!(
        "{}: {equal} of {all} stacks through vanishing code equal, none with wrong names",
        interpreter.name
    );
    Tally::of(identity.version, &answer, process)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_are_those_that_python_shows() -> Outcomes<()> {
    let found = interpreters::found()?;
    let tallies = interpreters::all_of(interpreters::each(&found, compare))?;
    let mut rows = Vec::new();
    for (interpreter, tally) in &tallies {
        let all = tally.equal + tally.differences.len();
        println!("{} ({}): {} of {all} stacks equal", interpreter.name, tally.version, tally.equal);
        tally.differences.iter().take(SHOWN).for_each(|difference| println!("    {difference}"));
        let numbers = [tally.equal, all].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let right = share(numbers[0], numbers[1]);
        let cells = [(VERSION, tally.version.clone()), ("frames right", format!("{right} of {all}"))];
        rows.push((interpreter.name.as_str(), Cells::from(cells)));
    }
    interpreter_table::check(&rows)?;
    for (interpreter, tally) in &tallies {
        let all = tally.equal + tally.differences.len();
        assert!(all >= SAMPLES, "{}: only {all} samples", interpreter.name);
        assert!(tally.equal * 1000 >= all * 999, "{}: less than 99.9 % are equal", interpreter.name);
    }
    Ok(())
}
