//! Promise: of a pre-fork server whose workers come and go while it is traced, the line that leaks is found in every view, each
//! worker's numbers are its own, and what those held that have ended is not said to be live. No request fails meanwhile.

mod harness;

use harness::{
    Found, Outcome, Outcomes, Process, Report, Target, Tracer,
    output::Amount,
    patience,
    service::{self, Load},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Where the leak is.
const FILE: &str = "orders.py";
/// What `bytes(8000)` asks for.
const LEAKED_BYTES: i64 = 8000 + 33;
/// Workers of the server.
const WORKERS: usize = 4;
/// Requests at a time: one for each worker.
const CONNECTIONS: u32 = 4;
/// Between two requests of a connection.
const PAUSE: Duration = Duration::from_millis(4);
/// Workers that are made while tracing, at least, before the last ones.
const RECYCLED: usize = 5;
/// So many objects are more than whatever else a worker holds.
const WORTH_MENTIONING: i64 = 30;

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

    /// The master, then its workers, now.
    fn pids(&mut self) -> Outcomes<Vec<u32>> {
        self.service.ask_json("pids")
    }

    fn workers(&mut self) -> Outcomes<BTreeSet<u32>> {
        Ok(self.pids()?.into_iter().skip(1).collect())
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
        pids.iter().try_for_each(|_| tracer.await_tracing().map(drop))?;
        Ok(tracer)
    }

    fn knock(&mut self) -> Outcomes<Load> {
        Load::knock(&mut self.service, CONNECTIONS, PAUSE)
    }

    /// Waits until some more workers have been made.
    fn await_recycled(&mut self, load: &mut Load) -> Outcomes<()> {
        let enough = self.accounts()?.workers.len() + RECYCLED;
        while self.accounts()?.workers.len() < enough {
            load.await_more(1)?;
        }
        Ok(())
    }

    /// Workers from now on stay; waits until all others are gone, and these are traced.
    fn await_last(&mut self, load: &mut Load, tracer: &mut Tracer) -> Outcomes<()> {
        let before = self.workers()?;
        self.order("last")?;
        while !self.workers()?.is_disjoint(&before) || self.workers()?.len() < WORKERS {
            load.await_more(1)?;
        }
        let mut untraced = self.workers()?;
        while !untraced.is_empty() {
            untraced.remove(&next_traced(tracer)?);
        }
        Ok(())
    }

    /// Waits until each worker has leaked so many more objects that these are most of what it holds.
    fn await_leaks(&mut self, load: &mut Load) -> Outcomes<()> {
        let workers = self.workers()?;
        let leaked = |accounts: &Accounts, pid: &u32| accounts.of(*pid).map_or(0, Worker::leaked);
        let before = self.accounts()?;
        let enough = |now: &Accounts, pid: &u32| leaked(now, pid) - leaked(&before, pid) >= WORTH_MENTIONING;
        loop {
            let now = self.accounts()?;
            if workers.iter().all(|pid| enough(&now, pid)) {
                return Ok(());
            }
            load.await_more(1)?;
        }
    }
}

/// The next process that is traced.
fn next_traced(tracer: &mut Tracer) -> Outcomes<u32> {
    let line = tracer.await_stderr("leaktrace: tracing ")?;
    let pid = line.split(' ').nth(2).and_then(|word| word.parse().ok());
    pid.ok_or_else(|| format!("no PID: {line}"))
}

fn read_report(file: &Path) -> Outcomes<Report> {
    let json = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    serde_json::from_str(&json).map_err(|e| format!("{e}: {json:.400}"))
}

