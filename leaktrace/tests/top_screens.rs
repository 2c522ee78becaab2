//! What `leaktrace top` draws, on screens of several sizes, as golden files; and that nothing a target is called breaks a picture.

mod sample_report;

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use leaktrace::{
    report::model::{
        Amount, Detail, Frame, FrameKind, Growth, MergeBy, ProcessReport, Reason, Report, SiteReport,
    },
    top::{About, Action, App, Theme, view::draw},
};
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};
use sample_report::{containers::containers, live_map_full, normal, several};

const MONOCHROME: Theme = Theme { colour: false };

fn app() -> App {
    App::new(About { target: "PID 77".into(), detail: Detail::Exact, interval: Duration::from_secs(2) })
}

/// After three reports between which the survivors grow.
fn growing(report: &Report) -> App {
    let mut app = app();
    for step in 1..=3 {
        let mut report = report.clone();
        for process in &mut report.processes {
            process.survivors.bytes = process.survivors.bytes * step / 3;
            process.sites.iter_mut().for_each(|site| site.survivors.bytes = site.survivors.bytes * step / 3);
        }
        app.update(report);
    }
    app
}

fn press(app: &mut App, keys: &str) -> Option<Action> {
    keys.chars().map(|c| app.key(KeyEvent::from(code(c)))).last().flatten()
}

fn code(c: char) -> KeyCode {
    match c {
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        '\u{1b}' => KeyCode::Esc,
        '↓' => KeyCode::Down,
        '↑' => KeyCode::Up,
        '→' => KeyCode::Right,
        '←' => KeyCode::Left,
        '⇣' => KeyCode::End,
        c => KeyCode::Char(c),
    }
}

fn buffer(app: &mut App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory is a terminal");
    terminal.draw(|frame| draw(app, MONOCHROME, frame)).expect("memory can be drawn on");
    terminal.backend().buffer().clone()
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let buffer = buffer(app, width, height);
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| format!("{}\n", row(y).trim_end())).collect()
}

#[test]
fn one_process() {
    insta::assert_snapshot!(screen(&mut growing(&normal()), 100, 20));
}

#[test]
fn one_process_on_a_small_terminal() {
    insta::assert_snapshot!(screen(&mut growing(&normal()), 80, 12));
}

#[test]
fn one_process_on_five_lines() {
    insta::assert_snapshot!(screen(&mut growing(&normal()), 20, 5));
}

#[test]
fn a_stack_that_is_open() {
    let mut app = growing(&normal());
    press(&mut app, "\n");
    insta::assert_snapshot!(screen(&mut app, 100, 20));
}

#[test]
fn whole_stacks_with_their_plumbing() {
    let mut app = growing(&normal());
    press(&mut app, "sv\n");
    insta::assert_snapshot!(screen(&mut app, 120, 24));
}

#[test]
fn several_processes_and_losses() {
    insta::assert_snapshot!(screen(&mut growing(&several()), 110, 24));
}

#[test]
fn one_of_several_processes() {
    let mut app = growing(&several());
    press(&mut app, "p↓↓");
    insta::assert_snapshot!(screen(&mut app, 110, 24));
}

#[test]
fn containers_seen_as_one() {
    let mut app = growing(&containers(MergeBy::Process));
    press(&mut app, "of\n");
    insta::assert_snapshot!(screen(&mut app, 120, 30));
}

#[test]
fn help() {
    let mut app = growing(&normal());
    press(&mut app, "?");
    insta::assert_snapshot!(screen(&mut app, 100, 24));
}

#[test]
fn truth() {
    let mut app = growing(&live_map_full());
    press(&mut app, "t");
    insta::assert_snapshot!(screen(&mut app, 100, 24));
}

#[test]
fn before_the_first_report() {
    let mut app = app();
    app.said("leaktrace: looking for allocators");
    insta::assert_snapshot!(screen(&mut app, 80, 8));
}

#[test]
fn after_the_end_the_last_picture_stays() {
    let mut app = growing(&normal());
    app.update(Report { reason: Reason::Final("target exited with status 0".into()), ..normal() });
    app.end("nothing more");
    insta::assert_snapshot!(screen(&mut app, 100, 16));
}

#[test]
fn a_file_is_asked_for() {
    let mut app = growing(&normal());
    press(&mut app, "w");
    insta::assert_snapshot!(screen(&mut app, 100, 12));
}

