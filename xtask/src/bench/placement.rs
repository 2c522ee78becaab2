//! Whose the probes are, and what that costs: a neighbour that uses the same C library, and the traced processes themselves,
//! by their number.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Bench, WINDOW, middle};
use crate::statistics::{number, with_range};
use crate::tracer::Tracer;
use crate::workload::Workload;

/// Processes in scope. More with links of their own would take minutes to detach.
const PROCESSES: [usize; 4] = [1, 16, 50, 100];

/// Whose probes, and how leaktrace is told.
const PLACEMENTS: [(&str, &str); 2] = [("own", "process"), ("shared", "shared")];

/// Measures and prints.
pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    neighbour(bench, rounds)?;
    println!(
        "\na traced process's malloc+free pair, ns: what tracing adds, by processes in scope and whose the probes are"
    );
    for count in PROCESSES {
        crowd(bench, rounds, count)?;
    }
    Ok(())
}

/// A process that is not traced, beside one that is. Both allocate; only the neighbour is measured.
fn neighbour(bench: &Bench, rounds: usize) -> Result<()> {
    let (target, mut neighbour) = (Workload::start()?, Workload::start()?);
    let mut measured: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for (name, option) in PLACEMENTS {
            let before = neighbour.pairs(1, 64, WINDOW)?.nanoseconds;
            let tracer = attach(bench, &[target.pid()], option)?;
            let during = neighbour.pairs(1, 64, WINDOW)?.nanoseconds;
            tracer.finish()?;
            measured.entry("nothing traced").or_default().push(before);
            measured.entry(name).or_default().push(during);
        }
    }
    let of = |name| measured.get(name).map(Vec::as_slice).unwrap_or_default();
    let base = middle(of("nothing traced"));
    println!("\na neighbour's malloc+free pair, ns, and its rate against that with nothing traced");
    for name in ["nothing traced", "own", "shared"] {
        println!("  {name:<16} {:<28} {:.3}", with_range(of(name)), base / middle(of(name)));
    }
    Ok(())
}

/// So many processes in scope, of which one allocates.
fn crowd(bench: &Bench, rounds: usize, count: usize) -> Result<()> {
    let mut processes = (0..count).map(|_| Workload::start()).collect::<Result<Vec<_>>>()?;
    let pids: Vec<u32> = processes.iter().map(Workload::pid).collect();
    let Some(busy) = processes.first_mut() else { return Ok(()) };
    let mut measured: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..rounds {
        for (name, option) in PLACEMENTS {
            let before = busy.pairs(1, 64, WINDOW)?.nanoseconds;
            let tracer = attach(bench, &pids, option)?;
            let attach_ms = tracer.attach_time.as_secs_f64() * 1e3;
            let during = busy.pairs(1, 64, WINDOW)?.nanoseconds;
            tracer.finish()?;
            let (added, attached) = measured.entry(name).or_default();
            added.push(during - before);
            attached.push(attach_ms);
        }
    }
    for (name, (added, attached)) in &measured {
        println!(
            "  {count:>4} processes, {name:<7} {:<28} attached in {} ms",
            with_range(added),
            number(middle(attached))
        );
    }
    Ok(())
}

fn attach(bench: &Bench, pids: &[u32], placement: &str) -> Result<Tracer> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();
    let options = ["--interval", "10s", "--placement", placement];
    Tracer::leaktrace_of_many(&bench.binary, &pids, &options, &bench.directory.join("placement.txt"))
}
