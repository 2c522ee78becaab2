//! Whether growth has ended: it has not moved for longer than it ever paused before, by time and by work done.

use super::lows::{self, Point};

/// Rises by less of the whole are none.
const LEAST_RISE: f64 = 0.02;
/// Growth that has ended has paused for at least this share of the whole.
const LEAST_PAUSE: f64 = 0.12;
/// And for this many times its longest pause before.
const LONGER: f64 = 1.5;

/// See the module. Of points in order of time.
pub(super) fn has_ended(points: &[Point]) -> bool {
    let rises = rises(points);
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return false };
    let ended = |clock: fn(&Point) -> f64| {
        let times: Vec<f64> = std::iter::once(first).chain(&rises).map(clock).collect();
        let pauses = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b - a);
        let (now, before) = (clock(last) - times.last().copied().unwrap_or(0.0), pauses.fold(0.0, f64::max));
        now >= ((clock(last) - clock(first)) * LEAST_PAUSE).max(before * LONGER)
    };
    // Without work that is known of, only time tells.
    !rises.is_empty() && ended(|point| point.at) && ended(|point| point.work)
}

/// The points at which the floor rose.
fn rises(points: &[Point]) -> Vec<Point> {
    let floors = lows::floors(points);
    let (Some(first), Some(last)) = (floors.first(), floors.last()) else { return Vec::new() };
    let least = (last - first) * LEAST_RISE;
    let mut reached = *first;
    let mut rises = Vec::new();
    for (point, floor) in points.iter().zip(&floors) {
        if *floor > reached + least {
            reached = *floor;
            rises.push(*point);
        }
    }
    rises
}
