//! Innocents must not be called leaks once their growth has shown itself to end.

use std::collections::BTreeMap;

use super::{
    super::{
        judge,
        model::{Shape, Verdict},
    },
    program::{Course, Load, Program, Tracing, options},
};

/// After which time each must not be called a leak any more, in intervals: its growth has ended, and somewhat longer.
fn innocents(interval_s: f64) -> Vec<(&'static str, f64, Program)> {
    let even = |course| Program { course, load: Load::Even };
    let at = |intervals: f64| interval_s * intervals;
    let mut all = Vec::new();
    for end in [5.0, 11.0, 20.0, 33.0, 60.0] {
        all.push(("cache that fills", end * 1.4, even(Course::CacheThatFills { full_s: at(end) })));
        all.push(("warm-up", end * 1.4, even(Course::WarmUp { over_s: at(end) })));
        all.push(("pool", end * 1.4, even(Course::Pool { size_s: at(end) })));
        all.push(("cache that saturates", end * 2.0, even(Course::CacheThatSaturates { within_s: at(end) })));
        all.push(("full cache", end * 1.4, even(Course::FullCache { renewed_s: at(end) })));
    }
    for load in [Load::Waves { period_s: at(9.0) }, Load::Rises { over_s: at(30.0) }] {
        all.push((
            "cache under load",
            20.0 * 1.6,
            Program { course: Course::CacheThatFills { full_s: at(20.0) }, load },
        ));
    }
    for period in [2.3, 5.7, 11.0, 17.0, 29.0] {
        all.push(("sawtooth", period * 1.1, even(Course::Sawtooth { period_s: at(period) })));
        let load = Load::Waves { period_s: at(period * 2.0) };
        all.push((
            "with load",
            period * 1.6,
            Program { course: Course::UnderWay { lifetime_s: at(2.0) }, load },
        ));
    }
    for rises in [20.0, 40.0, 100.0] {
        let load = Load::Rises { over_s: at(rises) };
        all.push((
            "with rising load",
            0.0,
            Program { course: Course::UnderWay { lifetime_s: at(2.0) }, load },
        ));
    }
    all
}

/// Judged again and again while it is watched, from so many intervals on.
fn verdicts(program: Program, tracing: Tracing, from: f64) -> impl Iterator<Item = (u64, Verdict)> {
    let options = options(tracing.interval_s);
    let (site, process) = program.readings(tracing);
    let first = (from.max(20.0).ceil() as u64).max(20);
    let watched = site.len() as u64;
    (first..=watched.max(first)).step_by(3).map(move |readings| {
        let reading = usize::try_from(readings).unwrap();
        (
            readings,
            judge(site.get(..reading).unwrap_or(&site), process.get(..reading).unwrap_or(&process), &options),
        )
    })
}

#[test]
fn innocents_are_no_leaks_at_any_interval_phase_and_noise() {
    let mut table: BTreeMap<(&str, Shape), u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for interval_s in [0.5, 1.5, 60.0] {
        for (name, from, program) in innocents(interval_s) {
            for (seed, noise, phase) in [(1, 0.0, 0.0), (2, 0.5, 0.0), (3, 2.0, 0.3), (4, 0.1, 0.77)] {
                let tracing = Tracing {
                    noise: noise * interval_s * super::program::PACE,
                    seed,
                    from_s: if name == "full cache" { 0.0 } else { phase * interval_s },
                    ..Tracing::once(interval_s, interval_s * (from * 2.0).max(60.0))
                };
                for (readings, verdict) in verdicts(program, tracing, from) {
                    *table.entry((name, verdict.shape)).or_default() += 1;
                    if verdict.is_leak() {
                        wrong.push((name, program, noise, readings, verdict));
                    }
                }
            }
        }
    }
    for ((name, shape), count) in &table {
        println!("{name:24} {shape:?}: {count}");
    }
    for case in wrong.iter().take(20) {
        println!("WRONG {case:?}");
    }
    assert!(wrong.is_empty(), "{} of {}", wrong.len(), table.values().sum::<u32>());
}

