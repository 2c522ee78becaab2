//! Cases written for real, and read again.

use super::*;
use crate::{
    report::model::Report,
    setting::Size,
    watched::{Subject, Suspect},
};
use std::sync::Arc;

const FILES: [&str; 8] = [
    "README",
    "flamegraph.svg",
    "memory.json",
    "profile.pb.gz",
    "report.json",
    "report.txt",
    "stacks.folded",
    "suspects.json",
];

/// This test's own process, traced.
fn state() -> SubjectState {
    let pid = std::process::id();
    let start_ticks = crate::process::status::read_stat(pid).expect("own").start_ticks;
    let subject =
        Subject { key: "container:web".into(), name: "web".into(), pid, start_ticks, ..Subject::default() };
    let suspects = vec![Suspect { line: "log.py:128 record".into(), ..Suspect::default() }];
    let report = Some(Arc::new(Report { at_unix_s: 1000.0, ..Report::default() }));
    SubjectState { subject, suspects, report, ..SubjectState::default() }
}

fn keeper(directory: &Path, max_count: usize) -> Keeper {
    Keeper::new(directory, &EvidenceConfig { max_size: Size(1 << 30), max_count })
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn json(case: &Path, name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(case.join(name)).expect("a file")).expect("JSON")
}

#[test]
fn a_case_has_all_files_and_what_the_living_said_is_kept_for_the_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let keeper = keeper(directory.path(), 10);
    let memory = vec![MemoryReading { anonymous_bytes: 7, ..MemoryReading::default() }];
    let near = Facts { at_unix_s: 1001.0, memory: memory.clone(), ..Facts::default() };
    let case = keeper.write("near-limit", &state(), &near).expect("written");
    assert_eq!(names(&case), FILES);
    assert!(json(&case, "memory.json")["process"]["sums"]["Rss"].as_u64().is_some_and(|rss| rss > 0));

    // It is not asked again while it dies.
    let kill = OomKill { pid: std::process::id(), name: "web".into(), ..OomKill::default() };
    let killed = Facts { at_unix_s: 1002.0, memory, kill: Some(kill), ..Facts::default() };
    let case = keeper.write("oom-kill", &state(), &killed).expect("written");
    let known = json(&case, "memory.json");
    assert_eq!(known["readings"][0]["anonymous_bytes"], 7);
    assert!(known["process"]["mappings"].as_u64().is_some_and(|mappings| mappings > 0));
    assert_eq!(json(&case, "suspects.json")["suspects"][0]["line"], "log.py:128 record");
    let readme = fs::read_to_string(case.join("README")).expect("text");
    assert!(readme.contains(&format!("process {} (web)", std::process::id())), "{readme}");
    assert_eq!(names(directory.path()).len(), 2, "and nothing half-written");
}

#[test]
fn without_a_trace_the_rest_is_written_and_the_readme_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = SubjectState { report: None, ..state() };
    let kill = Some(OomKill { pid: state.subject.pid, ..OomKill::default() });
    let facts = Facts { kill, ..Facts::default() };
    let case = keeper(directory.path(), 10).write("oom-kill", &state, &facts).expect("written");
    assert_eq!(names(&case), ["README", "memory.json", "suspects.json"]);
    let readme = fs::read_to_string(case.join("README")).expect("text");
    assert!(readme.contains("no report") && readme.contains("nobody could be asked"), "{readme}");
}

#[test]
fn only_so_many_cases_are_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let keeper = keeper(directory.path(), 3);
    let written = |second: u32| {
        let facts = Facts { at_unix_s: f64::from(second), ..Facts::default() };
        keeper.write("near-limit", &state(), &facts).expect("written")
    };
    let newest = (0..8).map(written).last().expect("eight");
    let names = names(directory.path());
    assert_eq!(names.len(), 3);
    assert_eq!(names.last().map(String::as_str), newest.file_name().and_then(|name| name.to_str()));
}

#[test]
fn a_place_that_cannot_be_written_to_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = keeper(file.path(), 3).write("x", &state(), &Facts::default()).expect_err("no directory");
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}
