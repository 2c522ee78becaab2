//! What an amount never falls below: its lows, one for each part of the time. Garbage that waits for a collection, buffers of
//! requests under way, noise: all that comes and goes lies above them; what is kept raises them.

use super::statistics::{self, Order};

/// Parts of the time that lows are taken of, at most.
const PARTS: usize = 12;
/// A low counts for a part if that is longer than the amount was ever away from its floor, by this factor.
const MARGIN: f64 = 1.5;
/// The amount is at its floor if it is above by no more than this share of its range.
const NEAR: f64 = 0.15;
/// Points that are looked at, at most.
const MOST_POINTS: usize = 256;

/// One reading of an amount, with how much work had been done by then.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    /// Seconds since the first.
    pub at: f64,
    /// The amount.
    pub amount: f64,
    /// Work that the process had done.
    pub work: f64,
    /// What had ever been allocated here.
    pub made: f64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Lows {
    /// One for each part, in order.
    pub points: Vec<Point>,
    /// The deepest fall from any earlier height.
    pub fall: f64,
    /// Highest minus lowest.
    pub range: f64,
}

impl Lows {
    /// Of points in order of time.
    pub(super) fn of(points: &[Point]) -> Self {
        let range = range(points);
        let away_s = away(points, range * NEAR);
        Self { points: lowest_of_parts(points, away_s), fall: fall(points), range }
    }

    /// How far the lows rise from the first to the last.
    pub(super) fn rise(&self) -> f64 {
        match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) => last.amount - first.amount,
            _ => 0.0,
        }
    }

    /// The lows over time.
    pub(super) fn over_time(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|low| (low.at, low.amount)).collect()
    }

    /// Bytes per second.
    pub(super) fn slope(&self) -> f64 {
        statistics::slope(&self.over_time())
    }

    /// How often one is below a later one.
    pub(super) fn order(&self) -> Order {
        Order::of(&self.over_time())
    }

    /// The largest share of the rise that came at once, between two lows that follow each other; 1 if there is no rise.
    pub(super) fn largest_step(&self) -> f64 {
        let steps = self.points.iter().zip(self.points.iter().skip(1)).map(|(a, b)| b.amount - a.amount);
        let rise = self.rise();
        if rise > 0.0 { (steps.fold(0.0, f64::max) / rise).min(1.0) } else { 1.0 }
    }
}

/// At most so many points: of each part of the time, its lowest and its highest, and the last of all.
pub(super) fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let span = span(points);
    let parts = MOST_POINTS as f64 / 2.0;
    let part = |point: &Point| (point.at / span * parts).min(parts - 1.0) as u64;
    let mut kept: Vec<Point> = points.chunk_by(|a, b| part(a) == part(b)).flat_map(ends_of).collect();
    kept.extend(points.last().filter(|last| kept.last().is_none_or(|kept| kept.at < last.at)));
    kept
}

/// The lowest and the highest of a few, in order.
fn ends_of(points: &[Point]) -> impl Iterator<Item = Point> {
    let by_amount = |a: &&Point, b: &&Point| a.amount.total_cmp(&b.amount);
    let (low, high) = (points.iter().min_by(by_amount), points.iter().max_by(by_amount));
    let mut both: Vec<Point> = low.into_iter().chain(high).copied().collect();
    both.sort_by(|a, b| a.at.total_cmp(&b.at));
    both.dedup_by(|a, b| a.at == b.at);
    both.into_iter()
}

/// Seconds from the first to the last.
pub(super) fn span(points: &[Point]) -> f64 {
    match (points.first(), points.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => 0.0,
    }
}

fn range(points: &[Point]) -> f64 {
    let highest = points.iter().map(|point| point.amount).fold(f64::NEG_INFINITY, f64::max);
    let lowest = points.iter().map(|point| point.amount).fold(f64::INFINITY, f64::min);
    (highest - lowest).max(0.0)
}

