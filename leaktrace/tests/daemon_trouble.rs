//! Promise: whatever goes wrong around it, the daemon goes on, says what is wrong, and loses nothing that it had.

mod harness;

use harness::{
    Daemon, Outcomes, Target, Tracer,
    daemon::{self, alerts, config, scope, sink},
    listener::{Listener, Reply},
    longest_wait, mounts, service, until,
};
use leaktrace::store::{History, history::Span};
use rusqlite::Connection;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

/// Serves where the kernel has a port, and tells nobody.
const SERVED: &str = "[serve]\nlisten = \"127.0.0.1:0\"\n";
/// Everything is told at once, whoever it is.
const TELLING: &str = "[[alerts.rule]]\nname = \"any\"\nmemory_above = \"4KiB\"\n";

/// Watches one process that sleeps.
fn watching(more: &str) -> Outcomes<(Target, String)> {
    let target = Target::start("exact")?;
    let text = config(&scope("one", &format!("pid = [{}]", target.pid())), more);
    Ok((target, text))
}

fn open(file: &Path) -> Outcomes<History> {
    History::open(file).map_err(|e| e.to_string())
}

/// When memory was read, in order: seconds since the Unix epoch.
fn readings(file: &Path) -> Outcomes<Vec<f64>> {
    let (history, failed) = (open(file)?, |error: leaktrace::store::StoreError| error.to_string());
    let subjects = history.subjects().map_err(failed)?;
    let subject = subjects.first().ok_or("the history knows nobody")?;
    let readings = history.memory(&subject.key, Span::ALL).map_err(failed)?;
    Ok(readings.iter().map(|reading| reading.at_unix_s).collect())
}

fn await_readings(file: &Path, number: usize) -> Outcomes<Vec<f64>> {
    until(|| match readings(file)? {
        readings if readings.len() >= number => Ok(readings),
        readings => Err(format!("{} of {number} readings", readings.len())),
    })
}

