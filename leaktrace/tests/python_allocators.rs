//! Promise: on every CPython, the allocator tables are found, understood, and left exactly as they were, whatever happens
//! to the tracer; and what is redirected makes inlined allocations visible.

mod harness;

use std::collections::BTreeMap;

use harness::{
    Outcomes, Target,
    interpreters::{self, Interpreter, Origin, State},
};
use leaktrace::{
    kernel::{AttachScope, Kernel, LoadOptions},
    probe::cost::CostTable,
    process::{MemoryReader, maps, status},
    python::{
        self, PythonPlan, Redirection, Tables,
        allocators::{Domain, Hooker, Kind, State as Served, Table},
        leftover::Records,
        plan,
    },
    target::discover,
};
use leaktrace_common::record::{Target as Entry, gate};
use serde::Deserialize;

const SCRIPT: &str = "allocators.py";

fn text_of<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

fn interpreter(pid: u32) -> Outcomes<python::Interpreter> {
    let mappings = maps::read(pid).map_err(text_of)?;
    python::find(pid, &mappings).map_err(text_of)?.ok_or_else(|| format!("no interpreter in process {pid}"))
}

fn tables_of(pid: u32, interpreter: &python::Interpreter) -> Outcomes<Tables> {
    let mappings = maps::read(pid).map_err(text_of)?;
    Tables::read(pid, interpreter, &MemoryReader::new(pid), &mappings).map_err(text_of)
}

fn tables(pid: u32) -> Outcomes<Tables> {
    tables_of(pid, &interpreter(pid)?)
}

fn words(tables: &Tables) -> Vec<u64> {
    let table = |table: &Table| {
        let pointers = table.slots.map(|slot| slot.pointer.0);
        std::iter::once(table.context).chain(pointers).collect::<Vec<_>>()
    };
    tables.tables.iter().flat_map(table).collect()
}

fn served(tables: &Tables) -> [Served; 3] {
    Domain::ALL.map(|domain| tables.table(domain).state.clone())
}

fn start_ticks(pid: u32) -> Outcomes<u64> {
    Ok(status::read_stat(pid).map_err(text_of)?.start_ticks)
}

/// Tells of the plan: it is what a person would look at first when a test fails.
fn show(interpreter: &Interpreter, plan: &PythonPlan) {
    let mut text = format!("{}\n", interpreter.name);
    for row in plan.plan.rows() {
        text += &format!(
            "  {:15} {:#x}{:+} {} ({} ns)\n",
            row.function,
            row.address.0.wrapping_add_signed(-row.offset),
            row.offset,
            row.instruction,
            row.cost_ns
        );
    }
    for change in &plan.redirect {
        text += &format!("  {change}\n");
    }
    for note in &plan.plan.notes {
        text += &format!("  note: {note}\n");
    }
    print!("{text}");
}

/// What takes a pool into use is found wherever there is such a function, by its name or by who calls it, and runs once
/// for many small blocks.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_pools_are_seen_being_taken_into_use() -> Outcomes<()> {
    for interpreter in interpreters::found()? {
        let options = LoadOptions { count_hits: true, max_live_blocks: 100_000, ..LoadOptions::default() };
        let (mut kernel, _rings, _sweeper) = Kernel::load(&options).map_err(text_of)?;
        let costs = kernel.calibrate().map_err(text_of)?;
        let mut target = interpreter.start(SCRIPT)?;
        let version = self::interpreter(target.pid())?.version;
        let plan = python::pools::plan(&tables(target.pid())?, version, &costs);
        show(&interpreter, &plan);
        let has_none = interpreter.minor == 8;
        if plan.plan.probes.is_empty() != has_none || !plan.redirect.is_empty() {
            return Err(format!("{}: {:?}", interpreter.name, plan.plan.notes));
        }
        // 20,000 blocks of 144 bytes, kept.
        let (made, hits) = count(&mut kernel, &mut target, &plan, "keep 20000")?;
        let pool = if interpreter.minor < 10 { 4096 } else { 16384 };
        let (least, pools) = (made * 144 / pool, hits.get("py pool").copied().unwrap_or_default());
        println!("{}: {pools} pools for {made} blocks, at least {least}", interpreter.name);
        if !has_none && (pools < least || pools > least * 2 + 50) {
            return Err(format!("{}: {pools} pools seen, at least {least} needed", interpreter.name));
        }
    }
    Ok(())
}

