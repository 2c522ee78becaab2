//! Promise: a native stack is the one that a debugger shows, to the end, in real programs compiled as distributions
//! compile them. Threads are stopped at random allocations; gdb's backtrace and leaktrace's frames of that very stop
//! are compared one by one, and every difference is named.

mod harness;
mod unwind;

use harness::{Outcomes, Target, Tracer, program, target::TargetBuilder};
use std::{path::Path, process::Command};
use unwind::{Debugger, Pair, Tally, Walked, pair_up, print_table, table::share};

/// Stops of each program; `LEAKTRACE_TEST_STOPS` asks for another number.
const STOPS: usize = 90;
/// Least of them that must find their partner.
const LEAST: usize = 30;
/// Stacks that are compared in all, at least.
const LEAST_IN_ALL: usize = 1000;
/// Share of equal stacks that is promised, percent.
const PROMISED: f64 = 99.5;

/// A program, and how rarely its threads are stopped: about every n-th allocation.
struct Program {
    name: &'static str,
    command: fn() -> Outcomes<Vec<String>>,
    one_in: u32,
}

macro_rules! built {
    ($name:literal, $one_in:literal) => {
        Program { name: $name, command: || Ok(vec![built($name)?]), one_in: $one_in }
    };
}

/// The programs.
const PROGRAMS: &[Program] = &[
    built!("wander", 23),
    built!("wander-O3", 23),
    built!("wander-size", 23),
    built!("wander-realigned", 23),
    built!("wander-static", 23),
    built!("wander-static-musl", 23),
    built!("wander-static-pie", 23),
    built!("wander-stripped", 23),
    built!("deep", 101),
    built!("callbacks", 499),
    built!("signals", 7),
    built!("signals-ibt", 7),
    built!("signals-static", 7),
    built!("assembly", 7),
    built!("made_code", 101),
    Program { name: "made_code, remade", command: || built_with("made_code", &["2000"]), one_in: 101 },
    built!("threads", 17),
    Program { name: "plugins", command: || plugins(&[]), one_in: 17 },
    Program { name: "plugins, reopened", command: || plugins(&["50"]), one_in: 17 },
    built!("exceptions", 199),
    built!("exceptions-O3", 199),
    built!("collections", 199),
    built!("collections-size", 199),
    Program { name: "python3", command: || script("/usr/bin/python3", "work.py"), one_in: 499 },
    Program { name: "perl", command: || script("/usr/bin/perl", "work.pl"), one_in: 499 },
];

fn built(name: &str) -> Outcomes<String> {
    Ok(program::path(&format!("unwind/{name}"))?.display().to_string())
}

fn built_with(name: &str, arguments: &[&str]) -> Outcomes<Vec<String>> {
    let arguments = arguments.iter().map(|&word| word.to_owned());
    Ok(std::iter::once(built(name)?).chain(arguments).collect())
}

fn plugins(arguments: &[&str]) -> Outcomes<Vec<String>> {
    let library = built("plugin.so")?;
    built_with("plugins", &[&[library.as_str()], arguments].concat())
}

fn script(interpreter: &str, name: &str) -> Outcomes<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/unwind").join(name);
    Ok(vec![interpreter.to_owned(), path.display().to_string()])
}

impl Program {
    fn start(&self) -> Outcomes<Target> {
        let words = (self.command)()?;
        let (name, arguments) = words.split_first().ok_or("an empty command")?;
        // Python's own allocator would take most of its calls.
        let target = Target::command(Command::new(name)).env("PYTHONMALLOC", "malloc");
        arguments.iter().fold(target, TargetBuilder::arg).start()
    }

    /// Stops it, looks at it from both sides, and compares.
    fn compare(&self, stops: usize, options: &[&str]) -> Outcomes<Tally> {
        let mut target = self.start()?;
        let mut debugger = Debugger::attach(target.pid(), stops)?;
        target.say("go")?;
        let one_in = self.one_in.to_string();
        let mut tracer = Tracer::of(target.pid()).args(&["--stop-one-in", &one_in]).args(options).start()?;
        tracer.await_tracing()?;
        let seen = debugger.stops()?;
        let outcome = tracer.interrupt_and_finish()?;
        let walked = outcome.stderr.lines().filter(|line| line.starts_with("{\"stopped\""));
        let walked: Vec<Walked> = walked
            .map(|line| serde_json::from_str(line).map_err(|e| format!("{e}: {line}")))
            .collect::<Outcomes<_>>()?;
        let (pairs, alone): (Vec<Pair>, usize) = pair_up(seen, walked);
        Tally::of(self.name, &pairs, alone, &mut debugger)
    }
}

fn stops() -> usize {
    std::env::var("LEAKTRACE_TEST_STOPS").ok().and_then(|text| text.parse().ok()).unwrap_or(STOPS)
}

/// The programs whose names begin with what `LEAKTRACE_TEST_PROGRAM` says; all of them if it says nothing.
fn chosen() -> impl Iterator<Item = &'static Program> {
    let wanted = std::env::var("LEAKTRACE_TEST_PROGRAM").unwrap_or_default();
    PROGRAMS.iter().filter(move |program| program.name.starts_with(&wanted))
}

#[test]
#[ignore = "needs root"]
fn root_stacks_are_those_that_gdb_shows() -> Outcomes<()> {
    let mut tallies = Vec::new();
    for program in chosen() {
        tallies.push(program.compare(stops(), &[]).map_err(|e| format!("{}: {e}", program.name))?);
    }
    print_table(&tallies);
    let stacks: usize = tallies.iter().map(|tally| tally.stacks).sum();
    let equal: usize = tallies.iter().map(|tally| tally.equal).sum();
    println!("in all: {equal} of {stacks} stacks equal to the end, {:.2} %", share(equal, stacks));
    for tally in &tallies {
        assert!(tally.stacks >= LEAST, "{}: only {} stacks", tally.program, tally.stacks);
    }
    assert!(share(equal, stacks) >= PROMISED, "less than {PROMISED} % are equal");
    if tallies.len() == PROGRAMS.len() {
        assert!(stacks >= LEAST_IN_ALL, "only {stacks} stacks were compared");
    }
    Ok(())
}

/// The same programs through a walk that cannot follow them: the comparison notices, and says how the stacks differ.
#[test]
#[ignore = "needs root"]
fn root_frame_pointers_alone_give_other_stacks() -> Outcomes<()> {
    for name in ["wander", "python3"] {
        let program = PROGRAMS.iter().find(|program| program.name == name).ok_or("no such program")?;
        let tally = program.compare(LEAST, &["--unwind", "frame-pointers"])?;
        print_table(std::slice::from_ref(&tally));
        assert!(share(tally.equal, tally.stacks) < 50.0, "{name}: {} are equal", tally.equal);
        let differences: usize = tally.differences.values().map(|(count, _)| count).sum();
        assert_eq!(differences, tally.stacks - tally.equal, "every difference has a class");
    }
    Ok(())
}
