//! What must hold whatever is read.

use proptest::{prelude::*, test_runner::RngSeed};

use super::{
    super::{
        judge, memory_trend,
        model::{Facts, Options, ProcessReading, Shape, SiteReading},
        unexplained,
    },
    program::{Course, Load, Program, Tracing},
};

fn courses() -> impl Strategy<Value = Course> {
    prop_oneof![
        Just(Course::LeakPerRequest),
        Just(Course::LeakPerTime),
        (20.0..80.0).prop_map(|full_s| Course::CacheThatFills { full_s }),
        (3.0..40.0).prop_map(|period_s| Course::Sawtooth { period_s }),
        (1.0..10.0).prop_map(|size_s| Course::Pool { size_s }),
        (20.0..80.0).prop_map(|within_s| Course::CacheThatSaturates { within_s }),
    ]
}

/// With these options, thresholds of bytes play no part.
fn options(least_watched_s: f64) -> Options {
    Options { least_watched_s, least_bytes_per_hour: 0.0, least_memory_bytes: u64::MAX, ..Options::default() }
}

fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..1000_u64]
}

fn times() -> impl Strategy<Value = f64> {
    prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-1e300), any::<f64>(), 0.0..100.0]
}

/// The same courses each time, unless others are asked for.
fn seed() -> RngSeed {
    let asked = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|text| text.parse().ok());
    RngSeed::Fixed(asked.unwrap_or(6))
}

