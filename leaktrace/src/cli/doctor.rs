//! `leaktrace doctor`: what works on this host, and what would be placed in a target. Reads only; `--measure` places probes
//! and redirects pointers for moments, and says so before.

pub mod measurement;
mod placement;
mod scope;

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{
    Failure,
    args::{DoctorArguments, DoctorFormat},
    meant,
};
use crate::{
    daemon::{Circumstances, Measured, MeasuredCall, check_target, measure},
    kernel::{Kernel, LoadOptions},
    probe::{
        cost::CostTable,
        plan::{Plan, ProbeRow},
    },
    process::{host, maps},
    python::{
        Refusal, SlotChange,
        allocators::{Domain, Kind, State},
        leftover::Records,
        plan::needs_stop,
    },
    report::{aside::Text, human::printable},
    target::{
        Scope, TargetSpec, discover, preflight,
        python::{self, Examined, Planned},
    },
    unwind::survey::{Surveyed, survey},
};

/// Prints what was found.
///
/// # Errors
/// If a target was named that cannot be looked at.
pub fn run(typed: &DoctorArguments) -> Result<(), Failure> {
    let named = typed.target.names_anything();
    let target = named.then(|| meant::target(&typed.target, Vec::new())).transpose()?;
    if typed.format == DoctorFormat::Json {
        return measurement::run(typed.measure, target.as_ref());
    }
    let mut out = Text(io::stdout().lock());
    let mut kernel = host_findings(&mut out).map_err(|error| closed(&error))?;
    let costs = match &mut kernel {
        Some(kernel) => kernel.calibrate()?,
        None => CostTable::default(),
    };
    let Some(target) = target else { return Ok(()) };
    let pids = match &target {
        TargetSpec::Pids(pids) => {
            pids.iter().try_for_each(|pid| check_target(*pid).map(drop))?;
            pids.as_slice()
        }
        _ if typed.measure => {
            return Err(Failure::Usage("--measure looks at one process at a time: name it by -p PID".into()));
        }
        _ => &[],
    };
    let scope = Scope::resolve(&target)?;
    if pids.is_empty() {
        scope::print(&scope, &mut out).map_err(|error| closed(&error))?;
    }
    placed(&scope, target == TargetSpec::All, &mut kernel, &costs, &mut out)?;
    for &pid in pids {
        process(pid, &costs, &mut out)?;
        let redirect = interpreter(pid, &costs, &mut out)?;
        unwind_tables(pid, &mut out)?;
        if typed.measure && kernel.is_some() {
            announce(pid, &redirect, &mut out).map_err(|error| closed(&error))?;
            let measured = measure(pid, &costs, meant::plan_for(pid)?)?;
            prediction(&measured, &mut out).map_err(|error| closed(&error))?;
        }
    }
    Ok(())
}

/// Whose the probes would be, and who would pay for them.
fn placed(
    scope: &Scope,
    whole_host: bool,
    kernel: &mut Option<Kernel>,
    costs: &CostTable,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let pids = scope.members();
    let safe = kernel.as_mut().map(Kernel::return_probes_survive_filters).transpose()?;
    let circumstances = Circumstances {
        processes: pids.len(),
        whole_host,
        strict: false,
        forced: None,
        returns_are_safe: safe.unwrap_or(true),
    };
    placement::print(&pids, &circumstances, costs, out).map_err(|error| closed(&error))
}

fn closed(error: &io::Error) -> Failure {
    Failure::Failed(format!("could not write to stdout: {error}"))
}

/// What holds for the host; the loaded kernel side if it can be loaded.
fn host_findings(out: &mut impl Write) -> io::Result<Option<Kernel>> {
    for (what, problem) in preflight::findings() {
        match problem {
            None => writeln!(out, "ok       {what}")?,
            Some(sentence) => writeln!(out, "PROBLEM  {what}: {sentence}")?,
        }
    }
    for sentence in Records::default().look() {
        writeln!(out, "note     {sentence}")?;
    }
    for note in host::Security::read().notes() {
        writeln!(out, "note     {note}")?;
    }
    let options =
        LoadOptions { max_live_blocks: 1024, max_sites: 1024, count_hits: true, ..LoadOptions::default() };
    match Kernel::load(&options) {
        Ok((kernel, ..)) => {
            writeln!(out, "ok       BPF programs load; {}", kernel.link_mode())?;
            Ok(Some(kernel))
        }
        Err(error) => {
            writeln!(out, "PROBLEM  {error}")?;
            Ok(None)
        }
    }
}

