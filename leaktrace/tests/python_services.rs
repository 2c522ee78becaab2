//! Promise: in services as they run in production, under load and beside innocent traffic, one command ranks the line that
//! leaks first.

mod harness;

use harness::{
    Found, Outcomes, Process, Target,
    output::Amount,
    service::{self, Leak, Load},
};
use std::time::Duration;

/// Between two requests of a connection: busy, but not so much that the machine has no time to answer.
const PAUSE: Duration = Duration::from_millis(4);

/// `leaktrace trace -p PID ...`, for so many seconds.
fn trace(target: &Target, seconds: u32, options: &[&str]) -> Outcomes<Found> {
    Found::by_one_command(&["-p", &target.pid().to_string()], "5s", seconds, options)
}

fn ask_leak(target: &mut Target) -> Outcomes<Leak> {
    target.ask_json("leaked")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_clients_that_a_property_makes_at_each_call_are_found() -> Outcomes<()> {
    let mut target = service::start("worker_pool.py", &[])?;
    let before = ask_leak(&mut target)?;
    let found = trace(&target, 20, &[])?;
    let after = ask_leak(&mut target)?;
    let line = after.line("client")?;
    found.check_first("worker_pool.py", line)?;
    let held = found.process()?.live_in_line("worker_pool.py", line);
    let made = after.leaked - before.leaked;
    println!("{held:?} held by {made} clients");
    // A buffer each, among other things; some were made before tracing began and after it ended.
    let least = made / 2;
    assert!(held.blocks >= least && held.bytes >= least * 4096, "{held:?}, {made} clients were made");
    Ok(())
}

/// Floats on the line that makes them, the list's storage on the line that appends.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_timings_that_nothing_clears_are_found() -> Outcomes<()> {
    let mut target = service::start("flask_service.py", &["0"])?;
    let mut load = Load::start(&mut target, PAUSE)?;
    load.await_more(500)?;
    let before = ask_leak(&mut target)?;
    let found = trace(&target, 25, &[])?;
    let after = ask_leak(&mut target)?;
    load.check()?;
    found.check_first("metrics.py", after.line("floats")?)?;
    check_timings(&before, &after, found.process()?)
}

/// At most so many were leaked while tracing; at least most of them, whatever attaching and detaching took.
fn check_timings(before: &Leak, after: &Leak, process: &Process) -> Outcomes<()> {
    let floats = process.live_in_line("metrics.py", after.line("floats")?);
    let made = after.leaked - before.leaked;
    println!("{floats:?} of {made} leaked floats");
    assert_eq!(floats.bytes, floats.blocks * 24, "floats are 24 bytes");
    assert!((made / 2..=made).contains(&floats.blocks), "{floats:?}, {made} were leaked");
    let storage = process.live_in_line("metrics.py", after.line("storage")?);
    // Once it has moved while traced, the list has its storage from this line.
    let expected = Amount { bytes: storage.bytes, blocks: 1 };
    assert_eq!(storage, expected, "the list's storage");
    assert!(storage.bytes >= after.leaked * 8 * 3 / 4, "{storage:?} for {} floats", after.leaked);
    Ok(())
}

/// One float a second, among some hundred thousand objects a second that go at once.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_one_leaked_object_a_second_is_found() -> Outcomes<()> {
    let mut target = service::start("flask_service.py", &["1"])?;
    let mut load = Load::start(&mut target, PAUSE)?;
    load.await_more(500)?;
    let before = ask_leak(&mut target)?;
    let found = trace(&target, 50, &["--sort", "growth"])?;
    let after = ask_leak(&mut target)?;
    load.check()?;
    let made = after.leaked - before.leaked;
    let floats = found.process()?.live_in_line("metrics.py", after.line("floats")?);
    let among = found.process()?.allocated.blocks;
    println!("{floats:?} of {made} leaked floats, among {among} allocations");
    found.check_first("metrics.py", after.line("floats")?)?;
    assert!((made / 2..=made).contains(&floats.blocks), "{floats:?}, {made} were leaked");
    assert!(among > made * 1000, "only {among} allocations");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_files_that_a_result_cache_keeps_are_found() -> Outcomes<()> {
    let mut target = service::start("django_command.py", &["6000", "0.006"])?;
    // It takes longer than it is traced.
    assert!(target.ask_json::<bool>("go")?);
    let found = trace(&target, 20, &[])?;
    let after = ask_leak(&mut target)?;
    let line = after.line("filled")?;
    found.check_first("storage.py", line)?;
    let held = found.process()?.live_in_line("storage.py", line);
    println!("{held:?} held by {} files", after.leaked);
    assert!(held.blocks > 0 && held.blocks <= 2 * after.leaked, "{held:?}, {} files are open", after.leaked);
    // Each was filled by the call of `readable()` in the command's loop.
    let (below, _) = found.process()?.amounts_below("Command.handle", Some(after.line("readable")?));
    assert!(below.blocks >= held.blocks, "{below:?} below the loop, {held:?} in files");
    Ok(())
}

#[test]
fn the_line_ranked_first_is_read_from_the_last_report() {
    let text = "leaktrace report 1\n#1  a/b.py:3: size=1\nleaktrace report 2\nx (PID 3)\n#1  x/c.py:25: size=3\n#2  d.py:9: size=1\n";
    assert_eq!(service::ranked_first(text), Some(("c.py".to_owned(), 25)));
    let native_first =
        "leaktrace report 1\n#1  libc.so.6+0x8a000 malloc: size=64.0 KiB\n#2  d.py:9: size=1\n";
    assert_eq!(service::ranked_first(native_first), None);
    assert_eq!(service::ranked_first("leaktrace report 1\nnothing\n"), None);
}