/// Writes until there is no room for another byte.
fn fill(file: &Path) -> Outcomes<()> {
    let mut file = File::create(file).map_err(|e| format!("{}: {e}", file.display()))?;
    for size in [65_536, 4096, 1] {
        loop {
            match file.write_all(&vec![1; size]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(format!("cannot fill the disk: {error}")),
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_full_disk_delays_history_and_loses_none_of_it() -> Outcomes<()> {
    let (_target, text) = watching(SERVED)?;
    let directory = daemon::directory()?;
    let state = directory.path().join("state");
    fs::create_dir(&state).map_err(|e| e.to_string())?;
    // A disk that only the daemon sees, and that goes with it.
    let place = std::ffi::CString::new(state.to_string_lossy().as_bytes()).map_err(|e| e.to_string())?;
    let small = move || {
        mounts::own()?;
        mounts::mount(c"tmpfs", &place, c"tmpfs", c"size=4m")
    };
    let daemon = Daemon::start_as(Tracer::bare().before(small), directory.path(), &text)?;
    let seen = PathBuf::from(format!("/proc/{}/root{}", daemon.process.pid(), state.display()));
    let history = seen.join("history.db");
    await_readings(&history, 3)?;
    fill(&seen.join("filler"))?;
    let ill = daemon.await_answer("/healthz", |status, body| status == 503 && body.contains("history"))?;
    println!("{ill}");
    let full_at = readings(&history)?.last().copied().unwrap_or_default();
    // It goes on looking at memory.
    sleep(Duration::from_secs(4));
    fs::remove_file(seen.join("filler")).map_err(|e| e.to_string())?;
    daemon.await_answer("/healthz", |status, _| status == 200)?;
    let readings = await_readings(&history, 8)?;
    let meanwhile = readings.iter().filter(|at| **at > full_at && **at < full_at + 4.0).count();
    assert!(
        meanwhile >= 2,
        "what was read while the disk was full is not there: {readings:?}, full at {full_at}"
    );
    let (_, state) = daemon.get("/api/v1/state")?;
    let state: Value = serde_json::from_str(&state).map_err(|e| e.to_string())?;
    assert_eq!(state["own"]["history_lost"].as_u64(), Some(0), "{state:#}");
    let sound: String = Connection::open(&history)
        .and_then(|connection| connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .map_err(|e| e.to_string())?;
    assert_eq!(sound, "ok");
    assert_eq!(daemon.end()?.code(), 0);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_damaged_history_is_kept_aside_and_a_new_one_begun() -> Outcomes<()> {
    let (_target, text) = watching(SERVED)?;
    let directory = daemon::directory()?;
    let daemon = Daemon::start(directory.path(), &text)?;
    let history = daemon.history();
    await_readings(&history, 2)?;
    assert_eq!(daemon.end()?.code(), 0);
    assert!(!history.with_extension("db-wal").exists(), "at rest a history is one file");
    let file = File::options().write(true).open(&history).map_err(|e| e.to_string())?;
    file.write_all_at(&[0xa5; 3 * 4096], 0).map_err(|e| e.to_string())?;
    let daemon = Daemon::start(directory.path(), &text)?;
    await_readings(&history, 2)?;
    let outcome = daemon.end()?;
    assert_eq!(outcome.code(), 0);
    let said = outcome.stderr.lines().find(|line| line.contains("damaged"));
    println!("{}", said.ok_or_else(|| format!("nothing is said: {}", outcome.stderr))?);
    let entries = fs::read_dir(history.parent().ok_or("no directory")?).map_err(|e| e.to_string())?;
    let kept = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(".damaged-"));
    assert!(kept.count() > 0, "the damaged file is gone");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_history_of_a_later_version_is_left_as_it_is() -> Outcomes<()> {
    let (_target, text) = watching(SERVED)?;
    let directory = daemon::directory()?;
    let daemon = Daemon::start(directory.path(), &text)?;
    let (history, file) = (daemon.history(), daemon.config().to_owned());
    await_readings(&history, 2)?;
    assert_eq!(daemon.end()?.code(), 0);
    let connection = Connection::open(&history).map_err(|e| e.to_string())?;
    connection.pragma_update(None, "user_version", 4711).map_err(|e| e.to_string())?;
    drop(connection);
    let before = fs::read(&history).map_err(|e| e.to_string())?;
    let outcome = Tracer::bare().args(&["daemon", "--config"]).arg(&file).run()?;
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("4711"), "{}", outcome.stderr);
    assert!(fs::read(&history).map_err(|e| e.to_string())? == before, "it was changed");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_webhook_that_hangs_delays_nobody() -> Outcomes<()> {
    let listener = Listener::start(&[Reply::Hang])?;
    let directory = daemon::directory()?;
    let told = directory.path().join("told.json");
    let file = format!("[[alerts.sink]]\nname = \"file\"\nfile = {told:?}\n");
    let (_target, text) = watching(&format!("{TELLING}{file}{}", sink(&listener)))?;
    let daemon = Daemon::start(directory.path(), &text)?;
    listener.await_requests(1)?;
    let written = until(|| fs::read_to_string(&told).map_err(|e| e.to_string()))?;
    assert!(written.contains("memory_above"), "{written}");
    // Nor the daemon itself.
    let before = await_readings(&daemon.history(), 1)?.len();
    await_readings(&daemon.history(), before + 4)?;
    daemon.await_answer("/healthz", |status, _| status == 200)?;
    assert_eq!(daemon.end()?.code(), 0);
    Ok(())
}

/// Debian's libfaketime: the wall clock of one process as a file says.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_clock_that_jumps_both_ways_is_followed_and_the_leak_is_told_of() -> Outcomes<()> {
    assert!(Path::new(FAKETIME).exists(), "no {FAKETIME}: run `cargo xtask setup --for test`");
    let mut leaking = service::start("behave.py", &["LeakPerTime", "25", "plain"])?;
    let line: u32 = leaking.ask_json("line")?;
    leaking.ask_json::<bool>("go")?;
    let directory = daemon::directory()?;
    let clock = directory.path().join("clock");
    let set = |by: &str| fs::write(&clock, by).map_err(|e| format!("the clock: {e}"));
    set("+0")?;
    let listener = Listener::start(&[Reply::status(200)])?;
    let text = config(&scope("one", &format!("pid = [{}]", leaking.pid())), &sink(&listener));
    let faked = Tracer::bare()
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    let mut daemon = Daemon::start_as(faked, directory.path(), &text)?;
    await_readings(&daemon.history(), 3)?;
    set("+2d")?;
    println!("{}", daemon.process.await_said(&["the clock was set forward"])?);
    daemon.process.await_said(&["traced lightly"])?;
    set("-1d")?;
    println!("{}", daemon.process.await_said(&["the clock was set back"])?);
    let told = until(|| {
        let alerts = alerts(&listener.requests());
        let told = alerts.iter().find(|alert| alert["kind"] == "suspect").cloned();
        told.ok_or_else(|| format!("nobody was told of the leak: {alerts:#?}"))
    })?;
    let first = &told["suspects"][0];
    assert!(first["line"].as_str().is_some_and(|found| found.contains(&format!(":{line} "))), "{first:#}");
    // A jump that was taken for time that has passed would make an hour of a second, or the other way round.
    let status: Value = leaking.ask_json("status")?;
    println!("{status}; {}", told["sentence"]);
    let watched = first["verdict"]["watched_s"].as_f64().unwrap_or_default();
    assert!(watched > 0.0 && watched < longest_wait().as_secs_f64(), "watched for {watched} s");
    let (at, since) = (told["at_unix_s"].as_f64(), first["verdict"]["since_unix_s"].as_f64());
    let age = at.zip(since).map(|(at, since)| at - since).unwrap_or(-1.0);
    assert!((0.0..longest_wait().as_secs_f64()).contains(&age), "since {age} s before it was told");
    let outcome = daemon.end()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("the clock was set").count(), 2, "{}", outcome.stderr);
    Ok(())
}