/// Each session begins at nothing, so each begins with growth: of ten intervals, then forty without tracing.
#[test]
fn innocents_are_no_leaks_in_many_short_sessions() {
    let even = |course| Program { course, load: Load::Even };
    let programs = [
        even(Course::FullCache { renewed_s: 200.0 }),
        even(Course::FullCache { renewed_s: 6.0 }),
        even(Course::CacheThatFills { full_s: 100.0 }),
        even(Course::WarmUp { over_s: 30.0 }),
        even(Course::CacheThatSaturates { within_s: 80.0 }),
        even(Course::Sawtooth { period_s: 3.3 }),
        even(Course::UnderWay { lifetime_s: 2.0 }),
        Program { course: Course::UnderWay { lifetime_s: 2.0 }, load: Load::Waves { period_s: 130.0 } },
    ];
    for program in programs {
        for seed in 1..10 {
            let noise = super::program::PACE * (seed % 3) as f64 * 0.1;
            let tracing = Tracing { gap_s: 40.0, sessions: 10, noise, seed, ..Tracing::once(1.0, 10.0) };
            let (site, process) = program.readings(tracing);
            let verdict = judge(&site, &process, &options(1.0));
            assert!(!verdict.is_leak(), "{program:?} {verdict:?}");
        }
    }
}

/// Twin of the rule that survivors may take the place of others: told nothing of memory, one must take a full cache for a leak; and
/// so if memory is flat because there was room, yet nothing older was freed.
#[test]
fn a_full_cache_is_told_from_a_leak_by_memory_and_by_what_is_freed() {
    let program = Program { course: Course::FullCache { renewed_s: 500.0 }, load: Load::Even };
    let (site, mut process) = program.readings(Tracing::once(1.0, 60.0));
    assert_eq!(judge(&site, &process, &options(1.0)).shape, Shape::Steady);
    assert!(judge(&site, &[], &options(1.0)).is_leak());
    process.iter_mut().for_each(|reading| reading.freed_from_before = Some(3));
    assert!(judge(&site, &process, &options(1.0)).is_leak());
}

/// The same within what is tracked: connections of a pool are renewed by another line than made them. Twin: where all that is
/// tracked grows along, it is a leak.
#[test]
fn what_takes_the_place_of_other_tracked_blocks_is_no_leak() {
    let program = Program { course: Course::LeakPerTime, load: Load::Even };
    let (site, mut process) = program.readings(Tracing::once(1.0, 60.0));
    assert!(judge(&site, &process, &options(1.0)).is_leak());
    process.iter_mut().for_each(|reading| reading.tracked_bytes = 1 << 20);
    assert_eq!(judge(&site, &process, &options(1.0)).shape, Shape::Steady);
}

/// Twin of the rule of load: not knowing how much work was done, one must take rising load for a leak.
#[test]
fn rising_load_is_told_from_a_leak_by_the_rate_of_work() {
    let load = Load::Rises { over_s: 100.0 };
    let program = Program { course: Course::UnderWay { lifetime_s: 2.0 }, load };
    let (mut site, process) = program.readings(Tracing::once(1.0, 60.0));
    assert_eq!(judge(&site, &process, &options(1.0)).shape, Shape::GrowsWithLoad);
    site.iter_mut().for_each(|reading| reading.allocated_bytes = 0);
    assert!(judge(&site, &[], &options(1.0)).is_leak());
}

/// Said to be a leak while it fills, as it must be; taken back soon after it is full.
#[test]
fn a_verdict_is_taken_back_when_growth_ends() {
    let program = Program { course: Course::CacheThatFills { full_s: 100.0 }, load: Load::Even };
    let shape = |watched_s| {
        let (site, process) = program.readings(Tracing::once(1.0, watched_s));
        judge(&site, &process, &options(1.0)).shape
    };
    assert_eq!((shape(60.0), shape(118.0)), (Shape::GrowsSteadily, Shape::LevelledOff));
}
