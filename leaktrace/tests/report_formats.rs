//! What every output format looks like, as golden files: a change of the output is a diff to be reviewed.

mod sample_report;

use leaktrace::report::OutputFormat;
use leaktrace::report::model::{GroupBy, Report};
use leaktrace::report::text::{TextOptions, render};
use leaktrace::report::{folded, json};
use quick_xml::Reader;
use quick_xml::events::Event;
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

#[test]
fn text_by_function() {
    let mut report = normal();
    report.group_by = GroupBy::Function;
    let mut twin = report.processes[0].sites[0].clone();
    twin.frames.remove(3);
    report.processes[0].sites.push(twin);
    insta::assert_snapshot!(text(&report, TextOptions::default()));
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
    let mut report = several();
    report.reason = live_map_full().reason;
    let value = serde_json::to_value(
        serde_json::from_str::<serde_json::Value>(&written(|out| json::write_line(&report, out)))
            .expect("valid JSON"),
    )
    .expect("a value");
    let mut keys = Vec::new();
    collect_keys("", &value, &mut keys);
    assert!(keys.len() > 80, "the sample has every field: {}", keys.len());
    for key in keys {
        assert!(manual.contains(&format!("| `{key}` |")), "docs/json.md says nothing about `{key}`");
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
    for (frame, bytes) in [("service-77", "4,106,848"), ("record", "4,041,312"), ("my:_worker-78", "205,000")]
    {
        let expected = format!("{frame} ({bytes} bytes, ");
        assert!(titles.iter().any(|title| title.starts_with(&expected)), "{expected} not in {titles:?}");
    }
    assert!(
        titles.iter().any(|title| title.starts_with("record (/app/log.py:128) (204,800 bytes")),
        "{titles:?}"
    );
    let texts = texts_of(&drawn, "text");
    assert!(texts.iter().any(|text| text.starts_with("2 processes: 4.1 MiB in 168,589 blocks")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("truth: LOST 3 events")), "{texts:?}");
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
