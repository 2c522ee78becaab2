//! `leaktrace doctor`: what works on this host, and what would be placed in a target. Reads only.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{Failure, args::DoctorArguments, meant};
use crate::{
    daemon::{CallRates, check_target, count_calls},
    kernel::{Kernel, LoadOptions},
    probe::{cost::CostTable, plan::ProbeRow},
    process::{host, maps},
    target::{TargetSpec, discover, preflight},
    unwind::survey::{Surveyed, survey},
};

/// How long `--measure` counts. Short: while it counts, the target pays for the probes.
const WINDOW: Duration = Duration::from_millis(200);

/// Prints what was found.
///
/// # Errors
/// If a target was named that cannot be looked at.
pub fn run(typed: &DoctorArguments) -> Result<(), Failure> {
    let named = typed.target.names_anything();
    let target = named.then(|| meant::target(&typed.target, Vec::new())).transpose()?;
    let mut out = io::stdout().lock();
    let mut kernel = host_findings(&mut out).map_err(|error| closed(&error))?;
    let costs = match &mut kernel {
        Some(kernel) => kernel.calibrate()?,
        None => CostTable::default(),
    };
    let Some(TargetSpec::Pids(pids)) = target else { return Ok(()) };
    for pid in pids {
        let rows = process(pid, &costs, &mut out)?;
        unwind_tables(pid, &mut out)?;
        if let (true, Some(kernel)) = (typed.measure, &mut kernel) {
            let rates = count_calls(kernel, pid, &costs, WINDOW)?;
            prediction(&rates, &rows, &mut out).map_err(|error| closed(&error))?;
        }
    }
    Ok(())
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
fn process(pid: u32, costs: &CostTable, out: &mut impl Write) -> Result<Vec<ProbeRow>, Failure> {
    let identity = check_target(pid)?;
    let found = discover::required(pid, costs)?;
    let rows = found.plan.rows();
    print_rows(pid, &identity.name, &rows, out)
        .and_then(|()| found.plan.notes.iter().try_for_each(|note| writeln!(out, "  note: {note}")))
        .map_err(|error| closed(&error))?;
    Ok(rows)
}

fn print_rows(pid: u32, name: &str, rows: &[ProbeRow], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nprocess {pid} ({name}): {} probes", rows.len())?;
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
            format!("{:#x}+{}", row.address.0.saturating_sub(row.offset), row.offset),
            row.instruction,
            if row.emulated { "emulates it" } else { "single-steps" },
            format!("{}{}", row.cost_ns, if row.needs_return { " (2 traps)" } else { "" }),
            row.object.display(),
        )?;
    }
    let source = rows.first().map_or_else(|| "unknown".to_owned(), |row| row.source.to_string());
    writeln!(out, "  costs are those of the traps, {source} on this host; leaktrace's own work comes on top")
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
fn prediction(rates: &CallRates, rows: &[ProbeRow], out: &mut impl Write) -> io::Result<()> {
    let mut share = 0.0;
    writeln!(out, "  calls a second, counted for {} ms:", rates.window.as_millis())?;
    for row in rows {
        let calls: f64 = row.function.split(", ").filter_map(|name| rates.per_second.get(name)).sum();
        if calls > 0.0 {
            share += calls * f64::from(row.cost_ns) / 1e9;
            writeln!(out, "    {:30} {calls:>12.0}", row.function)?;
        }
    }
    let busy = rates.cpu_share.max(share).max(0.001);
    writeln!(
        out,
        "  the traps would take {share:.3} CPU seconds a second; the process uses {:.3}: predicted slowdown up to {:.2}x",
        rates.cpu_share,
        1.0 + share / busy
    )
}
