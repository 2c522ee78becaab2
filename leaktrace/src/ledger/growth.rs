//! How an amount develops: a straight line through its readings, and how long it has not fallen back.

use std::{collections::VecDeque, time::Duration};

use crate::report::model::Growth;

/// Readings kept. When there are more, every other one is dropped: the span stays, the resolution halves.
const MAX_READINGS: usize = 48;
/// Fewer readings than this say nothing about growth.
const MIN_READINGS: usize = 3;

/// Readings of one amount in bytes.
#[derive(Clone, Debug, Default)]
pub struct GrowthTracker {
    readings: VecDeque<(Duration, u64)>,
    skip: u32,
    stride: u32,
    rising_since: Option<Duration>,
}

impl GrowthTracker {
    /// Takes a reading.
    pub fn record(&mut self, at: Duration, bytes: u64) {
        let last = self.readings.back().map(|(_, bytes)| *bytes);
        match last {
            Some(last) if bytes < last => self.rising_since = None,
            Some(last) if bytes > last && self.rising_since.is_none() => {
                self.rising_since = self.readings.back().map(|(at, _)| *at);
            }
            _ => {}
        }
        self.keep(at, bytes);
    }

    fn keep(&mut self, at: Duration, bytes: u64) {
        // The last reading is always there; those before it are one per stride.
        if self.skip > 0 && self.readings.len() > 1 {
            self.readings.pop_back();
            self.skip -= 1;
        } else {
            self.skip = self.stride;
        }
        self.readings.push_back((at, bytes));
        if self.readings.len() > MAX_READINGS {
            let mut index = 0;
            self.readings.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = self.stride * 2 + 1;
            self.skip = self.stride;
        }
    }

    /// Slope and steadiness, once there are enough readings.
    pub fn growth(&self, now: Duration) -> Option<Growth> {
        if self.readings.len() < MIN_READINGS {
            return None;
        }
        let first = self.readings.front()?.0;
        let observed_s = now.saturating_sub(first).as_secs_f64();
        let steady_s = self.rising_since.map_or(0.0, |since| now.saturating_sub(since).as_secs_f64());
        // What rose once and stays is no growth any more: the later half of the readings has to rise as well.
        let lately = self.slope(self.readings.len() / 2).unwrap_or(0.0);
        let slope = self.slope(0)?;
        let slope =
            if slope > 0.0 { slope.min(lately.max(0.0)).min(self.slope_of_what_stayed()) } else { slope };
        Some(Growth { bytes_per_hour: slope * 3600.0, observed_s, steady_s })
    }

    /// Least squares from a reading on, bytes per second.
    fn slope(&self, from: usize) -> Option<f64> {
        let count = self.readings.len().saturating_sub(from) as f64;
        let readings = || self.readings.iter().skip(from);
        let points = || readings().map(|(at, bytes)| (at.as_secs_f64(), *bytes as f64));
        let mean_x = points().map(|(x, _)| x).sum::<f64>() / count;
        let mean_y = points().map(|(_, y)| y).sum::<f64>() / count;
        let spread = points().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
        let product = points().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>();
        (spread > 0.0).then(|| product / spread)
    }
}

impl GrowthTracker {
    /// Slope of what no later reading fell below, bytes per second, not negative: the median over all pairs of readings (Theil
    /// and Sen's estimator). Garbage that waits for a collection rises between two of them, but its lows stay where they
    /// were; and a last reading that is high by chance moves no median.
    fn slope_of_what_stayed(&self) -> f64 {
        let mut least = u64::MAX;
        let stayed: Vec<(f64, f64)> = self
            .readings
            .iter()
            .rev()
            .map(|(at, bytes)| {
                least = least.min(*bytes);
                (at.as_secs_f64(), least as f64)
            })
            .collect();
        let later_and_earlier = stayed
            .iter()
            .enumerate()
            .flat_map(|(index, later)| stayed.iter().skip(index + 1).map(move |earlier| (later, earlier)));
        let mut slopes: Vec<f64> = later_and_earlier
            .filter(|(later, earlier)| later.0 > earlier.0)
            .map(|(later, earlier)| (later.1 - earlier.1) / (later.0 - earlier.0))
            .collect();
        let middle = slopes.len() / 2;
        if slopes.is_empty() {
            return 0.0;
        }
        *slopes.select_nth_unstable_by(middle, f64::total_cmp).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(values: impl IntoIterator<Item = u64>) -> (GrowthTracker, Duration) {
        let mut tracker = GrowthTracker::default();
        let mut now = Duration::ZERO;
        for value in values {
            now += Duration::from_secs(10);
            tracker.record(now, value);
        }
        (tracker, now)
    }

    #[test]
    fn a_straight_line_gives_its_slope_however_many_readings_were_dropped() {
        let (tracker, now) = track((0..10_000).map(|step| step * 100));
        let growth = tracker.growth(now).unwrap();
        assert!((growth.bytes_per_hour - 36_000.0).abs() < 40.0, "{growth:?}");
        assert!(tracker.readings.len() <= MAX_READINGS);
        assert!(growth.steady_s > 99_000.0);
    }

    #[test]
    fn a_step_that_is_past_is_no_growth() {
        let (tracker, now) = track([0, 528, 528, 528, 528, 528, 528, 528]);
        assert_eq!(tracker.growth(now).unwrap().bytes_per_hour, 0.0);
    }

    /// Read from a service: what pyrsistent makes is freed by full collections only.
    #[test]
    fn garbage_that_waits_for_collections_is_no_growth_whatever_the_last_reading_says() {
        let (tracker, now) = track([990, 1100, 1320, 1485, 1870, 1595, 990, 3355]);
        assert_eq!(tracker.growth(now).unwrap().bytes_per_hour, 0.0);
        let (tracker, now) = track([120, 216, 312, 408, 504, 600, 720, 960]);
        assert!(tracker.growth(now).unwrap().bytes_per_hour > 30_000.0);
    }

    #[test]
    fn falling_back_ends_steadiness() {
        let (tracker, now) = track([1, 2, 3, 4, 2]);
        assert_eq!(tracker.growth(now).unwrap().steady_s, 0.0);
    }

    #[test]
    fn two_readings_are_no_growth() {
        let (tracker, now) = track([1, 2]);
        assert_eq!(tracker.growth(now), None);
    }
}
