//! `leaktrace report`, as people run it.

use std::{
    fs,
    process::{Command, Output},
};

use leaktrace::{
    report::{
        fingerprint::SiteKey,
        model::{Amount, Report},
    },
    store::Entry,
    verdict::{Shape, Unexplained, Verdict},
    watched::{Decision, Subject},
};
use serde_json::Value;

use super::{NOW, Scratch, leak, memory, traced};
use crate::harness::{Outcomes, tracer::binary};

const NO_SUCH_TARGET: i32 = 4;

/// A subject that leaks for 200 s, another that does nothing.
fn filled() -> Outcomes<Scratch> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    for step in 0..20 {
        let at = NOW + step as f64 * 10.0;
        store.write(&traced("a", 1, &leak(step, step * 1000, NOW))).map_err(|e| e.to_string())?;
        store
            .write(&[memory("a", at, (10 + step) << 20), memory("b", at, 5 << 20)])
            .map_err(|e| e.to_string())?;
    }
    let verdict = Verdict {
        shape: Shape::GrowsSteadily,
        confidence: 0.97,
        bytes_per_hour: 360_000.0,
        since_unix_s: Some(NOW),
        share_of_growth: Some(0.5),
        because: "20 readings, none lower than the one before".into(),
        ..Verdict::default()
    };
    let site = SiteKey::of(&leak(1, 1, NOW).processes[0].sites[0]);
    let growth =
        Unexplained { grown_bytes: 4096, tracked_bytes: 5, reasons: vec!["arenas are pinned".into()] };
    let why = "not traced exactly: predicted slowdown 1.31 is above 1.10";
    store
        .write(&[
            Entry::Subject(Subject { key: "b".into(), name: "quiet".into(), pid: 8, ..Subject::default() }),
            Entry::Verdicts { subject: "a".into(), at_unix_s: NOW + 190.0, verdicts: vec![(site, verdict)] },
            Entry::Unexplained { subject: "a".into(), at_unix_s: NOW + 190.0, unexplained: Some(growth) },
            Entry::Decision(Decision { at_unix_s: NOW, subject: Some("b".into()), sentence: why.into() }),
        ])
        .map_err(|e| e.to_string())?;
    drop(store);
    Ok(scratch)
}

fn report(scratch: &Scratch, arguments: &[&str]) -> Outcomes<Output> {
    let mut command = Command::new(binary());
    command.arg("report").arg("--db").arg(scratch.path()).args(arguments);
    command.current_dir(scratch.directory.path()).output().map_err(|e| e.to_string())
}

