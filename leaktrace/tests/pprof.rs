//! pprof files open in the pprof tool and show the numbers of the report.

mod sample_report;

use std::path::Path;
use std::process::Command;

use leaktrace::report::{OutputFormat, write_file};
use sample_report::{amount, empty, several};

/// Runs `go tool pprof` on a file; fails when the tool is missing or complains.
fn pprof(file: &Path, options: &[&str]) -> String {
    let output = Command::new("go")
        .args(["tool", "pprof"])
        .args(options)
        .arg(file)
        // Objects of the sample do not exist, and nothing may be fetched.
        .env("PPROF_BINARY_PATH", file.parent().expect("a directory"))
        .env("HOME", file.parent().expect("a directory"))
        .output()
        .expect("`go tool pprof` must be installed (Debian: golang-go)");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pprof {options:?} failed: {err}");
    out.into_owned()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
#[ignore = "needs the Go pprof tool; run by cargo xtask test"]
fn the_pprof_tool_shows_the_numbers_of_the_report() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("leak.pb.gz");
    write_file(&several(), &file, OutputFormat::Pprof).expect("written");

    let top = |index: &str| {
        pprof(
            &file,
            &[
                "-symbolize=none",
                &format!("-unit={}", if index.ends_with("space") { "B" } else { "count" }),
                "-nodecount=50",
                &format!("-sample_index={index}"),
                "-top",
            ],
        )
    };
    let line_of = |text: &str, function: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.trim_end().ends_with(function));
        let line = line.unwrap_or_else(|| panic!("no {function} in\n{text}"));
        words(line).into_iter().map(ToOwned::to_owned).collect()
    };
    // flat, flat%, sum%, cum, cum%, name
    assert_eq!(line_of(&top("inuse_space"), " parse")[0], "1125952B");
    assert_eq!(line_of(&top("inuse_space"), " main")[3], "4051392B");
    assert_eq!(line_of(&top("inuse_objects"), " main")[3], "168808");
    assert_eq!(line_of(&top("inuse_space"), " Metrics.record")[0], "192000B", "the interpreter is no caller");
    assert_eq!(line_of(&top("inuse_space"), " Metrics.record")[3], "396800B", "Python calls native code");
    assert_eq!(line_of(&top("inuse_space"), " speed_push")[0], "204800B");
    assert_eq!(line_of(&top("alloc_space"), " parse")[0], "939524096B");
    assert_eq!(line_of(&top("alloc_objects"), " parse")[0], "39831189");
    assert!(
        line_of(&top("inuse_space"), " append (inline)")[3] == "4051392B",
        "inlined calls are told apart"
    );
    line_of(&top("inuse_space"), " [truncated: no frame pointer in the calling code]");
}

#[test]
#[ignore = "needs the Go pprof tool; run by cargo xtask test"]
fn the_raw_profile_has_mappings_labels_and_the_truth_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("leak.pb.gz");
    let report = several();
    write_file(&report, &file, OutputFormat::Pprof).expect("written");
    let raw = pprof(&file, &["-symbolize=none", "-raw"]);
    for expected in [
        "inuse_space/bytes[dflt] inuse_objects/count alloc_space/bytes alloc_objects/count",
        "/src/log.c:128",
        "/usr/lib/libserver.so.3",
        &format!("{:040x}", "/usr/lib/libserver.so.3".len()),
        "survivor_bytes:[4041312 bytes]",
        "process:[service]",
        "pid:[77]",
        "domain:[py]",
        "Metrics.record /srv/shop/app/metrics.py:128",
        "/srv/shop/venv/lib/python3.11/site-packages/flask/app.py:1488",
        "Duration: 41m",
    ] {
        assert!(raw.contains(expected), "{expected:?} not in\n{raw}");
    }
    let comments = pprof(&file, &["-symbolize=none", "-comments"]);
    assert!(comments.contains(&format!("truth: {}", report.truth_line())), "{comments}");
}

#[test]
#[ignore = "needs the Go pprof tool; run by cargo xtask test"]
fn a_profile_of_nothing_opens() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("nothing.pb.gz");
    write_file(&empty(12.0, amount(0, 0), amount(0, 0)), &file, OutputFormat::Pprof).expect("written");
    assert!(pprof(&file, &["-symbolize=none", "-raw"]).contains("Samples:"));
}
