//! Whether survivors follow how busy the process is: as much as is under way at the time, and no more.

use super::{
    lows::{self, Point},
    statistics,
};

/// The rate of work is taken over this share of the time.
const WINDOW: f64 = 1.0 / 8.0;
/// A rate that changes by less between a lower and an upper reading explains nothing.
const LEAST_CHANGE: f64 = 1.05;
/// Survivors that rise so much more steeply than the rate are not explained by it (both as powers: 1 is in proportion).
const STEEPEST: f64 = 1.5;
/// How closely survivors have to move with a rate that goes up and down by at least this factor.
const CLOSELY: f64 = 0.7;
const WAVES: f64 = 1.3;
/// The rate has to fit about as well as time and work done do: it is known less well, by this much of the movement, and
/// noise tells on it by this factor.
const TOLERANCE: f64 = 0.05;
const NOISE: f64 = 1.3;

/// Progress by which a rate is taken.
type Progress = fn(&Point) -> f64;

/// Whether survivors that rise do so because the rate of work does (the process's, or that of allocations here).
pub(super) fn explains(points: &[Point]) -> bool {
    let by: [Progress; 2] = [|point| point.work, |point| point.made];
    by.into_iter().any(|progress| rises_alike(points, progress) && fits_as_well(points, progress))
}

/// Whether survivors that do not rise in the long run go up and down with the rate of work.
pub(super) fn is_followed(points: &[Point]) -> bool {
    let rates = rates(points, |point| point.work);
    let highest = rates.iter().map(|(rate, _)| *rate).fold(0.0, f64::max);
    let lowest = rates.iter().map(|(rate, _)| *rate).fold(f64::INFINITY, f64::min);
    highest > lowest * WAVES && statistics::correlation(&rates) > CLOSELY
}

/// The rate at each point after the first window, beside the survivors then.
fn rates(points: &[Point], progress: Progress) -> Vec<(f64, f64)> {
    let window = lows::span(points) * WINDOW;
    let curve: Vec<(f64, f64)> = points.iter().map(|point| (point.at, progress(point))).collect();
    let rate = |point: &Point| {
        let before = statistics::interpolate(&curve, point.at - window)?;
        Some(((progress(point) - before) / window, point.amount))
    };
    points.iter().filter(|point| point.at >= window && window > 0.0).filter_map(rate).collect()
}

/// From the middle third to the last, survivors have risen about as the rate has.
fn rises_alike(points: &[Point], progress: Progress) -> bool {
    let third = lows::span(points) / 3.0;
    let part = |number: f64| {
        let within = |point: &&Point| point.at >= third * number && point.at <= third * (number + 1.0);
        let part: Vec<Point> = points.iter().filter(within).copied().collect();
        let done = part.last().map_or(0.0, progress) - part.first().map_or(0.0, progress);
        let amount = statistics::median(part.iter().map(|point| point.amount).collect());
        (done / lows::span(&part), amount.unwrap_or(0.0))
    };
    let ((rate, amount), (later_rate, later_amount)) = (part(1.0), part(2.0));
    let (faster, more) = (later_rate / rate, later_amount / amount);
    faster.is_finite() && more.is_finite() && faster >= LEAST_CHANGE && more.ln() <= faster.ln() * STEEPEST
}

fn fits_as_well(points: &[Point], progress: Progress) -> bool {
    let window = lows::span(points) * WINDOW;
    let left_over = |pairs: &[(f64, f64)]| 1.0 - statistics::correlation(pairs).max(0.0).powi(2);
    let by = |clock: Progress| {
        let later = points.iter().filter(|point| point.at >= window);
        left_over(&later.map(|point| (clock(point), point.amount)).collect::<Vec<_>>())
    };
    let best = by(|point| point.at).min(by(|point| point.work)).min(by(|point| point.made));
    left_over(&rates(points, progress)) <= best * NOISE + TOLERANCE
}
