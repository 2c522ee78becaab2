//! Robust statistics over a few points: one reading that is off by anything moves none of them far.

/// The middle of finite values; `None` of none.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// Every pair of points, the earlier first.
fn pairs(points: &[(f64, f64)]) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + '_ {
    let later = |at: usize| points.iter().skip(at + 1).copied();
    points
        .iter()
        .copied()
        .enumerate()
        .flat_map(move |(at, earlier)| later(at).map(move |later| (earlier, later)))
}

/// Slope by the median over all pairs (Theil and Sen); 0 if there is none.
pub(super) fn slope(points: &[(f64, f64)]) -> f64 {
    let rising = pairs(points).filter(|(earlier, later)| later.0 > earlier.0);
    median(rising.map(|(earlier, later)| (later.1 - earlier.1) / (later.0 - earlier.0)).collect())
        .unwrap_or(0.0)
}

/// Slope by least squares, the mean pace, to which every point has its part; and its standard error. 0 if there is none.
pub(super) fn fitted_slope(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - mean_x, p.1 - mean_y)).sum::<f64>();
    let (spread, product) = (sum(&|x, _| x * x), sum(&|x, y| x * y));
    let slope = product / spread;
    if !slope.is_finite() {
        return (0.0, 0.0);
    }
    let left_over = sum(&|x, y| (y - slope * x).powi(2));
    (slope, (left_over / (count - 2.0).max(1.0) / spread).sqrt())
}

/// How often a value is below a later one, and how far that may be from naught by chance (Kendall). Orders of independent
/// series add up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Order {
    /// Pairs that rise less pairs that fall.
    score: f64,
    variance: f64,
}

impl Order {
    /// Of values in order of time.
    pub(super) fn of(points: &[(f64, f64)]) -> Self {
        let count = points.len() as f64;
        let score = pairs(points).map(|(earlier, later)| sign(later.1 - earlier.1)).sum();
        Self { score, variance: count * (count - 1.0) * (2.0 * count + 5.0) / 18.0 }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { score: self.score + other.score, variance: self.variance + other.variance }
    }

    /// How sure it is that the values rise and do not just happen to, 0 to 1. The cube root of the chance, because this is
    /// asked again and again, and what is asked often enough is sometimes true by chance: one in a thousand is 0.9.
    pub(super) fn rises(self) -> f64 {
        if self.score <= 0.0 || self.variance <= 0.0 {
            return 0.0;
        }
        (1.0 - upper_tail((self.score - 1.0) / self.variance.sqrt()).cbrt()).clamp(0.0, 1.0)
    }
}

fn sign(value: f64) -> f64 {
    match value {
        _ if value > 0.0 => 1.0,
        _ if value < 0.0 => -1.0,
        _ => 0.0,
    }
}

/// The chance that a normal variable exceeds `z`, for z not below 0 (Abramowitz and Stegun 26.2.17; off by less than 1e-7).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum
}

/// How far two amounts move together, -1 to 1; 0 if one of them does not move.
pub(super) fn correlation(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    let sum = |of: fn(f64, f64) -> f64| points.iter().map(|p| of(p.0 - mean_x, p.1 - mean_y)).sum::<f64>();
    let spread = (sum(|x, _| x * x) * sum(|_, y| y * y)).sqrt();
    if spread > 0.0 && spread.is_finite() { (sum(|x, y| x * y) / spread).clamp(-1.0, 1.0) } else { 0.0 }
}

/// A line's value at `x` between points that are sorted by their first coordinate; the nearest end's outside.
pub(super) fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = points.partition_point(|point| point.0 <= x);
    let (before, after) = (after.checked_sub(1).and_then(|at| points.get(at)), points.get(after));
    match (before, after) {
        (Some(a), Some(b)) if b.0 > a.0 => Some(a.1 + (b.1 - a.1) * ((x - a.0) / (b.0 - a.0))),
        (Some(point), _) | (None, Some(point)) => Some(point.1),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64]) -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect()
    }

    #[test]
    fn one_wild_reading_moves_no_slope() {
        assert_eq!(slope(&line(&[0.0, 2.0, 4.0, 1e12, 8.0, 10.0, 12.0])), 2.0);
        assert_eq!(slope(&line(&[5.0])), 0.0);
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 9.0)]), 0.0);
    }

    #[test]
    fn the_more_readings_rise_the_surer_it_is() {
        let rises = |points: &[(f64, f64)]| Order::of(points).rises();
        let sure: Vec<f64> =
            (3..=12).map(|count| rises(&line(&(0..count).map(f64::from).collect::<Vec<_>>()))).collect();
        assert!(sure.is_sorted(), "{sure:?}");
        assert!(
            sure.first().is_some_and(|few| *few < 0.6) && sure.last().is_some_and(|many| *many > 0.98),
            "{sure:?}"
        );
        assert_eq!(rises(&line(&[3.0, 2.0, 1.0])), 0.0);
        assert_eq!(rises(&line(&[1.0, 1.0, 1.0])), 0.0);
        assert_eq!(rises(&[]), 0.0);
    }

    #[test]
    fn the_tail_is_that_of_the_tables() {
        for (z, chance) in
            [(0.0, 0.5), (1.0, 0.158_655), (1.96, 0.024_998), (3.0, 0.001_350), (4.0, 0.000_032)]
        {
            assert!((upper_tail(z) - chance).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn correlation_and_interpolation_of_nothing_are_no_trouble() {
        assert_eq!(correlation(&[]), 0.0);
        assert_eq!(correlation(&line(&[1.0, 1.0])), 0.0);
        assert!((correlation(&line(&[1.0, 2.0, 3.0])) - 1.0).abs() < 1e-12);
        assert_eq!(interpolate(&[], 1.0), None);
        assert_eq!(interpolate(&[(0.0, 0.0), (2.0, 4.0)], 1.0), Some(2.0));
        assert_eq!(interpolate(&[(0.0, 0.0), (2.0, 4.0)], 9.0), Some(4.0));
    }
}