/// Drawn on every size, in every state, nothing panics and every line is as wide as the screen.
#[test]
fn no_size_and_no_state_breaks_a_picture() {
    let states = ["", "\n", "p", "p↓\n", "?", "t", "m", "/x", "w", "sv\n", "fo", " "];
    for report in [normal(), several(), containers(MergeBy::Process), Report::default()] {
        for keys in states {
            let mut app = growing(&report);
            press(&mut app, keys);
            for (width, height) in [(0, 0), (1, 1), (2, 3), (20, 5), (39, 7), (60, 9), (81, 14), (300, 90)] {
                buffer(&mut app, width, height);
            }
        }
    }
}

/// Wide characters, characters that combine or reorder, escape sequences: in names of functions, files, processes.
#[test]
fn hostile_names_stay_within_their_line() {
    for name in [
        "\u{1b}[2J\u{1b}]0;x\u{7}",
        "名前".repeat(300).as_str(),
        "e\u{301}\u{200b}\u{202e}x",
        "a\nb\r\tc",
        "",
    ] {
        let mut report = normal();
        let process = &mut report.processes[0];
        process.name = name.into();
        process.command = vec![name.into()];
        for site in &mut process.sites {
            site.label = Some(name.into());
            site.domain = name.into();
            site.truncated = Some(name.into());
            for frame in &mut site.frames {
                (frame.function, frame.file) = (Some(name.into()), Some(name.into()));
            }
        }
        report.truth.notes = vec![name.into()];
        let mut app = growing(&report);
        app.said(name);
        for keys in ["", "\n", "v", "m", "t", "w"] {
            press(&mut app, keys);
            let screen = screen(&mut app, 80, 24);
            assert!(!screen.chars().any(|c| c.is_control() && c != '\n'), "{screen:?}");
            assert_eq!(screen.lines().count(), 24);
        }
    }
}

fn leaf(line: u32, bytes: u64) -> SiteReport {
    let frame = Frame {
        kind: FrameKind::Python,
        function: Some("record".into()),
        file: Some("/srv/log.py".into()),
        line: Some(line),
        ..Frame::default()
    };
    SiteReport {
        stack_id: line.into(),
        domain: "py".into(),
        survivors: Amount { bytes, blocks: bytes / 8 },
        growth: Some(Growth { bytes_per_hour: f64::from(line), observed_s: 9.0, steady_s: 9.0 }),
        frames: vec![frame; 12],
        ..SiteReport::default()
    }
}

/// Sites `log.py:1` and following, with so many bytes.
fn lines(bytes: &[u64]) -> Report {
    let sites: Vec<SiteReport> = bytes.iter().zip(1..).map(|(bytes, line)| leaf(line, *bytes)).collect();
    let survivors = sites.iter().fold(Amount::default(), |sum, site| sum.plus(site.survivors));
    let process = ProcessReport {
        pid: 7,
        serial: 1,
        name: "web".into(),
        application_root: Some("/srv".into()),
        survivors,
        sites,
        ..ProcessReport::default()
    };
    Report { processes: vec![process], elapsed_s: 60.0, min_age_s: 10.0, ..Report::default() }
}

/// The lines of the suspects on a wide screen, in order.
fn order(app: &mut App) -> Vec<String> {
    let screen = screen(app, 100, 30);
    let named =
        |line: &str| line.split_whitespace().find(|word| word.starts_with("log.py:")).map(str::to_owned);
    screen.lines().filter(|line| line.starts_with(['▸', '▾'])).filter_map(named).collect()
}

/// What the cursor is on.
fn under_the_cursor(app: &mut App) -> String {
    let buffer = buffer(app, 100, 30);
    let reversed = |y: &u16| buffer[(0, *y)].modifier.contains(ratatui::style::Modifier::REVERSED);
    let y = (1..30).find(reversed).expect("a line is under the cursor");
    (0..100).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()
}

#[test]
fn keys_sort_and_the_cursor_follows_its_line() {
    let mut app = app();
    app.update(lines(&[800, 1600, 80]));
    assert_eq!(order(&mut app), ["log.py:2", "log.py:1", "log.py:3"]);
    press(&mut app, "g");
    assert_eq!(order(&mut app), ["log.py:3", "log.py:2", "log.py:1"]);
    press(&mut app, "b↓");
    assert!(under_the_cursor(&mut app).contains("log.py:1"));
    app.update(lines(&[8000, 1600, 80]));
    assert_eq!(order(&mut app)[0], "log.py:1");
    assert!(under_the_cursor(&mut app).contains("log.py:1"), "it follows");
    press(&mut app, "↑");
    app.update(lines(&[8, 1600, 80]));
    assert!(under_the_cursor(&mut app).contains("log.py:2"), "the first line is the first line");
}