fn each(run: impl Fn(&Interpreter) -> Outcomes<()> + Sync) -> Outcomes<()> {
    let found = interpreters::found()?;
    interpreters::all_of(interpreters::each(&found, run)).map(drop)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_tables_are_what_the_interpreter_itself_reads() -> Outcomes<()> {
    each(|interpreter| {
        let mut target = interpreter.start(SCRIPT)?;
        let state: State = target.ask_json("state")?;
        let tables = tables(target.pid())?;
        if words(&tables) != state.allocators {
            return Err(format!("{:x?}, it says {:x?}", words(&tables), state.allocators));
        }
        // The code of the exported functions leads to the same tables, whether or not the runtime says where they are.
        let mut unknown = self::interpreter(target.pid())?;
        unknown.offsets.allocators = 0;
        if words(&tables_of(target.pid(), &unknown)?) != state.allocators {
            return Err("the code of the exported functions leads elsewhere".to_owned());
        }
        let expected = [Kind::Malloc, Kind::Small, Kind::Small].map(Served::Default);
        if served(&tables) != expected {
            return Err(format!("{:?}", served(&tables)));
        }
        let plan = plan(&tables, &CostTable::default(), true);
        show(interpreter, &plan);
        // Four functions of the small-object allocator, and three of the raw one whose frees the C library sees.
        let py: Vec<_> = plan.plan.rows().into_iter().map(|row| row.function).collect();
        for wanted in ["py free", "py realloc", "py malloc", "py calloc"] {
            if !py.iter().any(|name| name == wanted) {
                return Err(format!("{wanted} is not probed: {:?}", plan.plan.notes));
            }
        }
        // Only an optimised build inlines allocations.
        if (interpreter.origin != Origin::Pyenv) && plan.redirect.is_empty() {
            return Err("nothing is redirected".to_owned());
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_every_choice_of_allocator_is_recognised() -> Outcomes<()> {
    let default = |raw, mem| [raw, mem, mem].map(Served::Default);
    let debug = || [Hooker::Debug, Hooker::Debug, Hooker::Debug].map(Served::Hooked);
    let traced = || [Hooker::Tracemalloc, Hooker::Tracemalloc, Hooker::Tracemalloc].map(Served::Hooked);
    let choices: [(&str, &str, [Served; 3]); 6] = [
        ("PYTHONMALLOC", "pymalloc", default(Kind::Malloc, Kind::Small)),
        ("PYTHONMALLOC", "malloc", default(Kind::Malloc, Kind::Malloc)),
        ("PYTHONMALLOC", "debug", debug()),
        ("PYTHONMALLOC", "pymalloc_debug", debug()),
        ("PYTHONMALLOC", "malloc_debug", debug()),
        ("PYTHONTRACEMALLOC", "1", traced()),
    ];
    each(|interpreter| {
        for (name, value, expected) in &choices {
            let mut target = interpreter.prepare(SCRIPT)?.env(name, value).start()?;
            let state: State = target.ask_json("state")?;
            let tables = tables(target.pid())?;
            if words(&tables) != state.allocators || served(&tables) != *expected {
                return Err(format!("{name}={value}: {:?}", served(&tables)));
            }
            let plan = plan(&tables, &CostTable::default(), true);
            let hooked = matches!(expected[0], Served::Hooked(_));
            if hooked && !plan.redirect.is_empty() {
                return Err(format!("{name}={value}: would write {:?}", plan.redirect));
            }
            // tracemalloc has one `free` for all domains. What is the C library's is seen there at the latest, and said.
            let (seen, said) = (plan.plan.probes.len(), plan.plan.notes.len());
            let enough = if hooked { seen >= 7 } else { seen + said >= 3 };
            if !enough {
                show(interpreter, &plan);
                return Err(format!("{name}={value}: {seen} probes"));
            }
        }
        Ok(())
    })
}

#[derive(Deserialize)]
struct Progress {
    rounds: u64,
    wrong: u64,
}

#[derive(Deserialize)]
struct Started {
    threads: u64,
}

/// Redirects and undoes 200 times while four threads allocate.
fn cycles(interpreter: &Interpreter) -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(text_of)?;
    let records = Records::at(directory.path());
    let mut target = interpreter.start(SCRIPT)?;
    let before: State = target.ask_json("state")?;
    let pid = target.pid();
    let plan = plan(&tables(pid)?, &CostTable::default(), true);
    let started: Started = target.ask_json("start")?;
    assert_eq!(started.threads, 4);
    let ticks = start_ticks(pid)?;
    let mut longest = std::time::Duration::ZERO;
    for _ in 0..200 {
        let begun = std::time::Instant::now();
        let redirection = Redirection::apply(pid, ticks, &plan.redirect, &records).map_err(text_of)?;
        longest = longest.max(begun.elapsed());
        let redirected = tables(pid)?.redirected().count();
        if redirected != plan.redirect.len() {
            return Err(format!("{redirected} of {} pointers are redirected", plan.redirect.len()));
        }
        redirection.undo().map_err(text_of)?;
    }
    let middle: Progress = target.ask_json("progress")?;
    let end: Progress = target.ask_json("stop")?;
    println!("{}: {} rounds; longest to redirect: {longest:?}", interpreter.name, end.rounds);
    if middle.rounds == 0 || end.wrong != 0 {
        return Err(format!("{} rounds, {} wrong", middle.rounds, end.wrong));
    }
    let after: State = target.ask_json("state")?;
    before.check_unchanged(&after)?;
    let left = std::fs::read_dir(directory.path()).map_err(text_of)?.count();
    if left == 0 { Ok(()) } else { Err(format!("{left} records are left")) }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_200_redirections_leave_a_busy_process_as_it_was() -> Outcomes<()> {
    each(cycles)
}

/// A process of ours redirects and kills itself.
fn redirect_and_die(pid: u32, plan: &PythonPlan, records: &Records) -> Outcomes<()> {
    let ticks = start_ticks(pid)?;
    // SAFETY: the child only does what a killed tracer does, then kills itself.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let redirection = Redirection::apply(pid, ticks, &plan.redirect, records);
        // SAFETY: of ourselves; `_exit` only if that did not work.
        unsafe {
            if redirection.is_ok() {
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
            libc::_exit(1);
        }
    }
    let mut status = 0;
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if libc::WIFSIGNALED(status) {
        Ok(())
    } else {
        Err("the process that was to die could not redirect".to_owned())
    }
}

fn leftovers(interpreter: &Interpreter) -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(text_of)?;
    let records = Records::at(directory.path());
    let mut target = interpreter.start(SCRIPT)?;
    let before: State = target.ask_json("state")?;
    let pid = target.pid();
    let planned = plan(&tables(pid)?, &CostTable::default(), true);
    redirect_and_die(pid, &planned, &records)?;
    let _: Started = target.ask_json("start")?;
    let left = tables(pid)?.redirected().count();
    if left != planned.redirect.len() {
        return Err(format!("{left} pointers are redirected, not {}", planned.redirect.len()));
    }
    // Nothing else is known of such a table than of one that was never touched.
    if plan(&tables(pid)?, &CostTable::default(), true) != planned {
        return Err("a redirected table is planned for in another way".to_owned());
    }
    let wanted = usize::from(!planned.redirect.is_empty());
    if records.look().len() != wanted {
        return Err(format!("{:?}", records.look()));
    }
    let said = records.clean_up(&mut |_, _| 0);
    let after: State = target.ask_json("state")?;
    before.check_unchanged(&after)?;
    if said.len() != wanted || !records.clean_up(&mut |_, _| 0).is_empty() {
        return Err(format!("{said:?}"));
    }
    without_record(&mut target, &planned, &before)
}

/// The same when the record is lost: the table speaks for itself.
fn without_record(target: &mut Target, plan: &PythonPlan, before: &State) -> Outcomes<()> {
    let pid = target.pid();
    let lost = tempfile::tempdir().map_err(text_of)?;
    redirect_and_die(pid, plan, &Records::at(lost.path()))?;
    drop(lost);
    let said = python::leftover::undo_unrecorded(pid, start_ticks(pid)?, &tables(pid)?).map_err(text_of)?;
    let after: State = target.ask_json("state")?;
    before.check_unchanged(&after)?;
    if said.is_some() == plan.redirect.is_empty() {
        return Err(format!("{said:?}"));
    }
    let progress: Progress = target.ask_json("stop")?;
    if progress.wrong == 0 { Ok(()) } else { Err(format!("{} wrong", progress.wrong)) }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn root_what_a_killed_tracer_leaves_is_recognised_and_undone() -> Outcomes<()> {
    each(leftovers)
}

#[derive(Deserialize)]
struct Made {
    made: u64,
}

/// Calls of each of Python's allocating functions while `made` objects are made.
fn count(
    kernel: &mut Kernel,
    target: &mut Target,
    plan: &PythonPlan,
    command: &str,
) -> Outcomes<(u64, BTreeMap<&'static str, u64>)> {
    let pid = target.pid();
    let (_, points) = discover::attach_points(&plan.plan);
    let attached = kernel.attach(AttachScope::Process(pid), &points).map_err(text_of)?;
    let entry = Entry { serial: 1, gate: gate::OPEN, ..Entry::default() };
    kernel.set_target(pid, &entry).map_err(text_of)?;
    let before = kernel.hits().map_err(text_of)?;
    let made: Made = target.ask_json(command)?;
    let after = kernel.hits().map_err(text_of)?;
    kernel.remove_target(pid);
    drop(attached);
    let hits = plan.plan.probes.iter().map(|probe| {
        let index = usize::from(probe.hook.index());
        (probe.hook.hook().name, after[index] - before[index])
    });
    Ok((made.made, hits.collect()))
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_redirection_makes_every_inlined_allocation_visible() -> Outcomes<()> {
    for interpreter in interpreters::found()? {
        let options = LoadOptions { count_hits: true, max_live_blocks: 100_000, ..LoadOptions::default() };
        let (mut kernel, _rings, _sweeper) = Kernel::load(&options).map_err(text_of)?;
        let costs = kernel.calibrate().map_err(text_of)?;
        let directory = tempfile::tempdir().map_err(text_of)?;
        let mut target = interpreter.start(SCRIPT)?;
        let pid = target.pid();
        let plan = plan(&tables(pid)?, &costs, true);
        show(&interpreter, &plan);
        let (made, without) = count(&mut kernel, &mut target, &plan, "allocate 20000")?;
        let records = Records::at(directory.path());
        let redirection =
            Redirection::apply(pid, start_ticks(pid)?, &plan.redirect, &records).map_err(text_of)?;
        let (_, with) = count(&mut kernel, &mut target, &plan, "allocate 20000")?;
        redirection.undo().map_err(text_of)?;
        println!("{}: made {made}; without redirection {without:?}; with it {with:?}", interpreter.name);
        for name in ["py malloc", "py free"] {
            let seen = with.get(name).copied().unwrap_or_default();
            // A few hundred belong to reading the command and answering it; and a collection comes when it comes, and frees what has been
            // there since the start.
            if seen < made || name == "py malloc" && seen > made + 2000 {
                return Err(format!("{}: {name}: {seen} of {made} seen", interpreter.name));
            }
        }
        let unseen = without.get("py malloc").copied().unwrap_or_default();
        if interpreter.origin != Origin::Pyenv && unseen * 10 > made {
            return Err(format!("{}: {unseen} of {made} seen without redirection", interpreter.name));
        }
    }
    Ok(())
}
