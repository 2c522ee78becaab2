//! What every output format looks like, as golden files: a change of the output is a diff to be reviewed.

mod sample_report;

use std::io::Write;
use std::process::{Command, Stdio};

use leaktrace::report::OutputFormat;
use leaktrace::report::model::{
    Change, Detail, Frame, FrameKind, GroupBy, MergeBy, ProcessReport, Report, SiteReport,
};
use leaktrace::report::text::{TextOptions, render};
use leaktrace::report::{folded, json};
use quick_xml::Reader;
use quick_xml::events::Event;
use sample_report::containers::{containers, crowd};
use sample_report::{amount, empty, live_map_full, normal, several};

fn text(report: &Report, options: TextOptions) -> String {
    written(|out| render(report, &options, out))
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory can be written to");
    String::from_utf8(out).expect("this format is text")
}

#[test]
fn text_of_a_running_process() {
    insta::assert_snapshot!(text(&normal(), TextOptions::default()));
}

#[test]
fn text_verbose() {
    insta::assert_snapshot!(text(&several(), TextOptions { verbose: true, ..TextOptions::default() }));
}

#[test]
fn text_of_several_processes_one_ended() {
    insta::assert_snapshot!(text(&several(), TextOptions::default()));
}

#[test]
fn text_with_the_live_map_full() {
    insta::assert_snapshot!(text(&live_map_full(), TextOptions::default()));
}

/// Everything at once, by function or line: native and Python, two stacks of one line, a line without stack.
fn grouped(group_by: GroupBy) -> Report {
    let mut report = several();
    (report.group_by, report.top) = (group_by, 20);
    let mut twin = report.processes[0].sites[0].clone();
    twin.frames.remove(3);
    report.processes[0].sites.push(twin);
    report
}

#[test]
fn text_by_function() {
    insta::assert_snapshot!(text(&grouped(GroupBy::Function), TextOptions::default()));
}

#[test]
fn text_by_line() {
    insta::assert_snapshot!(text(&grouped(GroupBy::Line), TextOptions::default()));
}

#[test]
fn text_by_line_verbose() {
    insta::assert_snapshot!(text(
        &grouped(GroupBy::Line),
        TextOptions { verbose: true, ..TextOptions::default() }
    ));
}

#[test]
fn text_with_light_detail_says_what_it_leaves_out() {
    let mut report = several();
    report.detail = Detail::Light;
    let text = text(&report, TextOptions::default());
    let truth = text.lines().last().unwrap_or_default();
    assert!(truth.contains("; light detail: Python's blocks of up to 512 bytes are seen only as"), "{truth}");
    assert!(truth.contains("; PID 78: python 3.11.2 (pymalloc"), "{truth}");
    assert!(!truth.contains("explained"), "a count of pools explains no count of blocks: {truth}");
}

/// A table by line can be read by what reads tracemalloc's output, and by people who know it.
#[test]
fn a_row_is_what_tracemalloc_itself_prints() {
    let cases: [(u64, u64, i64, i64); 9] = [
        (4_041_312, 168_388, 120_288, 5_012),
        (24, 1, 24, 1),
        (0, 0, -512, -1),
        (10_239, 3, -10_240, -3),
        (10_240, 7, 0, 0),
        (102_399, 1_000, 102_400, 999),
        (104_857_600, 11, -104_857_599, -11),
        (987_654_321_098, 1_234_567, 1_099_511_627_776, 1),
        (u64::MAX / 2, 3, i64::MAX, i64::MIN),
    ];
    let program = "import sys, tracemalloc\n\
        frame = tracemalloc.Traceback((('log.py', 128),))\n\
        for line in sys.stdin:\n    \
            size, count, size_diff, count_diff = map(int, line.split())\n    \
            print(tracemalloc.StatisticDiff(frame, size, size_diff, count, count_diff))\n";
    let input: String = cases.iter().map(|(a, b, c, d)| format!("{a} {b} {c} {d}\n")).collect();
    let expected = python(program, &input);
    assert_eq!(expected.lines().count(), cases.len(), "{expected}");
    for (case, expected) in cases.into_iter().zip(expected.lines()) {
        let rendered = text(&by_line(case), TextOptions::default());
        let row = rendered.lines().find(|line| line.starts_with("#1"));
        // A line without survivors has no row.
        assert_eq!(row, (case.0 > 0).then(|| format!("#1  {expected}")).as_deref());
    }
}

fn by_line((bytes, blocks, byte_change, block_change): (u64, u64, i64, i64)) -> Report {
    let frame =
        Frame { kind: FrameKind::Python, file: Some("log.py".into()), line: Some(128), ..Frame::default() };
    let site = SiteReport {
        survivors: amount(bytes, blocks),
        survivors_change: Change { bytes: byte_change, blocks: block_change },
        frames: vec![frame],
        ..SiteReport::default()
    };
    let process = ProcessReport { survivors: site.survivors, sites: vec![site], ..ProcessReport::default() };
    Report { processes: vec![process], group_by: GroupBy::Line, top: 1, ..Report::default() }
}

