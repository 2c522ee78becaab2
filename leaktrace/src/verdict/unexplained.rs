//! Memory that grew while tracked live bytes did not: said with the figures, and with what is likely behind it.

use super::{
    lows::{self, Lows, Point},
    model::{Facts, Options, ProcessReading, Unexplained},
};
use crate::report::{human, model::Detail};

/// Memory is explained if tracked bytes grew by this share of what it did.
const EXPLAINED: f64 = 0.5;
/// What is allocated and given back this many times over leaves holes.
const CHURN: f64 = 4.0;
/// A share of blocks that is worth a sentence.
const NOTABLE: f64 = 0.2;

/// What memory did in one session, bytes.
struct Course {
    grown: f64,
    tracked: f64,
    /// How far tracked bytes had fallen from their highest, at the end.
    given_back: f64,
    allocated: f64,
}

/// Growth of the latest session's memory that its tracked bytes do not explain; `None`: it did not grow, or they do. `process`
/// in any order.
pub fn unexplained(process: &[ProcessReading], facts: &Facts, options: &Options) -> Option<Unexplained> {
    let course = course(process)?;
    let notable = course.grown >= options.least_memory_bytes as f64 * 2.0;
    if !notable || course.tracked >= course.grown * EXPLAINED {
        return None;
    }
    Some(Unexplained {
        grown_bytes: course.grown as i64,
        tracked_bytes: course.tracked as i64,
        reasons: reasons(&course, facts),
    })
}

fn course(process: &[ProcessReading]) -> Option<Course> {
    let known = || process.iter().filter(|reading| reading.at_unix_s.is_finite());
    let latest =
        known().filter(|r| r.session.is_some()).max_by(|a, b| a.at_unix_s.total_cmp(&b.at_unix_s))?;
    let mut session: Vec<&ProcessReading> =
        known().filter(|reading| reading.session == latest.session).collect();
    session.sort_by(|a, b| a.at_unix_s.total_cmp(&b.at_unix_s));
    let first = session.first()?;
    let curve = |of: fn(&ProcessReading) -> u64| {
        let point = |reading: &&ProcessReading| Point {
            at: reading.at_unix_s - first.at_unix_s,
            amount: of(reading) as f64,
            ..Point::default()
        };
        lows::thinned(&session.iter().map(point).collect::<Vec<_>>())
    };
    let (memory, tracked) = (curve(|reading| reading.memory_bytes), curve(|reading| reading.tracked_bytes));
    let highest = tracked.iter().map(|point| point.amount).fold(0.0, f64::max);
    Some(Course {
        grown: Lows::of(&memory).rise(),
        tracked: tracked.last()?.amount - tracked.first()?.amount,
        given_back: highest - tracked.last()?.amount,
        allocated: latest.allocated_bytes as f64,
    })
}

fn bytes(amount: f64) -> String {
    human::bytes(amount.max(0.0) as u64)
}

/// The likeliest first.
fn reasons(course: &Course, facts: &Facts) -> Vec<String> {
    let missing = course.grown - course.tracked.max(0.0);
    let mut reasons: Vec<String> = [
        lost(facts),
        python_unseen(facts),
        light(facts),
        fragmented(course, missing),
        churned(course),
        before(facts),
    ]
    .into_iter()
    .flatten()
    .collect();
    if reasons.is_empty() {
        reasons.push(format!(
            "{} came from an allocator that is not watched, from direct calls of mmap, or from memory written for the first time",
            bytes(missing)
        ));
    }
    reasons
}

fn lost(facts: &Facts) -> Option<String> {
    (facts.lost_events > 0).then(|| {
        format!(
            "{} were lost: tracked bytes are too low by what they stood for",
            human::plural(facts.lost_events, "event")
        )
    })
}

fn python_unseen(facts: &Facts) -> Option<String> {
    let gained = u64::try_from(facts.python_blocks_gained?).ok().filter(|gained| *gained > 0)?;
    let tracked = facts.python_blocks_tracked.unwrap_or(0).min(gained);
    let unseen = gained - tracked;
    if (unseen as f64) < gained as f64 * NOTABLE {
        return None;
    }
    let why = if facts.python_unseen { ", where its compiler inlined the allocator" } else { "" };
    Some(format!(
        "Python has {} more than when tracing began, {} of them not tracked{why}",
        human::plural(gained, "block"),
        human::count(unseen)
    ))
}

fn light(facts: &Facts) -> Option<String> {
    (facts.detail == Detail::Light).then(|| {
        "light detail sees large blocks and refills of pools only: exact detail sees what small blocks were made".to_owned()
    })
}

fn fragmented(course: &Course, missing: f64) -> Option<String> {
    (course.given_back >= missing * EXPLAINED).then(|| {
        format!(
            "fragmentation: {} that were tracked have been freed again, while memory stayed; blocks that live on keep the pages or arenas around them",
            bytes(course.given_back)
        )
    })
}

fn churned(course: &Course) -> Option<String> {
    let churned = course.grown > 0.0
        && course.allocated >= course.grown * CHURN
        && course.given_back < course.grown * EXPLAINED;
    churned.then(|| {
        format!(
            "fragmentation, or arenas that are held: {} were allocated meanwhile and nearly all freed, leaving holes that do not fit",
            bytes(course.allocated)
        )
    })
}

fn before(facts: &Facts) -> Option<String> {
    let before = facts.before_attach_bytes.filter(|before| *before > 0)?;
    Some(format!(
        "{} were there before tracing began: what moved or grew in them is not tracked",
        human::bytes(before)
    ))
}
