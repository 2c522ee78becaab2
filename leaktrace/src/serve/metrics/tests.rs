//! What the text says, and that nothing a target chooses can spoil it.

use std::collections::BTreeSet;

use super::*;
use crate::{
    report::{fingerprint::SiteKey, model::Amount},
    verdict::{MemoryTrend, Shape, Trend, Verdict},
    watched::{CgroupReading, MemoryReading, SessionInfo, SinkState, Subject, SubjectState, Suspect},
};

fn suspect(site: u8) -> Suspect {
    Suspect {
        site: SiteKey([site; 16]),
        line: "log.py:128 record".into(),
        survivors: Amount { bytes: 4096, blocks: 2 },
        verdict: Verdict {
            shape: Shape::GrowsSteadily,
            confidence: 0.97,
            bytes_per_hour: 3600.0,
            ..Verdict::default()
        },
        ..Suspect::default()
    }
}

fn subject(key: &str, suspects: Vec<Suspect>) -> SubjectState {
    let cgroup = CgroupReading { current_bytes: 900, limit_bytes: Some(1000), ..CgroupReading::default() };
    let leading = Trend { bytes_per_hour: 7200.0, confidence: 0.9, over_s: 600.0, change_bytes: 1 };
    SubjectState {
        subject: Subject { key: key.into(), name: format!("name of {key}"), ..Subject::default() },
        memory: MemoryReading { anonymous_bytes: 123, cgroup: Some(cgroup), ..MemoryReading::default() },
        trend: MemoryTrend {
            grows: true,
            leading: Some(leading),
            to_limit_s: Some(60.0),
            trends: vec![leading],
        },
        session: Some(SessionInfo { predicted_slowdown: Some(1.05), ..SessionInfo::default() }),
        suspects,
        ..SubjectState::default()
    }
}

fn state(subjects: Vec<SubjectState>) -> Arc<State> {
    let mut state = State { at_unix_s: 1000.0, subjects, ..State::default() };
    state.own.alerts.push(SinkState { name: "chat".into(), delivered: 3, lost: 1, ..SinkState::default() });
    Arc::new(state)
}

const LIMITS: Limits = Limits { subjects: 2, suspects: 2 };

#[test]
fn the_whole_text() {
    let state = state(vec![subject("container:1", vec![suspect(1)])]);
    let text = text(state, LIMITS, Exposition::OpenMetrics).expect("text");
    let text = text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_too_much_is_cut_and_counted() {
    let many: Vec<SubjectState> =
        ["a", "b", "c", "d"].map(|key| subject(key, (0..5).map(suspect).collect())).into();
    let text = text(state(many), LIMITS, Exposition::OpenMetrics).expect("text");
    let samples = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
    assert_eq!(samples("leaktrace_subject_swap_bytes"), 2);
    assert_eq!(samples("leaktrace_suspect_survivors_bytes"), 4);
    assert!(text.contains("\nleaktrace_omitted_subjects 2.0\n"), "{text}");
    assert!(text.contains("\nleaktrace_omitted_suspects 6.0\n"), "{text}");
}

#[test]
fn names_that_targets_choose_stay_in_their_quotes() {
    let mut hostile = subject("process:\"x\"\\", vec![suspect(1)]);
    hostile.subject.name = "a\nleaktrace_subject_growing 1\u{1b}[2J".into();
    let text = text(state(vec![hostile]), LIMITS, Exposition::OpenMetrics).expect("text");
    assert!(text.contains(r#"subject="process:\"x\"\\""#), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains("\nleaktrace_subject_growing 1"), "{text}");
}

#[test]
fn no_sample_occurs_twice() {
    let twice = vec![subject("a", vec![suspect(1), suspect(1)]), subject("a", vec![suspect(1)])];
    let text = text(state(twice), LIMITS, Exposition::OpenMetrics).expect("text");
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(id, _)| id)
        .collect();
    assert_eq!(samples.iter().collect::<BTreeSet<_>>().len(), samples.len());
}

#[test]
fn what_is_no_number_is_left_out() {
    let mut odd = subject("a", Vec::new());
    odd.trend.to_limit_s = Some(f64::INFINITY);
    let text = text(state(vec![odd]), LIMITS, Exposition::OpenMetrics).expect("text");
    assert!(!text.to_ascii_lowercase().contains("} inf"), "{text}");
}