/// What a Python program prints.
fn python(program: &str, input: &str) -> String {
    let mut child = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 must be installed");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("python3 reads");
    let output = child.wait_with_output().expect("python3 ends");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn text_in_a_narrow_terminal() {
    insta::assert_snapshot!(text(&normal(), TextOptions { width: Some(60), ..TextOptions::default() }));
}

#[test]
fn text_without_survivors_says_why() {
    let cases = [
        empty(12.0, amount(4_096, 4), amount(2_048, 2)),
        empty(120.0, amount(4_096, 4), amount(2_048, 2)),
        empty(120.0, amount(4_096, 4), amount(0, 0)),
        empty(120.0, amount(0, 0), amount(0, 0)),
        Report { processes: Vec::new(), ..normal() },
    ];
    let texts: Vec<String> = cases.iter().map(|report| text(report, TextOptions::default())).collect();
    insta::assert_snapshot!(texts.join("\n----\n"));
}

#[test]
fn colour_adds_escapes_and_nothing_else() {
    let coloured = text(&normal(), TextOptions { colour: true, ..TextOptions::default() });
    assert!(coloured.starts_with("\u{1b}[1mleaktrace report 9"));
    let plain = coloured.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
    assert_eq!(plain, text(&normal(), TextOptions::default()));
}

#[test]
fn folded_stacks() {
    insta::assert_snapshot!(written(|out| folded::write(&several(), out)));
}

#[test]
fn json_of_everything() {
    insta::assert_snapshot!(written(|out| json::write_pretty(&several(), out)));
}

#[test]
fn json_on_one_line_is_the_same_object() {
    let line = written(|out| json::write_line(&several(), out));
    assert_eq!(line.trim_end().lines().count(), 1);
    let pretty = written(|out| json::write_pretty(&several(), out));
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("valid JSON");
    assert_eq!(parse(&line), parse(&pretty));
}

#[test]
fn every_json_key_is_documented() {
    let manual = include_str!("../../docs/json.md");
    let report = Report { reason: live_map_full().reason, ..several() };
    let mut keys = Vec::new();
    for report in [report, containers(MergeBy::Container), crowd(2, MergeBy::All)] {
        let line = written(|out| json::write_line(&report, out));
        collect_keys("", &serde_json::from_str(&line).expect("valid JSON"), &mut keys);
    }
    assert!(keys.len() > 80, "the sample has every field: {}", keys.len());
    let documented = |key: &str| manual.contains(&format!("| `{key}` |"));
    for key in keys {
        // Of a group only what it does not share with a process has a line of its own.
        let same_of_process = key.replacen("groups[]", "processes[]", 1);
        assert!(documented(&key) || documented(&same_of_process), "docs/json.md says nothing about `{key}`");
    }
}

/// Paths of all keys, as the manual writes them: `processes[].sites[].live.bytes`.
fn collect_keys(path: &str, value: &serde_json::Value, keys: &mut Vec<String>) {
    match value {
        // Their keys are data: reasons and counter names.
        serde_json::Value::Object(_) if path.ends_with("counters") || path.ends_with("truncated_stacks") => {}
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys.push(path.clone());
                collect_keys(&path, field, keys);
            }
        }
        serde_json::Value::Array(entries) => {
            entries.iter().for_each(|entry| collect_keys(&format!("{path}[]"), entry, keys));
        }
        _ => {}
    }
}

#[test]
fn the_flamegraph_is_well_formed_and_shows_every_stack_and_the_truth() {
    let drawn = written(|out| OutputFormat::Svg.write(&several(), out));
    let titles = texts_of(&drawn, "title");
    for (frame, bytes) in [("service-77", "4,106,848"), ("record", "4,041,312"), ("my:_worker-78", "437,232")]
    {
        let expected = format!("{frame} ({bytes} bytes, ");
        assert!(titles.iter().any(|title| title.starts_with(&expected)), "{expected} not in {titles:?}");
    }
    assert!(
        titles.iter().any(|title| title.starts_with("Metrics.record (app/metrics.py:128) (396,800 bytes")),
        "{titles:?}"
    );
    let texts = texts_of(&drawn, "text");
    assert!(texts.iter().any(|text| text.starts_with("2 processes: 4.3 MiB in 176,791 blocks")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains(" | truth: LOST 3 events")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("blue: Python, orange: native")), "{texts:?}");
}

#[test]
fn the_flamegraph_of_nothing_is_well_formed_too() {
    let drawn = written(|out| OutputFormat::Svg.write(&empty(12.0, amount(8, 1), amount(8, 1)), out));
    assert!(texts_of(&drawn, "text").iter().any(|text| text.starts_with("Nothing survived")));
}

/// Contents of all elements of that name; fails when the file is not well-formed.
fn texts_of(svg: &str, element: &str) -> Vec<String> {
    let mut reader = Reader::from_str(svg);
    reader.config_mut().check_comments = true;
    let (mut texts, mut open) = (Vec::new(), None::<String>);
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Eof => return texts,
            Event::Start(tag) if tag.name().as_ref() == element.as_bytes() => open = Some(String::new()),
            Event::End(tag) if tag.name().as_ref() == element.as_bytes() => texts.extend(open.take()),
            Event::Text(text) => {
                let text = text.decode().expect("text");
                open.iter_mut().for_each(|open| open.push_str(&text));
            }
            Event::GeneralRef(entity) => {
                let entity = entity.decode().expect("an entity");
                open.iter_mut().for_each(|open| open.push_str(&format!("&{entity};")));
            }
            _ => {}
        }
    }
}
