//! What the daemon costs when it only watches (stage 0), beside a daemon with nobody to watch; and when it traces busy services (stage
//! 1), with what that does to their own throughput.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::daemon::{Daemon, Place};
use crate::script::{Load, Script};
use crate::statistics::number;
use crate::workload::Workload;
use crate::{program, workspace};

/// Processes that are watched.
const PROCESSES: usize = 500;
/// Intervals between two looks at memory: as it is shipped, and as fast as a soak.
const INTERVALS: [&str; 2] = ["10s", "1s"];
/// How long the daemon is measured.
const WINDOW: Duration = Duration::from_secs(30);
/// What comes before that: the first look at everybody is the dearest.
const WARM_UP: Duration = Duration::from_secs(3);
/// Busy services, each with so many connections.
const SERVICES: usize = 3;
const CONNECTIONS: usize = 1;
/// Between two requests of a connection, seconds: busy, but not so much that three services and the daemon starve each other.
const PAUSE: f64 = 0.005;
/// How long it may take until all of them are traced.
const LIMIT: Duration = Duration::from_secs(180);

const NOBODY: &str =
    "[[scope]]\nname = \"nobody\"\nprocess = [\"no-such-process\"]\n[tracing]\nenabled = false\n";
const CROWD: &str = "[[scope]]\nname = \"crowd\"\nprocess = [\"crowd*\"]\n[tracing]\nenabled = false\n";
/// Everything that grows at all is traced, lightly or exactly, and stays traced.
const BUSY: &str = r#"
[[scope]]
name = "services"
command = ["*/targets/python/flask_service.py*"]
[tracing]
at_once = 3
max_duration = "1h"
light_for = "1h"
max_slowdown_light = 100.0
[verdict]
least_memory = "16KiB"
stretches = ["10s", "1m", "10m"]
"#;

/// As [`BUSY`], and exactly after a while, whatever that costs.
const CLOSER: &str = r#"
[[scope]]
name = "services"
command = ["*/targets/python/flask_service.py*"]
[tracing]
max_duration = "1h"
light_for = "45s"
max_slowdown = 10000.0
max_slowdown_light = 10000.0
[verdict]
least_memory = "16KiB"
stretches = ["10s", "1m", "10m"]
"#;

/// Measures and prints.
pub fn run(bench: &Bench) -> Result<()> {
    println!("\nthe daemon, watching only, for {} s each", WINDOW.as_secs());
    println!("{:>9} {:>10} {:>13} {:>12}", "watched", "interval", "of one CPU", "RSS");
    let place = Place::anew(bench.directory.join("daemon"))?;
    for interval in INTERVALS {
        stage_0(bench, &place, interval, NOBODY, 0)?;
    }
    let mut crowd = crowd()?;
    for interval in INTERVALS {
        stage_0(bench, &place, interval, CROWD, PROCESSES)?;
    }
    crowd.ask_until("end", "total ")?;
    drop(crowd);
    stage_1(bench)?;
    stages(bench)
}

/// So many processes that sleep.
fn crowd() -> Result<Workload> {
    let source = workspace::root().join("leaktrace/tests/targets/crowd.c");
    let built = program::compile(&source, &workspace::cache("bench")?)?;
    let file = built.first().context("the crowd was not built")?;
    let mut crowd = Workload::spawn_with(file, &[&PROCESSES.to_string()])?;
    crowd.ask_until("idle", "total ")?;
    Ok(crowd)
}

fn stage_0(bench: &Bench, place: &Place, interval: &str, scope: &str, watched: usize) -> Result<()> {
    place.configure(&format!("interval = \"{interval}\""), scope)?;
    let daemon = if watched == 0 {
        Daemon::start_idle(&bench.binary, place)?
    } else {
        Daemon::start(&bench.binary, place)?
    };
    thread::sleep(WARM_UP);
    let (share, resident) = cost(&daemon)?;
    println!("{watched:>9} {interval:>10} {:>11} % {:>8} KiB", decimals(share), resident / 1024);
    daemon.stop()
}

/// Share of one CPU in percent over the window, and resident bytes at its end, traces included.
fn cost(daemon: &Daemon) -> Result<(f64, u64)> {
    let ((before, _), begun) = (daemon.cost()?, Instant::now());
    thread::sleep(WINDOW);
    let (after, resident) = daemon.cost()?;
    Ok(((after - before) * 100.0 / begun.elapsed().as_secs_f64(), resident))
}

