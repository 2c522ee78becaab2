//! Stage 0 on curves that are made up.

use super::{
    super::{
        memory_trend,
        model::{MemoryTrend, Options},
    },
    program::{EPOCH, Noise},
};

const MEGABYTE: f64 = 1e6;

fn trend(hours: f64, interval_s: f64, mut bytes: impl FnMut(f64) -> f64) -> MemoryTrend {
    let count = (hours * 3600.0 / interval_s) as u64;
    let reading = |number| {
        let t = interval_s * number as f64;
        (EPOCH + t, bytes(t).max(0.0) as u64)
    };
    let readings: Vec<(f64, u64)> = (0..count).map(reading).collect();
    memory_trend(&readings, Some(400_000_000), EPOCH + 1e9, &Options::default())
}

#[test]
fn a_slow_leak_in_much_noise_is_found_within_hours() {
    for (interval_s, seed) in [(10.0, 1), (10.0, 2), (30.0, 3), (60.0, 4), (60.0, 5)] {
        let mut noise = Noise(seed);
        let trend = trend(8.0, interval_s, |t| (100.0 + t / 3600.0 + 5.0 * noise.next()) * MEGABYTE);
        assert!(trend.grows, "{interval_s} {trend:?}");
        let leading = trend.leading.unwrap();
        assert!((0.6e6..1.5e6).contains(&leading.bytes_per_hour), "{leading:?}");
        assert!(trend.to_limit_s.is_some_and(|s| (150.0..500.0).contains(&(s / 3600.0))), "{trend:?}");
    }
}

#[test]
fn what_ends_or_goes_up_and_down_is_no_growth() {
    for interval_s in [5.0, 10.0, 60.0] {
        for seed in 1..6 {
            let mut noise = Noise(seed);
            let mut check = |name: &str, mut course: Box<dyn FnMut(f64) -> f64>| {
                for watched in [0.5, 1.0, 3.0, 8.0, 30.0] {
                    let trend =
                        trend(watched, interval_s, |t| (100.0 + course(t) + 0.3 * noise.next()) * MEGABYTE);
                    assert!(!trend.grows, "{name} for {watched} h at {interval_s} s, {seed}: {trend:?}");
                }
            };
            check("level", Box::new(|_| 0.0));
            check("sawtooth", Box::new(move |t| 20.0 * (t / 250.0).fract()));
            check("long sawtooth", Box::new(move |t| 20.0 * (t / (250.0 + 50.0 * seed as f64)).fract()));
            check("step", Box::new(move |t| if t > 1200.0 { 50.0 } else { 0.0 }));
            check("warm-up", Box::new(move |t| 80.0 * (1.0 - (-t / 200.0).exp())));
            check("plateau", Box::new(move |t| 80.0 * (t / 1200.0).min(1.0)));
            let mut walk = 0.0;
            let mut steps = Noise(seed + 99);
            check(
                "fluctuation",
                Box::new(move |_| {
                    walk = walk * 0.99 + steps.next();
                    walk
                }),
            );
        }
    }
}

/// Over minutes it grows, every morning. Over what shows several days of it, it does not.
#[test]
fn day_and_night_are_no_growth_over_several_of_them() {
    for (interval_s, seed) in [(10.0, 1), (60.0, 2), (60.0, 3)] {
        let mut noise = Noise(seed);
        let trend =
            trend(60.0, interval_s, |t| (100.0 + 30.0 * (t / 5000.0).sin() + 0.3 * noise.next()) * MEGABYTE);
        let longest = trend.trends.last().unwrap();
        assert!(longest.over_s > 2e5 && longest.confidence < 0.5, "{trend:?}");
    }
}

#[test]
fn hostile_clocks_and_amounts_do_no_harm() {
    let readings = [
        (f64::NAN, 1),
        (f64::INFINITY, 2),
        (-1e300, u64::MAX),
        (0.0, 0),
        (0.0, u64::MAX),
        (1e300, 7),
        (5.0, 3),
    ];
    for count in 0..=readings.len() {
        let trend = memory_trend(readings.get(..count).unwrap(), Some(0), f64::MAX, &Options::default());
        assert!(
            !trend.grows && trend.trends.iter().all(|trend| trend.bytes_per_hour.is_finite()),
            "{trend:?}"
        );
    }
}