/// Waits until what has been leaked is old enough: has the tracer write its report until that says so of every worker.
fn await_survivors(tracer: &Tracer, file: &Path, accounts: &Accounts) -> Outcomes<()> {
    let deadline = Instant::now() + patience();
    loop {
        tracer.signal(libc::SIGUSR1);
        std::thread::sleep(Duration::from_millis(100));
        let missing = match read_report(file) {
            Ok(report) => check_first(&report, accounts),
            Err(error) => Err(error),
        };
        match missing {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

/// What a process holds of the leak.
fn held(process: &Process, accounts: &Accounts) -> Outcomes<Amount> {
    Ok(process.live_in_line(FILE, accounts.line()?))
}

/// What one that runs says of itself. The others gave everything back in the end: that is how interpreters end.
fn account<'a>(process: &Process, accounts: &'a Accounts) -> Option<&'a Worker> {
    accounts.of(process.pid).filter(|_| process.ended.is_none())
}

/// Exactly what the worker says that it has leaked.
fn check_exact(process: &Process, accounts: &Accounts) -> Outcomes<()> {
    let Some(worker) = account(process, accounts) else { return Ok(()) };
    let expected = Amount { bytes: worker.leaked() * LEAKED_BYTES, blocks: worker.leaked() };
    let found = held(process, accounts)?;
    if found == expected {
        return Ok(());
    }
    Err(format!("worker {} holds {found:?} of the leak, expected {expected:?}", worker.pid))
}

/// Of one that was traced when it had leaked already: no more than it says, no less than since it was traced.
fn check_bounds(process: &Process, accounts: &Accounts) -> Outcomes<()> {
    let Some(worker) = account(process, accounts) else { return Ok(()) };
    let least = process.late_s.map_or(0, |late| worker.leaked_after(late));
    let found = held(process, accounts)?;
    if (least..=worker.leaked()).contains(&found.blocks) && found.bytes == found.blocks * LEAKED_BYTES {
        return Ok(());
    }
    Err(format!("worker {} holds {found:?}, between {least} and {} expected", worker.pid, worker.leaked()))
}

/// Who is said to run does, all who run are there, and those that were there at first are counted among the ended ones.
fn check_presence(report: &Report, running: &[u32]) -> Outcomes<()> {
    let said = report.processes.iter().filter(|process| process.ended.is_none()).map(|process| process.pid);
    let said: BTreeSet<u32> = said.collect();
    if said != running.iter().copied().collect() {
        return Err(format!("{said:?} are said to run, {running:?} do"));
    }
    let ended = report.processes.len() - said.len();
    let ended = report.ended.processes + i64::try_from(ended).unwrap_or(0);
    if ended < i64::try_from(WORKERS).unwrap_or(i64::MAX) {
        return Err(format!("{ended} have ended: {:?}", report.ended));
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

/// What is known at the end, on both sides.
struct Ended {
    outcome: Outcome,
    running: Vec<u32>,
    accounts: Accounts,
}

impl Ended {
    /// Ends the requests, none of which may have failed, and the tracer.
    fn of(server: &mut Server, load: Load, tracer: Tracer) -> Outcomes<Self> {
        let count = load.finish()?;
        println!("{count:?}");
        let (running, accounts) = (server.pids()?, server.accounts()?);
        Ok(Self { outcome: tracer.interrupt_and_finish()?, running, accounts })
    }
}

/// Each new worker waits until it is traced, so that all it leaks is seen.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_each_worker_holds_what_it_says() -> Outcomes<()> {
    let mut server = Server::start()?;
    let mut tracer = server.trace(&["--format", "json"])?;
    server.order("hold")?;
    server.order("last")?;
    let mut load = server.knock()?;
    for _ in 0..WORKERS {
        let pid = next_traced(&mut tracer)?;
        server.order(&format!("release {pid}"))?;
    }
    server.await_leaks(&mut load)?;
    let Ended { outcome, running, accounts } = Ended::of(&mut server, load, tracer)?;
    let report = outcome.final_report()?;
    report.processes.iter().try_for_each(|process| check_exact(process, &accounts))?;
    check_presence(report, &running)?;
    check_newcomers(report, false)?;
    server.service.finish().map(drop)
}

/// Nobody waits for anybody: the probes are there before the workers.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_workers_are_traced_from_their_first_allocation_under_shared_probes() -> Outcomes<()> {
    let mut server = Server::start()?;
    let mut tracer = server.trace(&["--format", "json", "--placement", "shared"])?;
    let mut load = server.knock()?;
    server.await_recycled(&mut load)?;
    server.await_last(&mut load, &mut tracer)?;
    server.await_leaks(&mut load)?;
    let Ended { outcome, running, accounts } = Ended::of(&mut server, load, tracer)?;
    let report = outcome.final_report()?;
    report.processes.iter().try_for_each(|process| check_exact(process, &accounts))?;
    check_presence(report, &running)?;
    check_newcomers(report, true)?;
    server.service.finish().map(drop)
}

/// The leak is what each worker that runs holds most of.
fn check_first(report: &Report, accounts: &Accounts) -> Outcomes<()> {
    let line = Some(accounts.line()?);
    for process in report.processes.iter().filter(|process| account(process, accounts).is_some()) {
        let first = process.sites.first().filter(|site| site.survivors.blocks > 0);
        if first.and_then(|site| site.python_frames().next()).and_then(|frame| frame.line) != line {
            return Err(format!("worker {}:\n{}", process.pid, process.summary()));
        }
    }
    Ok(())
}

/// What a user sees, and the same report for programs.
fn check_view(merge: &str) -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = directory.path().join("report.json");
    let path = file.to_str().ok_or("a directory without a name")?;
    let mut server = Server::start()?;
    let mut tracer = server.trace(&["--group-by", "line", "--merge", merge, "-o", path])?;
    let mut load = server.knock()?;
    server.await_recycled(&mut load)?;
    server.await_last(&mut load, &mut tracer)?;
    server.await_leaks(&mut load)?;
    await_survivors(&tracer, &file, &server.accounts()?)?;
    let Ended { outcome, running, accounts } = Ended::of(&mut server, load, tracer)?;
    if outcome.code() != 0 {
        return Err(format!("exit code {}: {}", outcome.code(), outcome.stderr));
    }
    let found = Found { text: outcome.stdout, report: read_report(&file)?, stderr: outcome.stderr };
    found.check_first(FILE, accounts.line()?)?;
    check_first(&found.report, &accounts)?;
    check_presence(&found.report, &running)?;
    check_newcomers(&found.report, false)?;
    found.report.processes.iter().try_for_each(|process| check_bounds(process, &accounts))?;
    server.service.finish().map(drop)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_leaking_line_is_first_in_all_workers_together() -> Outcomes<()> {
    check_view("all")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_leaking_line_is_first_in_each_worker() -> Outcomes<()> {
    check_view("process")
}
