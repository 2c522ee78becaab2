//! Stage 0: how the memory of a subject develops. Costs a pass over its readings and a few hundred operations per stretch.

use super::{
    lows::{self, Lows, Point},
    model::{MemoryTrend, Options, Trend},
    pauses,
    segment::{evenness_by, rises_lately},
};

/// Fewer readings say nothing.
const LEAST_READINGS: usize = 8;
/// A stretch is looked at if readings reach this much further back than the stretch before.
const FURTHER: f64 = 1.5;

/// How memory develops, from readings (seconds since the Unix epoch, bytes) in any order; those later than `now` are left
/// out. `limit`: what it must not reach, bytes.
pub fn memory_trend(readings: &[(f64, u64)], limit: Option<u64>, now: f64, options: &Options) -> MemoryTrend {
    let points = in_order(readings, now);
    let (mut trends, mut reached) = (Vec::new(), 0.0);
    for stretch in options.stretches_s {
        let part = last(&points, stretch);
        let over_s = lows::span(&part);
        if part.len() >= LEAST_READINGS && over_s > reached * FURTHER {
            trends.push(trend(&part));
            reached = over_s;
        }
    }
    let grows = |trend: &&Trend| is_growth(trend, options);
    let surest = trends.iter().filter(grows).max_by(|a, b| a.confidence.total_cmp(&b.confidence)).copied();
    let bytes = points.last().map_or(0.0, |last| last.amount);
    MemoryTrend {
        grows: surest.is_some(),
        leading: surest.or_else(|| trends.last().copied()),
        to_limit_s: surest.zip(limit).and_then(|(trend, limit)| to_limit(bytes, limit, trend.bytes_per_hour)),
        trends,
    }
}

fn is_growth(trend: &Trend, options: &Options) -> bool {
    trend.confidence >= options.least_confidence
        && trend.bytes_per_hour >= options.least_bytes_per_hour
        && u64::try_from(trend.change_bytes).is_ok_and(|change| change >= options.least_memory_bytes)
}

fn to_limit(bytes: f64, limit: u64, bytes_per_hour: f64) -> Option<f64> {
    let seconds = (limit as f64 - bytes).max(0.0) / bytes_per_hour * 3600.0;
    seconds.is_finite().then_some(seconds)
}

/// By time; of readings at the same time, one.
fn in_order(readings: &[(f64, u64)], now: f64) -> Vec<Point> {
    let mut known: Vec<(f64, u64)> =
        readings.iter().filter(|(at, _)| at.is_finite() && *at <= now).copied().collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    known.dedup_by(|later, earlier| later.0 <= earlier.0);
    let first = known.first().map_or(0.0, |first| first.0);
    known
        .iter()
        .map(|(at, bytes)| Point { at: at - first, amount: *bytes as f64, ..Point::default() })
        .collect()
}

/// Those of the last so many seconds, thinned.
fn last(points: &[Point], stretch_s: f64) -> Vec<Point> {
    let end = points.last().map_or(0.0, |last| last.at);
    let from = points.partition_point(|point| point.at < end - stretch_s);
    let part = points.get(from..).unwrap_or_default();
    let first = part.first().map_or(0.0, |first| first.at);
    let shifted: Vec<Point> = part.iter().map(|point| Point { at: point.at - first, ..*point }).collect();
    lows::thinned(&shifted)
}

/// The lows rise, evenly, not at once, and to the end.
fn trend(points: &[Point]) -> Trend {
    let lows = Lows::of(points);
    let (over_s, slope) = (lows::span(points), lows.slope());
    let curve = lows.over_time();
    let even = ((evenness_by(&curve) - 0.2) / 0.4).clamp(0.0, 1.0) * (rises_lately(&curve) / 0.6).min(1.0);
    let gradual = ((1.0 - lows.largest_step()) * 2.0).clamp(0.0, 1.0);
    let ended = if pauses::has_ended(points) { 0.5 } else { 1.0 };
    Trend {
        over_s,
        bytes_per_hour: slope * 3600.0,
        confidence: lows.order().rises() * even * gradual * ended,
        change_bytes: (slope * over_s) as i64,
    }
}