/// One process: every probe, the instruction it sits on and what a call costs.
fn process(pid: u32, costs: &CostTable, out: &mut impl Write) -> Result<(), Failure> {
    let identity = check_target(pid)?;
    let found = discover::required(pid, costs)?;
    let rows = found.plan.rows();
    print_rows(pid, &printable(&identity.name), &rows, out)
        .and_then(|()| found.plan.notes.iter().try_for_each(|note| writeln!(out, "  note: {note}")))
        .map_err(|error| closed(&error))
}

/// Its Python interpreter, if it has one; returns the pointers that exact tracing would redirect.
fn interpreter(pid: u32, costs: &CostTable, out: &mut impl Write) -> Result<Vec<SlotChange>, Failure> {
    let mappings = maps::read(pid).map_err(|error| Failure::Failed(error.to_string()))?;
    match python::examine(pid, &mappings, costs) {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(examined)) => {
            print_interpreter(&examined, out).map_err(|error| closed(&error))?;
            Ok(examined.allocators.map(|planned| planned.exact.redirect).unwrap_or_default())
        }
        Err(refusal) => print_refusal(&refusal, out).map(|()| Vec::new()).map_err(|error| closed(&error)),
    }
}

fn print_refusal(refusal: &Refusal, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n  Python: {refusal}")
}

fn print_interpreter(examined: &Examined, out: &mut impl Write) -> io::Result<()> {
    let Examined { interpreter, allocators } = examined;
    writeln!(out, "\n  CPython {} in {}", interpreter.version, interpreter.path.display())?;
    let planned = match allocators {
        Ok(planned) => planned,
        Err(reason) => return writeln!(out, "  its allocators are not probed: {reason}"),
    };
    for domain in Domain::ALL {
        writeln!(out, "  {domain:6} allocator: {}", served(&planned.tables.table(domain).state))?;
    }
    let redirected = planned.tables.redirected().count();
    if redirected > 0 {
        writeln!(
            out,
            "  {redirected} pointers of its tables are redirected by another leaktrace, or by one that was killed"
        )?;
    }
    print_plan("--detail exact", &planned.exact.plan, out)?;
    print_writes(&planned.exact.redirect, out)?;
    print_alternatives(planned, out)
}

fn served(state: &State) -> String {
    match state {
        State::Default(Kind::Malloc) => "the C library's malloc".to_owned(),
        State::Default(Kind::Small) => "CPython's small-object allocator".to_owned(),
        State::Default(Kind::Other) => "another of the interpreter's own".to_owned(),
        State::Hooked(by) => format!("hooked by {by}"),
    }
}

fn print_plan(title: &str, plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let rows = plan.rows();
    writeln!(out, "  {title}: {} probes in the interpreter", rows.len())?;
    if !rows.is_empty() {
        print_table(&rows, out)?;
    }
    plan.notes.iter().try_for_each(|note| writeln!(out, "  note: {note}"))
}

fn print_writes(redirect: &[SlotChange], out: &mut impl Write) -> io::Result<()> {
    if redirect.is_empty() {
        return writeln!(out, "  nothing is written: the compiler has not inlined the allocator");
    }
    writeln!(out, "  written while tracing, undone at the end, refused by --no-target-writes:")?;
    redirect.iter().try_for_each(|change| writeln!(out, "    {change}"))
}

fn print_alternatives(planned: &Planned, out: &mut impl Write) -> io::Result<()> {
    if !planned.exact.redirect.is_empty() {
        print_plan("--no-target-writes", &planned.without_writes.plan, out)?;
    }
    print_plan("--detail light", &planned.light.plan, out)
}

/// What measuring does to the process.
fn announce(pid: u32, redirect: &[SlotChange], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n  measuring for 10 s: probes in process {pid}, working for some ms in every 100 ms")?;
    if !redirect.is_empty() {
        let stops =
            if needs_stop(redirect) { ", all its threads stopped for a moment each time" } else { "" };
        writeln!(
            out,
            "  {} pointers of Python's allocator table are redirected for that and back{stops}",
            redirect.len()
        )?;
    }
    out.flush()
}

