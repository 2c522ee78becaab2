//! Promise: of a pre-fork server whose workers come and go while it is traced, the line that leaks is found in every view, each
//! worker's numbers are its own, and what those held that have ended is not said to be live. No request fails meanwhile.

mod harness;

use harness::{
    Found, Outcome, Outcomes, Process, Report, Target, Tracer,
    output::Amount,
    service::{self, Load},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tempfile::TempDir;

/// Where the leak is.
const FILE: &str = "orders.py";
/// What `bytes(8000)` asks for.
const LEAKED_BYTES: i64 = 8000 + 33;
/// Requests at a time: one for each worker.
const CONNECTIONS: u32 = 4;
/// Between two requests of a connection.
const PAUSE: Duration = Duration::from_millis(4);
/// Workers that are replaced while tracing, at least.
const RECYCLED: usize = 5;
/// Workers with so many leaked objects rank the leak first.
const WORTH_MENTIONING: i64 = 10;

/// What a worker says of itself.
#[derive(Clone, Debug, Deserialize)]
struct Worker {
    pid: u32,
    /// When it had just been made, nanoseconds.
    made: u64,
    /// When it leaked, an object each.
    leaked: Vec<u64>,
}

impl Worker {
    fn leaked(&self) -> i64 {
        i64::try_from(self.leaked.len()).unwrap_or(i64::MAX)
    }

    /// Objects that were leaked when it had lived for so many seconds.
    fn leaked_after(&self, seconds: f64) -> i64 {
        let from = Duration::from_nanos(self.made) + Duration::from_secs_f64(seconds);
        let later = self.leaked.iter().filter(|at| Duration::from_nanos(**at) > from);
        i64::try_from(later.count()).unwrap_or(i64::MAX)
    }
}

/// What all of them say, those that have ended too.
#[derive(Clone, Debug, Deserialize)]
struct Accounts {
    workers: Vec<Worker>,
    lines: BTreeMap<String, u32>,
}

impl Accounts {
    fn of(&self, pid: u32) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.pid == pid)
    }

    /// The line that leaks.
    fn line(&self) -> Outcomes<u32> {
        self.lines.get("leak").copied().ok_or_else(|| format!("no line: {:?}", self.lines))
    }
}

/// gunicorn, under requests.
struct Server {
    service: Target,
    _accounts: TempDir,
}

impl Server {
    fn start() -> Outcomes<Self> {
        let accounts = tempfile::tempdir().map_err(|e| e.to_string())?;
        let directory = accounts.path().to_str().ok_or("a directory without a name")?;
        Ok(Self { service: service::start("prefork.py", &[directory])?, _accounts: accounts })
    }

    /// The master and its workers now.
    fn pids(&mut self) -> Outcomes<BTreeSet<u32>> {
        self.service.ask_json("pids")
    }

    fn accounts(&mut self) -> Outcomes<Accounts> {
        self.service.ask_json("accounts")
    }

    fn order(&mut self, command: &str) -> Outcomes<()> {
        self.service.ask_json::<bool>(command).map(drop)
    }

    /// A tracer of the master and its workers, once each of them is traced.
    fn trace(&mut self, options: &[&str]) -> Outcomes<Tracer> {
        let pids = self.pids()?;
        let list: Vec<String> = pids.iter().map(u32::to_string).collect();
        let tracer = Tracer::bare().args(&["trace", "--interval", "1s", "-p", &list.join(",")]);
        let mut tracer = tracer.args(options).start()?;
        pids.iter().try_for_each(|_| tracer.await_tracing())?;
        Ok(tracer)
    }

    fn knock(&mut self) -> Outcomes<Load> {
        Load::knock(&mut self.service, CONNECTIONS, PAUSE)
    }

    /// Waits until so many more workers have been made.
    fn await_recycled(&mut self, load: &mut Load) -> Outcomes<()> {
        let enough = self.accounts()?.workers.len() + RECYCLED;
        while self.accounts()?.workers.len() < enough {
            load.await_more(1)?;
        }
        Ok(())
    }
}

/// What a process holds of the leak.
fn held(process: &Process, accounts: &Accounts) -> Outcomes<Amount> {
    Ok(process.live_in_line(FILE, accounts.line()?))
}

/// Exactly what the worker says that it has leaked.
fn check_exact(process: &Process, accounts: &Accounts) -> Outcomes<()> {
    let Some(worker) = accounts.of(process.pid) else { return Ok(()) };
    let expected = Amount { bytes: worker.leaked() * LEAKED_BYTES, blocks: worker.leaked() };
    let found = held(process, accounts)?;
    if found == expected {
        return Ok(());
    }
    Err(format!("worker {} holds {found:?} of the leak, expected {expected:?}", worker.pid))
}

/// Of one that was traced when it had leaked already: no more than it says, no less than since it was traced.
fn check_bounds(process: &Process, accounts: &Accounts) -> Outcomes<()> {
    let Some(worker) = accounts.of(process.pid) else { return Ok(()) };
    let least = process.late_s.map_or(0, |late| worker.leaked_after(late));
    let found = held(process, accounts)?;
    if (least..=worker.leaked()).contains(&found.blocks) && found.bytes == found.blocks * LEAKED_BYTES {
        return Ok(());
    }
    Err(format!("worker {} holds {found:?}, between {least} and {} expected", worker.pid, worker.leaked()))
}

