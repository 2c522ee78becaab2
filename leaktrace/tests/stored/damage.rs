//! What hosts do to files.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    process::{Child, Command, Stdio},
};

use leaktrace::{
    report::model::Report,
    store::{
        Entry, History, Store, StoreConfig, StoreError,
        history::Span,
        schema::{self, MIGRATIONS},
    },
    watched::MemoryReading,
};
use rusqlite::Connection;

use super::{NOW, Scratch, leak, memory, subject, today, traced};
use crate::harness::{Outcomes, longest_wait, mounts};

/// Says where the child process is to write.
const CHILD: &str = "LEAKTRACE_TEST_HISTORY";
/// Rows of one transaction of the child.
const ROWS: u64 = 20;

/// Not a test of its own: what the next one kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let mut store = Store::open(path.as_ref(), &StoreConfig::default()).expect("the history opens");
    for number in store.reserve_sessions(1).expect("numbers").0.. {
        let reading = MemoryReading { at_unix_s: NOW, rss_bytes: number, ..MemoryReading::default() };
        let readings = (0..ROWS).map(|row| (format!("s{row}"), reading)).collect();
        let mut entries = vec![Entry::Memory(readings)];
        entries.append(&mut traced("a", number, &leak(number % 50, number, NOW)));
        store.write(&entries).expect("written");
        println!("\nwritten {number}");
    }
}

fn child(scratch: &Scratch) -> Outcomes<(Child, impl Iterator<Item = u64> + use<>)> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let name = "stored::damage::child_that_writes_until_it_is_killed";
    let mut child = Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, scratch.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines().map_while(Result::ok);
    Ok((child, lines.filter_map(|line| line.strip_prefix("written ")?.parse().ok())))
}

#[test]
fn whoever_is_killed_while_writing_loses_no_transaction_and_leaves_none_by_half() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    for round in 0..20 {
        let (mut child, mut written) = child(&scratch)?;
        let last = written.nth(round % 7).ok_or("the child wrote nothing")?;
        // Somebody reads all the while.
        let seen = scratch.history()?.memory("s0", Span::ALL).map_err(|e| e.to_string())?;
        child.kill().map_err(|e| e.to_string())?;
        child.wait().map_err(|e| e.to_string())?;
        let last = written.last().unwrap_or(last);
        assert!(!seen.is_empty());
        // Without any help first: what the next writer would put right.
        let history = scratch.history()?;
        let newest = history.memory("s0", Span::ALL).map_err(|e| e.to_string())?;
        let newest = newest.last().map_or(0, |reading| reading.rss_bytes);
        assert!(newest >= last, "{newest} is the last that is there, {last} was written");
        let halves = scratch.count(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM memory GROUP BY rss HAVING count(*) <> {ROWS})"
        ))?;
        assert_eq!(halves, 0);
        assert_eq!(
            scratch.count("SELECT count(*) FROM reports")?,
            scratch.count("SELECT count(*) FROM memory")? / ROWS.cast_signed()
        );
    }
    let store = scratch.store()?;
    assert_eq!(store.notice(), None);
    store.check().map_err(|e| e.to_string())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_full_disk_delays_what_is_written_and_spoils_nothing() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    small_disk(&scratch, c"size=3m")?;
    let filler = scratch.directory.path().join("filler");
    fs::write(&filler, vec![0; 2 << 20]).map_err(|e| e.to_string())?;
    let writer = scratch.writer()?;
    let mut sent = 0;
    let begun = std::time::Instant::now();
    while !writer.health().failing && begun.elapsed() < longest_wait() {
        for _ in 0..200 {
            writer.send(many(sent));
            sent += 1;
        }
        writer.flush(longest_wait());
    }
    let health = writer.health();
    assert!(health.failing && health.error.is_some_and(|error| error.contains("no room")), "{sent}");
    assert_eq!(health.lost, 0);
    assert!(!scratch.history()?.memory("s0", Span::ALL).map_err(|e| e.to_string())?.is_empty());
    fs::remove_file(&filler).map_err(|e| e.to_string())?;
    while !writer.flush(longest_wait()) && begun.elapsed() < longest_wait() {}
    assert!(!writer.health().failing);
    let there = scratch.history()?.memory("s0", Span::ALL).map_err(|e| e.to_string())?;
    assert_eq!(there.len() as u64 + writer.health().lost, sent);
    let numbers: Vec<u64> = there.iter().map(|reading| reading.rss_bytes).collect();
    assert!(numbers.is_sorted(), "what waited is written in its order");
    drop(writer);
    scratch.store()?.check().map_err(|e| e.to_string())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_disk_that_is_full_from_the_beginning_does_not_keep_the_daemon_from_starting() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    small_disk(&scratch, c"size=2m")?;
    let filler = scratch.directory.path().join("filler");
    fs::write(&filler, vec![0; (2 << 20) - (48 << 10)]).map_err(|e| e.to_string())?;
    let writer = scratch.writer()?;
    let id = writer.next_session_id();
    writer.send(many(1));
    assert!(!writer.flush(longest_wait()));
    fs::remove_file(&filler).map_err(|e| e.to_string())?;
    let begun = std::time::Instant::now();
    while !writer.flush(longest_wait()) && begun.elapsed() < longest_wait() {}
    assert_eq!(scratch.history()?.memory("s0", Span::ALL).map_err(|e| e.to_string())?.len(), 1);
    assert!(writer.next_session_id() > id);
    Ok(())
}

