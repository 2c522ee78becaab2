//! Memory that grew while tracked bytes did not.

use super::{
    super::{
        model::{Facts, Options, ProcessReading, Unexplained},
        unexplained,
    },
    program::EPOCH,
};
use crate::report::model::Detail;

/// Twenty readings of megabytes: memory, tracked.
fn explain(course: impl Fn(u64) -> (u64, u64), allocated: u64, facts: &Facts) -> Option<Unexplained> {
    let reading = |number| {
        let (memory, tracked) = course(number);
        ProcessReading {
            at_unix_s: EPOCH + number as f64,
            session: Some(1),
            memory_bytes: memory << 20,
            tracked_bytes: tracked << 20,
            allocated_bytes: allocated << 20,
            ..ProcessReading::default()
        }
    };
    let readings: Vec<ProcessReading> = (0..20).map(reading).collect();
    unexplained(&readings, facts, &Options::default())
}

fn says(found: &Option<Unexplained>, word: &str) -> bool {
    found.as_ref().is_some_and(|found| found.reasons.iter().any(|reason| reason.contains(word)))
}

#[test]
fn growth_that_is_tracked_needs_no_other_reason() {
    assert_eq!(explain(|t| (100 + t * 3, t * 3), 100, &Facts::default()), None);
    assert_eq!(explain(|_| (100, 0), 100, &Facts::default()), None);
}

#[test]
fn what_was_freed_while_memory_stayed_is_fragmentation() {
    let found = explain(|t| (100 + t.min(10) * 5, if t < 15 { t * 4 } else { 4 }), 60, &Facts::default());
    assert!(says(&found, "fragmentation: 52.0 MiB"), "{found:?}");
    assert_eq!(found.unwrap().tracked_bytes, 4 << 20);
}

#[test]
fn each_reason_is_given_with_its_figures() {
    let grows = |t| (100 + t * 5, 1);
    assert!(says(&explain(grows, 0, &Facts::default()), "not watched"));
    assert!(says(&explain(grows, 9000, &Facts::default()), "8.8 GiB were allocated"));
    assert!(says(&explain(grows, 0, &Facts { detail: Detail::Light, ..Facts::default() }), "light detail"));
    assert!(says(&explain(grows, 0, &Facts { lost_events: 1234, ..Facts::default() }), "1,234 events"));
    assert!(says(
        &explain(grows, 0, &Facts { before_attach_bytes: Some(5 << 20), ..Facts::default() }),
        "5.0 MiB were there"
    ));
    let python =
        Facts { python_blocks_gained: Some(1000), python_blocks_tracked: Some(100), ..Facts::default() };
    assert!(says(&explain(grows, 0, &python), "900 of them not tracked"));
}