/// Whoever is said to run does; whoever runs and leaks is there; and the ended ones are counted.
fn check_presence(report: &Report, running: &BTreeSet<u32>, accounts: &Accounts) -> Outcomes<()> {
    let said: BTreeSet<u32> = report.processes.iter().map(|process| process.pid).collect();
    let phantom = report.processes.iter().find(|it| it.ended.is_none() && !running.contains(&it.pid));
    if let Some(phantom) = phantom {
        return Err(format!("process {} is said to run; {running:?} do", phantom.pid));
    }
    let leaks = |pid: &&u32| accounts.of(**pid).is_some_and(|worker| worker.leaked() >= WORTH_MENTIONING);
    if let Some(missing) = running.iter().filter(leaks).find(|pid| !said.contains(pid)) {
        return Err(format!("worker {missing} runs and is in no report: {said:?}"));
    }
    let ended = report.processes.iter().filter(|process| process.ended.is_some()).count();
    let ended = report.ended.processes + i64::try_from(ended).unwrap_or(0);
    if ended < 1 {
        return Err(format!("none has ended: {:?}", report.ended));
    }
    Ok(())
}

fn check_newcomers(report: &Report, from_birth: bool) -> Outcomes<()> {
    let newcomers = &report.truth.newcomers;
    println!("{newcomers:?}");
    let all = if from_birth { newcomers.from_birth } else { newcomers.entered };
    let said = newcomers.gaps.is_some() != from_birth && report.truth.line.contains("came while tracing");
    if all < 1 || !said {
        return Err(format!("{newcomers:?}: {}", report.truth.line));
    }
    Ok(())
}

/// Ends the requests, then the tracer; who ran meanwhile.
fn finish(server: &mut Server, load: Load, tracer: Tracer) -> Outcomes<(Outcome, BTreeSet<u32>, Accounts)> {
    load.finish()?;
    let mut running = server.pids()?;
    let outcome = tracer.interrupt_and_finish()?;
    running.extend(server.pids()?);
    Ok((outcome, running, server.accounts()?))
}

/// Each new worker waits until it is traced, so that all it leaks is seen.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_each_worker_holds_what_it_says() -> Outcomes<()> {
    let mut server = Server::start()?;
    let mut known = server.pids()?;
    let mut tracer = server.trace(&["--format", "json"])?;
    server.order("hold")?;
    let load = server.knock()?;
    for _ in 0..RECYCLED {
        let line = tracer.await_stderr("leaktrace: tracing ")?;
        let pid = line.split(' ').nth(2).and_then(|word| word.parse().ok());
        let pid: u32 = pid.ok_or_else(|| format!("no PID: {line}"))?;
        server.order(&format!("release {pid}"))?;
        known.insert(pid);
    }
    server.order("release_all")?;
    let (outcome, running, accounts) = finish(&mut server, load, tracer)?;
    let report = outcome.final_report()?;
    for process in &report.processes {
        let check = if known.contains(&process.pid) { check_exact } else { check_bounds };
        check(process, &accounts)?;
    }
    check_presence(report, &running, &accounts)?;
    check_newcomers(report, false)?;
    server.service.finish().map(drop)
}

/// Nobody waits for anybody: the probes are there before the workers.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_workers_are_traced_from_their_first_allocation_under_shared_probes() -> Outcomes<()> {
    let mut server = Server::start()?;
    let tracer = server.trace(&["--format", "json", "--placement", "shared"])?;
    let mut load = server.knock()?;
    server.await_recycled(&mut load)?;
    let (outcome, running, accounts) = finish(&mut server, load, tracer)?;
    let report = outcome.final_report()?;
    report.processes.iter().try_for_each(|process| check_exact(process, &accounts))?;
    check_presence(report, &running, &accounts)?;
    check_newcomers(report, true)?;
    server.service.finish().map(drop)
}

/// What a user sees: the text, and the same report for programs.
fn look(server: &mut Server, merge: &str) -> Outcomes<(Found, Accounts)> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = directory.path().join("report.json");
    let path = file.to_str().ok_or("a directory without a name")?;
    let tracer = server.trace(&["--group-by", "line", "--merge", merge, "-o", path])?;
    let mut load = server.knock()?;
    server.await_recycled(&mut load)?;
    let (outcome, running, accounts) = finish(server, load, tracer)?;
    if outcome.code() != 0 {
        return Err(format!("exit code {}: {}", outcome.code(), outcome.stderr));
    }
    let json = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let report: Report = serde_json::from_str(&json).map_err(|e| format!("{e}: {json:.400}"))?;
    check_presence(&report, &running, &accounts)?;
    Ok((Found { text: outcome.stdout, report, stderr: outcome.stderr }, accounts))
}

/// First in all of them together, and in each by itself.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_leaking_line_is_first_in_every_view() -> Outcomes<()> {
    let mut server = Server::start()?;
    for merge in ["all", "process"] {
        let (found, accounts) = look(&mut server, merge)?;
        let line = accounts.line()?;
        found.check_first(FILE, line)?;
        for process in found.report.processes.iter().filter(|process| accounts.of(process.pid).is_some()) {
            check_bounds(process, &accounts)?;
            let held = held(process, &accounts)?;
            let first = process.sites.first().and_then(|site| site.python_frames().next());
            if held.blocks >= WORTH_MENTIONING && first.and_then(|frame| frame.line) != Some(line) {
                return Err(format!("worker {} holds {held:?}:\n{}", process.pid, process.summary()));
            }
        }
        check_newcomers(&found.report, false)?;
    }
    server.service.finish().map(drop)
}