/// Mounts one over the directory, seen by this thread and those that it starts.
fn small_disk(scratch: &Scratch, size: &std::ffi::CStr) -> Outcomes<()> {
    let place = std::ffi::CString::new(scratch.directory.path().to_str().ok_or("a path")?);
    let place = place.map_err(|e| e.to_string())?;
    mounts::own().map_err(|e| e.to_string())?;
    mounts::mount(c"tmpfs", &place, c"tmpfs", size).map_err(|e| e.to_string())
}

fn many(number: u64) -> Entry {
    let reading = MemoryReading { at_unix_s: today(), rss_bytes: number, ..MemoryReading::default() };
    Entry::Memory((0..50).map(|row| (format!("s{row}"), reading)).collect())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_history_on_a_medium_that_nobody_can_write_to_is_read_with_its_log() -> Outcomes<()> {
    let (origin, scratch) = (Scratch::new()?, Scratch::new()?);
    let mut store = origin.store()?;
    store.write(&traced("a", 1, &leak(1, 1000, NOW))).map_err(|e| e.to_string())?;
    small_disk(&scratch, c"size=3m")?;
    copy(&origin, &scratch, &["history.db", "history.db-wal"])?;
    let place = std::ffi::CString::new(scratch.directory.path().to_str().ok_or("a path")?);
    let place = place.map_err(|e| e.to_string())?;
    let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
    // SAFETY: every pointer is a C string that outlives the call.
    let done =
        unsafe { libc::mount(c"tmpfs".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), flags, std::ptr::null()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    assert!(fs::write(scratch.directory.path().join("x"), "").is_err());
    let report = scratch.history()?.report_between(Some("a"), Span::ALL).map_err(|e| e.to_string())?;
    assert_eq!(report.map(|report| report.processes.len()), Some(1));
    Ok(())
}

#[test]
fn a_copy_is_read_without_a_trace_and_with_or_without_its_log() -> Outcomes<()> {
    let origin = Scratch::new()?;
    let mut store = origin.store()?;
    for number in 0..5 {
        store.write(&[memory("a", NOW + f64::from(number), 1)]).map_err(|e| e.to_string())?;
    }
    let known = |scratch: &Scratch| -> Outcomes<usize> {
        Ok(scratch.history()?.memory("a", Span::ALL).map_err(|e| e.to_string())?.len())
    };
    let with_log = Scratch::new()?;
    copy(&origin, &with_log, &["history.db", "history.db-wal"])?;
    assert_eq!(known(&with_log)?, 5);
    store.close();
    let without = Scratch::new()?;
    copy(&origin, &without, &["history.db"])?;
    assert_eq!(known(&without)?, 5);
    assert_eq!(without.files(), ["history.db"]);
    Ok(())
}

fn copy(from: &Scratch, to: &Scratch, names: &[&str]) -> Outcomes<()> {
    for name in names {
        fs::copy(from.directory.path().join(name), to.directory.path().join(name))
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

/// A history with some megabytes in it, closed.
fn filled() -> Outcomes<Scratch> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    let reports: Vec<Report> = (0..50).map(|step| leak(step, step * 1000, NOW)).collect();
    for report in &reports {
        store.write(&traced("a", 1, report)).map_err(|e| e.to_string())?;
        store.write(&(0..20).map(many).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    }
    store.close();
    Ok(scratch)
}

fn spoil(scratch: &Scratch, begin: u64, length: usize) -> Outcomes<()> {
    let file = fs::OpenOptions::new().write(true).open(scratch.path()).map_err(|e| e.to_string())?;
    let garbage: Vec<u8> = (0..length).map(|byte| (byte * 37 % 251) as u8).collect();
    file.write_all_at(&garbage, begin).map_err(|e| e.to_string())
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begun() -> Outcomes<()> {
    for (begin, length) in [(0, 100), (0, 8192), (40_960, 65_536), (4096, 4096)] {
        let scratch = filled()?;
        spoil(&scratch, begin, length)?;
        if begin == 0 {
            let error = History::open(&scratch.path()).expect_err("it is damaged").to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
        let mut store = scratch.store()?;
        let notice = store.notice().unwrap_or_default().to_owned();
        assert!(notice.contains("damaged-") && !notice.contains('\n'), "{notice}");
        store.write(&[memory("b", NOW, 1)]).map_err(|e| e.to_string())?;
        assert_eq!(scratch.history()?.subjects().map_err(|e| e.to_string())?.len(), 1);
    }
    Ok(())
}

#[test]
fn only_the_latest_damaged_files_are_kept() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    for _ in 0..6 {
        fs::write(scratch.path(), "this is no database, however long it may be looked at".repeat(100))
            .map_err(|e| e.to_string())?;
        assert!(scratch.store()?.notice().is_some());
    }
    let kept = scratch.files().into_iter().filter(|name| name.contains(".damaged-")).count();
    assert_eq!(kept, 3, "{:?}", scratch.files());
    Ok(())
}

#[test]
fn a_later_version_is_refused_and_left_as_it_is() -> Outcomes<()> {
    let scratch = filled()?;
    let raw = Connection::open(scratch.path()).map_err(|e| e.to_string())?;
    raw.pragma_update(None, "user_version", 99).map_err(|e| e.to_string())?;
    drop(raw);
    let before = fs::read(scratch.path()).map_err(|e| e.to_string())?;
    let error = Store::open(&scratch.path(), &scratch.config).expect_err("it is newer");
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert!(matches!(History::open(&scratch.path()), Err(StoreError::Newer { found: 99, .. })));
    assert!(before == fs::read(scratch.path()).map_err(|e| e.to_string())?, "it was changed");
    assert_eq!(schema::version_of(MIGRATIONS), 1);
    Ok(())
}

#[test]
fn another_programs_database_is_refused_and_left_as_it_is() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let raw = Connection::open(scratch.path()).map_err(|e| e.to_string())?;
    raw.execute_batch("CREATE TABLE accounts (owner TEXT)").map_err(|e| e.to_string())?;
    drop(raw);
    let before = fs::read(scratch.path()).map_err(|e| e.to_string())?;
    assert!(matches!(Store::open(&scratch.path(), &scratch.config), Err(StoreError::Foreign { .. })));
    assert!(matches!(History::open(&scratch.path()), Err(StoreError::Foreign { .. })));
    assert!(before == fs::read(scratch.path()).map_err(|e| e.to_string())?, "it was changed");
    Ok(())
}

#[test]
fn two_cannot_write_and_the_second_is_told_who_does() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let first = scratch.writer()?;
    let error = scratch.writer().expect_err("it is in use");
    let expected = format!("is being written by process {}", std::process::id());
    assert!(error.contains(&expected), "{error}");
    first.send(Entry::Subject(subject("a")));
    drop(first);
    drop(scratch.writer()?);
    assert_eq!(scratch.history()?.subjects().map_err(|e| e.to_string())?.len(), 1);
    Ok(())
}