fn fall(points: &[Point]) -> f64 {
    let mut highest = f64::NEG_INFINITY;
    points.iter().fold(0.0, |deepest: f64, point| {
        highest = highest.max(point.amount);
        deepest.max(highest - point.amount)
    })
}

/// For each point the least of it and all that follow.
pub(super) fn floors(points: &[Point]) -> Vec<f64> {
    let mut least = f64::INFINITY;
    let mut floors: Vec<f64> = points
        .iter()
        .rev()
        .map(|point| {
            least = least.min(point.amount);
            least
        })
        .collect();
    floors.reverse();
    floors
}

/// The longest time above the floor, from a reading near it to the next.
fn away(points: &[Point], near: f64) -> f64 {
    let floors = floors(points);
    let (mut left, mut longest) = (points.first().map_or(0.0, |first| first.at), 0.0_f64);
    let mut is_away = false;
    for (point, floor) in points.iter().zip(&floors) {
        let near = point.amount <= floor + near;
        if near && is_away {
            longest = longest.max(point.at - left);
        }
        if near {
            left = point.at;
        }
        is_away = !near;
    }
    longest
}

/// Parts are counted back from the end: what happens now matters most.
fn lowest_of_parts(points: &[Point], away_s: f64) -> Vec<Point> {
    let (span, end) = (span(points), points.last().map_or(0.0, |last| last.at));
    if span <= 0.0 {
        return points.first().copied().into_iter().collect();
    }
    let length = (span / PARTS as f64).max(away_s * MARGIN);
    let parts = (span / length).floor().max(1.0);
    let part = |point: &Point| ((end - point.at) / length).floor().min(parts - 1.0) as u64;
    let lowest = |part: &[Point]| part.iter().min_by(|a, b| a.amount.total_cmp(&b.amount)).copied();
    points.chunk_by(|a, b| part(a) == part(b)).filter_map(lowest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(amounts: impl IntoIterator<Item = f64>) -> Vec<Point> {
        let point = |(at, amount)| Point { at: at as f64, amount, ..Point::default() };
        amounts.into_iter().enumerate().map(point).collect()
    }

    #[test]
    fn a_line_has_as_many_lows_as_there_are_parts_and_they_rise() {
        let lows = Lows::of(&points((0..120).map(f64::from)));
        assert_eq!(lows.points.len(), PARTS);
        assert!(lows.order().rises() > 0.98 && (lows.slope() - 1.0).abs() < 1e-9, "{lows:?}");
        assert!(lows.largest_step() < 0.11 && lows.fall == 0.0);
    }

    /// Each part is longer than a tooth, so each has the low of one; the twin shows that lows of shorter parts would rise.
    #[test]
    fn lows_of_a_sawtooth_do_not_rise_within_a_tooth() {
        let saw = points((0..240).map(|at| f64::from(at % 60)));
        assert!(Lows::of(&saw).order().rises() < 0.5, "{:?}", Lows::of(&saw));
        let one_tooth = lowest_of_parts(saw.get(..60).unwrap(), 0.0);
        assert!(one_tooth.is_sorted_by(|a, b| a.amount < b.amount), "{one_tooth:?}");
    }

    #[test]
    fn lows_rise_through_teeth_that_are_higher_than_the_growth_between_them() {
        let saw = points((0..2400).map(|at| f64::from(at % 60) + f64::from(at) / 60.0));
        let lows = Lows::of(&saw);
        assert!(lows.order().rises() > 0.95 && (lows.slope() - 1.0 / 60.0).abs() < 1e-3, "{lows:?}");
    }

    #[test]
    fn thinning_keeps_lows_heights_and_the_last() {
        let all = points((0..100_000).map(|at| f64::from(at % 7) + f64::from(at / 1000)));
        let kept = thinned(&all);
        assert!(kept.len() <= MOST_POINTS + 1 && kept.last() == all.last());
        assert!(kept.is_sorted_by(|a, b| a.at < b.at));
        assert_eq!((range(&kept), fall(&kept)), (range(&all), fall(&all)));
    }
}
