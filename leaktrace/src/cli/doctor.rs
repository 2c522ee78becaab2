//! `leaktrace doctor`: what works on this host, and what would be placed in a target. Reads only.

use std::io::{self, Write};

use super::{Failure, args::DoctorArguments, meant};
use crate::{
    daemon::check_target,
    kernel::{Kernel, LoadOptions},
    probe::cost::CostTable,
    process::host,
    target::{TargetSpec, discover, preflight},
};

/// Prints what was found.
///
/// # Errors
/// If a target was named that cannot be looked at.
pub fn run(typed: &DoctorArguments) -> Result<(), Failure> {
    let named = !typed.target.pid.is_empty();
    let target = if named { Some(meant::target(&typed.target, Vec::new())?) } else { None };
    let mut out = io::stdout().lock();
    let kernel = host_findings(&mut out).map_err(|error| closed(&error))?;
    let costs = match kernel {
        Some(mut kernel) => kernel.calibrate()?,
        None => CostTable::default(),
    };
    for pid in match target {
        Some(TargetSpec::Pids(pids)) => pids,
        _ => Vec::new(),
    } {
        process(pid, &costs, &mut out)?;
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
    match Kernel::load(&LoadOptions { max_live_blocks: 1024, max_sites: 1024, ..LoadOptions::default() }) {
        Ok((kernel, ..)) => {
            writeln!(out, "ok       BPF programs load; probes are placed by {:?} links", kernel.link_mode())?;
            Ok(Some(kernel))
        }
        Err(error) => {
            writeln!(out, "PROBLEM  {error}")?;
            Ok(None)
        }
    }
}

fn process(pid: u32, costs: &CostTable, out: &mut impl Write) -> Result<(), Failure> {
    let identity = check_target(pid)?;
    let found = discover::discover(pid, costs).map_err(|error| Failure::Failed(error.to_string()))?;
    let rows = found.plan.rows();
    let mut print = || -> io::Result<()> {
        writeln!(out, "\nprocess {pid} ({}): {} probes", identity.name, rows.len())?;
        let width = rows.iter().map(|row| row.function.len()).max().unwrap_or(0);
        for row in &rows {
            writeln!(
                out,
                "  {:width$}  {}+{:#x}  {:30} {:13} {:>6} ns per call {}  {}",
                row.function,
                row.address.0.wrapping_sub(row.offset).to_string().chars().take(0).collect::<String>(),
                row.offset,
                row.instruction,
                if row.emulated { "emulated" } else { "single-stepped" },
                row.cost_ns,
                if row.needs_return { "(with return)" } else { "             " },
                row.object.display(),
            )?;
        }
        writeln!(out, "  costs are {}", rows.first().map_or("unknown".to_owned(), |row| row.source.to_string()))?;
        for note in &found.plan.notes {
            writeln!(out, "  note: {note}")?;
        }
        Ok(())
    };
    print().map_err(|error| closed(&error))
}