proptest! {
    // Judgements are statistics: which courses are drawn must not decide whether a build passes. PROPTEST_RNG_SEED draws others.
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, rng_seed: seed(), ..ProptestConfig::default() })]

    #[test]
    fn the_same_course_is_judged_alike_at_any_speed_and_size(
        course in courses(), faster in 1..100_u32, larger in 1..100_u64, seed in any::<u64>(), noise in 0.0..20_000.0,
    ) {
        let tracing = Tracing { noise, seed, ..Tracing::once(1.0, 100.0) };
        let (site, process) = Program { course, load: Load::Even }.readings(tracing);
        let factor = f64::from(faster);
        let start = super::program::EPOCH;
        let at = |at: f64| (at - start) * factor;
        let scaled: Vec<SiteReading> = site.iter().map(|reading| SiteReading {
            at_unix_s: at(reading.at_unix_s),
            bytes: reading.bytes * larger,
            allocated_bytes: reading.allocated_bytes * larger,
            ..*reading
        }).collect();
        let process: Vec<ProcessReading> = process.iter().map(|r| ProcessReading { at_unix_s: r.at_unix_s - start, ..*r }).collect();
        let stretched: Vec<ProcessReading> = process.iter().map(|reading| ProcessReading {
            at_unix_s: reading.at_unix_s * factor,
            memory_bytes: reading.memory_bytes * larger,
            tracked_bytes: reading.tracked_bytes * larger,
            ..*reading
        }).collect();
        let site: Vec<SiteReading> = site.iter().map(|r| SiteReading { at_unix_s: r.at_unix_s - start, ..*r }).collect();
        let (one, other) = (judge(&site, &process, &options(20.0)), judge(&scaled, &stretched, &options(20.0 * factor)));
        prop_assert_eq!(one.shape, other.shape, "{:?} {:?}", one, other);
        prop_assert!((one.confidence - other.confidence).abs() < 0.02, "{:?} {:?}", one, other);
    }

    #[test]
    fn the_order_of_readings_and_repeated_ones_change_nothing(course in courses(), seed in any::<u64>()) {
        let (mut site, mut process) = Program { course, load: Load::Even }.readings(Tracing::once(1.0, 60.0));
        let one = judge(&site, &process, &options(20.0));
        let turn = usize::try_from(seed % 60).unwrap();
        site.rotate_left(turn);
        process.rotate_left(turn);
        site.extend(site.clone());
        process.extend(process.clone());
        let other = judge(&site, &process, &options(20.0));
        prop_assert_eq!((one.shape, one.confidence), (other.shape, other.confidence));
    }

    #[test]
    fn readings_that_are_missing_make_no_leak_of_an_innocent_and_do_not_hide_a_leak(
        course in courses(), missing in proptest::collection::vec(any::<bool>(), 120),
    ) {
        let (site, process) = Program { course, load: Load::Even }.readings(Tracing::once(1.0, 120.0));
        let gappy: Vec<SiteReading> = site.iter().zip(&missing).filter(|(_, missing)| !**missing).map(|(r, _)| *r).collect();
        let options = options(20.0);
        let (whole, part) = (judge(&site, &process, &options), judge(&gappy, &process, &options));
        let leak = matches!(course, Course::LeakPerRequest | Course::LeakPerTime);
        prop_assert_eq!(whole.is_leak(), leak, "{:?}", whole);
        prop_assert_eq!(part.is_leak(), leak, "{:?}", part);
    }

    #[test]
    fn nothing_that_is_read_does_harm(
        readings in proptest::collection::vec((times(), 0..4_u64, amounts(), amounts(), amounts(), times()), 0..80),
    ) {
        let site: Vec<SiteReading> = readings.iter().map(|(at, session, bytes, blocks, made, _)| SiteReading {
            at_unix_s: *at, session: *session, bytes: *bytes, blocks: *blocks, allocated_bytes: *made, allocated_blocks: *blocks,
        }).collect();
        let process: Vec<ProcessReading> = readings.iter().map(|(at, session, bytes, blocks, made, cpu)| ProcessReading {
            at_unix_s: *at, session: (*session > 0).then_some(*session), memory_bytes: *bytes, cpu_s: *cpu,
            allocated_bytes: *made, allocated_blocks: *blocks, tracked_bytes: *made, freed_from_before: Some(*blocks),
        }).collect();
        for options in [Options::default(), options(0.0), Options { least_readings: 0, least_confidence: 0.0, ..options(0.0) }] {
            let verdict = judge(&site, &process, &options);
            let figures = [verdict.confidence, verdict.bytes_per_hour, verdict.watched_s, verdict.share_of_growth.unwrap_or(0.0)];
            prop_assert!(figures.iter().all(|figure| figure.is_finite()), "{:?}", verdict);
            prop_assert!((0.0..=1.0).contains(&verdict.confidence), "{:?}", verdict);
            unexplained(&process, &Facts::default(), &options);
            let curve: Vec<(f64, u64)> = readings.iter().map(|r| (r.0, r.2)).collect();
            let trend = memory_trend(&curve, Some(1000), 1e300, &options);
            prop_assert!(trend.trends.iter().all(|trend| trend.bytes_per_hour.is_finite() && trend.confidence.is_finite()));
        }
    }
}

#[test]
fn nothing_and_one_reading_are_too_early() {
    for readings in [&[][..], &[SiteReading { bytes: u64::MAX, ..SiteReading::default() }]] {
        let verdict =
            judge(readings, &[], &Options { least_watched_s: 0.0, least_readings: 0, ..Options::default() });
        assert_eq!(verdict.shape, Shape::TooEarly, "{verdict:?}");
    }
}

/// Of a sawtooth whose period is nearly six readings, the lows seem to rise slowly; yet by less than it falls each time.
#[test]
fn a_sawtooth_that_is_read_nearly_in_step_is_no_leak() {
    let course = Course::Sawtooth { period_s: 5.951 };
    let (site, process) = Program { course, load: Load::Even }.readings(Tracing::once(1.0, 120.0));
    for draw in 0..300_u64 {
        // Every other reading, as chance has it.
        let is_kept = |at: usize| (draw * 131 + at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0;
        let gappy: Vec<SiteReading> =
            site.iter().enumerate().filter(|(at, _)| is_kept(*at)).map(|(_, reading)| *reading).collect();
        let verdict = judge(&gappy, &process, &options(20.0));
        assert!(!verdict.is_leak(), "draw {draw}: {verdict:?}");
    }
}