/// A share that may be far below one percent.
fn decimals(share: f64) -> String {
    format!("{share:.2}")
}

fn stage_1(bench: &Bench) -> Result<()> {
    let mut services = Vec::new();
    for _ in 0..SERVICES {
        services.push(Script::start(&[], "flask_service.py", &["0"])?);
    }
    let mut loads = Vec::new();
    for service in &mut services {
        loads.push(Load::start(service, CONNECTIONS, PAUSE)?);
    }
    thread::sleep(WARM_UP);
    let plain = throughput(&mut loads, || {
        thread::sleep(WINDOW);
        Ok(())
    })?;
    let place = Place::anew(bench.directory.join("daemon-busy"))?;
    place.configure("interval = \"1s\"", BUSY)?;
    let daemon = Daemon::start(&bench.binary, &place)?;
    let watched = throughput(&mut loads, || {
        thread::sleep(WARM_UP);
        Ok(())
    })?;
    let noticed = await_traces(&daemon)?;
    let mut measured = (0.0, 0);
    let traced = throughput(&mut loads, || {
        measured = cost(&daemon)?;
        Ok(())
    })?;
    println!("\nthe daemon, tracing {SERVICES} busy services lightly, for {} s", WINDOW.as_secs());
    println!("all traced {} s after they were first looked at", noticed.as_secs());
    println!("daemon and traces: {} % of one CPU, {} KiB resident", decimals(measured.0), measured.1 / 1024);
    println!(
        "requests a second in all: {} plain, {} watched, {} traced ({:.3} of plain)",
        number(plain),
        number(watched),
        number(traced),
        traced / plain
    );
    daemon.stop()
}

/// What each stage does to a service that answers as fast as it can.
fn stages(bench: &Bench) -> Result<()> {
    let mut service = Script::start(&[], "flask_service.py", &["0"])?;
    let mut loads = [Load::start(&mut service, CONNECTIONS, 0.0)?];
    thread::sleep(WARM_UP);
    let mut pace = || {
        throughput(&mut loads, || {
            thread::sleep(WINDOW);
            Ok(())
        })
    };
    let plain = pace()?;
    let place = Place::anew(bench.directory.join("daemon-stages"))?;
    place.configure("interval = \"1s\"", &CLOSER.replace("[tracing]", "[tracing]\nenabled = false"))?;
    let daemon = Daemon::start(&bench.binary, &place)?;
    let watched = pace()?;
    daemon.stop()?;
    let place = Place::anew(bench.directory.join("daemon-stages"))?;
    place.configure("interval = \"1s\"", CLOSER)?;
    let daemon = Daemon::start(&bench.binary, &place)?;
    daemon.await_said("traced lightly", LIMIT)?;
    thread::sleep(WARM_UP);
    let light = pace()?;
    daemon.await_said("traced exactly", LIMIT)?;
    thread::sleep(WARM_UP);
    let exact = pace()?;
    daemon.stop()?;
    println!("\na service that answers as fast as it can, {} s in each stage", WINDOW.as_secs());
    println!("{:>16} {:>12} {:>9}", "stage", "requests/s", "of plain");
    for (stage, rate) in [
        ("plain", plain),
        ("watched", watched),
        ("traced lightly", light),
        ("traced exactly", exact),
        ("afterwards", pace()?),
    ] {
        println!("{stage:>16} {:>12} {:>9.3}", number(rate), rate / plain);
    }
    Ok(())
}

/// Requests a second of all services together, meanwhile.
fn throughput(loads: &mut [Load], meanwhile: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = loads.iter_mut().map(Load::count).collect::<Result<Vec<_>>>()?;
    meanwhile()?;
    let after = loads.iter_mut().map(Load::count).collect::<Result<Vec<_>>>()?;
    let rate = |(before, after): (&(f64, f64), &(f64, f64))| (after.0 - before.0) / (after.1 - before.1);
    Ok(before.iter().zip(&after).map(rate).sum())
}

fn await_traces(daemon: &Daemon) -> Result<Duration> {
    let begun = Instant::now();
    while daemon.traces().len() < SERVICES {
        if begun.elapsed() > LIMIT {
            bail!(
                "only {} of {SERVICES} services are traced after {} s",
                daemon.traces().len(),
                LIMIT.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(200));
    }
    // Probes are placed, tables are made.
    thread::sleep(WARM_UP);
    Ok(begun.elapsed())
}