fn print_rows(pid: u32, name: &str, rows: &[ProbeRow], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nprocess {pid} ({name}): {} probes", rows.len())?;
    print_table(rows, out)?;
    let source = rows.first().map_or_else(|| "unknown".to_owned(), |row| row.source.to_string());
    writeln!(out, "  costs are those of the traps, {source} on this host; leaktrace's own work comes on top")
}

fn print_table(rows: &[ProbeRow], out: &mut impl Write) -> io::Result<()> {
    let width = |text: fn(&ProbeRow) -> usize| rows.iter().map(text).max().unwrap_or(0);
    let function = width(|row| row.function.len());
    let instruction = width(|row| row.instruction.len());
    writeln!(
        out,
        "  {:function$}  {:>12}  {:instruction$}  {:14}  {:>12}  object",
        "function", "address", "instruction", "kernel", "ns per call"
    )?;
    for row in rows {
        writeln!(
            out,
            "  {:function$}  {:>12}  {:instruction$}  {:14}  {:>12}  {}",
            row.function,
            format!("{:#x}{:+}", row.address.0.wrapping_add_signed(-row.offset), row.offset),
            row.instruction,
            if row.emulated { "emulates it" } else { "single-steps" },
            format!("{}{}", row.cost_ns, if row.needs_return { " (2 traps)" } else { "" }),
            row.object.display(),
        )?;
    }
    Ok(())
}

/// What stacks of the process would be walked by.
fn unwind_tables(pid: u32, out: &mut impl Write) -> Result<(), Failure> {
    let mappings = maps::read(pid).map_err(|error| Failure::Failed(error.to_string()))?;
    let objects = survey(pid, &mappings).map_err(|error| Failure::Failed(error.to_string()))?;
    print_tables(&objects, out).map_err(|error| closed(&error))
}

fn print_tables(objects: &[Surveyed], out: &mut impl Write) -> io::Result<()> {
    let tables = || objects.iter().filter_map(|object| object.outcome.as_ref().ok());
    let rows: u64 = tables().map(|numbers| numbers.rows).sum();
    let bytes: u64 = tables().map(|numbers| numbers.bytes).sum();
    let took: Duration = tables().map(|numbers| numbers.took).sum();
    writeln!(
        out,
        "  unwind tables: {} objects, {rows} rows, {} KiB of kernel memory, made in {:.0} ms (once: they are kept)",
        tables().count(),
        bytes / 1024,
        took.as_secs_f64() * 1e3
    )?;
    writeln!(
        out,
        "  {:>10}  {:>8}  {:>6}  {:>11}  {:>8}  object",
        "rows", "KiB", "rules", "unsupported", "ms"
    )?;
    for object in objects {
        let name = object.name.display();
        match &object.outcome {
            Ok(numbers) => writeln!(
                out,
                "  {:>10}  {:>8}  {:>6}  {:>11}  {:>8.1}  {name}",
                numbers.rows,
                numbers.bytes / 1024,
                numbers.rules,
                numbers.unsupported,
                numbers.took.as_secs_f64() * 1e3
            )?,
            Err(reason) => writeln!(out, "  {:>10}  {name}: {reason}", "none")?,
        }
    }
    Ok(())
}

/// What tracing would cost the process, from the calls it makes.
fn prediction(measured: &Measured, out: &mut impl Write) -> io::Result<()> {
    let Measured { window, cpu_share, calls, .. } = measured;
    writeln!(out, "  calls, counted for {} ms in all, and what tracing one costs:", window.as_millis())?;
    for call in calls {
        let MeasuredCall { function, per_second, cost_ns, .. } = call;
        writeln!(out, "    {function:30} {per_second:>12.0} in a CPU second  {cost_ns:>7.0} ns")?;
    }
    writeln!(out, "  the process uses {cpu_share:.2} CPU seconds a second")?;
    for (detail, (slowdown, is_least)) in
        [("--detail exact", measured.exact()), ("--detail light", measured.light())]
    {
        let least = if is_least { "at least " } else { "" };
        writeln!(out, "  {detail}: predicted slowdown {least}{slowdown:.2}x")?;
    }
    Ok(())
}