fn said(scratch: &Scratch, arguments: &[&str]) -> Outcomes<String> {
    let output = report(scratch, arguments)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Its exit code, and the one sentence it says.
fn refused(scratch: &Scratch, arguments: &[&str]) -> Outcomes<(i32, String)> {
    let output = report(scratch, arguments)?;
    let sentence = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    assert!(output.stdout.is_empty());
    Ok((output.status.code().unwrap_or(-1), sentence))
}

fn time(after: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW as u64 + after);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[test]
fn the_text_says_who_grows_where_since_when_and_why_others_were_not_traced() -> Outcomes<()> {
    let scratch = filled()?;
    let text = said(&scratch, &[])?;
    let expected = [
        "name of a (process, PID 7)".to_owned(),
        format!(
            "    memory 29.0 MiB at {}, 10.0 MiB at {}: up 360.0 MiB/h over 3 min 10 s",
            time(190),
            time(0)
        ),
        format!("    traced exactly from {}", time(0)),
        "    not explained: memory +4.0 KiB, tracked live bytes +5 B".to_owned(),
        "        arenas are pinned".to_owned(),
        format!(
            "#1  log.py:7 record: 18.6 KiB in 19 blocks: leak, grows steadily, 351.6 KiB/h, 97 % sure, since {}, 50 % of the growth",
            time(0)
        ),
        "    log.py:7 record".to_owned(),
        "    log.py:9 get".to_owned(),
        "    because 20 readings, none lower than the one before".to_owned(),
        "quiet (process, PID 8)".to_owned(),
        "    not traced".to_owned(),
        format!("    {}: not traced exactly: predicted slowdown 1.31 is above 1.10", time(0)),
    ];
    for line in expected {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
    let one = said(&scratch, &["--subject", "quiet"])?;
    assert!(one.starts_with("quiet") && !one.contains("name of a"), "{one}");
    let listed = said(&scratch, &["--subject", "7", "--group-by", "line"])?;
    assert!(
        listed.contains("log.py:7: size=18.6 KiB (+18.6 KiB), count=19 (+19), average=1000 B"),
        "{listed}"
    );
    Ok(())
}

#[test]
fn a_comparison_reads_as_tracemallocs() -> Outcomes<()> {
    let scratch = filled()?;
    let (earlier, later) = (time(50), time(155));
    let rows = |by: &str| said(&scratch, &["--diff", &earlier, &later, "--group-by", by]);
    let sums = "size=14.6 KiB (+10000 B), count=15 (+10), average=1000 B";
    let head = format!("name of a: survivors +9.8 KiB from {} to {}\n", time(50), time(150));
    assert_eq!(said(&scratch, &["--diff", &earlier, &later])?, format!("{head}log.py:7: {sums}\n"));
    assert_eq!(rows("function")?, format!("{head}log.py record: {sums}\n"));
    assert_eq!(
        rows("stack")?,
        format!("{head}log.py:7 record: {sums}\n    log.py:7 record\n    log.py:9 get\n")
    );
    let json: Value =
        serde_json::from_str(&said(&scratch, &["--diff", &earlier, &later, "--format", "json"])?)
            .map_err(|e| e.to_string())?;
    let row = &json["comparisons"][0]["differences"][0];
    assert_eq!(row["name"], "log.py:7");
    assert_eq!(
        ["size", "size_diff", "count", "count_diff"].map(|field| row[field].as_i64()),
        [15_000, 10_000, 15, 10].map(Some)
    );
    Ok(())
}

#[test]
fn json_has_everything_that_the_text_has() -> Outcomes<()> {
    let scratch = filled()?;
    let json: Value =
        serde_json::from_str(&said(&scratch, &["--format", "json"])?).map_err(|e| e.to_string())?;
    let one = &json["subjects"][0];
    assert_eq!(one["subject"]["key"], "a");
    assert_eq!(one["readings"].as_array().map(Vec::len), Some(20));
    assert_eq!(one["memory"]["to"]["bytes"], 29 << 20);
    assert_eq!(one["suspects"][0]["verdict"]["shape"], "grows_steadily");
    let site = SiteKey::of(&leak(1, 1, NOW).processes[0].sites[0]);
    assert_eq!(one["suspects"][0]["site"], site.to_string());
    assert_eq!(json["subjects"][1]["decisions"][0]["times"], 1);
    let early = said(&scratch, &["--format", "json", "--until", &time(45)])?;
    let early: Value = serde_json::from_str(&early).map_err(|e| e.to_string())?;
    assert_eq!(early["subjects"][0]["readings"].as_array().map(Vec::len), Some(5));
    assert_eq!(early["subjects"][0]["suspects"].as_array().map(Vec::len), Some(0));
    Ok(())
}

#[test]
fn every_format_of_output_is_written() -> Outcomes<()> {
    let scratch = filled()?;
    let names = ["x.folded", "x.svg", "x.pb.gz", "x.json", "x.txt"];
    let options: Vec<&str> = names.iter().flat_map(|name| ["-o", name]).collect();
    said(&scratch, &options)?;
    let read = |name: &str| fs::read(scratch.directory.path().join(name)).unwrap_or_default();
    assert!(names.iter().all(|name| read(name).len() > 100 || *name == "x.folded"), "{:?}", scratch.files());
    let folded = String::from_utf8_lossy(&read("x.folded")).into_owned();
    assert!(folded.trim_end().ends_with("get (log.py:9);record (log.py:7) 19000"), "{folded}");
    let json: Value = serde_json::from_slice(&read("x.json")).map_err(|e| e.to_string())?;
    assert_eq!(json["processes"][0]["survivors_change"]["bytes"], 19_000);
    Ok(())
}

#[test]
fn what_is_not_known_is_answered_with_what_is() -> Outcomes<()> {
    let scratch = filled()?;
    let (code, sentence) = refused(&scratch, &["--subject", "quit"])?;
    assert_eq!(code, NO_SUCH_TARGET);
    assert!(sentence.contains("it knows quiet"), "{sentence}");
    let (code, sentence) = refused(&scratch, &["--diff", "2020-01-01", &time(50)])?;
    assert_eq!(code, 1);
    assert!(sentence.contains(&format!("2020-01-01T00:00:00Z: {}", time(0))), "{sentence}");
    assert_eq!(refused(&scratch, &["--since", "yesterday"])?.0, 2);
    assert_eq!(refused(&scratch, &["--since", "1h", "--until", "2h"])?.0, 2);
    let text = said(&scratch, &["--until", "2020-01-01"])?;
    assert!(text.contains("knows nobody in that time"), "{text}");
    Ok(())
}

#[test]
fn a_history_that_cannot_be_read_is_said_in_a_sentence() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let (code, sentence) = refused(&scratch, &[])?;
    assert!(code == 1 && sentence.contains("there is no history"), "{sentence}");
    fs::write(scratch.path(), "garbage, and more of it than a header takes".repeat(200))
        .map_err(|e| e.to_string())?;
    let (code, sentence) = refused(&scratch, &[])?;
    assert!(code == 1 && sentence.contains("is damaged"), "{sentence}");
    fs::remove_file(scratch.path()).map_err(|e| e.to_string())?;
    scratch.store()?.close();
    let raw = rusqlite::Connection::open(scratch.path()).map_err(|e| e.to_string())?;
    raw.pragma_update(None, "user_version", 2).map_err(|e| e.to_string())?;
    drop(raw);
    let (code, sentence) = refused(&scratch, &[])?;
    assert!(code == 1 && sentence.contains("has version 2"), "{sentence}");
    Ok(())
}

#[test]
fn what_one_trace_held_and_the_next_does_not_is_shown_as_gone() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    let mut store = scratch.store()?;
    let with = leak(1, 5000, NOW);
    let mut without: Report = leak(2, 0, NOW);
    without.processes[0].sites.clear();
    without.processes[0].survivors = Amount::default();
    store.write(&traced("a", 1, &with)).map_err(|e| e.to_string())?;
    store.write(&traced("a", 1, &without)).map_err(|e| e.to_string())?;
    let text = said(&scratch, &["--diff", &time(10), &time(20)])?;
    assert!(text.contains("log.py:7: size=0 B (-5000 B), count=0 (-5)\n"), "{text}");
    Ok(())
}
