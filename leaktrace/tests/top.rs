//! Promise: `leaktrace top` shows the line that leaks, live; it takes keys, writes flamegraphs, and gives the terminal back as it was,
//! however it ends.

mod harness;

use harness::{
    Outcomes, Target, Terminal, Tracer, longest_wait, screenshot,
    service::{self, Leak, Load},
    tracer::binary,
};
use std::{
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// Between two requests of a connection.
const PAUSE: Duration = Duration::from_millis(8);
const ROWS: u16 = 30;
const COLUMNS: u16 = 112;

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("top").args(["--interval", "500ms", "--min-age", "2s"]).args(arguments);
    command.env_remove("NO_COLOR");
    command
}

/// Runs it on a process, and waits for a picture.
fn watch(pid: u32) -> Outcomes<Terminal> {
    let terminal = Terminal::start(top(&["-p", &pid.to_string()]), ROWS, COLUMNS)?;
    terminal.await_text("suspects by bytes")?;
    assert_ne!(terminal.modes()?, terminal.modes_before, "keys come one by one");
    assert!(terminal.screen().alternate_screen(), "the user's screen is kept");
    Ok(terminal)
}

/// The terminal is as it was, as soon as all that was written to it has been read.
fn check_restored(terminal: &Terminal) -> Outcomes<()> {
    assert_eq!(terminal.modes()?, terminal.modes_before);
    let deadline = Instant::now() + longest_wait();
    loop {
        let screen = terminal.screen();
        if !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the terminal is not as it was: {}", screen.contents()));
        }
        sleep(Duration::from_millis(20));
    }
}

/// Where pictures go that are to be looked at.
fn album() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Keeps what the terminal shows as a picture.
fn keep(terminal: &Terminal, name: &str) -> Outcomes<()> {
    let file = album().join(name);
    fs::write(&file, screenshot::svg(&terminal.screen())).map_err(|e| format!("{}: {e}", file.display()))
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_leaking_line_is_shown_with_its_stack_and_written_as_a_flamegraph() -> Outcomes<()> {
    let mut service = service::start("flask_service.py", &["0"])?;
    let load = Load::start(&mut service, PAUSE)?;
    let leak: Leak = service.ask_json("leaked")?;
    let culprit = format!("metrics.py:{}", leak.line("floats")?);
    let mut terminal = watch(service.pid())?;
    terminal.await_screen(&culprit, |screen| screen.contains(&culprit))?;
    // Its change and its growth.
    let grows = |line: &str| line.contains(&culprit) && line.matches('+').count() >= 2;
    terminal.await_screen("growth", |screen| screen.lines().any(grows))?;
    terminal.press("/metrics.py\r")?;
    terminal.await_text("with \"metrics.py\"")?;
    terminal.press("\r")?;
    terminal.await_screen("its callers", |screen| {
        screen.contains(&culprit) && screen.contains("▾") && screen.contains("flask_service.py:")
    })?;
    terminal.press("\u{1b}")?;
    terminal.await_screen("all of them again", |screen| !screen.contains("with \"metrics.py\""))?;
    keep(&terminal, "top.svg")?;
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = directory.path().join("leak.svg");
    terminal.press("w\u{15}")?;
    terminal.press(&format!("{}\r", file.display()))?;
    terminal.await_text("is written")?;
    let svg = fs::read_to_string(&file).map_err(|e| e.to_string())?;
    assert!(svg.contains("metrics.py") && svg.trim_end().ends_with("</svg>"), "{svg:.400}");
    fs::copy(&file, album().join("top-flamegraph.svg")).map_err(|e| e.to_string())?;
    terminal.press("q")?;
    assert_eq!(terminal.await_end()?, 0);
    check_restored(&terminal)?;
    load.finish()?;
    Ok(())
}

/// Where the target's end is the end of tracing, and resizing is followed.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_last_picture_stays_when_the_target_is_gone() -> Outcomes<()> {
    let mut target = Target::start("exact")?;
    let mut terminal = watch(target.pid())?;
    terminal.resize(16, 70)?;
    terminal.await_screen("a picture of 16 lines", |screen| {
        screen.lines().count() == 16 && screen.lines().last().is_some_and(|keys| keys.contains("q quit"))
    })?;
    target.finish()?;
    terminal.await_text("ENDED")?;
    terminal.await_text("tracing has ended: ")?;
    terminal.press("q")?;
    assert_eq!(terminal.await_end()?, 0);
    check_restored(&terminal)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_signals_and_ctrl_c_end_it_and_give_the_terminal_back() -> Outcomes<()> {
    let target = Target::start("exact")?;
    for signal in [Some(libc::SIGTERM), Some(libc::SIGHUP), None] {
        let mut terminal = watch(target.pid())?;
        match signal {
            Some(signal) => terminal.signal(signal),
            None => terminal.press("\u{3}")?,
        }
        assert_eq!(terminal.await_end()?, 0, "{signal:?}");
        check_restored(&terminal)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_without_colours_there_are_none() -> Outcomes<()> {
    let target = Target::start("exact")?;
    let coloured = |no_colour: Option<&str>| {
        let mut command = top(&["-p", &target.pid().to_string()]);
        no_colour.into_iter().for_each(|value| {
            command.env("NO_COLOR", value);
        });
        let terminal = Terminal::start(command, ROWS, COLUMNS)?;
        terminal.await_text("nothing lost")?;
        Ok::<bool, String>(terminal.bytes().windows(5).any(|bytes| bytes == b"38;5;"))
    };
    assert!(coloured(None)?);
    assert!(!coloured(Some("1"))?);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_target_that_is_not_there_is_told_on_the_users_own_screen() -> Outcomes<()> {
    let mut terminal = Terminal::start(top(&["-p", "4194304"]), ROWS, COLUMNS)?;
    assert_eq!(terminal.await_end()?, 4);
    terminal.await_text("leaktrace: ")?;
    assert!(terminal.text().contains("4194304"), "{}", terminal.text());
    check_restored(&terminal)
}

/// What a command prints must not reach the screen, nor the reports.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_commands_own_output_is_among_the_messages() -> Outcomes<()> {
    // It ends by itself should nobody be left who reads it.
    let script = "for i in $(seq 400); do echo printed by the command; sleep 0.3; done";
    let mut terminal = Terminal::start(top(&["--", "sh", "-c", script]), ROWS, COLUMNS)?;
    terminal.await_text("suspects by bytes")?;
    terminal.press("m")?;
    terminal.await_text("│ printed by the command")?;
    terminal.press("q")?;
    terminal.await_screen("no messages", |screen| !screen.contains('│'))?;
    terminal.press("q")?;
    assert_eq!(terminal.await_end()?, 0);
    Ok(())
}

#[test]
fn without_a_terminal_it_names_the_command_that_needs_none() -> Outcomes<()> {
    let outcome = Tracer::bare().args(&["top", "-p", "1"]).run()?;
    assert_eq!(outcome.code(), 2);
    assert!(outcome.stderr.contains("`leaktrace trace`"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
    Ok(())
}