#[test]
fn a_stack_opens_and_closes_and_the_cursor_walks_through_it() {
    let mut app = app();
    app.update(lines(&[800, 1600]));
    press(&mut app, "→");
    assert!(screen(&mut app, 100, 30).contains("log.py:2 record\n    log.py:2 record"));
    press(&mut app, "↓↓↓");
    app.update(lines(&[80_000, 1600]));
    assert!(
        under_the_cursor(&mut app).contains("log.py:2 record"),
        "it stays in the stack that has moved down"
    );
    press(&mut app, "←");
    assert_eq!(order(&mut app), ["log.py:1", "log.py:2"]);
    assert!(under_the_cursor(&mut app).starts_with('▸'));
}

#[test]
fn a_pause_stops_the_picture_and_not_the_trace() {
    let mut app = app();
    app.update(lines(&[800, 1600]));
    press(&mut app, " ");
    app.update(lines(&[8000, 1600]));
    assert_eq!(order(&mut app), ["log.py:2", "log.py:1"]);
    press(&mut app, "g");
    assert_eq!(order(&mut app), ["log.py:2", "log.py:1"], "still of the old report");
    press(&mut app, "b ");
    assert_eq!(order(&mut app), ["log.py:1", "log.py:2"]);
}

#[test]
fn a_search_shows_only_what_has_it_and_escape_shows_all() {
    let mut app = app();
    app.update(several());
    let all = screen(&mut app, 100, 30);
    press(&mut app, "/THREAD STACK\n");
    let found = screen(&mut app, 100, 30);
    assert!(
        all.contains("list.h:40") && !found.contains("list.h:40") && found.contains("[thread stack]"),
        "{found}"
    );
    press(&mut app, "/");
    app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    press(&mut app, "nowhere\n");
    assert!(screen(&mut app, 100, 30).contains("No stack with survivors has \"nowhere\""));
    press(&mut app, "\u{1b}");
    assert!(screen(&mut app, 100, 30).contains("list.h:40"));
}

#[test]
fn what_is_written_is_what_is_shown() {
    let mut app = app();
    app.update(several());
    let Some(Action::Save { report, path, replace }) = press(&mut app, "w\n") else {
        panic!("nothing is written")
    };
    assert_eq!(path.to_str(), Some("leaktrace-all-20231114T221450Z.svg"));
    assert!(!replace && report.processes.len() == 2);
    press(&mut app, "p↓");
    let Some(Action::Save { report, .. }) = press(&mut app, "\nw\n") else { panic!("nothing is written") };
    assert_eq!(report.processes.len(), 1, "of the process that was chosen");
    assert!(press(&mut app, "wx\n").is_none(), "a name that says no format");
    app.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    let Some(Action::Save { path, .. }) = press(&mut app, "a.pb.gz\n") else { panic!("nothing is written") };
    app.exists(&path);
    assert!(press(&mut app, "\u{1b}").is_none());
    app.exists(&path);
    assert!(matches!(press(&mut app, "\n"), Some(Action::Save { replace: true, .. })));
}

#[test]
fn keys_that_leave() {
    let mut app = growing(&normal());
    assert!(press(&mut app, "?\u{1b}").is_none(), "what is open is closed first");
    assert!(matches!(press(&mut app, "\u{1b}"), Some(Action::Quit)));
    assert!(matches!(press(&mut app, "q"), Some(Action::Quit)));
    assert!(press(&mut app, "/q").is_none(), "typed, not pressed");
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(app.key(control_c).is_none(), "it takes the question back");
    assert!(matches!(app.key(control_c), Some(Action::Quit)));
}

#[test]
fn a_process_that_has_ended_is_no_longer_the_only_one() {
    let mut app = growing(&several());
    press(&mut app, "p↓↓");
    app.update(normal());
    assert!(screen(&mut app, 100, 30).contains("that process has ended; all are shown"));
}

/// Ten thousand sites: what is drawn is what is in view.
#[test]
fn a_long_list_is_drawn_from_where_the_cursor_is() {
    let mut app = app();
    let bytes: Vec<u64> = (0..10_000).map(|at| 1_000_000 - at * 8).collect();
    app.update(lines(&bytes));
    press(&mut app, "⇣");
    let last = order(&mut app);
    assert_eq!(last.last().map(String::as_str), Some("log.py:10000"));
    assert!(last.len() < 30);
    (0..200).for_each(|_| drop(screen(&mut app, 200, 60)));
}
