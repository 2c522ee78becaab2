//! Leaks have to be found, in the time that is given here.

use super::{
    super::{judge, model::Verdict},
    program::{Course, Load, Program, Tracing, options},
};

const INTERVALS: [f64; 4] = [0.5, 1.5, 10.0, 60.0];

/// Seconds until it is called a leak, as a multiple of the time that must be watched at least; the verdict then.
fn found(
    program: Program,
    tracing: impl Fn(f64) -> Tracing,
    interval_s: f64,
    within: u32,
) -> Option<(f64, Verdict)> {
    let options = options(interval_s);
    (4..=within * 4).map(f64::from).find_map(|quarters| {
        let (site, process) = program.readings(tracing(options.least_watched_s * quarters / 4.0));
        let verdict = judge(&site, &process, &options);
        verdict.is_leak().then_some((quarters / 4.0, verdict))
    })
}

/// Prints how long each takes, and fails for those that take longer.
fn check(
    name: &str,
    within: u32,
    programs: impl Fn(f64) -> Vec<Program>,
    tracing: impl Fn(f64, f64) -> Tracing,
) {
    for interval_s in INTERVALS {
        for program in programs(interval_s) {
            let found = found(program, |session_s| tracing(interval_s, session_s), interval_s, within);
            let after = found.as_ref().map(|(times, verdict)| (times, verdict.confidence));
            println!("{name} at {interval_s} s, {program:?}: found after {after:?} of the least time");
            assert!(found.is_some(), "{program:?} at {interval_s} s: {:?}", {
                let (site, process) =
                    program.readings(tracing(interval_s, interval_s * 20.0 * f64::from(within)));
                judge(&site, &process, &options(interval_s))
            });
        }
    }
}

fn loads(interval_s: f64) -> [Load; 6] {
    [
        Load::Even,
        Load::Waves { period_s: interval_s * 7.0 },
        Load::Waves { period_s: interval_s * 33.0 },
        Load::Rises { over_s: interval_s * 40.0 },
        Load::Pauses { period_s: interval_s * 12.0 },
        Load::Rises { over_s: interval_s * 1000.0 },
    ]
}

#[test]
fn a_leak_with_each_request_is_found_whatever_the_load() {
    let programs =
        |interval_s| loads(interval_s).map(|load| Program { course: Course::LeakPerRequest, load }).to_vec();
    check("a leak with each request", 3, programs, Tracing::once);
}

#[test]
fn a_leak_with_time_is_found_whatever_the_load() {
    let programs =
        |interval_s| loads(interval_s).map(|load| Program { course: Course::LeakPerTime, load }).to_vec();
    check("a leak with time", 3, programs, Tracing::once);
}

#[test]
fn a_leak_among_garbage_of_its_own_line_is_found() {
    let programs = |interval_s: f64| {
        let course =
            |periods: f64, times| Course::LeakAmongGarbage { collection_s: interval_s * periods, times };
        let courses = [course(1.7, 3.0), course(3.3, 5.0), course(2.1, 20.0)];
        courses.map(|course| Program { course, load: Load::Even }).to_vec()
    };
    check("a leak among garbage", 6, programs, Tracing::once);
}

#[test]
fn a_leak_in_steps_is_found() {
    let programs = |interval_s: f64| {
        let course = |every: f64| Course::LeakInSteps { every_s: interval_s * every };
        [course(2.5), course(6.0)].map(|course| Program { course, load: Load::Even }).to_vec()
    };
    check("a leak in steps", 6, programs, Tracing::once);
}

#[test]
fn a_leak_is_found_in_noise_as_high_as_what_leaks_in_the_least_time() {
    for seed in 1..20 {
        let programs = |_| vec![Program { course: Course::LeakPerTime, load: Load::Even }];
        let tracing = |interval_s: f64, session_s| {
            let noise = super::program::PACE * interval_s * 10.0;
            Tracing { noise, seed, ..Tracing::once(interval_s, session_s) }
        };
        check("a leak in noise", 8, programs, tracing);
    }
}

#[test]
fn a_leak_is_found_in_sessions_with_long_gaps() {
    let tracing = |interval_s: f64, session_s: f64| Tracing {
        session_s: interval_s * 9.0,
        gap_s: interval_s * 50.0,
        sessions: (session_s / interval_s / 9.0) as u64,
        from_s: interval_s * 5.0,
        ..Tracing::once(interval_s, session_s)
    };
    let programs = |interval_s| {
        let course = |load| Program { course: Course::LeakPerRequest, load };
        vec![course(Load::Even), course(Load::Waves { period_s: interval_s * 171.0 })]
    };
    check("a leak in short sessions", 4, programs, tracing);
}
